package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

var policy = api.InstanceSettings{CPURatio: 4, MemoryRatio: 1, DiskRatio: 1, ReservedMiB: 512, ReservedPer100: 10}

// rack is n servers that fit.
func rack(n int) []Server {
	var out []Server
	for i := range n {
		out = append(out, Server{UUID: fmt.Sprintf("s%d", i), Hostname: fmt.Sprintf("cn%d", i), SetUp: true, Runs: true, Platform: "P2",
			Rack: fmt.Sprintf("r%d", i/2), Tags: []string{"admin", "external", "underlay"}, Underlay: true, MemoryMiB: 10 << 10, CPUs: 4, DiskMiB: 100 << 10})
	}
	return out
}

func want() Want {
	return Want{UUID: "i1", Brand: api.BrandLX, Limits: api.Limits{MemoryMiB: 1024, QuotaMiB: 1024, VCPUs: 1},
		NICs: [][]Way{{{Tag: "external", Segment: "external", Network: "ext"}}}}
}

// TestFilters: each filter leaves a server out, and says why with the numbers.
func TestFilters(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*Want, *Server)
		why  string
	}{
		{"not set up", func(_ *Want, s *Server) { s.SetUp = false }, "it is not set up"},
		{"silent", func(_ *Want, s *Server) { s.Silent = "not heard of for 1m0s" }, "its state is unknown: not heard of for 1m0s"},
		{"going", func(_ *Want, s *Server) { s.Going = "reboot" }, "it was asked for a reboot"},
		{"pool", func(_ *Want, s *Server) { s.Pool = "pool zones is FAULTED" }, "pool zones is FAULTED"},
		{"old agent", func(_ *Want, s *Server) { s.Runs = false }, "the agent of its platform runs no instances; it needs a newer platform"},
		{"brand", func(w *Want, _ *Server) { w.Brand = "bhyve" }, "it runs instances of brands lx and kvm, not bhyve"},
		{"no QEMU", func(w *Want, _ *Server) { w.Brand, w.Emulated = api.BrandKVM, true }, "its platform has no QEMU, which a virtual machine needs; it needs a platform with it"},
		{"no KVM", func(w *Want, s *Server) {
			w.Brand, s.Hypervisor = api.BrandKVM, api.Hypervisor{QEMU: "10.0.13", NoKVM: "its firmware has virtualisation switched off."}
		}, "it has no KVM: its firmware has virtualisation switched off; emulated, which is some twenty times slower, the instance may be on it"},
		{"no KVM unsaid", func(w *Want, s *Server) { w.Brand, s.Hypervisor = api.BrandKVM, api.Hypervisor{QEMU: "10.0.13"} },
			"it has no KVM: its kernel does not say why; emulated, which is some twenty times slower, the instance may be on it"},
		{"reserved", func(_ *Want, s *Server) { s.Reserved = true }, "an operator keeps new instances away from it"},
		{"another", func(w *Want, _ *Server) { w.Server = "s9" }, "another server is asked for"},
		{"trait", func(w *Want, _ *Server) { w.Traits = map[string]string{"ssd": "true"} }, "it has no trait ssd; true is wanted"},
		{"other trait", func(w *Want, s *Server) {
			w.Traits = map[string]string{"ssd": "true"}
			s.Traits = map[string]string{"ssd": "false"}
		}, "its trait ssd is false; true is wanted"},
		{"tag", func(_ *Want, s *Server) { s.Tags = []string{"admin"} }, "it does not provide NIC tag external of network ext; it provides admin"},
		{"underlay", func(w *Want, s *Server) {
			w.NICs = [][]Way{{{Tag: "underlay", Fabric: true, Segment: "vni 7", Network: "web"}}}
			s.Underlay = false
		}, "it has no underlay address, which fabric network web needs"},
		{"bridge", func(_ *Want, s *Server) { s.Used.Ports = map[string]int{"external": PortLimit} }, "its bridge of external has all the NICs that it takes: 1000 of 1000"},
		{"bridge of one instance", func(w *Want, s *Server) {
			w.NICs = append(w.NICs, w.NICs[0])
			s.Used.Ports = map[string]int{"external": PortLimit - 1}
		}, "its bridge of external has all the NICs that it takes: 1000 of 1000"},
		{"memory", func(_ *Want, s *Server) { s.Used.MemoryMiB = 8000 }, "memory: 1024 MiB are wanted, 704 of 8704 MiB are left"},
		{"disk", func(w *Want, _ *Server) { w.QuotaMiB = 200 << 10 }, "disk: 204800 MiB are wanted, 96256 of 96256 MiB are left"},
		{"vcpus", func(_ *Want, s *Server) { s.Used.VCPUs = 16 }, "vcpus: 1 are wanted, 0 of 16 are left"},
		{"rack", func(w *Want, _ *Server) { w.Rules = rules(t, "rack==r9") }, "affinity rack==r9: it is in rack r0"},
		{"not the rack", func(w *Want, _ *Server) { w.Rules = rules(t, "rack!=r0") }, "affinity rack!=r0: it is in rack r0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, ss := want(), rack(1)
			if d := Decide(w, ss, nil, policy); len(d.Best) != 1 {
				t.Fatalf("before: %+v", d)
			}
			c.do(&w, &ss[0])
			d := Decide(w, ss, nil, policy)
			if len(d.Best) != 0 || !slices.Equal(d.Servers[0].Why, []string{c.why}) {
				t.Errorf("got %q, want %q", d.Servers[0].Why, c.why)
			}
		})
	}
	// All reasons are told at once.
	w, ss := want(), rack(1)
	w.Traits = map[string]string{"ssd": "true"}
	ss[0].Tags, ss[0].Used.MemoryMiB = nil, 9000
	if why := Decide(w, ss, nil, policy).Servers[0].Why; len(why) != 3 {
		t.Errorf("got %q, want three reasons", why)
	}
}

// TestPool: a NIC on a pool needs one of its networks.
func TestPool(t *testing.T) {
	w, ss := want(), rack(1)
	w.NICs = [][]Way{{{Tag: "dmz", Segment: "dmz", Network: "a"}, {Tag: "external", Segment: "external", Network: "b"}}}
	if d := Decide(w, ss, nil, policy); len(d.Best) != 1 {
		t.Errorf("one way is enough: %+v", d)
	}
	ss[0].Used.Ports = map[string]int{"external": PortLimit}
	if d := Decide(w, ss, nil, policy); len(d.Servers[0].Why) != 2 {
		t.Errorf("got %q, want the reasons of both ways", d.Servers[0].Why)
	}
}

func rules(t *testing.T, texts ...string) []Rule {
	t.Helper()
	out, err := ParseRules(texts)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestAffinity: hard rules filter, soft ones weigh, both over names, UUIDs and tags.
func TestAffinity(t *testing.T) {
	near := []Neighbour{{"s0", "u0", "web0", map[string]any{"role": "web"}}, {"s1", "u1", "db0", map[string]any{"role": "db", "n": 3.0, "live": true}}}
	for _, c := range []struct {
		rule string
		fit  string // hostnames' numbers that fit
		best string // the first of them, where the rule decides
	}{
		{"instance==web*", "0", "0"},
		{"instance==web0", "0", "0"},
		{"instance==u1", "1", "1"},
		{"container!=web*", "123", ""},
		{"instance==/^(web|db)/", "01", ""},
		{"role!=db", "023", ""},
		{"n==3", "1", "1"},
		{"live==true", "1", "1"},
		{"instance==nobody", "", ""},
		{"role==~db", "0123", "1"},
		{"rack==~r1", "0123", ""},
		{"rack==r1", "23", ""},
		{"role!=~db", "0123", ""},
	} {
		w := want()
		w.Rules = rules(t, c.rule)
		d := Decide(w, rack(4), near, policy)
		var fit []string
		for _, u := range d.Best {
			fit = append(fit, strings.TrimPrefix(u, "s"))
		}
		best := ""
		if len(fit) > 0 {
			best = fit[0]
		}
		slices.Sort(fit)
		if got := strings.Join(fit, ""); got != c.fit || c.best != "" && best != c.best {
			t.Errorf("%s: fits %s, best %s; want %s, %s", c.rule, got, best, c.fit, c.best)
		}
	}
	// Away from db: another rack first, then another server, then the same one.
	w := want()
	w.Rules = rules(t, "role!=~db")
	d := Decide(w, rack(4), near, policy)
	if d.Best[3] != "s1" || d.Best[2] != "s0" {
		t.Errorf("got %v, want s1, and before it s0 in its rack, at the end", d.Best)
	}
	if why := Decide(func() Want { w.Rules = rules(t, "instance==x"); return w }(), rack(1), nil, policy).Servers[0].Why; !strings.Contains(strings.Join(why, ""), "the account has no instance yet") {
		t.Errorf("got %q", why)
	}
	for _, bad := range []string{"", "x", "==y", "a=b", "a==", "a<b", "instance==/(/", "9x==y", "a==" + strings.Repeat("x", 300)} {
		if _, err := ParseRule(bad); err == nil {
			t.Errorf("rule %.20q is taken", bad)
		}
	}
}

// TestWeights: an empty server goes before a full one, the present platform before an
// old one, and equal ones are spread.
func TestWeights(t *testing.T) {
	w, ss := want(), rack(2)
	ss[0].Used.MemoryMiB = 6000
	if d := Decide(w, ss, nil, policy); d.Best[0] != "s1" || d.Servers[0].Scores["free memory"] <= d.Servers[1].Scores["free memory"] {
		t.Errorf("got %+v, want the empty one first", d)
	}
	ss = rack(2)
	w.Platform, ss[0].Platform = "P2", "P1"
	if d := Decide(w, ss, nil, policy); d.Best[0] != "s1" {
		t.Errorf("got %v, want the present platform first", d.Best)
	}
	first := map[string]int{}
	w, ss = want(), rack(10)
	for i := range 1000 {
		w.UUID = fmt.Sprintf("00000000-0000-4000-8000-%012d", i)
		first[Decide(w, ss, nil, policy).Best[0]]++
	}
	for _, s := range ss {
		if n := first[s.UUID]; n < 50 || n > 200 {
			t.Errorf("%s is the first of %d of 1000; want about 100", s.UUID, n)
		}
	}
}

// TestFull: servers that are filled one instance after the other take what fits, and
// no megabyte more.
func TestFull(t *testing.T) {
	ss := rack(3)
	n := 0
	for {
		d := Decide(want(), ss, nil, policy)
		if len(d.Best) == 0 {
			break
		}
		i := slices.IndexFunc(ss, func(s Server) bool { return s.UUID == d.Best[0] })
		ss[i].Used.MemoryMiB += 1024
		ss[i].Used.VCPUs++
		n++
	}
	if n != 3*8 { // 10240 - 512 - 1024 MiB
		t.Errorf("%d instances fit; want 24", n)
	}
}

func BenchmarkDecide1000(b *testing.B) {
	ss := rack(1000)
	for b.Loop() {
		Decide(want(), ss, nil, policy)
	}
}

func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"instance==web*", "role!=~db", "a==/x/", "rack==r1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseRule(text)
		if err == nil {
			r.against(Server{}, []Neighbour{{Name: text, Tags: map[string]any{r.Key: text}}}, true)
		}
	})
}
