package headnode

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// tells is a report of what changed of an instance's snapshots.
func (z *zones) tells(now, instance string, full bool, put []api.SnapshotStatus, gone ...string) {
	z.h.t.Helper()
	z.report(&api.InstanceReport{Since: z.seen, Now: now, Snapshots: []api.SnapshotReport{{Instance: instance, Full: full, Put: put, Gone: gone}}})
	if z.seen != now {
		z.h.t.Fatalf("the head node has seen report %q, not %q", z.seen, now)
	}
	z.report(nil)
}

// taken is a snapshot that a server says it took.
func (z *zones) taken(id, name string, at time.Time) api.SnapshotStatus {
	return api.SnapshotStatus{ID: id, Name: name, State: api.SnapshotCreated, Consistency: api.SnapshotAtomic, Created: at}
}

// snapshotted is an instance that runs.
func snapshotted(t *testing.T) (*head, *zones, api.Instance) {
	t.Helper()
	h, zs := zoneRack(t, 1)
	z := zs[0]
	made := must[api.Instance](t)(h.client.CreateInstance(context.Background(), web("web0")))
	_, err := h.client.CreateSnapshot(context.Background(), "web0", api.SnapshotCreate{})
	wantCode(t, "a snapshot of what is not made", err, api.CodeConflict)
	z.says("r1", []api.InstanceStatus{{UUID: made.UUID, State: api.InstanceRunning, Made: true, Started: h.clock()}})
	z.report(nil)
	return h, z, h.instance("web0")
}

func (h *head) snapshots(id string) string {
	h.t.Helper()
	var all []string
	for _, s := range must[[]api.Snapshot](h.t)(h.client.Snapshots(context.Background(), id)) {
		word := s.Name + " " + s.State
		if s.Unexpected {
			word += " unexpected"
		}
		all = append(all, word)
	}
	return strings.Join(all, ", ")
}

func (h *head) audited(id string) string {
	h.t.Helper()
	var all []string
	for _, a := range must[[]api.InstanceAudit](h.t)(h.client.InstanceAudit(context.Background(), id)) {
		word := a.Action
		switch {
		case a.Finished.IsZero():
			word += " open"
		case !a.Success:
			word += " failed: " + a.Error
		}
		all = append(all, word)
	}
	return strings.Join(all, ", ")
}

// TestSnapshots: a snapshot from the request to the day it is gone, as an operator and its
// server see it; names, limits, conflicts, and the wish of somebody who read old data.
func TestSnapshots(t *testing.T) {
	h, z, made := snapshotted(t)
	ctx := context.Background()
	one := must[api.Snapshot](t)(h.client.CreateSnapshot(ctx, "web0", api.SnapshotCreate{Name: "before.1"}))
	if one.State != api.SnapshotCreating || one.ID == "" || one.By == "" || one.Asked.IsZero() || one.Instance != made.UUID {
		t.Errorf("asked for %+v", one)
	}
	if got := must[api.Snapshot](t)(h.client.Snapshot(ctx, "web0", "before.1")); got != one {
		t.Errorf("read at once: %+v", got)
	}
	z.report(nil)
	if s := z.snaps[one.ID]; s.Name != "before.1" || s.Made || s.Instance != made.UUID {
		t.Errorf("its server is told %+v", s)
	}
	if i := h.instance("web0"); i.Revision != made.Revision {
		t.Error("a snapshot changed the instance's revision")
	}
	for name, code := range map[string]api.Code{"before.1": api.CodeConflict, "-x": api.CodeInvalid, "a b": api.CodeInvalid, strings.Repeat("x", 65): api.CodeInvalid, "hourly-1": api.CodeInvalid, "a@b": api.CodeInvalid, "../x": api.CodeInvalid} {
		_, err := h.client.CreateSnapshot(ctx, "web0", api.SnapshotCreate{Name: name})
		wantCode(t, "a snapshot "+name, err, code)
	}
	_, err := h.client.Snapshot(ctx, "web0", "none")
	wantCode(t, "one that is not there", err, api.CodeNotFound)

	z.tells("r2", made.UUID, false, []api.SnapshotStatus{z.taken(one.ID, "before.1", h.clock())})
	got := must[api.Snapshot](t)(h.client.Snapshot(ctx, "web0", one.ID))
	if got.State != api.SnapshotCreated || got.Consistency != api.SnapshotAtomic || got.Created.IsZero() || !z.snaps[one.ID].Made || h.audited("web0") != "create_snapshot, provision" {
		t.Errorf("%+v, server %+v, audit %s", got, z.snaps[one.ID], h.audited("web0"))
	}
	// The same again is no news; of another server's instance nothing is taken in.
	z.tells("r3", made.UUID, false, []api.SnapshotStatus{z.taken(one.ID, "before.1", got.Created)})
	z.tells("r4", "00000000-0000-4000-8000-00000000000f", true, nil)
	z.tells("r5", made.UUID, false, []api.SnapshotStatus{{ID: "../x", Name: "x", State: "created"}, {ID: "0123456789abcdef", Name: "x\n", State: "created"}, {ID: "0123456789abcdef", Name: "x", State: "won"}})
	if h.snapshots("web0") != "before.1 created" {
		t.Errorf("%s", h.snapshots("web0"))
	}

	two := must[api.Snapshot](t)(h.client.CreateSnapshot(ctx, "web0", api.SnapshotCreate{}))
	if _, err := time.Parse("20060102T150405Z", two.Name); err != nil {
		t.Errorf("it has the name %s", two.Name)
	}
	z.tells("r6", made.UUID, false, []api.SnapshotStatus{{ID: two.ID, Name: two.Name, State: api.SnapshotFailed, Reason: "Out of space."}})
	if got := h.audited("web0"); !strings.HasPrefix(got, "create_snapshot failed: Out of space., ") || !strings.Contains(h.snapshots("web0"), two.Name+" failed") {
		t.Errorf("audit %s; %s", got, h.snapshots("web0"))
	}
	z.tells("r7", made.UUID, false, []api.SnapshotStatus{z.taken(two.ID, two.Name, h.clock())}) // tried again
	if !strings.Contains(h.snapshots("web0"), two.Name+" created") {
		t.Errorf("%s", h.snapshots("web0"))
	}

	if a := h.ask(http.MethodDelete, "/v1/instances/web0/snapshots/before.1", "", "If-Match", `"old"`); a.status != http.StatusPreconditionFailed {
		t.Errorf("a delete of who read old data: %+v", a)
	}
	for range 2 {
		if s := must[api.Snapshot](t)(h.client.DeleteSnapshot(ctx, "web0", "before.1")); s.State != api.SnapshotDeleting {
			t.Errorf("%+v", s)
		}
	}
	z.report(nil)
	if _, is := z.snaps[one.ID]; is || !z.gone[one.ID] || !strings.HasPrefix(h.audited("web0"), "delete_snapshot open, ") {
		t.Errorf("its server is told %v, gone %v; audit %s", z.snaps, z.gone, h.audited("web0"))
	}
	held := z.taken(one.ID, "before.1", got.Created)
	held.State, held.Reason = api.SnapshotDeleting, "It is held."
	z.tells("r8", made.UUID, false, []api.SnapshotStatus{held})
	if s := must[api.Snapshot](t)(h.client.Snapshot(ctx, "web0", "before.1")); s.State != api.SnapshotDeleting || s.Reason != "It is held." {
		t.Errorf("%+v", s)
	}
	z.tells("r9", made.UUID, false, nil, one.ID)
	if got := h.snapshots("web0"); got != two.Name+" created" || !strings.HasPrefix(h.audited("web0"), "delete_snapshot, ") {
		t.Errorf("%s; audit %s", got, h.audited("web0"))
	}
	// What somebody destroyed by hand is failed, and says so, and is not asked for again.
	z.tells("r10", made.UUID, true, nil)
	if s := must[api.Snapshot](t)(h.client.Snapshot(ctx, "web0", two.ID)); s.State != api.SnapshotFailed || !strings.Contains(s.Reason, "not on its server's pool any more") || !z.snaps[two.ID].Made {
		t.Errorf("%+v", s)
	}

	settings := must[api.InstanceSettings](t)(h.client.InstanceSettings(ctx))
	if settings.MaxSnapshots != 32 {
		t.Errorf("settings %+v", settings)
	}
	settings.MaxSnapshots = 2
	must[api.InstanceSettings](t)(h.client.SetInstanceSettings(ctx, settings))
	z.tells("r11", made.UUID, false, []api.SnapshotStatus{{ID: "00000000000000aa", Name: "hourly-1", Schedule: api.SnapshotHourly, State: api.SnapshotCreated, Created: h.clock()}})
	must[api.Snapshot](t)(h.client.CreateSnapshot(ctx, "web0", api.SnapshotCreate{Name: "three"}))
	_, err = h.client.CreateSnapshot(ctx, "web0", api.SnapshotCreate{Name: "four"})
	wantCode(t, "one too many", err, api.CodeConflict)
	if !strings.Contains(err.Error(), "has 2 snapshots; at most 2") {
		t.Errorf("%v", err)
	}

	// With the instance all go.
	must[api.Instance](t)(h.client.DeleteInstance(ctx, "web0", false))
	_, err = h.client.CreateSnapshot(ctx, made.UUID, api.SnapshotCreate{Name: "five"})
	wantCode(t, "one of what is deleted", err, api.CodeConflict)
	z.report(nil)
	z.says("r12", nil, made.UUID)
	if len(z.snaps) > 0 {
		t.Errorf("its server is told %v", z.snaps)
	}
	_, err = h.client.Snapshots(ctx, made.UUID)
	if err == nil {
		t.Error("a deleted instance has snapshots")
	}
}

// TestSnapshotsUnexpected: what a head node that was restored does not know is listed, and
// stays; somebody may delete it, or take it back with its instance; what a server took by
// its schedule is no stranger.
func TestSnapshotsUnexpected(t *testing.T) {
	h, z, made := snapshotted(t)
	ctx := context.Background()
	strange, own := z.taken("00000000000000aa", "mine", h.clock()), z.taken("00000000000000bb", "daily-20261130T000000Z", h.clock())
	own.Schedule = api.SnapshotDaily
	z.tells("r2", made.UUID, true, []api.SnapshotStatus{strange, own})
	if got := h.snapshots("web0"); got != "mine created unexpected, daily-20261130T000000Z created" {
		t.Errorf("%s", got)
	}
	if len(z.snaps)+len(z.gone) > 0 {
		t.Errorf("its server is told %v %v", z.snaps, z.gone)
	}
	for _, id := range []string{"mine", "daily-20261130T000000Z"} {
		if s := must[api.Snapshot](t)(h.client.DeleteSnapshot(ctx, "web0", id)); s.State != api.SnapshotDeleting {
			t.Errorf("%+v", s)
		}
	}
	z.report(nil)
	if !z.gone[strange.ID] || !z.gone[own.ID] {
		t.Errorf("its server is told to destroy %v", z.gone)
	}
	// A report of before that brings nothing back.
	z.tells("r3", made.UUID, false, nil, strange.ID, own.ID)
	z.tells("r4", made.UUID, false, nil, strange.ID)
	if got := h.snapshots("web0"); got != "" {
		t.Errorf("%s", got)
	}
	// One that its schedule lets go is gone without a word.
	z.tells("r5", made.UUID, false, []api.SnapshotStatus{{ID: "00000000000000cc", Name: "hourly-1", Schedule: api.SnapshotHourly, State: api.SnapshotCreated, Created: h.clock()}})
	z.tells("r6", made.UUID, false, nil, "00000000000000cc")
	if got := h.snapshots("web0"); got != "" {
		t.Errorf("%s", got)
	}
	// There are bounds to what a server may say.
	var many []api.SnapshotStatus
	for n := range 600 {
		many = append(many, z.taken(fmt.Sprintf("%016x", n+0x1000), fmt.Sprint("s", n), h.clock()))
	}
	z.tells("r7", made.UUID, false, many)
	if n := len(must[[]api.Snapshot](t)(h.client.Snapshots(ctx, "web0"))); n != 512 {
		t.Errorf("%d are known", n)
	}
}

// asks is the refusal that names what is to be agreed to.
func asks(t *testing.T, err error) *api.Problem {
	t.Helper()
	var p *api.Problem
	if !errors.As(err, &p) || p.Code != api.CodeSideEffects {
		t.Fatalf("it does not ask: %v", err)
	}
	return p
}

// TestRollBack: what is lost is named, and agreed to; one that came in between is asked
// about; the server hears of one request, which is over once; what went is forgotten, and
// what was refused stays.
func TestRollBack(t *testing.T) {
	h, z, made := snapshotted(t)
	ctx := context.Background()
	take := func(name string) api.Snapshot {
		t.Helper()
		s := must[api.Snapshot](t)(h.client.CreateSnapshot(ctx, "web0", api.SnapshotCreate{Name: name}))
		h.advance(time.Minute)
		z.tells("t"+name, made.UUID, false, []api.SnapshotStatus{z.taken(s.ID, name, h.clock())})
		return s
	}
	a, b := take("a"), take("b")
	_, err := h.client.RollBack(ctx, "web0", "a")
	p := asks(t, err)
	if text := strings.Join(p.Errors, "\n"); !strings.Contains(text, "snapshot b, taken at ") || !strings.Contains(text, "written in instance web0 since ") || !strings.Contains(text, "stops, and starts again") || len(p.Errors) != 3 {
		t.Errorf("it asks about\n%s", text)
	}
	c := take("c") // between the question and the answer
	_, err = h.client.RollBack(api.WithConfirm(ctx, p.Confirm), "web0", "a")
	p = asks(t, err)
	rolled := must[api.Instance](t)(h.client.RollBack(api.WithConfirm(ctx, p.Confirm), "web0", "a"))
	z.report(nil)
	r := z.specs[made.UUID].Rollback
	if r == nil || r.Snapshot != a.ID || !slices.Equal(slices.Sorted(slices.Values(r.Newer)), slices.Sorted(slices.Values([]string{b.ID, c.ID}))) || rolled.Revision == made.Revision {
		t.Fatalf("its server is told %+v", r)
	}
	if len(z.snaps) != 3 {
		t.Errorf("before it is done, its server is told %v", z.snaps)
	}
	for what, do := range map[string]func() error{
		"another rollback": func() error {
			_, err := h.client.RollBack(api.WithConfirm(ctx, api.ConfirmAll), "web0", "b")
			return err
		},
		"a delete of its snapshot": func() error { _, err := h.client.DeleteSnapshot(ctx, "web0", "a"); return err },
	} {
		wantCode(t, what, do(), api.CodeConflict)
	}
	// It is refused there: all stay.
	status := api.InstanceStatus{UUID: made.UUID, State: api.InstanceRunning, Made: true, Started: h.clock(), Done: []string{r.ID}, Refused: "Snapshot x is newer."}
	z.says("r2", []api.InstanceStatus{status})
	z.report(nil)
	if got := h.audited("web0"); !strings.HasPrefix(got, "rollback_snapshot failed: Snapshot x is newer., ") || h.snapshots("web0") != "a created, b created, c created" || z.specs[made.UUID].Rollback != nil {
		t.Errorf("audit %s; %s", got, h.snapshots("web0"))
	}
	// It is done, and told in any order.
	must[api.Instance](t)(h.client.RollBack(api.WithConfirm(ctx, api.ConfirmAll), "web0", "a"))
	z.report(nil)
	z.tells("r3", made.UUID, false, nil, c.ID)
	status.Done, status.Refused = []string{z.specs[made.UUID].Rollback.ID}, ""
	z.says("r4", []api.InstanceStatus{status})
	z.tells("r5", made.UUID, false, nil, b.ID)
	z.says("r6", []api.InstanceStatus{status})
	if got := h.audited("web0"); !strings.HasPrefix(got, "rollback_snapshot, rollback_snapshot failed") || h.snapshots("web0") != "a created" || len(z.snaps) != 1 || z.specs[made.UUID].Rollback != nil {
		t.Errorf("audit %s; %s; its server is told %v", got, h.snapshots("web0"), z.snaps)
	}
	must[api.Snapshot](t)(h.client.CreateSnapshot(ctx, "web0", api.SnapshotCreate{Name: "d"}))
	_, err = h.client.RollBack(api.WithConfirm(ctx, api.ConfirmAll), "web0", "a")
	wantCode(t, "a rollback beside a snapshot that is not taken yet", err, api.CodeConflict)
	_, err = h.client.RollBack(api.WithConfirm(ctx, api.ConfirmAll), "web0", "d")
	wantCode(t, "a rollback to what is not taken yet", err, api.CodeConflict)
}

// TestSnapshotSchedule: a schedule is a part of what the server keeps with the instance.
func TestSnapshotSchedule(t *testing.T) {
	h, z, made := snapshotted(t)
	ctx := context.Background()
	i := must[api.Instance](t)(h.client.SetSnapshotSchedule(ctx, "web0", api.SnapshotSchedule{Hourly: 24, Weekly: 4}))
	z.report(nil)
	s := z.specs[made.UUID].Snapshots
	if s == nil || s.Hourly != 24 || s.Weekly != 4 || s.Since.IsZero() || i.Snapshots == nil || i.Snapshots.Hourly != 24 {
		t.Errorf("its server is told %+v; the instance has %+v", s, i.Snapshots)
	}
	since := s.Since
	h.advance(time.Hour)
	must[api.Instance](t)(h.client.SetSnapshotSchedule(ctx, "web0", api.SnapshotSchedule{Hourly: 12}))
	if got := h.instance("web0").Snapshots; !got.Since.Equal(since) || got.Hourly != 12 || got.Weekly != 0 {
		t.Errorf("%+v", got)
	}
	_, err := h.client.SetSnapshotSchedule(ctx, "web0", api.SnapshotSchedule{Hourly: 49, Daily: -1, Weekly: 1000})
	wantCode(t, "numbers that are not", err, api.CodeInvalid)
	if !strings.Contains(fmt.Sprint(err), "hourly") {
		t.Errorf("%v", err)
	}
	must[api.Instance](t)(h.client.SetSnapshotSchedule(ctx, "web0", api.SnapshotSchedule{}))
	z.report(nil)
	if z.specs[made.UUID].Snapshots != nil || h.instance("web0").Snapshots != nil {
		t.Errorf("its server is told %+v", z.specs[made.UUID].Snapshots)
	}
}
