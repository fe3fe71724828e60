package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"nereid/agent/firewall"
	"nereid/api"
)

// closing is a filter that notes the ports of its last Apply.
type closing struct {
	wireFilter
	ports map[string]firewall.Port // by device
	rules int
}

func (c *closing) Apply(ctx context.Context, p []firewall.Port, fw api.FirewallSpec, o firewall.Options) ([]firewall.Failure, error) {
	c.mu.Lock()
	c.ports, c.rules = map[string]firewall.Port{}, len(fw.Rules)
	for _, x := range p {
		c.ports[x.Interface] = x
	}
	c.mu.Unlock()
	return c.wireFilter.Apply(ctx, p, fw, o)
}

// TestKeptNICWithoutSpecIsClosed: of a NIC that is there while the agent has lost its
// last spec nothing is known but what it is. It stays, behind a firewall without any
// rule, from the first specs on: until it has its rules again nobody reaches it.
func TestKeptNICWithoutSpecIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n := newWorld(), newHeadNode(t), newWire()
		stray := api.UnexpectedNIC{MAC: "02:6e:72:00:00:99", Instance: "i9", Device: "np026e72000099", Bridge: "nbTAG-external", Closed: true}
		n.kept = []api.UnexpectedNIC{stray}
		filter := &closing{wireFilter: wireFilter{n}}
		h.approved, h.spec = true, networkSpec("r1")
		r := start(t, w, h, t.TempDir(), func(a *Agent) {
			a.Net = n.net()
			a.Net.Filter = filter
		})
		closed := func(when string, rules int) {
			t.Helper()
			n.mu.Lock()
			defer n.mu.Unlock()
			p, there := filter.ports[stray.Device]
			if !there || !p.Firewall || p.MAC != stray.MAC || p.Instance != stray.Instance || p.Bridge != stray.Bridge || len(p.Addresses) != 0 || filter.rules != rules {
				t.Errorf("%s: port %+v (there: %v), %d rules", when, p, there, filter.rules)
			}
		}
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		closed("with the first spec", 0)

		// The next spec, with rules for others, opens it no more than the first one.
		next := networkSpec("r2")
		next.Network.Firewall.Rules = []api.FirewallEntry{{Rule: "1", Direction: "in", Ports: []string{"02:6e:72:00:00:01"}, Action: "allow", Protocol: "tcp"}}
		h.set(func() { h.spec = next })
		h.until("rules", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r2" })
		closed("with the next spec", 1)

		// Named again, it has what the spec says of it.
		again := networkSpec("r3")
		again.Network.Ports = append(again.Network.Ports, api.PortSpec{MAC: stray.MAC, Instance: "i9", Owner: "a", VNI: 7, Addresses: []api.PortAddress{{Address: "10.0.0.9/24"}}})
		h.set(func() { h.spec = again })
		h.until("adopted", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r3" })
		time.Sleep(time.Second)
		n.mu.Lock()
		for _, p := range filter.ports {
			if p.MAC == stray.MAC && (p.Firewall || len(p.Addresses) != 1) {
				t.Errorf("adopted, it is still closed: %+v", p)
			}
		}
		n.mu.Unlock()
		r.stop()
	})
}
