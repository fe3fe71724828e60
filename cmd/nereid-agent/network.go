package main

import (
	"errors"
	"fmt"

	"nereid/agent"
	"nereid/agent/firewall"
	"nereid/agent/network"
	"nereid/agent/pathmtu"
	"nereid/agent/router"
)

// joinNetwork gives the agent the server's network, which is this process's
// namespace. Where there is none that it could manage, it leaves it alone.
func joinNetwork(a *agent.Agent, stateless bool) (stop func(), err error) {
	kernel, err := network.Open("")
	if errors.Is(err, errors.ErrUnsupported) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the server's network: %w", err)
	}
	filter := &firewall.Firewall{Log: a.Log, Stateless: stateless}
	links := &network.Network{
		System: kernel, Admin: a.Boot.Network.Address.Addr(), Dir: a.Dir, Confirm: a.Confirm, Protect: filter.Protect, Log: a.Log,
		Disturbed: a.Disturbed,
	}
	monitor := router.NewMonitor("", "", a.Log)
	a.Net = agent.Net{
		Links: links, Ports: links,
		Routers: &router.Routers{Monitor: monitor, Logger: a.Log},
		Filter:  filter,
		Monitor: monitor.Run,
		PathMTU: pathmtu.Measure,
	}
	return func() {
		if err := kernel.Close(); err != nil {
			a.Log.Warn("close the server's network", "err", err)
		}
	}, nil
}
