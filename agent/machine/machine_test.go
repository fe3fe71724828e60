package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/agent/agenttest"
	"nereid/agent/machine/zone"
	"nereid/api"
)

// server is a fake server, and the agent that runs on it now.
type server struct {
	t      *testing.T
	zones  *agenttest.Zones
	dir    string
	m      *Machines
	images []string
	dirty  bool    // something changed since the last Set
	nics   *string // set in zone a, which runs; nil: nothing can be
}

func newServer(t *testing.T) *server {
	s := &server{t: t, zones: agenttest.NewZones(), dir: t.TempDir(), images: []string{"i1"}}
	s.restart()
	return s
}

// restart is an agent that starts: the units run, and the run directory is there.
func (s *server) restart() {
	s.m = &Machines{Store: s.zones, Disks: s.zones, Snapshots: s.zones, Units: s.zones, Hypervisor: func() Hypervisor { return Hypervisor{QEMU: true, KVM: true} }, Dir: s.dir, Pool: "zones", Changed: func(string) { s.dirty = true }}
	if s.nics != nil {
		s.m.Live = s.live
	}
	m := s.m
	s.zones.Heard = func(name, state string, since time.Time) { m.Saw(name, state, since) }
	known := map[string]*api.InstanceSpec{}
	for uuid, text := range s.zones.Specs() {
		var p Past
		p.Snapshots, p.Rolled, p.Refused = s.zones.Past(uuid)
		m.Remembered(uuid, p)
		known[uuid] = nil
		var spec api.InstanceSpec
		if json.Unmarshal(text, &spec) == nil {
			known[uuid] = &spec
		}
	}
	m.Known(known, s.images)
	states := map[string]State{}
	for name, state := range s.zones.States() {
		states[name] = State{Active: state, Since: time.Unix(1, 0)}
	}
	m.SawAll(states)
}

// reboot is a server that starts.
func (s *server) reboot() {
	s.zones.PowerCut()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatal(err)
	}
	s.restart()
}

// set has an instance made what is wanted, as the worker would; what is dead is not an
// error.
func (s *server) set(w Wanted, uuid string) (api.InstanceStatus, bool) {
	s.t.Helper()
	s.dirty = true
	var st api.InstanceStatus
	var gone bool
	var err error
	for n := 0; n < 9 && !s.zones.Cut() && (s.dirty || err != nil); n++ {
		s.dirty = false
		st, gone, err = s.m.Set(s.t.Context(), uuid, w)
	}
	if err != nil && !s.zones.Cut() {
		s.t.Fatal(err)
	}
	return st, gone
}

func specOf(uuid string) *api.InstanceSpec {
	return &api.InstanceSpec{UUID: uuid, Name: "web", Hostname: "web", Brand: api.BrandLX, Image: "i1", Wanted: api.InstanceRunning,
		NICs:   []api.InstanceNIC{{Interface: "net0", MAC: "02:00:00:00:00:01", MTU: 1400, Addresses: []api.PortAddress{{Address: "10.0.0.1/24"}}}},
		Limits: api.Limits{MemoryMiB: 128, VCPUs: 2, QuotaMiB: 1024}}
}

// with is a spec that differs.
func (s *server) with(spec *api.InstanceSpec, f func(*api.InstanceSpec)) Wanted {
	c := *spec
	f(&c)
	return Wanted{Spec: &c}
}

// TestPlan prints what is done of each state, and what is waited for.
func TestPlan(t *testing.T) {
	spec := specOf("a")
	host, inside, guest := filesOf(spec, 524288, "")
	running := seen{image: true, dataset: true, kept: spec, unit: unitRuns, ran: true, left: &host, inside: &inside, guest: &guest, limits: &spec.Limits}
	for _, tt := range []struct {
		what string
		seen func(*seen)
		want func(*api.InstanceSpec)
		w    Wanted
		out  string
	}{
		{what: "as it is wanted", out: ""},
		{what: "nothing is there", seen: func(s *seen) { *s = seen{} }, out: "image i1, then image"},
		{what: "the image is there", seen: func(s *seen) { *s = seen{image: true} }, out: "clone i1 quota 1024 MiB; keep spec; files for a start; start"},
		{what: "its NIC is not", seen: func(s *seen) { *s = seen{image: true, waits: []string{"x"}} }, out: "clone i1 quota 1024 MiB; keep spec, then NIC"},
		{what: "after a boot", seen: func(s *seen) { *s = seen{dataset: true, kept: spec} }, out: "files for a start; start"},
		{what: "lost", seen: func(s *seen) { *s = seen{image: true} }, want: func(s *api.InstanceSpec) { s.Made = true }, out: "error: it ran before, and its dataset is not on this server's pool"},
		{what: "shut down inside", seen: func(s *seen) { s.unit = unitNone }, out: ""},
		{what: "and asked to start", seen: func(s *seen) { s.unit = unitNone }, want: func(s *api.InstanceSpec) { s.Reboot = "r" }, out: "files for a start; start"},
		{what: "failed", seen: func(s *seen) { s.unit = unitFailed }, out: "reset"},
		{what: "to stop", want: func(s *api.InstanceSpec) { s.Wanted = api.InstanceStopped }, out: "keep spec; stop, then end"},
		{what: "stops", seen: func(s *seen) { s.unit = unitStops }, want: func(s *api.InstanceSpec) { s.Wanted = api.InstanceStopped }, out: "keep spec, then end"},
		{what: "does not stop", seen: func(s *seen) { s.unit = unitStops }, want: func(s *api.InstanceSpec) { s.Wanted, s.Force = api.InstanceStopped, "f" }, out: "keep spec; kill, then end"},
		{what: "is killed", seen: func(s *seen) { s.unit, s.killed = unitStops, true }, want: func(s *api.InstanceSpec) { s.Wanted, s.Force = api.InstanceStopped, "f" }, out: "keep spec, then end"},
		{what: "stopped by force", seen: func(s *seen) { s.unit, s.ran = unitNone, false }, want: func(s *api.InstanceSpec) { s.Wanted, s.Force = api.InstanceStopped, "f" }, out: "keep spec; done f"},
		{what: "to reboot", want: func(s *api.InstanceSpec) { s.Reboot = "r" }, out: "stop, then end"},
		{what: "to reboot by force", want: func(s *api.InstanceSpec) { s.Reboot, s.Force = "r", "f" }, out: "kill, then end"},
		{what: "rebooted", seen: func(s *seen) { h := host; h.Done = []string{"r"}; s.left = &h }, want: func(s *api.InstanceSpec) { s.Reboot = "r" }, out: ""},
		{what: "a signal", want: func(s *api.InstanceSpec) { s.Signal = &api.SignalSpec{ID: "s", Signal: "SIGHUP"} }, out: "signal SIGHUP"},
		{what: "more memory and a NIC less", want: func(s *api.InstanceSpec) { s.MemoryMiB, s.NICs = 256, nil }, out: "keep spec; files; limits {MemoryMiB:256 SwapMiB:0 VCPUs:2 CPUCapPercent:0 CPUWeight:0 QuotaMiB:1024 Processes:0 IOWeight:0}"},
		{what: "what is set is not known", seen: func(s *seen) { s.live = true }, out: "set NICs"},
		{what: "what is wanted is set", seen: func(s *seen) { s.live, s.now = true, &inside }, out: ""},
		{what: "a NIC more, live", seen: func(s *seen) { s.live, s.now = true, &zone.Inside{Hostname: "web"} }, out: "set NICs"},
		{what: "a NIC more that is not there, live", seen: func(s *seen) { s.live, s.now, s.waits = true, &zone.Inside{Hostname: "web"}, []string{"x"} }, out: ", then NIC"},
		{what: "a NIC less, live", seen: func(s *seen) { s.live, s.now = true, &inside }, want: func(s *api.InstanceSpec) { s.NICs = nil }, out: "keep spec; files; set NICs"},
		{what: "more disk", want: func(s *api.InstanceSpec) { s.QuotaMiB = 2048 }, out: "quota 2048 MiB; keep spec; files; limits {MemoryMiB:128 SwapMiB:0 VCPUs:2 CPUCapPercent:0 CPUWeight:0 QuotaMiB:2048 Processes:0 IOWeight:0}"},
		{what: "the server goes down", w: Wanted{Down: true}, out: "stop, then end"},
		{what: "deleted", w: Wanted{Gone: true}, out: "stop, then end"},
		{what: "deleted and stopped", seen: func(s *seen) { s.unit = unitNone }, w: Wanted{Gone: true}, out: "destroy; forget"},
		{what: "nobody says what it is", seen: func(s *seen) { s.kept = nil }, w: Wanted{Spec: nil}, out: "", want: func(s *api.InstanceSpec) { s.UUID = "" }},
		{what: "another brand", want: func(s *api.InstanceSpec) { s.Brand = "joyent" }, out: "error: instances of brand joyent are not made"},
	} {
		w, s := tt.w, running
		c := *spec
		if tt.want != nil {
			tt.want(&c)
		}
		if !w.Gone && c.UUID != "" {
			w.Spec = &c
		}
		if tt.seen != nil {
			tt.seen(&s)
		}
		steps, wait, err := plan(w, s)
		var words []string
		for _, step := range steps {
			words = append(words, step.String())
		}
		got := strings.Join(words, "; ")
		if wait != "" {
			got += ", then " + wait
		}
		if err != nil {
			got = "error: " + err.Error()
		}
		if got != tt.out && (!strings.HasPrefix(tt.out, "error: ") || !strings.HasPrefix(got, tt.out)) {
			t.Errorf("%s:\n got %s\nwant %s", tt.what, got, tt.out)
		}
	}
}

// TestLife: an instance is made, changed, stopped, started, rebooted by request and
// deleted; what is as it is wanted costs no call, and what is another's is left.
func TestLife(t *testing.T) {
	s := newServer(t)
	s.zones.Add("other", "i9", "")
	spec := specOf("a")
	w := Wanted{Spec: spec}
	if st, _ := s.set(w, "a"); st.State != api.InstanceRunning || !st.Made || st.Started.IsZero() {
		t.Errorf("%+v", st)
	}
	s.zones.Calls()
	for range 2 {
		s.set(w, "a")
	}
	if calls := s.zones.Calls(); len(calls) > 0 {
		t.Errorf("when all was there: %q", calls)
	}
	for _, step := range []struct {
		f     func(*api.InstanceSpec)
		state string
		calls string
		done  string
	}{
		{func(i *api.InstanceSpec) { i.QuotaMiB = 2048 }, api.InstanceRunning, "quota a 2048; keep a; limit nereid-zone-a.service 128", ""},
		{func(i *api.InstanceSpec) { i.Reboot = "r1" }, api.InstanceRunning, "stop nereid-zone-a.service; start nereid-zone-a.service", "r1"},
		{func(i *api.InstanceSpec) { i.Wanted = api.InstanceStopped }, api.InstanceStopped, "keep a; stop nereid-zone-a.service", "r1"},
		{func(i *api.InstanceSpec) { i.Reboot = "r2" }, api.InstanceStopped, "", "r2"},
		{func(i *api.InstanceSpec) { i.Wanted = api.InstanceRunning }, api.InstanceRunning, "keep a; start nereid-zone-a.service", "r2"},
		{func(i *api.InstanceSpec) { i.Signal = &api.SignalSpec{ID: "s1", Signal: "SIGHUP"} }, api.InstanceRunning, "SIGHUP nereid-zone-a.service", "r2 s1"},
		{func(i *api.InstanceSpec) { i.Force, i.Wanted = "f1", api.InstanceStopped }, api.InstanceStopped, "keep a; SIGKILL nereid-zone-a.service; reset nereid-zone-a.service", "f1 r2 s1"},
	} {
		c := *spec
		step.f(&c)
		spec = &c
		for range 2 {
			st, _ := s.set(Wanted{Spec: spec}, "a")
			if done := slices.Sorted(slices.Values(st.Done)); st.State != step.state || strings.Join(done, " ") != step.done {
				t.Errorf("%+v, want %s, done %q", st, step.state, step.done)
			}
			if calls := strings.Join(s.zones.Calls(), "; "); calls != step.calls {
				t.Errorf("did %s\nwant %s", calls, step.calls)
			}
			step.calls = ""
			s.restart() // an agent that starts anew does nothing twice
		}
	}
	if _, gone := s.set(Wanted{Gone: true}, "a"); !gone {
		t.Error("it is not gone")
	}
	if got := s.zones.String(); got != "dataset other of i9 quota 0\n" {
		t.Errorf("left is\n%s", got)
	}
	if left, err := os.ReadDir(s.dir); err != nil || len(left) > 0 || len(s.m.bases) > 0 {
		t.Errorf("left are files %v, ranges %v, %v", left, s.m.bases, err)
	}
}

// TestLifeCut: an agent that ends, or a server that loses power, at any point of an
// instance's life does what is left the next time; nothing leaks, nothing is done that
// was not asked for, and no two instances have a range of user IDs.
func TestLifeCut(t *testing.T) {
	for brand, of := range map[string]struct {
		spec       *api.InstanceSpec
		unit, more string
	}{
		api.BrandLX:  {specOf("a"), "unit nereid-zone-a.service active\n", ""},
		api.BrandKVM: {machineOf("a"), "unit nereid-vm-a.service active\n", " disk0 10 disk1 20"},
	} {
		t.Run(brand, func(t *testing.T) { lifeCut(t, of.spec, of.unit, of.more) })
	}
}

func lifeCut(t *testing.T, spec *api.InstanceSpec, unit, more string) {
	stages := []struct {
		w    Wanted
		want string
	}{
		{Wanted{Spec: spec}, "dataset a of i1 quota 1024" + more + " with spec\n" + unit},
		{(&server{}).with(spec, func(i *api.InstanceSpec) { i.Reboot = "r1" }), "dataset a of i1 quota 1024" + more + " with spec\n" + unit},
		{(&server{}).with(spec, func(i *api.InstanceSpec) { i.Wanted, i.QuotaMiB = api.InstanceStopped, 99 }), "dataset a of i1 quota 99" + more + " with spec\n"},
		{(&server{}).with(spec, func(i *api.InstanceSpec) { i.QuotaMiB = 99; i.Force = "f" }), "dataset a of i1 quota 99" + more + " with spec\n" + unit},
		{Wanted{Gone: true}, ""},
	}
	for _, power := range []bool{false, true} {
		for at := range stages {
			for n := 1; ; n++ {
				s := newServer(t)
				other := specOf("b")
				s.set(Wanted{Spec: other}, "b")
				for _, stage := range stages[:at] {
					s.set(stage.w, "a")
				}
				s.zones.CutAt(n)
				s.set(stages[at].w, "a")
				cut := s.zones.Cut()
				s.zones.CutAt(0)
				if power {
					s.reboot()
					s.set(Wanted{Spec: other}, "b")
				} else {
					s.restart()
				}
				for _, stage := range stages[at:] {
					s.set(stage.w, "a")
					want := stage.want + "dataset b of i1 quota 1024 with spec\nunit nereid-zone-b.service active\n"
					if got := sortLines(s.zones.String()); got != sortLines(want) {
						t.Fatalf("power %v, stage %d, cut %d: there is\n%s\nwant\n%s", power, at, n, got, want)
					}
					bases := map[uint32]bool{}
					for _, uuid := range []string{"a", "b"} {
						if h, err := zone.Read(filepath.Join(s.dir, uuid)); err == nil && h.Base != 0 {
							if bases[h.Base] {
								t.Fatalf("power %v, stage %d, cut %d: both have the range %d", power, at, n, h.Base)
							}
							bases[h.Base] = true
						}
					}
				}
				if left, _ := filepath.Glob(filepath.Join(s.dir, "*")); len(left) != 1 {
					t.Fatalf("power %v, stage %d, cut %d: left is %q", power, at, n, left)
				}
				if !cut {
					break
				}
			}
		}
	}
}

func sortLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	slices.Sort(lines)
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return l == "" }), "\n")
}

// TestEnds: a zone that was shut down from inside stays down until somebody asks; one
// that failed is an error, and starts again; one that does not end is killed by request.
func TestEnds(t *testing.T) {
	s := newServer(t)
	spec := specOf("a")
	w := Wanted{Spec: spec}
	s.set(w, "a")
	s.zones.End(Unit("a"), "inactive")
	for range 2 {
		if st, _ := s.set(w, "a"); st.State != api.InstanceStopped || !strings.Contains(st.Reason, "from inside") {
			t.Errorf("%+v", st)
		}
		s.restart()
	}
	w = s.with(spec, func(i *api.InstanceSpec) { i.Reboot = "r" })
	s.set(w, "a")
	s.zones.End(Unit("a"), "failed")
	if st, _, err := s.m.Set(t.Context(), "a", w); err == nil || st.State != api.InstanceFailed || !strings.Contains(st.Reason, "result signal") {
		t.Errorf("%+v, %v", st, err)
	}
	if st, _ := s.set(w, "a"); st.State != api.InstanceRunning {
		t.Errorf("%+v", st)
	}
	s.zones.Slow = map[string]bool{Unit("a"): true}
	w = s.with(spec, func(i *api.InstanceSpec) { i.Wanted = api.InstanceStopped })
	if st, _ := s.set(w, "a"); st.State != api.InstanceStopping || st.Until.IsZero() {
		t.Errorf("%+v", st)
	}
	s.zones.Calls()
	s.set(w, "a")
	if calls := s.zones.Calls(); len(calls) > 0 {
		t.Errorf("while it stops: %q", calls)
	}
	w.Spec.Force = "f"
	if st, _ := s.set(w, "a"); st.State != api.InstanceStopped || !slices.Contains(st.Done, "f") {
		t.Errorf("%+v", st)
	}
}

// TestWithoutHeadNode: what is kept with a dataset is enough to start an instance, which
// is told of with it; one that ran once and is not there is not made again; one of which
// nobody says what it is is left alone.
func TestWithoutHeadNode(t *testing.T) {
	s := newServer(t)
	spec := specOf("a")
	s.set(Wanted{Spec: spec}, "a")
	s.zones.Add("dark", "i1", "garbage")
	s.reboot()
	if st, _ := s.set(Wanted{}, "a"); st.State != api.InstanceRunning || s.m.Kept("a") == nil || s.m.Kept("a").Name != "web" {
		t.Errorf("%+v, kept %+v", st, s.m.Kept("a"))
	}
	s.zones.Calls()
	if st, _ := s.set(Wanted{}, "dark"); st.State != api.InstanceStopped || st.Reason == "" || len(s.zones.Calls()) > 0 {
		t.Errorf("%+v", st)
	}
	s.zones.Lose("a")
	s.reboot()
	s.zones.Calls()
	if st, _ := s.set(s.with(spec, func(i *api.InstanceSpec) { i.Made = true }), "a"); st.State != api.InstanceFailed || len(s.zones.Calls()) > 0 {
		t.Errorf("%+v, did %q", st, s.zones.Calls())
	}
}

// TestScale: with 2,000 instances one costs the calls that it costs alone.
func TestScale(t *testing.T) {
	s := newServer(t)
	known, units := map[string]*api.InstanceSpec{}, map[string]State{}
	for n := range 2000 {
		uuid := fmt.Sprint("x", n)
		known[uuid], units[Unit(uuid)] = specOf(uuid), State{Active: unitRuns}
	}
	s.m.Known(known, nil)
	s.m.SawAll(units)
	s.set(Wanted{Spec: specOf("a")}, "a")
	if calls := s.zones.Calls(); len(calls) != 3 {
		t.Errorf("did %q", calls)
	}
	if n := len(s.m.Running()); n != 2001 {
		t.Errorf("%d run", n)
	}
}

// TestFails: what does not work is in the state, and is tried again.
func TestFails(t *testing.T) {
	s := newServer(t)
	s.zones.Fails = map[string]error{"start": errors.New("no such file")}
	w := Wanted{Spec: specOf("a")}
	if st, _, err := s.m.Set(context.WithoutCancel(t.Context()), "a", w); err == nil || st.State != api.InstanceFailed || !strings.Contains(st.Reason, "no such file") || !st.Made {
		t.Errorf("%+v, %v", st, err)
	}
	s.zones.Fails = nil
	if st, _ := s.set(w, "a"); st.State != api.InstanceRunning || st.Reason != "" {
		t.Errorf("%+v", st)
	}
	s.m.Ready = func(string) bool { return false }
	if st, _ := s.set(Wanted{Spec: specOf("b")}, "b"); st.State != api.InstanceProvisioning || !strings.Contains(st.Reason, "NICs") {
		t.Errorf("%+v", st)
	}
	asked := ""
	s.m.Fetch = func(image, uuid string) { asked = image + " for " + uuid }
	c := specOf("c")
	c.Image = "i2"
	if st, _ := s.set(Wanted{Spec: c}, "c"); st.State != api.InstanceProvisioning || !strings.Contains(st.Reason, "image") || asked != "i2 for c" {
		t.Errorf("%+v, %s", st, asked)
	}
}
