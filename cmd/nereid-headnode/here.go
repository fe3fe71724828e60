package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"nereid/headnode/answers"
)

// interfaces lists the network interfaces of this machine.
func interfaces() ([]answers.Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	out := make([]answers.Interface, len(all))
	for i, n := range all {
		out[i] = answers.Interface{Name: n.Name, Loopback: n.Flags&net.FlagLoopback != 0, Up: n.Flags&net.FlagUp != 0}
		addrs, err := n.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", n.Name, err)
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				out[i].Addresses = append(out[i].Addresses, p)
			}
		}
	}
	return out, nil
}

// here says what of the admin network this machine does not have, and warns of
// an interface that is down.
func here(admin answers.Admin, warn func(msg string, args ...any)) error {
	ifs, err := interfaces()
	if err != nil {
		return err
	}
	for _, n := range ifs {
		if n.Name == admin.Interface && !n.Up {
			warn("the admin interface is down, and no server is heard; set it up with: ip link set "+n.Name+" up", "interface", n.Name)
		}
	}
	for _, f := range admin.Missing(ifs) {
		err = errors.Join(err, fmt.Errorf("admin network: %s: %s", f.Key, f.Text))
	}
	return err
}
