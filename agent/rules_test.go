package agent

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
)

// ruleFor is a rule for NICs about what an address set's members send.
func ruleFor(id, set string, macs ...string) api.FirewallEntry {
	return api.FirewallEntry{Rule: id, Direction: "in", Ports: macs, Peers: []string{set}, Action: "allow", Protocol: "tcp"}
}

// didRules is how rules of NICs came and went one by one, since it was asked last.
func (w *wire) didRules() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.rules, "\n")
	w.rules = nil
	return s
}

// A NIC that comes, changes or goes has its own rules made, before it is there and until
// it is gone, and nothing else is. Rules of others that change are made for all.
func TestNICsRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n := newWorld(), newHeadNode(t), newWire()
		spec := func(rev string, gone []int, ports ...int) *api.Spec {
			s := withPorts(rev, gone, ports...)
			var macs []string
			for k, i := range ports {
				s.Network.Ports[k].Firewall = true
				macs = append(macs, port(i, "").MAC)
			}
			s.Network.Firewall = api.FirewallSpec{Sets: []api.AddressSet{{Name: "a", Members: []string{"10.0.0.1"}}}, Rules: []api.FirewallEntry{ruleFor("1", "a", macs...)}}
			return s
		}
		h.approved, h.spec = true, spec("r1", nil, 1, 2)
		r := start(t, w, h, t.TempDir(), func(a *Agent) { a.Net = n.net() })
		apply := func(s *api.Spec) {
			t.Helper()
			h.set(func() { h.spec = s })
			h.until(s.Revision, func(q api.SyncRequest) bool { return q.Report.AppliedSpec == s.Revision })
			time.Sleep(time.Second)
		}
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		one, two, three := port(1, "").MAC, port(2, "").MAC, port(3, "").MAC
		n.did()
		n.didNICs()
		n.didRules()

		// One comes, with a rule that others have: theirs are not made again.
		apply(spec("r2", nil, 1, 2, 3))
		if got := n.did() + n.didNICs() + "\n" + n.didRules(); got != "set "+three+"\nrule "+three+" 1 rules 1 sets" {
			t.Errorf("one more NIC: did\n%s", got)
		}
		// One whose rules cannot be made is not made, and delays nobody.
		n.fail("rule "+one, errors.New("rule 7: protocol"))
		s := spec("r3", nil, 1, 2, 3)
		s.Network.Ports[0].AllowIPSpoofing, s.Network.Ports[1].AllowIPSpoofing = true, true
		apply(s)
		if got := n.did() + n.didNICs() + "\n" + n.didRules(); got != "set "+two+"\nrule "+two+" 1 rules 1 sets" {
			t.Errorf("one that fails: did\n%s", got)
		}
		if q, _ := h.last(); len(q.Report.Problems) != 1 || !strings.Contains(q.Report.Problems[0], "set NIC "+one+" of instance i1: rule 7: protocol") {
			t.Errorf("problems %q", q.Report.Problems)
		}
		n.fail("rule "+one, nil)
		time.Sleep(nicRetry)
		if got := n.did() + n.didNICs() + "\n" + n.didRules(); got != "set "+one+"\nrule "+one+" 1 rules 1 sets" {
			t.Errorf("when it works: did\n%s", got)
		}
		// One goes: its rules stay until it is gone.
		n.fail("drop "+three+" of i3", errors.New("device busy"))
		s = spec("r4", []int{3}, 1, 2)
		s.Network.Ports[0].AllowIPSpoofing, s.Network.Ports[1].AllowIPSpoofing = true, true
		apply(s)
		if got := n.hasRules(); got != one+" "+two+" "+three {
			t.Errorf("one that cannot go: rules for %s", got)
		}
		n.fail("drop "+three+" of i3", nil)
		time.Sleep(nicRetry)
		if got := n.did() + n.didRules(); got != "unrule "+three || n.hasRules() != one+" "+two {
			t.Errorf("one that is gone: did\n%s", got)
		}
		// Members of a set, which are others' too.
		s.Network.Firewall.Sets[0].Members, s.Revision = []string{"10.0.0.2"}, "r5"
		apply(s)
		if got := n.did() + n.didRules(); got != "firewall 2 ports, isolated [vb7]" {
			t.Errorf("another set: did\n%s", got)
		}
		r.stop()
	})
}

// Only what NICs are touched by is left to them, and nothing of an account whose rules
// could not be made.
func TestRulesByPorts(t *testing.T) {
	base := func() api.NetworkSpec {
		return api.NetworkSpec{VNIs: []api.VNISpec{{VNI: 7}}, Firewall: api.FirewallSpec{
			Sets:  []api.AddressSet{{Name: "a", Members: []string{"10.0.0.1"}}, {Name: "b"}},
			Rules: []api.FirewallEntry{ruleFor("1", "a", "m1", "M2"), ruleFor("2", "b", "m2")}}}
	}
	for _, c := range []struct {
		name    string
		change  func(s *api.NetworkSpec)
		touched []string
		want    bool
	}{
		{"nothing", func(*api.NetworkSpec) {}, nil, true},
		{"a rule for one more", func(s *api.NetworkSpec) { s.Firewall.Rules[0].Ports = []string{"m1", "m2", "m3"} }, []string{"m3"}, true},
		{"a rule for one that is not touched", func(s *api.NetworkSpec) { s.Firewall.Rules[1].Ports = []string{"m1", "m2"} }, []string{"m2"}, false},
		{"a rule less for one that is touched", func(s *api.NetworkSpec) { s.Firewall.Rules = s.Firewall.Rules[:1] }, []string{"m2"}, true},
		{"a rule less for one that is not", func(s *api.NetworkSpec) { s.Firewall.Rules = s.Firewall.Rules[:1] }, []string{"m1"}, false},
		{"another rule", func(s *api.NetworkSpec) { s.Firewall.Rules[1].Log = true }, []string{"m1"}, false},
		{"another rule of one that is touched", func(s *api.NetworkSpec) { s.Firewall.Rules[1].Log = true }, []string{"m2"}, true},
		{"a new set", func(s *api.NetworkSpec) {
			s.Firewall.Sets = append(s.Firewall.Sets, api.AddressSet{Name: "c"})
			s.Firewall.Rules = append(s.Firewall.Rules, ruleFor("3", "c", "m3"))
		}, []string{"m3"}, true},
		{"another member", func(s *api.NetworkSpec) { s.Firewall.Sets[1].Members = []string{"10.0.0.2"} }, []string{"m1", "m2"}, false},
		{"another VNI", func(s *api.NetworkSpec) { s.VNIs = nil }, []string{"m1"}, false},
		{"another NIC tag", func(s *api.NetworkSpec) { s.Tags = []api.TagSpec{{Name: "x"}} }, []string{"m1"}, false},
		{"a rule with a bad MAC", func(s *api.NetworkSpec) { s.Firewall.Rules = append(s.Firewall.Rules, ruleFor("3", "a", "?")) }, []string{"m3"}, false},
	} {
		touched := map[string]bool{}
		for _, m := range c.touched {
			touched[m] = true
		}
		was := &ruled{spec: base(), rules: indexRules(base().Firewall, 0), failing: map[string]bool{"bad": true}}
		next := base()
		c.change(&next)
		x := was.index(next)
		if got := was.byPorts(next, x, touched, map[string]bool{"good": true}); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
		if was.byPorts(next, x, touched, map[string]bool{"good": true, "bad": true}) {
			t.Errorf("%s: of an account whose rules could not be made", c.name)
		}
	}
	if (*ruled)(nil).byPorts(base(), indexRules(base().Firewall, 0), nil, nil) {
		t.Error("without rules that are in force")
	}
	got := indexRules(base().Firewall, 0).port("m2")
	if len(got.Rules) != 2 || len(got.Sets) != 2 || got.Rules[1].Rule != "2" {
		t.Errorf("rules of a port: %+v", got)
	}
}
