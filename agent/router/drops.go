package router

import (
	"context"
	"fmt"

	"nereid/api"
)

// Gateways are the gateway servers in use, by owner; none without a Monitor.
func (r *Routers) Gateways() []api.GatewayReport {
	if r.Monitor == nil {
		return nil
	}
	var out []api.GatewayReport
	for _, s := range r.Monitor.Status() {
		g := api.GatewayReport{Owner: s.Owner, Used: s.Used.String()}
		for i, via := range s.Via {
			if !s.Up[i] {
				g.Down = append(g.Down, via.String())
			}
		}
		out = append(out, g)
	}
	return out
}

// Drops are the packets that routers dropped since their rules were last changed,
// by the name of the rules' counter: to_private is by NAT to a private, admin or
// underlay address; not_internet_nat what is not TCP, UDP or ICMP, too; to_router
// the gateway itself; to_nobody to an external address and a port that no router has.
// It starts no process, and waits for no Apply: a router that comes or goes meanwhile
// may be left out.
func (r *Routers) Drops(ctx context.Context) (map[string]uint64, error) {
	w, done, err := r.open()
	if err != nil {
		return nil, fmt.Errorf("count drops of routers: %w", err)
	}
	defer done()
	c, ok := w.(interface {
		Counters(context.Context) (map[string]uint64, error)
	})
	if !ok {
		return nil, nil
	}
	have, err := c.Counters(ctx)
	if err != nil {
		return nil, fmt.Errorf("count drops of routers: %w", err)
	}
	drops := map[string]uint64{}
	for _, name := range []string{"to_private", "not_internet_nat", "to_router", "to_nobody"} {
		if have[name] > 0 {
			drops[name] = have[name]
		}
	}
	return drops, nil
}
