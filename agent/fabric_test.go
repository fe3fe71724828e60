package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// A set that has not come is not an empty one: what stood stays until it has come, of one
// account or, without the server's own set, of all; what has come replaces what stood. The
// set of another server says nothing.
func TestRouteKeepsWhatStands(t *testing.T) {
	before := fullSpec()
	ports := before.Ports
	own := api.ServerNATSet(testUUID)
	full := func(set string, list ...any) api.Delta {
		return api.Delta{Set: set, Epoch: "e", Version: 1, Full: true, Put: values(list...)}
	}
	net := func(vni uint32) api.AccountNetwork {
		return api.AccountNetwork{UUID: "n", MTU: 1400, RouterNetwork: api.RouterNetwork{VNI: vni, Gateway: "10.9.0.1/24"}}
	}
	summary := func(s *api.NetworkSpec) string {
		b, _ := json.Marshal(map[string]any{"v": s.VNIs, "r": s.Routers})
		return string(b)
	}
	stood := summary(before)
	ofA := before.Routers[0]
	c := newTestCopies()
	c.serve(testUUID)
	route := func() *api.NetworkSpec {
		c.want(append(c.fabricSets(ports), api.RuleSet("")))
		s := *before
		c.route(&s, ports, before)
		return &s
	}
	if got := summary(route()); got != stood {
		t.Errorf("nothing has come: %s", got)
	}
	c.take(full(api.NetworkSet("b"), net(8)))
	c.take(full(api.NATSet("b")))
	if got := summary(route()); got != stood {
		t.Errorf("the server's own set has not come: %s", got)
	}
	c.take(full(own, api.ServerNAT{UUID: "c"}))
	c.take(full(api.NetworkSet("a"), net(7)))
	s := route() // of b all has come, of a and c not
	if len(s.Routers) != 2 || s.Routers[1].Networks[0].Gateway != "10.9.0.1/24" || len(s.VNIs) != 4 || s.VNIs[3].MTU != 1450 && s.VNIs[1].MTU != 1400 {
		t.Errorf("one account's has come: %+v", s.Routers)
	}
	if d := cmp.Diff(ofA, s.Routers[0]); d != "" {
		t.Errorf("of the other one the router changed:\n%s", d)
	}
	c.take(full(api.NATSet("a")))
	if s = route(); len(s.Routers[0].Networks) != 1 || s.Routers[0].NAT != nil || len(s.VNIs) != 2 {
		t.Errorf("both have come: %+v", s)
	}
	// It is a gateway of another account, and is it no more.
	c.take(full(api.NetworkSet("c"), net(6)))
	c.take(full(api.NATSet("c")))
	if s = route(); len(s.Routers) != 3 || s.VNIs[0].VNI != 6 {
		t.Errorf("gateway: %+v", s)
	}
	c.take(api.Delta{Set: own, Epoch: "e", Version: 2, Gone: []string{"c"}})
	if s = route(); len(s.Routers) != 2 {
		t.Errorf("no gateway any more: %+v", s)
	}
	if got := strings.Join(c.fabricSets(ports), " "); got != own+" account/a/networks account/a/nat account/b/networks account/b/nat" {
		t.Errorf("follows %s", got)
	}
	c.serve("00000000-0000-4000-8000-000000000099")
	if got := summary(route()); got != stood {
		t.Errorf("another server: %s", got)
	}
}

// An agent that begins with the spec that one of the last platform kept, whose routers were
// in it, has them before it hears anything, and until all sets have come.
func TestRoutersOfTheLastPlatform(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		h.approved, h.spec, h.down = true, networkSpec("r1"), true
		text, err := json.Marshal(h.spec)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, specFile), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		const whole = "recover\nfirewall 1 ports, isolated [vb7]\nlinks 0 ports 1 VNIs\nrouters 1"
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		time.Sleep(time.Minute)
		if got := n.did(); got != whole {
			t.Errorf("without the head node did\n%s", got)
		}
		h.set(func() { h.down, h.late = false, map[string]bool{api.NATSet("a"): true} })
		time.Sleep(5 * time.Minute)
		if got := n.did(); got != "" {
			t.Errorf("with a part of the sets did\n%s", got)
		}
		h.set(func() { h.late = nil })
		time.Sleep(time.Minute)
		if s, _ := h.last(); s.Report.AppliedNetwork != "r1" || len(s.Report.Problems) > 0 {
			t.Errorf("applied %q, problems %q", s.Report.AppliedNetwork, s.Report.Problems)
		}
		if got := n.did(); strings.Contains(got, "0 VNIs") || strings.Contains(got, "routers 0") {
			t.Errorf("with all sets did\n%s", got)
		}

		// Another network comes as a set, without another spec, and is there after a boot
		// without the head node.
		n.did()
		h.set(func() { h.spec = withVNI(networkSpec("r1"), 8) })
		time.Sleep(time.Minute)
		if got := n.did(); !strings.Contains(got, "links 0 ports 2 VNIs") {
			t.Errorf("with another network did\n%s", got)
		}
		r.stop()
		n.did()
		h.set(func() { h.down = true })
		r = start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		time.Sleep(time.Minute)
		if got := n.did(); !strings.Contains(got, "links 0 ports 2 VNIs\nrouters 1") {
			t.Errorf("after a restart did\n%s", got)
		}
		r.stop()
	})
}

// An answer that breaks off, wherever, makes no part of a router: it comes again, whole.
func TestRoutersCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n := newWorld(), newHeadNode(t), newWire()
		h.approved, h.spec = true, networkSpec("r1")
		r := start(t, w, h, t.TempDir(), func(a *Agent) { a.Net = n.net() })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		time.Sleep(time.Minute)
		n.did()
		const whole = 400
		for at := 0; at < whole; at += 13 {
			vni := uint32(8 + at%2)
			h.set(func() { h.spec, h.cutSync = withVNI(networkSpec("r1"), vni), &at })
			time.Sleep(time.Minute)
			if got := n.did(); got != "firewall 1 ports, isolated [vb7 vb"+string(rune('0'+vni))+"]\nlinks 0 ports 2 VNIs\nrouters 1" {
				t.Fatalf("cut at byte %d: did\n%s", at, got)
			}
			if !h.uncut() {
				t.Fatalf("cut at byte %d: it did not break off", at)
			}
		}
		r.stop()
	})
}
