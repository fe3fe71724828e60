package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/agent/storage"
	"nereid/api"
)

// known are the MACs that an agent knows, those that the set does not name with "?",
// and what it is to remove with "-".
func knownPorts(p *follower[api.PortSpec]) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return portsText(&p.state)
}

func portsText(s *portState) string {
	var out []string
	for _, mac := range slices.Sorted(maps.Keys(s.Items)) {
		text := mac[len(mac)-2:] + s.Items[mac].Instance
		if s.Stale[mac] {
			text += "?"
		}
		out = append(out, text)
	}
	for _, key := range slices.Sorted(maps.Keys(s.Gone)) {
		mac, instance, _ := strings.Cut(key, "/")
		out = append(out, "-"+mac[len(mac)-2:]+instance)
	}
	return strings.Join(out, " ")
}

func port(n int, instance string) api.PortSpec {
	return api.PortSpec{MAC: fmt.Sprintf("02:6e:72:00:00:%02x", n), Instance: instance, Owner: "a", VNI: 7}
}

func delta(version int, gone []api.PortSpec, put ...api.PortSpec) api.Delta {
	d := api.Delta{Set: "s", Epoch: "e", Version: uint64(version)}
	for _, p := range gone {
		d.Gone = append(d.Gone, api.PortKey(p.MAC, p.Instance))
	}
	for _, p := range put {
		b, _ := json.Marshal(p)
		d.Put = append(d.Put, b)
	}
	return d
}

func full(d api.Delta) api.Delta {
	d.Full = true
	return d
}

// Only a tombstone takes a port away, and only its own instance's.
func TestPortState(t *testing.T) {
	steps := []struct {
		what string
		d    api.Delta
		want string
	}{
		{"a snapshot", full(delta(2, nil, port(1, "a"), port(2, "b"))), "01a 02b"},
		{"another instance's tombstone", delta(3, []api.PortSpec{port(1, "x")}), "01a 02b -01x"},
		{"a tombstone", delta(4, []api.PortSpec{port(1, "a")}, port(3, "c")), "02b 03c -01a -01x"},
		{"the MAC is used again", delta(6, nil, port(1, "d")), "01d 02b 03c"},
		{"it passes to another instance", delta(8, []api.PortSpec{port(2, "b")}, port(2, "e")), "01d 02e 03c"},
		{"a snapshot of before", full(delta(2, nil, port(1, "a"), port(2, "b"))), "01a 02b 03c?"},
		{"an empty snapshot", full(delta(0, nil)), "01a? 02b? 03c?"},
		{"one is named again", delta(1, nil, port(3, "c")), "01a? 02b? 03c"},
		{"a snapshot with a tombstone of one that is not named", full(delta(5, []api.PortSpec{port(2, "b"), port(9, "z")}, port(3, "c"))), "01a? 03c -02b -09z"},
	}
	s := newPortState()
	for _, c := range steps {
		if err := s.apply(setRecord[api.PortSpec]{Deltas: []api.Delta{c.d}}); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if got := portsText(&s); got != c.want || s.Follow.Since != c.d.Version {
			t.Errorf("%s: %s at %d; want %s", c.what, got, s.Follow.Since, c.want)
		}
	}
	id := s.Gone[api.PortKey(port(2, "b").MAC, "b")]
	s.apply(setRecord[api.PortSpec]{Done: []string{id, "another"}})
	if got := portsText(&s); got != "01a? 03c -09z" {
		t.Errorf("one removal is done: %s", got)
	}
	if err := s.apply(setRecord[api.PortSpec]{Deltas: []api.Delta{{Put: []json.RawMessage{[]byte(`"?"`), []byte(`{}`)}}}}); len(err) != 2 {
		t.Errorf("what is no port: %v", err)
	}
}

// Power that goes while the ports are being kept, at any byte, leaves what was before a
// change or what is after it.
func TestPortLogCut(t *testing.T) {
	first := newPortState()
	first.apply(setRecord[api.PortSpec]{Deltas: []api.Delta{full(delta(2, nil, port(1, "a"), port(2, "b")))}})
	records := []setRecord[api.PortSpec]{
		{State: &first},
		{Deltas: []api.Delta{delta(3, []api.PortSpec{port(1, "a")}), delta(4, nil, port(3, "c"))}},
		{Done: []string{"e:3 02:6e:72:00:00:01/a"}},
		{Deltas: []api.Delta{full(delta(1, nil, port(4, "d")))}},
	}
	want, s := []string{"none"}, newPortState()
	for _, r := range records {
		s.apply(r)
		want = append(want, portsText(&s))
	}
	data := logLines(records...)
	seen := 0
	for n := range len(data) + 1 {
		got := "none"
		if s := readLog(portKind(), data[:n]); s != nil {
			got = portsText(s)
			if s.Follow.Kept != 0 {
				t.Fatalf("at byte %d: what is kept is not known yet, and it says %d", n, s.Follow.Kept)
			}
		}
		if got != want[seen] {
			if seen++; seen == len(want) || got != want[seen] {
				t.Fatalf("at byte %d of %d: %s", n, len(data), got)
			}
		}
	}
	if seen != len(records) {
		t.Errorf("the whole log gives %s", want[seen])
	}
	if got := readLog(portKind(), []byte("garbage\n")); got != nil {
		t.Errorf("of garbage: %s", portsText(got))
	}
}

// withPorts is a spec with some ports of instances of their own.
func withPorts(rev string, gone []int, macs ...int) *api.Spec {
	s := networkSpec(rev)
	s.Setup = setupSpec("r1").Setup
	s.Network.Ports = nil
	for _, n := range macs {
		s.Network.Ports = append(s.Network.Ports, port(n, fmt.Sprint("i", n)))
	}
	for _, n := range gone {
		s.Network.Gone = append(s.Network.Gone, api.GoneNIC{MAC: port(n, "").MAC, Instance: fmt.Sprint("i", n)})
	}
	return s
}

// kept says that a sync's ports are those of the fake head node, and are kept.
func (h *fakeHead) kept(s api.SyncRequest) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(s.Follow) > 0 && h.ports.delta(s.Follow[0]) == nil && s.Follow[0].Kept == s.Follow[0].Since
}

// uncut says that an answer with deltas broke off.
func (h *fakeHead) uncut() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cutSync == nil
}

// An answer that breaks off, wherever, takes no effect; it comes again.
func TestPortsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		h.approved, h.spec = true, withPorts("r1", nil, 1)
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" && h.kept(s) })
		n.did()
		whole := 400
		for at := 0; at < whole; at += 7 {
			// Of two ports one stays, one comes and the other goes.
			h.set(func() {
				h.cutSync = &at
				h.spec.Network = withPorts("", []int{at/7%2 + 2}, 1, (at/7+1)%2+2).Network
				whole = len(h.spec.Network.Ports) * 150
			})
			h.until("kept", func(s api.SyncRequest) bool { return h.uncut() && h.kept(s) })
			if got, want := knownPorts(r.ports), fmt.Sprintf("01i1 0%di%d", (at/7+1)%2+2, (at/7+1)%2+2); !strings.HasPrefix(got, want) {
				t.Fatalf("cut at byte %d: knows %s, want %s", at, got, want)
			}
			time.Sleep(time.Second)
			if got, want := n.hasRules(), port(1, "").MAC+" "+port((at/7+1)%2+2, "").MAC; got != want {
				t.Fatalf("cut at byte %d: has rules for %s, want %s", at, got, want)
			}
			if got := n.did(); got != "" {
				t.Fatalf("cut at byte %d: did\n%s", at, got)
			}
		}
		r.stop()
	})
}

// A snapshot in parts takes effect with its last part, and the spec with it.
func TestPortsInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		h.approved, h.spec, h.ports.parts = true, withPorts("r1", nil, 1, 2, 3, 4, 5), 2
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" })
		if got := n.did(); strings.Count(got, "links") != 1 || !strings.Contains(got, "firewall 5 ports") {
			t.Errorf("did\n%s", got)
		}
		// One that is killed between parts begins again, with what it had.
		h.set(func() { h.spec = withPorts("r2", []int{1, 2}, 3, 4, 5, 6, 7) })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r2" })
		if got := n.did(); got != "" || strings.Count(n.hasRules(), " ") != 4 || strings.Contains(n.hasRules(), port(1, "").MAC) {
			t.Errorf("did\n%s\nhas rules for %s", got, n.hasRules())
		}
		if got := knownPorts(r.ports); !strings.HasPrefix(got, "03i3 04i4 05i5 06i6 07i7") {
			t.Errorf("knows %s", got)
		}
		r.stop()
	})
}

// A head node without sets takes nothing away: the ports that the agent knows stay as
// they are, after a restart too.
func TestPortsWithoutSets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		h.approved, h.spec = true, withPorts("r1", nil, 1, 2)
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" && h.kept(s) })
		for i := range 2 {
			n.did()
			rev := fmt.Sprint("r", i+2)
			h.set(func() { h.spec, h.ports.mute = withPorts(rev, nil), true })
			s := h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == rev })
			if got, want := n.hasRules(), port(1, "").MAC+" "+port(2, "").MAC; got != want || strings.Contains(n.did(), "firewall 0 ports") {
				t.Errorf("has rules for %s", got)
			}
			if len(s.Report.UnexpectedNICs) > 0 {
				t.Errorf("reports %+v", s.Report.UnexpectedNICs)
			}
			r.stop()
			r = start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		}
		r.stop()
	})
}

// What an agent without sets kept in its last spec is where this one begins.
func TestPortsOfOldAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		old := withPorts("r1", []int{3}, 1, 2)
		old.Network.Kept = &api.Kept{NICs: []string{port(2, "").MAC}}
		if err := writeJSON(filepath.Join(dir, specFile), old); err != nil {
			t.Fatal(err)
		}
		h.down = true
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		time.Sleep(time.Minute)
		if got := n.did(); !strings.Contains(got, "firewall 2 ports") {
			t.Errorf("with the head node away did\n%s", got)
		}
		if got := knownPorts(r.ports); !strings.HasPrefix(got, "01i1 02i2?") {
			t.Errorf("knows %s", got)
		}
		h.set(func() { h.down, h.approved, h.spec = false, true, withPorts("r2", nil, 1, 4) })
		h.until("network", func(s api.SyncRequest) bool {
			return s.Report.AppliedNetwork == "r2" && len(s.Report.UnexpectedNICs) == 1
		})
		if got := knownPorts(r.ports); got != "01i1 02i2? 04i4" {
			t.Errorf("knows %s", got)
		}
		r.stop()
	})
}

// While the pool takes nothing, changes take effect, nothing is acknowledged, and the
// report says so.
func TestPortsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		h.approved, h.spec = true, withPorts("r1", nil, 1, 2)
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		s := h.until("kept", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" && h.kept(s) })
		before := s.Follow[0].Kept
		w.mu.Lock()
		for _, what := range []string{"append ports.log", "write ports.log"} {
			w.fails[what] = errors.New("pool I/O is suspended")
		}
		w.mu.Unlock()
		h.set(func() { h.spec.Network = withPorts("", []int{2}, 1, 3).Network })
		s = h.until("a problem", func(s api.SyncRequest) bool {
			return len(s.Report.Problems) > 0 && s.Follow[0].Since > before && s.Usage.Network.Ports == fmt.Sprintf("%s:%d", s.Follow[0].Epoch, s.Follow[0].Since)
		})
		if s.Follow[0].Kept != before || !strings.Contains(s.Report.Problems[0], "pool I/O is suspended") {
			t.Errorf("follows %+v, problems %q", s.Follow, s.Report.Problems)
		}
		w.mu.Lock()
		clear(w.fails)
		w.mu.Unlock()
		h.until("kept", func(s api.SyncRequest) bool { return h.kept(s) && len(s.Report.Problems) == 0 })
		w.mu.Lock()
		pool := readLog(portKind(), w.config[portsFile])
		w.mu.Unlock()
		if pool == nil || !strings.HasPrefix(portsText(pool), "01i1 03i3") {
			t.Errorf("the pool has %v", pool)
		}
		r.stop()
	})
}

// Power that goes at any point of a change of the ports loses none: with the head node
// away the next boot knows those of before or of after, and with it those of after.
func TestPortsPowerCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cuts := 0
		for at := 1; ; at++ {
			w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
			h.approved, h.spec = true, withPorts("r1", nil, 1, 2)
			r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
			h.until("kept", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" && h.kept(s) })
			w.mu.Lock()
			w.crashAt = w.points + at
			w.mu.Unlock()
			h.set(func() { h.spec.Network = withPorts("", []int{2}, 1, 3).Network })
			time.Sleep(time.Minute)
			w.mu.Lock()
			cut := w.dead
			w.crashAt = 0
			w.mu.Unlock()
			r.stop()
			h.set(func() { h.down = true })
			if cut {
				cuts++
				dir = t.TempDir() // what was in RAM is lost
			}
			r = start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
			time.Sleep(time.Minute)
			if got := n.did(); !strings.Contains(got, "firewall 2 ports") {
				t.Errorf("power cut %d: the next boot did\n%s", at, got)
			}
			if got := knownPorts(r.ports); !strings.HasPrefix(got, "01i1 02i2") && !strings.HasPrefix(got, "01i1 03i3") {
				t.Errorf("power cut %d: knows %q", at, got)
			}
			h.set(func() { h.down = false })
			h.until("kept", h.kept)
			if got := knownPorts(r.ports); !strings.HasPrefix(got, "01i1 03i3") || strings.Contains(got, "?") {
				t.Errorf("power cut %d: in the end knows %q", at, got)
			}
			r.stop()
			h.close()
			if !cut {
				break
			}
		}
		if cuts < 2 {
			t.Errorf("%d power cuts were tried", cuts)
		}
	})
}

// The file of the ports does not grow with the number of changes.
func TestPortLogBounded(t *testing.T) {
	var file []byte
	writes := 0
	f := &setFile{
		write: func(_ context.Context, data []byte) error { writes++; file = slices.Clone(data); return nil },
		add:   func(_ context.Context, data []byte) error { file = append(file, data...); return nil },
	}
	s := newPortState()
	for i := range 10000 {
		r := setRecord[api.PortSpec]{Deltas: []api.Delta{delta(i+1, []api.PortSpec{port(i%100, "a")}, port((i+1)%100, "a"))}}
		s.apply(r)
		if err := f.keep(t.Context(), logLines(r), func() []byte { return logLines(setRecord[api.PortSpec]{State: &s}) }); err != nil {
			t.Fatal(err)
		}
		if len(file) > 2*minLog {
			t.Fatalf("%d bytes after %d changes", len(file), i)
		}
	}
	if d := cmp.Diff(portsText(&s), portsText(readLog(portKind(), file))); d != "" || writes < 2 || writes > 50 {
		t.Errorf("after %d writes:\n%s", writes, d)
	}
	// What was not added is in the next whole one.
	f.add = func(context.Context, []byte) error { return storage.ErrNoPool }
	r := setRecord[api.PortSpec]{Deltas: []api.Delta{delta(20000, nil, port(200, "z"))}}
	s.apply(r)
	whole := func() []byte { return logLines(setRecord[api.PortSpec]{State: &s}) }
	if err := f.keep(t.Context(), logLines(r), whole); !errors.Is(err, storage.ErrNoPool) {
		t.Errorf("without a pool: %v", err)
	}
	if err := f.keep(t.Context(), nil, whole); err != nil || !strings.Contains(portsText(readLog(portKind(), file)), "c8z") {
		t.Errorf("then: %v, %s", err, portsText(readLog(portKind(), file)))
	}
}
