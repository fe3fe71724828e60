package sysinfo

import (
	"slices"
	"strings"

	"nereid/api"
)

// cpu reads /proc/cpuinfo. Processors without topology, as some guests have,
// count as one core each on one socket.
func (t tree) cpu() api.CPU {
	c := api.CPU{Virtualization: "none"}
	sockets, cores := map[string]bool{}, map[string]bool{}
	var socket, core string
	flush := func() {
		if socket != "" {
			sockets[socket] = true
			cores[socket+"/"+core] = true
		}
		socket, core = "", ""
	}
	for line := range strings.Lines(t.text(t.proc("cpuinfo"))) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "processor":
			flush()
			c.Threads++
		case "model name":
			c.Model = value
		case "physical id":
			socket = value
		case "core id":
			core = value
		case "flags":
			flags := strings.Fields(value)
			for _, v := range []string{"vmx", "svm"} {
				if slices.Contains(flags, v) {
					c.Virtualization = v
				}
			}
		}
	}
	flush()
	c.Sockets, c.Cores = len(sockets), len(cores)
	if c.Sockets == 0 && c.Threads > 0 {
		c.Sockets, c.Cores = 1, c.Threads
	}
	return c
}
