// Command init is PID 1 of the firmware test: it shows what reached it and
// powers the machine off.
package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

func main() {
	must(os.MkdirAll("/proc", 0o555))
	must(syscall.Mount("proc", "/proc", "proc", 0, ""))
	cmdline, err := os.ReadFile("/proc/cmdline")
	must(err)
	st, err := os.Stat("/nereid/boot.json")
	must(err)
	config, err := os.ReadFile("/nereid/boot.json")
	must(err)
	fmt.Printf("\ninit: mode %o\ninit: cmdline %s\ninit: config %s\ninit: end\n",
		st.Mode().Perm(), strings.TrimSpace(string(cmdline)), strings.ReplaceAll(string(config), "\n", " "))
	syscall.Sync()
	must(syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF))
}

func must(err error) {
	if err == nil {
		return
	}
	fmt.Println("init: error", err)
	_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	os.Exit(1)
}
