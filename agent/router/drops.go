package router

import (
	"context"
	"encoding/json"
	"fmt"
)

// dropReasons are the counters of our rulesets by what api.NetworkReport.Drops
// calls them.
func dropReasons() map[string]string {
	return map[string]string{
		"to_private":       "router: to a private, admin or underlay address by NAT",
		"not_internet_nat": "router: no internet_nat, or not TCP, UDP or ICMP",
		"to_router":        "router: to the gateway itself",
		"to_nobody":        "router: to an external address, and nobody's",
	}
}

// Drops are the packets that routers dropped since their rules were last changed,
// by reason.
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
	for name, reason := range dropReasons() {
		if have[name] > 0 {
			drops[reason] = have[name]
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
