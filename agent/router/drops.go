package router

import (
	"context"
	"encoding/json"
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
func (r *Routers) Drops(ctx context.Context) (map[string]uint64, error) {
	r.change.Lock()
	defer r.change.Unlock()
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

// parseCounters adds the packets of each counter of our table in the output of
// nft -j list counters (libnftables-json(5)).
func parseCounters(out []byte, sum map[string]uint64) error {
	var list struct {
		Nftables []struct {
			Counter *struct {
				Family, Table, Name string
				Packets             uint64
			}
		}
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return fmt.Errorf("read counters of nft: %w", err)
	}
	for _, o := range list.Nftables {
		if c := o.Counter; c != nil && c.Family == "inet" && c.Table == table {
			sum[c.Name] += c.Packets
		}
	}
	return nil
}
