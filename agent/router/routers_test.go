package router

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

const (
	accountA = "aaaaaaaa-0000-4000-8000-000000000001"
	accountB = "bbbbbbbb-0000-4000-8000-000000000002"
)

func testEnv() Env {
	return Env{
		Server: "00000000-0000-4000-8000-000000000009",
		Bridge: func(tag string, vlan int) string {
			return map[string]string{"external.0": "brext", "other.7": "brother"}[fmt.Sprintf("%s.%d", tag, vlan)]
		},
		Deny: []netip.Prefix{netip.MustParsePrefix("10.99.99.0/24")},
	}
}

// bench is a Routers on a fake.
type bench struct {
	*testing.T
	*fakeWorld
	r     *Routers
	steps []string
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, fakeWorld: newFake("vb100", "vb101", "vb200", "vb300", "brext", "brother")}
	b.r = &Routers{world: b.fakeWorld, hook: func(s step) error { b.steps = append(b.steps, s.String()); return nil }}
	return b
}

// apply applies twice; the second time does nothing.
func (b *bench) apply(specs ...api.RouterSpec) error {
	b.Helper()
	b.steps = nil
	err := b.r.Apply(b.Context(), specs, testEnv())
	first := b.steps
	b.steps = nil
	if again := b.r.Apply(b.Context(), specs, testEnv()); fmt.Sprint(again) != fmt.Sprint(err) {
		b.Errorf("the second Apply: %v, the first: %v", again, err)
	}
	if len(b.steps) > 0 {
		b.Errorf("the second Apply did\n%s", strings.Join(b.steps, "\n"))
	}
	b.steps = first
	return err
}

func (b *bench) must(specs ...api.RouterSpec) {
	b.Helper()
	if err := b.apply(specs...); err != nil {
		b.Fatal(err)
	}
}

func specA() api.RouterSpec {
	return api.RouterSpec{Owner: accountA, Networks: []api.RouterNetwork{
		{VNI: 100, Gateway: "10.0.1.1/24", MAC: "90:b8:d0:00:0a:01", InternetNAT: true, Routes: map[string]string{"10.9.0.0/16": "10.0.1.9"}},
		{VNI: 100, Gateway: "fd00:1::1/64", MAC: "90:b8:d0:00:0a:01"},
		{VNI: 101, Gateway: "10.0.2.1/24", MAC: "90:B8:D0:00:0A:02"},
	}}
}

func specB() api.RouterSpec {
	return api.RouterSpec{Owner: accountB, Networks: []api.RouterNetwork{{VNI: 200, Gateway: "10.0.1.1/24", MAC: "90:b8:d0:00:0b:01", InternetNAT: true}}}
}

func withUplink(s api.RouterSpec, forwards ...api.PortForward) api.RouterSpec {
	s.NAT = &api.NATSpec{Tag: "external", Address: "198.51.100.10/24", Gateway: "198.51.100.1", Forwards: forwards}
	return s
}

func withVia(s api.RouterSpec) api.RouterSpec {
	s.NAT = &api.NATSpec{VNI: 300, Transit: "100.64.0.9/24", Via: []string{"100.64.0.2", "100.64.0.3"}}
	return s
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (UPDATE_GOLDEN=1 writes it anew):\n%s", name, d)
	}
}

// withoutSysctls leaves out lines that are the same in each namespace.
func withoutSysctls(s string) string {
	var keep []string
	for _, l := range strings.Split(s, "\n") {
		if !strings.Contains(l, "sysctl ") {
			keep = append(keep, l)
		}
	}
	return strings.Join(keep, "\n")
}

func TestStates(t *testing.T) {
	for name, specs := range map[string][]api.RouterSpec{
		"inside.txt": {specA()},
		"uplink.txt": {withUplink(specA(), api.PortForward{Protocol: "tcp", External: "198.51.100.10:8080", Internal: "10.0.1.5:80"}), withUplink(specB())},
		"via.txt":    {withVia(specA())},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.must(specs...)
			golden(t, name, withoutSysctls(b.String()))
			b.must()
			if s := b.String(); s != "" {
				t.Errorf("left after an empty spec:\n%s", s)
			}
		})
	}
}

func TestSysctls(t *testing.T) {
	b := newBench(t)
	b.must(withUplink(specB()))
	var lines []string
	for _, i := range sorted(b.Items) {
		if i.Kind == kindSysctl {
			lines = append(lines, i.String())
		}
	}
	golden(t, "sysctls.txt", strings.Join(lines, "\n")+"\n")
}

// TestKilled: Apply ended after each of its steps, and done again, gives the same;
// also from another spec to this one, and back to nothing.
func TestKilled(t *testing.T) {
	from := []api.RouterSpec{withVia(specA())}
	to := []api.RouterSpec{withUplink(specA()), withUplink(specB())}
	moved := []api.RouterSpec{withUplink(specA()), withUplink(specB())}
	moved[0].NAT.Address = "198.51.100.11/24"
	for name, specs := range map[string][2][]api.RouterSpec{"new": {nil, to}, "changed": {from, to}, "other address": {to, moved}, "removed": {to, nil}} {
		t.Run(name, func(t *testing.T) {
			start := newBench(t)
			start.must(specs[0]...)
			whole := newBench(t)
			whole.must(specs[0]...)
			whole.must(specs[1]...)
			want, n := whole.String(), len(whole.steps)
			if n < 6 {
				t.Fatalf("only %d steps", n)
			}
			for at := range n {
				w := start.clone()
				ctx, cancel := context.WithCancel(t.Context())
				left := at
				r := &Routers{world: w, hook: func(step) error {
					if left--; left < 0 {
						cancel()
						return ctx.Err()
					}
					return nil
				}}
				if err := r.Apply(ctx, specs[1], testEnv()); !errors.Is(err, context.Canceled) {
					t.Fatalf("killed after %d steps: %v", at, err)
				}
				r.hook = nil
				if err := r.Apply(t.Context(), specs[1], testEnv()); err != nil {
					t.Fatalf("after being killed after %d steps: %v", at, err)
				}
				if d := cmp.Diff(want, w.String()); d != "" {
					t.Fatalf("killed after %d steps:\n%s", at, d)
				}
			}
		})
	}
}

// TestDrift: each single thing that is taken away or changed by hand comes back.
func TestDrift(t *testing.T) {
	b := newBench(t)
	specs := []api.RouterSpec{withUplink(specA()), withUplink(specB())}
	b.must(specs...)
	// A router whose link to the uplink was taken away gets new ports.
	ports := regexp.MustCompile(`ports \d+\+\d+|rules nr-\S+ = \w+`)
	normal := func() string { return ports.ReplaceAllString(b.String(), "ports") }
	want := normal()
	for _, i := range sorted(b.Items) {
		if err := b.Do(t.Context(), step{opRemove, i}, nil); err != nil {
			t.Fatal(err)
		}
		b.must(specs...)
		if d := cmp.Diff(want, normal()); d != "" {
			t.Fatalf("without %v:\n%s", i, d)
		}
		if _, flag := i.Value.(bool); flag {
			continue
		}
		changed := i
		changed.Value = "changed"
		switch v := i.Value.(type) {
		case veth:
			v.Note = "broken"
			changed.Value = v
		case hop:
			v.Via = netip.MustParseAddr("10.0.1.99")
			changed.Value = v
		}
		if i.Kind == kindSpace {
			continue // is another's then
		}
		b.Items[i.key] = changed
		b.must(specs...)
		if d := cmp.Diff(want, normal()); d != "" {
			t.Fatalf("with another %v:\n%s", i, d)
		}
	}
}

func TestNames(t *testing.T) {
	b := newBench(t)
	twin := specB()
	twin.Owner = "aaaaaaaa-1111-4000-8000-000000000001"
	third := specB()
	third.Owner = "cccccccc-0000-4000-8000-000000000001"
	b.Foreign["nr-cccccccc"] = "a network namespace"
	b.must(specA())
	b.must(twin, specA(), third) // the first keeps its name, whoever comes later
	got := map[string]string{}
	for k, i := range b.Items {
		if k.Kind == kindSpace {
			got[k.At] = fmt.Sprint(i.Value)
		}
	}
	want := map[string]string{"nr-aaaaaaaa": "router " + accountA, "nr-aaaaaaaa1": "router " + twin.Owner, "nr-cccccccc0": "router " + third.Owner}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for k := range b.Items {
		if k.Kind == kindVeth && (len(k.Link) > 15 || !strings.HasPrefix(k.Link, "vr")) {
			t.Errorf("interface %q", k.Link)
		}
	}
}

// TestOthersDoNotWait: what one account lacks does not stop another, and a spec
// that cannot be met changes nothing of its router.
func TestOthersDoNotWait(t *testing.T) {
	b := newBench(t)
	b.must(withUplink(specA(), api.PortForward{Protocol: "tcp", External: "198.51.100.10:8080", Internal: "10.0.1.5:80"}))
	before := b.String()
	bad := withUplink(specA())
	bad.Networks[0].MAC = "01:00:5e:00:00:01"
	err := b.apply(bad)
	if !errors.Is(err, ErrSpec) {
		t.Errorf("bad MAC: %v", err)
	}
	if d := cmp.Diff(before, b.String()); d != "" {
		t.Errorf("a bad spec changed its router:\n%s", d)
	}
	if err = b.apply(bad, withUplink(specB())); !errors.Is(err, ErrSpec) {
		t.Errorf("bad MAC: %v", err)
	}
	for _, name := range []string{"nr-aaaaaaaa", "nr-bbbbbbbb", "nr-external-external-0"} {
		if _, there := b.Items[key{Kind: kindSpace, At: name}]; !there {
			t.Errorf("%s is not there", name)
		}
	}
	lacks := specA()
	lacks.Networks = append(lacks.Networks, api.RouterNetwork{VNI: 999, Gateway: "10.0.9.1/24", MAC: "90:b8:d0:00:0a:09"})
	if err = b.apply(lacks, specB()); err == nil || !strings.Contains(err.Error(), "bridge vb999 is not there") {
		t.Errorf("no bridge: %v", err)
	}
	if _, there := b.Items[key{Kind: kindAddr, At: "nr-aaaaaaaa", Link: "v101-0a02", Addr: netip.MustParsePrefix("10.0.2.1/24")}]; !there {
		t.Error("the other leg is not there")
	}
	b.Foreign[hostName(accountB, uint32(200), "90:b8:d0:00:0b:01")] = "a dummy"
	b.must(specA())
	if err = b.apply(specA(), specB()); err == nil || !strings.Contains(err.Error(), "made by another") {
		t.Errorf("a name that is taken: %v", err)
	}
}

// TestViaIsKept: the route that Monitor chose stays over an Apply.
func TestViaIsKept(t *testing.T) {
	b := newBench(t)
	b.must(withVia(specA()))
	k := key{Kind: kindRoute, At: "nr-aaaaaaaa", Addr: netip.MustParsePrefix("0.0.0.0/0"), N: mainTable}
	i := b.Items[k]
	if h := i.Value.(hop); h.Via != netip.MustParseAddr("100.64.0.2") {
		t.Fatalf("first: %v", h)
	}
	for via, want := range map[string]string{"100.64.0.3": "100.64.0.3", "100.64.0.4": "100.64.0.2"} {
		i.Value = hop{netip.MustParseAddr(via), i.Value.(hop).Dev}
		b.Items[k] = i
		b.must(withVia(specA()))
		if h := b.Items[k].Value.(hop); h.Via != netip.MustParseAddr(want) {
			t.Errorf("route by %s became one by %v, want %s", via, h.Via, want)
		}
	}
}

func TestBlocks(t *testing.T) {
	var used []grant
	sizes := map[int]int{}
	for {
		first, size, ok := block(used)
		if !ok {
			break
		}
		for _, u := range used {
			if first <= u.last() && u.first < first+size {
				t.Fatalf("%d+%d overlaps %v", first, size, u)
			}
		}
		if first < firstBlockPort || first+size > 1<<16 || first%size != 0 {
			t.Fatalf("%d+%d", first, size)
		}
		used = append(used, grant{first: first, size: size})
		sizes[size]++
	}
	total := 0
	for size, n := range sizes {
		total += size * n
	}
	if total != 32768 || len(used) < 150 {
		t.Errorf("%d accounts have %d ports: %v", len(used), total, sizes)
	}
	// What is given back is given out.
	used = slices.Delete(used, 3, 4)
	if _, _, ok := block(used); !ok {
		t.Error("a freed block is not found")
	}
}

// TestManyAccounts: all that an external address serves, and one more.
func TestManyAccounts(t *testing.T) {
	b := newBench(t)
	var specs []api.RouterSpec
	for n := range 170 {
		s := withUplink(specB())
		s.Owner = fmt.Sprintf("%08x-0000-4000-8000-000000000002", n)
		specs = append(specs, s)
	}
	err := b.apply(specs...)
	if err == nil || !strings.Contains(err.Error(), "all ports of 198.51.100.10 are given out") {
		t.Errorf("170 accounts on one address: %.200s", fmt.Sprint(err))
	}
	grants := map[int]bool{}
	for k, i := range b.Items {
		if v, ok := i.Value.(veth); ok && k.At != "" {
			g, ok := parseGrant(v.Note)
			if !ok || grants[g.slot] {
				t.Errorf("grant %q", v.Note)
			}
			grants[g.slot] = true
		}
	}
	if len(grants) < 150 {
		t.Errorf("%d accounts have ports", len(grants))
	}
	if len(("nereid:" + veth{"nr-00000000000000000000000000000000", "ext", "02:00:00:00:00:00", "02:00:00:00:00:00",
		grant{4096, 65472, 64, netip.MustParsePrefix("2001:db8:1111:2222:3333:4444:5555:6666/128")}.String()}.String())) > 255 {
		t.Error("an alias is too long for the kernel (IFALIASZ)")
	}
}

// Who counts does not wait for an Apply.
func TestDropsDuringApply(t *testing.T) {
	b := newBench(t)
	counted := false
	b.r.hook = func(step) error {
		done := make(chan error, 1)
		go func() { _, err := b.r.Drops(t.Context()); done <- err }()
		select {
		case err := <-done:
			counted = true
			return err
		case <-time.After(5 * time.Second):
			return errors.New("Drops waits for Apply")
		}
	}
	if err := b.r.Apply(t.Context(), []api.RouterSpec{specA()}, testEnv()); err != nil || !counted {
		t.Errorf("apply: %v, counted %v", err, counted)
	}
}
