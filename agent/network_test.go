package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nereid/agent/firewall"
	"nereid/agent/network"
	"nereid/agent/router"
	"nereid/api"
)

// wire is a fake of all that a server's network is: it notes what was done to it.
type wire struct {
	mu    sync.Mutex
	log   []string
	nics  []string                 // what was done to NICs, which their workers do beside the rest
	maps  map[uint32]api.FabricMap // that were applied last
	fails map[string]error
	links []api.LinkReport
	moved chan struct{} // a link came or went
	kept  []api.UnexpectedNIC
	gone  []string
	bad   []firewall.Failure
	ruled map[string]firewall.Port // that the filter has rules for, by MAC
	rules []string                 // how these came and went one by one
}

func newWire() *wire {
	return &wire{
		maps: map[uint32]api.FabricMap{}, ruled: map[string]firewall.Port{}, fails: map[string]error{}, moved: make(chan struct{}),
		links: []api.LinkReport{{Name: "eth0", Up: true}, {Name: "eth1", NICTags: []string{"underlay"}, Up: true}},
	}
}

func (w *wire) note(what, format string, args ...any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log = append(w.log, what+fmt.Sprintf(format, args...))
	return w.fails[what]
}

// link gives a link another carrier, and tells of it.
func (w *wire) link(name string, up bool) {
	w.mu.Lock()
	for i := range w.links {
		if w.links[i].Name == name {
			w.links[i].Up = up
		}
	}
	w.mu.Unlock()
	w.moved <- struct{}{}
}

// did is what was done since it was asked last.
func (w *wire) did() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.log, "\n")
	w.log = nil
	return s
}

func (w *wire) fail(what string, err error) { w.set(func() { w.fails[what] = err }) }

func (w *wire) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *wire) net() Net {
	return Net{Links: wireLinks{w}, Ports: wirePorts{w}, Routers: wireRouters{w}, Filter: wireFilter{w}}
}

type wireLinks struct{ *wire }

func (w wireLinks) Recover(context.Context) error { return w.note("recover", "") }
func (w wireLinks) Apply(_ context.Context, s api.NetworkSpec) error {
	w.mu.Lock()
	w.kept, w.gone = nil, nil
	if s.Kept != nil {
		for _, m := range s.Kept.NICs {
			w.kept = append(w.kept, api.UnexpectedNIC{MAC: m})
		}
	}
	for _, g := range s.Gone {
		w.gone = append(w.gone, g.ID)
	}
	w.mu.Unlock()
	return w.note("links", " %d ports %d VNIs", len(s.Ports), len(s.VNIs))
}
func (w wireLinks) ApplyMap(_ context.Context, vni uint32, m api.FabricMap) error {
	w.mu.Lock()
	w.maps[vni] = m
	w.mu.Unlock()
	return w.note("map", " %d version %d", vni, m.Version)
}
func (w wireLinks) Watch(ctx context.Context, _, changed func()) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.moved:
			changed()
		}
	}
}
func (w wireLinks) Report(context.Context) (api.NetworkReport, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return api.NetworkReport{Links: slices.Clone(w.links), Unexpected: slices.Clone(w.kept), Gone: slices.Clone(w.gone)}, nil
}

type wirePorts struct{ *wire }

func (w wirePorts) SetPort(_ context.Context, p api.PortSpec) error {
	w.mu.Lock()
	_, ruled := w.ruled[p.MAC]
	w.mu.Unlock()
	if !ruled {
		return w.nic("set without rules " + p.MAC)
	}
	return w.nic("set " + p.MAC)
}
func (w wirePorts) DropPort(_ context.Context, mac, instance string) error {
	return w.nic("drop " + mac + " of " + instance)
}

func (w *wire) nic(what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.nics = append(w.nics, what)
	return w.fails[what]
}

// didNICs is what was done to NICs since it was asked last, sorted.
func (w *wire) didNICs() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(slices.Sorted(slices.Values(w.nics)), "\n")
	w.nics = nil
	return s
}

type wireRouters struct{ *wire }

func (w wireRouters) Apply(_ context.Context, r []api.RouterSpec, _ router.Env) error {
	return w.note("routers", " %d", len(r))
}
func (w wireRouters) Gateways() []api.GatewayReport {
	return []api.GatewayReport{{Owner: "a", Used: "100.64.0.2"}}
}
func (w wireRouters) Drops(context.Context) (map[string]uint64, error) {
	return map[string]uint64{"denied": 2}, nil
}

type wireFilter struct{ *wire }

func (w wireFilter) Apply(_ context.Context, p []firewall.Port, _ api.FirewallSpec, o firewall.Options) ([]firewall.Failure, error) {
	err := w.note("firewall", " %d ports, isolated %v", len(p), o.Isolated)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.ruled = map[string]firewall.Port{}
		for _, x := range p {
			w.ruled[x.MAC] = x
		}
	}
	return w.bad, err
}
func (w wireFilter) SetPort(_ context.Context, p firewall.Port, rules api.FirewallSpec) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.fails["rule "+p.MAC]; err != nil {
		return err
	}
	w.ruled[p.MAC] = p
	w.rules = append(w.rules, fmt.Sprintf("rule %s %d rules %d sets", p.MAC, len(rules.Rules), len(rules.Sets)))
	return nil
}
func (w wireFilter) DropPort(_ context.Context, mac, instance string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p, there := w.ruled[mac]; there && (instance == "" || p.Instance == instance) {
		delete(w.ruled, mac)
		w.rules = append(w.rules, "unrule "+mac)
	}
	return nil
}

// hasRules are the MACs of the ports that the filter has rules for.
func (w *wire) hasRules() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(slices.Sorted(maps.Keys(w.ruled)), " ")
}
func (w wireFilter) VerifyOrRepair(context.Context) (bool, error) { return false, nil }
func (w wireFilter) Counters(context.Context) (map[string]uint64, error) {
	return map[string]uint64{"mac": 1}, nil
}

func networkSpec(rev string) *api.Spec {
	return &api.Spec{Revision: rev, Hostname: "cn01", Network: &api.NetworkSpec{
		Tags:     []api.TagSpec{{Name: "underlay", MTU: 9000, MAC: "52:54:00:00:00:02"}},
		Underlay: &api.UnderlaySpec{Tag: "underlay", MTU: 9000, Address: "10.77.0.11/24", Subnets: []string{"10.77.0.0/24"}},
		VNIs:     []api.VNISpec{{VNI: 7, Owner: "a", MTU: 1450}},
		Routers:  []api.RouterSpec{{Owner: "a", Networks: []api.RouterNetwork{{VNI: 7, Gateway: "10.0.0.1/24"}}}},
		Ports:    []api.PortSpec{{MAC: "02:6e:72:00:00:01", Owner: "a", VNI: 7, Firewall: true}},
	}}
}

// withVNI adds a network of account a to a spec.
func withVNI(s *api.Spec, vni uint32) *api.Spec {
	s.Network.VNIs = append(s.Network.VNIs, api.VNISpec{VNI: vni, Owner: "a", MTU: 1450})
	r := &s.Network.Routers[0]
	r.Networks = append(r.Networks, api.RouterNetwork{VNI: vni, Gateway: fmt.Sprintf("10.0.%d.1/24", vni)})
	return s
}

func TestNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		h.approved, h.spec = true, networkSpec("r1")
		h.maps = []api.FabricMap{{VNI: 7, Epoch: "e", Version: 3, Full: true}, {VNI: 8, Epoch: "e", Version: 1}}
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		s := h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		time.Sleep(time.Second)
		if got, want := n.did(), "recover\nfirewall 1 ports, isolated [vb7]\nlinks 0 ports 1 VNIs\nrouters 1\nmap 7 version 3"; got != want {
			t.Errorf("did\n%s\nwant\n%s", got, want)
		}
		if got := n.didNICs(); got != "set 02:6e:72:00:00:01" {
			t.Errorf("did to NICs %q", got)
		}
		if u := s.Usage.Network; u == nil || u.Drops["mac"] != 1 || u.Drops["router_denied"] != 2 || len(u.Links) != 2 || len(u.Gateways) != 1 {
			t.Errorf("usage %+v", u)
		}

		// A change of the map comes at once, and nothing else is done for it.
		begun := time.Now()
		h.set(func() { h.maps[0].Version, h.maps[0].Full = 4, false })
		time.Sleep(100 * time.Millisecond)
		if got := n.did(); got != "map 7 version 4" {
			t.Errorf("%v after a change of the map: did %q", time.Since(begun), got)
		}

		// What the kernel does not take is tried again, although nothing changes.
		n.fail("map", errors.New("device busy"))
		h.set(func() { h.maps[0].Version = 5 })
		time.Sleep(5 * time.Second)
		if got := n.did(); strings.Count(got, "map 7 version 5") < 2 {
			t.Errorf("after a failure: did %q", got)
		}
		n.fail("map", nil)
		time.Sleep(15 * time.Second)
		if got := n.did(); !strings.HasSuffix(got, "map 7 version 5") {
			t.Errorf("after the failure's end: did %q", got)
		}
		time.Sleep(time.Minute)
		if got := n.did(); got != "" {
			t.Errorf("with nothing to do: did %q", got)
		}
		n.didNICs()

		// Another VNI is followed at once.
		h.set(func() {
			h.spec = withVNI(networkSpec("r2"), 8)
		})
		h.until("r2", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r2" })
		time.Sleep(time.Second)
		if got := n.did(); !strings.Contains(got, "map 8 version 1") {
			t.Errorf("another VNI: did\n%s", got)
		}

		// Without rules there are no ports, and it is tried again.
		n.fail("firewall", errors.New("no nf_tables"))
		h.set(func() { h.spec = networkSpec("r3") })
		s = h.until("problem", func(s api.SyncRequest) bool { return len(s.Report.Problems) > 0 })
		if !strings.Contains(s.Report.Problems[0], "no nf_tables; no port was changed") {
			t.Errorf("problems %q", s.Report.Problems)
		}
		if got := n.did(); strings.Contains(got, "links") || strings.Contains(got, "routers") {
			t.Errorf("without rules did\n%s", got)
		}
		n.fail("firewall", nil)
		h.until("r3", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r3" && len(s.Report.Problems) == 0 })

		// One account's rules stop nobody else, and are told until they can be made.
		n.did()
		n.set(func() {
			n.bad = []firewall.Failure{{Owner: "a", Err: errors.New("rule 7: protocol"), Closed: []string{"02:6e:72:00:00:01"}}}
		})
		other := func(rev string) *api.Spec { // another infrastructure
			return withVNI(networkSpec(rev), 9)
		}
		h.set(func() { h.spec = other("r3a") })
		s = h.until("r3a", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r3a" })
		if len(s.Report.Problems) != 1 || !strings.Contains(s.Report.Problems[0], "account a (rule 7: protocol; NICs that had no rules before are closed: 02:6e:72:00:00:01)") {
			t.Errorf("problems %q", s.Report.Problems)
		}
		if got := n.did(); !strings.Contains(got, "links 0 ports 2 VNIs\nrouters 1") {
			t.Errorf("with one account's rules failing did\n%s", got)
		}
		time.Sleep(10 * time.Minute)
		if got := n.did(); got != "" {
			t.Errorf("tried again by itself: %s", got)
		}
		n.set(func() { n.bad = nil })
		h.set(func() { h.spec = networkSpec("r3b") })
		h.until("r3b", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r3b" && len(s.Report.Problems) == 0 })

		// What cut the server off is not tried again by itself.
		n.did()
		n.fail("links", &network.RolledBack{Cause: errors.New("no answer")})
		h.set(func() { h.spec = other("r4") })
		h.until("undone", func(s api.SyncRequest) bool { return len(s.Report.Problems) > 0 })
		time.Sleep(10 * time.Minute)
		if got := strings.Count(n.did(), "links"); got != 1 {
			t.Errorf("tried %d times", got)
		}
		r.stop()
		n.did()

		// The next agent makes the network before it has heard anything.
		h.set(func() { h.down = true })
		n.fail("links", nil)
		r = start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		time.Sleep(10 * time.Second)
		if got := n.did(); !strings.Contains(got, "links 0 ports 2 VNIs") {
			t.Errorf("with the head node away did\n%s", got)
		}
		if got := n.didNICs(); got != "set 02:6e:72:00:00:01" {
			t.Errorf("with the head node away did to NICs %q", got)
		}
		r.stop()
	})
}

// What the head node wants to have measured is measured, told once, and changes
// nothing.
func TestProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n := newWorld(), newHeadNode(t), newWire()
		h.approved, h.spec = true, networkSpec("r1")
		r := start(t, w, h, t.TempDir(), func(a *Agent) {
			a.Net = n.net()
			a.Net.PathMTU = func(ctx context.Context, from, to netip.Addr, want int) (int, error) {
				time.Sleep(time.Second)
				if to.Is6() {
					return 0, errors.New("no route")
				}
				return want - int(from.As4()[3]), nil
			}
		})
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		n.did()
		h.set(func() {
			h.probes = []api.Probe{{ID: "a", From: "10.77.0.11", To: "10.77.0.12", Bytes: 9000}, {ID: "b", From: "fd00::1", To: "fd00::2", Bytes: 9000}, {ID: "c", From: "nobody"}}
		})
		s := h.until("results", func(s api.SyncRequest) bool { return len(s.Probes) > 0 })
		if len(s.Probes) != 3 || s.Probes[0] != (api.ProbeResult{ID: "a", Bytes: 8989}) || s.Probes[1].Error != "no route" || s.Probes[2].Error == "" {
			t.Errorf("results %+v", s.Probes)
		}
		time.Sleep(time.Minute)
		if s, _ := h.last(); len(s.Probes) > 0 {
			t.Errorf("told again: %+v", s.Probes)
		}
		if got := n.did(); got != "" {
			t.Errorf("did %q", got)
		}
		r.stop()
	})
}

// A platform without a network that could be managed says so.
func TestNoNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved, h.spec = true, networkSpec("r1")
		r := start(t, w, h, t.TempDir(), nil)
		s := h.until("problem", func(s api.SyncRequest) bool { return len(s.Report.Problems) > 0 })
		if !strings.Contains(s.Report.Problems[0], "cannot manage a network") {
			t.Errorf("problems %q", s.Report.Problems)
		}
		r.stop()
	})
}

// A NIC tag without a link is told at once; one that has it again when it kept it
// for a while.
func TestNICTagsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n := newWorld(), newHeadNode(t), newWire()
		h.approved, h.spec = true, networkSpec("r1")
		r := start(t, w, h, t.TempDir(), func(a *Agent) { a.Net = n.net() })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		told := func(want ...string) func(api.SyncRequest) bool {
			return func(s api.SyncRequest) bool { return slices.Equal(s.Report.NICTagsDown, want) }
		}
		n.link("eth0", false) // provides none
		time.Sleep(time.Minute)
		if s, _ := h.last(); s.Report.NICTagsDown != nil {
			t.Errorf("down: %v", s.Report.NICTagsDown)
		}
		begun := time.Now()
		n.link("eth1", false)
		h.until("told", told("underlay"))
		if took := time.Since(begun); took > time.Second {
			t.Errorf("told after %v", took)
		}
		// It comes and goes.
		for range 3 {
			n.link("eth1", true)
			time.Sleep(linkSteady - time.Second)
			n.link("eth1", false)
			time.Sleep(linkSteady - time.Second)
		}
		begun = time.Now()
		n.link("eth1", true)
		if s, _ := h.last(); !slices.Equal(s.Report.NICTagsDown, []string{"underlay"}) {
			t.Errorf("while it comes and goes: %v", s.Report.NICTagsDown)
		}
		h.until("told again", told())
		if took := time.Since(begun); took < linkSteady || took > linkSteady+time.Second {
			t.Errorf("good again after %v", took)
		}
		r.stop()
	})
}

// A map whose stream breaks off, wherever, is not used in part: it is asked for again
// from the version that is there, and comes whole.
func TestMapsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n := newWorld(), newHeadNode(t), newWire()
		h.approved, h.spec = true, networkSpec("r1")
		fm := api.FabricMap{VNI: 7, Epoch: "e", Version: 1, Full: true, Entries: []api.MapEntry{{IP: "10.0.0.9", MAC: "02:6e:72:00:00:09", Underlay: "10.77.0.12", Version: 1}}}
		whole, err := json.Marshal(api.SyncResponse{Deltas: []api.Delta{mapDelta(fm)}})
		if err != nil {
			t.Fatal(err)
		}
		h.maps = []api.FabricMap{fm}
		r := start(t, w, h, t.TempDir(), func(a *Agent) { a.Net = n.net() })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		time.Sleep(time.Minute)
		n.did()
		for at := range len(whole) + 1 {
			h.set(func() { h.maps[0].Version, h.cutSync, h.syncs = uint64(at+2), &at, nil })
			time.Sleep(time.Minute)
			if got, want := n.did(), fmt.Sprintf("map 7 version %d", at+2); got != want {
				t.Fatalf("cut at byte %d of %d: did %q, want %q", at, len(whole), got, want)
			}
			h.mu.Lock()
			again, left := h.syncs[0].Follow, h.cutSync
			h.mu.Unlock()
			m := len(again) - 1 // behind the ports, the rules and what routers need
			if left != nil || m != 6 || again[m].Set != api.MapSet(7) || again[m].Since != uint64(at+1) {
				t.Fatalf("cut at byte %d: asked again with %+v", at, again)
			}
		}
		r.stop()
	})
}
