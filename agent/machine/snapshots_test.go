package machine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/agent/agenttest"
	"nereid/api"
)

// snap has the snapshots of an instance made what is wanted of them, as the worker would.
func (s *server) snap(spec *api.InstanceSpec, w Wishes) []api.SnapshotStatus {
	s.t.Helper()
	all, err := s.m.SetSnapshots(s.t.Context(), spec.UUID, spec, w)
	if err != nil && !s.zones.Cut() {
		s.t.Fatal(err)
	}
	return all
}

// wishes are snapshots by the names of their ids: "a" that is wanted, "+a" that was taken
// once, "-a" that is to go.
func wishes(words string) Wishes {
	w := Wishes{Named: map[string]api.SnapshotSpec{}, Gone: map[string]bool{}}
	for _, word := range strings.Fields(words) {
		id := strings.TrimLeft(word, "+-")
		if word[0] == '-' {
			w.Gone[id] = true
			continue
		}
		w.Named[id] = api.SnapshotSpec{ID: id, Name: id, Made: word[0] == '+'}
	}
	return w
}

func stepWords(steps []step) string {
	var words []string
	for _, s := range steps {
		words = append(words, s.String())
	}
	return strings.Join(words, "; ")
}

// TestPlanSnapshots prints what is done of each state of snapshots.
func TestPlanSnapshots(t *testing.T) {
	spec := specOf("a")
	has := func(ids string) (p past) {
		for _, id := range strings.Fields(ids) {
			kind, _, _ := strings.Cut(id, "-")
			s := api.SnapshotStatus{ID: id, Name: id, State: api.SnapshotCreated}
			if _, ok := kindNamed(kind); ok {
				s.Schedule = kind
			}
			p.snaps = append(p.snaps, s)
		}
		return p
	}
	at := time.Unix(1.8e9, 0)
	hourly, _ := kindNamed(api.SnapshotHourly)
	now := hourly.snapshot("a", hourly.slot("a", at))
	three := &api.SnapshotSchedule{Hourly: 3}
	for _, tt := range []struct {
		what   string
		wishes string
		seen   func(*seen)
		sched  *api.SnapshotSchedule
		roll   *api.RollbackSpec
		out    string
	}{
		{what: "nothing is wanted"},
		{what: "two are", wishes: "y x", out: "snapshot x; snapshot y"},
		{what: "one is there", wishes: "x y", seen: func(s *seen) { s.past = has("x") }, out: "snapshot y"},
		{what: "what was taken once and is gone is not taken again", wishes: "+x", out: ""},
		{what: "one is to go, another nobody names", wishes: "-x", seen: func(s *seen) { s.past = has("x z") }, out: "destroy snapshot x"},
		{what: "what is to go is not there", wishes: "-x", out: ""},
		{what: "there is no dataset", wishes: "x -y", seen: func(s *seen) { *s = seen{} }, out: ""},
		{what: "a rollback is to be done", wishes: "x -y", seen: func(s *seen) { s.past = has("y") }, sched: three, roll: &api.RollbackSpec{ID: "r"}, out: ""},
		{what: "it was done", wishes: "x", seen: func(s *seen) { s.rolled = []string{"r"} }, roll: &api.RollbackSpec{ID: "r"}, out: "snapshot x"},
		{what: "the hour has come", sched: three, out: "snapshot " + now.Name},
		{what: "the hour's is there", sched: three, seen: func(s *seen) { s.past = has(now.ID) }, out: ""},
		{what: "the hour's was there", sched: three, seen: func(s *seen) { s.slots = map[string]int64{"hourly": hourly.slot("a", at)} }, out: ""},
		{what: "the schedule is younger than the hour", sched: &api.SnapshotSchedule{Hourly: 3, Since: at}, out: ""},
		{what: "three are kept", sched: three, seen: func(s *seen) { s.past = has("hourly-1 x hourly-2 daily-1 hourly-3") }, out: "snapshot " + now.Name + "; destroy snapshot hourly-1, which is too old"},
		{what: "fewer are kept", sched: &api.SnapshotSchedule{Hourly: 1}, seen: func(s *seen) { s.past = has("hourly-1 hourly-2 " + now.ID); s.snaps[2].Schedule = "hourly" }, out: "destroy snapshot hourly-1, which is too old; destroy snapshot hourly-2, which is too old"},
		{what: "none are taken any more", sched: &api.SnapshotSchedule{}, seen: func(s *seen) { s.past = has("hourly-1 hourly-2") }, out: ""},
	} {
		s := seen{dataset: true}
		if tt.seen != nil {
			tt.seen(&s)
		}
		c := *spec
		c.Snapshots, c.Rollback = tt.sched, tt.roll
		if got := stepWords(planSnapshots("a", &c, wishes(tt.wishes), s, at)); got != tt.out {
			t.Errorf("%s:\n got %s\nwant %s", tt.what, got, tt.out)
		}
	}
}

// TestSnapshots: what is wanted of an instance's snapshots is done once; a failure is that
// of one, and is tried again; what they hold is said; an agent that starts anew knows all
// from the pool.
func TestSnapshots(t *testing.T) {
	s := newServer(t)
	spec := specOf("a")
	s.set(Wanted{Spec: spec}, "a")
	all := s.snap(spec, wishes("x y"))
	if len(all) != 2 || all[0].State != api.SnapshotCreated || all[0].Consistency != api.SnapshotAtomic || all[0].Created.IsZero() {
		t.Errorf("%+v", all)
	}
	s.zones.Calls()
	for range 2 {
		if again := s.snap(spec, wishes("x y")); fmt.Sprint(again) != fmt.Sprint(all) {
			t.Errorf("%+v, before %+v", again, all)
		}
		if calls := s.zones.Calls(); len(calls) > 0 {
			t.Errorf("when all was there: %q", calls)
		}
		s.restart()
	}
	s.zones.Fails = map[string]error{"snapshot a z": errors.New("out of space"), "destroy snapshot a x": errors.New("is held")}
	all, err := s.m.SetSnapshots(t.Context(), "a", spec, wishes("y z -x"))
	if err == nil || len(all) != 3 || all[0].State != api.SnapshotDeleting ||
		!strings.Contains(all[0].Reason, "Is held") || all[2].State != api.SnapshotFailed || all[2].Reason != "Out of space." {
		t.Errorf("%+v, %v", all, err)
	}
	s.zones.Fails = nil
	stopped := s.with(spec, func(i *api.InstanceSpec) { i.Wanted = api.InstanceStopped })
	s.set(stopped, "a")
	all = s.snap(stopped.Spec, wishes("y z -x"))
	if len(all) != 2 || all[0].Name != "y" || all[1].Name != "z" || all[1].Consistency != api.SnapshotStopped || all[1].Reason != "" {
		t.Errorf("%+v", all)
	}
	if all = s.snap(stopped.Spec, wishes("y z +x")); len(all) != 2 {
		t.Errorf("what is gone: %+v", all)
	}
	s.set(Wanted{Gone: true}, "a")
	if got := s.zones.String(); got != "" {
		t.Errorf("left is %s", got)
	}
}

// fakeGuest is a guest whose file systems can rest.
type fakeGuest struct {
	story       []string
	cold, stuck error
}

func (g *fakeGuest) Freeze(context.Context) (int, error) {
	g.story = append(g.story, "freeze")
	return 1, g.cold
}

func (g *fakeGuest) Thaw(ctx context.Context) error {
	g.story = append(g.story, "thaw")
	return errors.Join(ctx.Err(), g.stuck)
}

// TestFrozen: a guest that can waits while its machine's snapshot is taken, and goes on
// also when that fails, or is broken off; of one that cannot it is said. One that does not
// go on, or that an agent which was killed left at rest, goes on by the next question.
func TestFrozen(t *testing.T) {
	s := newServer(t)
	spec := machineOf("a")
	s.set(Wanted{Spec: spec}, "a")
	var none error
	g := &fakeGuest{}
	guests := func(context.Context, string) (Rester, error) { return g, none }
	s.m.Resters = guests
	told := func(want string) {
		t.Helper()
		if got := strings.Join(g.story, " "); got != want {
			t.Errorf("its guest was told %q: want %q", got, want)
		}
		g.story = nil
	}
	rests := func(want bool) {
		t.Helper()
		if _, err := os.Lstat(s.m.restFile("a")); (err == nil) != want {
			t.Errorf("the note of its rest: %v, want %v", err, want)
		}
		if st, _ := s.set(Wanted{Spec: spec}, "a"); strings.Contains(st.Reason, "at rest") != want || st.State != api.InstanceRunning {
			t.Errorf("%+v", st)
		}
	}
	if all := s.snap(spec, wishes("x")); all[0].Consistency != api.SnapshotFrozen {
		t.Errorf("%+v", all)
	}
	told("freeze thaw")
	s.m.goOn(t.Context(), "a")
	told("")
	s.zones.Fails = map[string]error{"snapshot": errors.New("no")}
	if _, err := s.m.SetSnapshots(t.Context(), "a", spec, wishes("x y")); err == nil {
		t.Error("a snapshot that failed is none")
	}
	told("freeze thaw")
	s.zones.Fails = nil
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.m.AtRest(ctx, "a", func(context.Context) { cancel(); s.m.goOn(t.Context(), "a") }); err != nil {
		t.Error(err)
	}
	told("freeze thaw")
	rests(false)

	g.cold = errors.New("no file system can")
	if all := s.snap(spec, wishes("x y")); all[1].Consistency != api.SnapshotCrash {
		t.Errorf("%+v", all)
	}
	told("freeze thaw")
	none = errors.New("there is no agent")
	if all := s.snap(spec, wishes("x y z")); all[2].Consistency != api.SnapshotCrash {
		t.Errorf("%+v", all)
	}
	told("")
	rests(false)

	none, g.cold, g.stuck = nil, nil, errors.New("it does not answer")
	if all := s.snap(spec, wishes("x y z zz")); all[3].Consistency != api.SnapshotFrozen {
		t.Errorf("%+v", all)
	}
	rests(true)
	s.restart()
	s.m.Resters, none = guests, errors.New("there is no agent")
	s.m.goOn(t.Context(), "a")
	rests(true)
	none, g.stuck = nil, nil
	s.m.goOn(t.Context(), "a")
	rests(false)
	told("freeze thaw thaw")
}

// TestSchedule: a server takes snapshots by the hour and keeps as many as it is to, also
// when its clock is set back; instances have minutes of their own.
func TestSchedule(t *testing.T) {
	s := newServer(t)
	spec := specOf("a")
	spec.Snapshots = &api.SnapshotSchedule{Hourly: 3, Daily: 1}
	hour, _ := kindNamed(api.SnapshotHourly)
	now := hour.begins("a", 500000)
	s.m.Now = func() time.Time { return now }
	s.set(Wanted{Spec: spec}, "a")
	count := func() (hourly, daily int) {
		for _, st := range s.snap(spec, wishes("+mine")) {
			switch st.Schedule {
			case api.SnapshotHourly:
				hourly++
			case api.SnapshotDaily:
				daily++
			}
		}
		return hourly, daily
	}
	s.snap(spec, wishes("mine"))
	for n := range 30 {
		for range 3 {
			if h, d := count(); h != min(3, n+1) || d != 1 {
				t.Fatalf("hour %d: %d hourly, %d daily ones", n, h, d)
			}
			now = now.Add(20 * time.Minute)
			if n%7 == 0 {
				s.restart()
				s.m.Now = func() time.Time { return now }
			}
		}
	}
	now = now.Add(-48 * time.Hour)
	s.zones.Calls()
	if h, d := count(); h != 3 || d != 1 {
		t.Errorf("after a step of the clock: %d hourly, %d daily ones", h, d)
	}
	if calls := s.zones.Calls(); len(calls) != 4 {
		t.Errorf("did %q", calls)
	}
	spec.Snapshots = nil
	if h, _ := count(); h != 3 {
		t.Errorf("without a schedule %d are left", h)
	}
	offsets := map[int64]bool{}
	for n := range 200 {
		offsets[hour.offset(fmt.Sprint(n))/60] = true
	}
	if len(offsets) < 50 {
		t.Errorf("200 instances have %d minutes", len(offsets))
	}
}

// TestRollback: an instance that runs is stopped, is what it was, and is started again;
// newer snapshots that are named go, and with one that is not named nothing is done, not
// even a stop; a disk that grew since grows again.
func TestRollback(t *testing.T) {
	s := newServer(t)
	spec := specOf("a")
	s.set(Wanted{Spec: spec}, "a")
	s.zones.Write("a", "one")
	s.snap(spec, wishes("x"))
	s.zones.Write("a", "two")
	s.snap(spec, wishes("x y"))
	s.zones.Calls()
	roll := func(id string, newer ...string) Wanted {
		return s.with(spec, func(i *api.InstanceSpec) {
			i.Rollback = &api.RollbackSpec{ID: id, Snapshot: "x", Name: "x", Newer: newer}
		})
	}
	st, _ := s.set(roll("r1"), "a")
	if calls := strings.Join(s.zones.Calls(), "; "); calls != "check rollback a r1; end rollback a r1" || !slices.Contains(st.Done, "r1") || !strings.Contains(st.Refused, "Snapshot y is newer") || st.State != api.InstanceRunning {
		t.Errorf("did %s; %+v", calls, st)
	}
	s.restart()
	if st, _ := s.set(roll("r1"), "a"); !slices.Contains(st.Done, "r1") || st.Refused == "" || len(s.zones.Calls()) > 0 {
		t.Errorf("again: %+v", st)
	}
	st, _ = s.set(roll("r2", "y"), "a")
	want := "check rollback a r2; stop nereid-zone-a.service; rollback a r2; start nereid-zone-a.service"
	if calls := strings.Join(s.zones.Calls(), "; "); calls != want || !slices.Contains(st.Done, "r2") || st.Refused != "" || st.State != api.InstanceRunning {
		t.Errorf("did %s; %+v", calls, st)
	}
	if got := s.zones.String(); !strings.Contains(got, "text one @x\n") {
		t.Errorf("there is %s", got)
	}
	// A head node that was restored asks again: what was written since stays.
	s.zones.Write("a", "three")
	for _, id := range []string{"r2", "r1", "r2"} {
		s.set(roll(id, "y"), "a")
		s.restart()
	}
	if got := s.zones.String(); !strings.Contains(got, "text three @x\n") || s.zones.Rollbacks("a") != 1 {
		t.Errorf("there is %s", got)
	}

	vm := machineOf("b")
	s.set(Wanted{Spec: vm}, "b")
	s.snap(vm, wishes("x"))
	grown := s.with(vm, func(i *api.InstanceSpec) {
		m := *i.VM
		m.Disks = slices.Clone(m.Disks)
		m.Disks[1].SizeMiB = 99
		i.VM = &m
	})
	s.set(grown, "b")
	grown.Spec.Rollback = &api.RollbackSpec{ID: "r", Snapshot: "x", Name: "x"}
	if s.set(grown, "b"); !strings.Contains(s.zones.String(), "disk1 99") || s.zones.Rollbacks("b") != 1 {
		t.Errorf("there is %s", s.zones)
	}
}

// TestPastCut: an agent that ends, or a server that loses power, at any point of a
// snapshot, a rollback or a deletion does what is left the next time. Nothing is rolled
// back twice once the instance may have written again, and nothing goes that was not named.
func TestPastCut(t *testing.T) {
	for brand, spec := range map[string]*api.InstanceSpec{api.BrandLX: specOf("a"), api.BrandKVM: machineOf("a")} {
		t.Run(brand, func(t *testing.T) { pastCut(t, spec) })
	}
}

func pastCut(t *testing.T, spec *api.InstanceSpec) {
	back := *spec
	back.Rollback = &api.RollbackSpec{ID: "r1", Snapshot: "x", Name: "x", Newer: []string{"y"}}
	stages := []struct {
		spec   *api.InstanceSpec
		wishes string
		text   string // that is written before
		want   string
	}{
		{spec, "x", "one", "text one @other @x"},
		{spec, "+x y", "two", "text two @other @x @y"},
		{&back, "+x +y", "three", "text one @other @x"},
		{spec, "+x", "four", "text four @other @x"},
		{spec, "-x", "five", "text five @other"},
	}
	do := func(s *server, spec *api.InstanceSpec, words string) {
		s.set(Wanted{Spec: spec}, "a")
		if !s.zones.Cut() {
			s.snap(spec, wishes(words))
		}
	}
	for _, power := range []bool{false, true} {
		for at := range stages {
			for n := 1; ; n++ {
				s := newServer(t)
				s.set(Wanted{Spec: spec}, "a")
				if _, err := s.zones.TakeSnapshot(t.Context(), "a", api.SnapshotStatus{ID: "other", Name: "other"}); err != nil {
					t.Fatal(err)
				}
				s.restart()
				for _, stage := range stages[:at] {
					s.zones.Write("a", stage.text)
					do(s, stage.spec, stage.wishes)
				}
				s.zones.Write("a", stages[at].text)
				s.zones.CutAt(n)
				do(s, stages[at].spec, stages[at].wishes)
				cut := s.zones.Cut()
				s.zones.CutAt(0)
				rolled := s.zones.Rollbacks("a")
				ran := strings.Contains(s.zones.String(), "active")
				if power {
					s.reboot()
				} else {
					s.restart()
				}
				for i, stage := range stages[at:] {
					if i > 0 {
						s.zones.Write("a", stage.text)
					}
					do(s, stage.spec, stage.wishes)
					if got := s.zones.String(); !strings.Contains(got, stage.want+"\n") || !strings.Contains(got, "active") {
						t.Fatalf("power %v, stage %d, cut %d: there is\n%s\nwant %s, running", power, at+i, n, got, stage.want)
					}
				}
				if max := 1 + rolled; s.zones.Rollbacks("a") > max || rolled > 0 && ran && at == 2 && s.zones.Rollbacks("a") != rolled {
					t.Fatalf("power %v, stage %d, cut %d: rolled back %d times, before the cut %d", power, at, n, s.zones.Rollbacks("a"), rolled)
				}
				if !cut {
					break
				}
			}
		}
	}
}

var _ Snapshots = (*agenttest.Zones)(nil)
