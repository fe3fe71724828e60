package agent

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
)

func newTestCopies() *copies {
	a := &Agent{Log: slog.New(slog.DiscardHandler), board: newBoard(api.Report{})}
	return newCopies(a)
}

func values(list ...any) (out []json.RawMessage) {
	for _, v := range list {
		b, _ := json.Marshal(v)
		out = append(out, b)
	}
	return out
}

// rulesOf are the UUIDs of the rules of a set.
func (c *copies) rulesOf(set string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, r := range c.sets[set].ruleSpecs() {
		out = append(out, r.UUID)
	}
	return strings.Join(out, " ")
}

// A snapshot replaces what was known, with its last part and not before; a delta after it
// adds and removes. A stale member would keep an ALLOW rule open.
func TestCopiesReplace(t *testing.T) {
	c, set := newTestCopies(), api.RuleSet("")
	c.want([]string{set})
	rule := func(id string) api.RuleSpec { return api.RuleSpec{UUID: id} }
	if !c.lacks() {
		t.Error("lacks nothing before anything came")
	}
	for _, step := range []struct {
		d            api.Delta
		whole, lacks bool
		want         string
	}{
		{api.Delta{Epoch: "e", Version: 2, Full: true, Put: values(rule("a"), rule("b"))}, true, false, "a b"},
		{api.Delta{Epoch: "e", Version: 4, Put: values(rule("c")), Gone: []string{"a"}}, true, false, "b c"},
		{api.Delta{Epoch: "f", Version: 1, Toward: 2, Full: true, Put: values(rule("d"))}, false, true, "b c"},
		{api.Delta{Epoch: "f", Version: 2, Put: values(rule("e"))}, true, false, "d e"},
		{api.Delta{Epoch: "f", Version: 3, Toward: 4, Gone: []string{"d"}}, false, true, "d e"},
		// A snapshot that begins while another answer is not whole.
		{api.Delta{Epoch: "g", Version: 1, Full: true, Put: values(rule("h"))}, true, false, "h"},
		{api.Delta{Epoch: "none", Version: 0, Full: true}, true, false, ""},
	} {
		step.d.Set = set
		news, whole := c.take(step.d)
		if got := c.rulesOf(set); !news || whole != step.whole || c.lacks() != step.lacks || got != step.want {
			t.Errorf("after %+v: %q, whole %v, lacks %v", step.d, got, whole, c.lacks())
		}
		if f := c.follow()[0]; f != (api.Follow{Set: set, Epoch: step.d.Epoch, Since: step.d.Version, Toward: step.d.Toward, Full: step.d.Full && step.d.Toward != 0}) {
			t.Errorf("after %+v: asks with %+v", step.d, f)
		}
	}
}

// Cut at any byte, what is kept leads to a state that the sets had.
func TestCopiesLogCut(t *testing.T) {
	c, set, web := newTestCopies(), api.RuleSet("x"), api.AccountSet("x", "addresses/tag_web")
	c.want([]string{set, web})
	text := func(c *copies) string {
		return fmt.Sprint(c.rulesOf(set), " ", c.sets[web].addresses())
	}
	log := c.file()
	states := []string{}
	note := func() {
		lines, _, _ := c.wanted()
		log = append(log, lines...)
		states = append(states, text(c))
	}
	c.wanted()
	states = append(states, text(newTestCopies()))
	for _, d := range []api.Delta{
		{Set: set, Epoch: "e", Version: 1, Full: true, Put: values(api.RuleSpec{UUID: "a"})},
		{Set: web, Epoch: "e", Version: 3, Full: true, Put: values("10.0.0.1/m1", "10.0.0.1/m2", "10.0.0.2/m3")},
		{Set: web, Epoch: "e", Version: 5, Put: values("10.0.0.9/m1"), Gone: []string{"10.0.0.2/m3"}},
	} {
		c.take(d)
		note()
	}
	c.want([]string{set})
	note()
	read := func(data []byte) *copies {
		got := newTestCopies()
		some := false
		readRecords(data, func(r copiesRecord) bool {
			if some = some || r.State != nil; some {
				got.apply(r)
			}
			return some
		})
		return got
	}
	seen := 0
	for n := range len(log) + 1 {
		got := text(read(log[:n]))
		if got != states[seen] {
			if seen++; seen == len(states) || got != states[seen] {
				t.Fatalf("at byte %d of %d: %s", n, len(log), got)
			}
		}
	}
	if seen != len(states)-1 {
		t.Errorf("the whole log gives %s", states[seen])
	}
	// As a whole it says the same, and a restart asks for what came since.
	again := read(c.file())
	if got := text(again); got != text(c) {
		t.Errorf("kept whole: %s, want %s", got, text(c))
	}
	again.want([]string{set})
	if f := again.follow()[0]; f.Epoch != "e" || f.Since != 1 || again.lacks() {
		t.Errorf("a restart asks with %+v", f)
	}
}

// An account whose rules name more than a server follows takes nothing of others.
func TestCopiesBounded(t *testing.T) {
	c := newTestCopies()
	var sets []string
	for _, owner := range []string{"", "a", "b"} {
		sets = append(sets, api.RuleSet(owner))
	}
	for i := range 2 * maxCopies {
		sets = append(sets, api.AccountSet("a", fmt.Sprintf("addresses/tag_%06d", i)))
	}
	sets = append(sets, api.AccountSet("b", "addresses/tag_1"))
	c.want(sets)
	asked := c.follow()
	has := func(set string) bool {
		return slices.ContainsFunc(asked, func(f api.Follow) bool { return f.Set == set })
	}
	if len(asked) != maxCopies || !has(api.RuleSet("")) || !has(api.RuleSet("b")) || !has(api.AccountSet("b", "addresses/tag_1")) {
		t.Errorf("asks for %d sets", len(asked))
	}
	if r, _ := c.a.board.peek(); len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "name fewer tags") {
		t.Errorf("problems %q", r.Problems)
	}
	for _, f := range asked {
		c.take(api.Delta{Set: f.Set, Epoch: "e", Version: 1, Full: true})
	}
	if c.lacks() {
		t.Error("lacks what it cannot ask for")
	}
	c.want(sets[:3])
	if r, _ := c.a.board.peek(); len(r.Problems) != 0 {
		t.Errorf("problems %q", r.Problems)
	}
}

// No NIC is made with a part of its rules: not before all of them have come, with the
// addresses that they name. What is known is there after a boot without the head node; a
// set that is refused keeps what is known of it.
func TestRulesComeFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		spec := withPorts("r1", nil, 1)
		spec.Network.Ports[0].Firewall = true
		mac, set := spec.Network.Ports[0].MAC, addressSet("a")
		spec.Network.Firewall = api.FirewallSpec{Sets: []api.AddressSet{{Name: "a", Members: []string{"10.0.0.1"}}}, Rules: []api.FirewallEntry{ruleFor("1", "a", mac)}}
		h.approved, h.spec, h.late = true, spec, map[string]bool{set: true}
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		h.until("asked for addresses", func(s api.SyncRequest) bool {
			return slices.ContainsFunc(s.Follow, func(f api.Follow) bool { return f.Set == set })
		})
		time.Sleep(time.Minute)
		if got := n.did() + n.didNICs(); strings.Contains(got, "set") || strings.Contains(got, "firewall") {
			t.Errorf("with a part of the rules did\n%s", got)
		}
		h.set(func() { h.late = nil })
		h.until("network", func(s api.SyncRequest) bool { return s.Report.AppliedSpec == "r1" && s.Report.AppliedNetwork == "r1" })
		time.Sleep(time.Second)
		if got := n.didRules(); got != "rule "+mac+" 1 rules 1 sets" {
			t.Errorf("rules: %s", got)
		}
		n.did()
		// Refused, they stay; a boot without the head node has them.
		h.set(func() {
			h.refusedSets = map[string]bool{set: true}
			h.spec = withPorts("r2", nil, 1, 2)
			h.spec.Network.Ports[0].Firewall, h.spec.Network.Firewall = true, spec.Network.Firewall
		})
		h.until("r2", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r2" })
		time.Sleep(time.Minute)
		r.stop()
		n.didRules()
		h.set(func() { h.down = true })
		r = start(t, w, h, t.TempDir(), func(a *Agent) { a.Net = n.net() })
		time.Sleep(time.Minute)
		if got := n.didRules(); !strings.Contains(got, "rule "+mac+" 1 rules 1 sets") {
			t.Errorf("after a boot without the head node: rules %s", got)
		}
		r.stop()
	})
}

// appliedSets reports whether an agent says that it has applied the sets of accounts as it
// follows them.
func appliedSets(s api.SyncRequest) bool {
	var all []api.Follow
	for _, f := range s.Follow {
		if isCopy(f.Set) {
			all = append(all, f)
		}
	}
	return len(all) > 0 && s.Usage.Network != nil && s.Usage.Network.Sets == api.Versions(all)
}

// A NIC that no set names any more keeps its last rules, also those that came with no spec,
// and over a boot without the head node.
func TestKeptNICKeepsItsLastRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h, n, dir := newWorld(), newHeadNode(t), newWire(), t.TempDir()
		h.approved, h.spec = true, withPorts("r1", nil, 1)
		mac := h.spec.Network.Ports[0].MAC
		r := start(t, w, h, dir, func(a *Agent) { a.Net = n.net() })
		first := h.until("kept", func(s api.SyncRequest) bool { return s.Report.AppliedNetwork == "r1" && h.kept(s) && appliedSets(s) })
		// It gets a firewall and a rule, and is forgotten by a head node that is restored,
		// all without another spec.
		h.set(func() {
			h.spec = withPorts("r1", nil, 1)
			h.spec.Network.Ports[0].Firewall = true
			h.spec.Network.Firewall = api.FirewallSpec{Sets: []api.AddressSet{{Name: "a", Members: []string{"10.0.0.1"}}}, Rules: []api.FirewallEntry{ruleFor("1", "a", mac)}}
		})
		time.Sleep(time.Minute)
		if got := n.didRules(); !strings.HasSuffix(got, "rule "+mac+" 1 rules 1 sets") {
			t.Fatalf("rules: %s", got)
		}
		h.until("rules are applied", func(s api.SyncRequest) bool {
			return appliedSets(s) && s.Usage.Network.Sets != first.Usage.Network.Sets
		})
		h.set(func() { h.spec = withPorts("r1", nil) })
		h.until("unexpected", func(s api.SyncRequest) bool { return len(s.Report.UnexpectedNICs) == 1 })
		time.Sleep(time.Minute)
		r.stop()
		n.didRules()
		h.set(func() { h.down = true })
		r = start(t, w, h, t.TempDir(), func(a *Agent) { a.Net = n.net() })
		time.Sleep(time.Minute)
		if got := n.didRules(); !strings.Contains(got, "rule "+mac+" 1 rules 1 sets") {
			t.Errorf("after a boot without the head node: rules %s", got)
		}
		r.stop()
	})
}
