package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nereid/agent/identity"
	"nereid/api"
)

// Times of going down.
const (
	tellLimit  = 10 * time.Second // the head node is told, if it can be
	tellGrace  = time.Second      // between sent and taken up
	downLimit  = 3 * time.Minute  // services stop; after that the request is forced
	ntpRefresh = housekeeping - time.Second
)

// do does one step of a plan. Each looks at what is there and makes the rest.
func (r *reconciler) do(ctx context.Context, s stepKind, p plan) error {
	r.a.Log.Info("step", "step", s)
	switch s {
	case stepHostname:
		return r.a.Host.SetHostname(ctx, r.spec.Hostname)
	case stepSetup:
		return r.setup(ctx, *r.spec.Setup)
	case stepKey:
		return r.storeKey(ctx)
	case stepSpec:
		return r.storeSpec(ctx)
	case stepReset:
		return r.reset(ctx, *p.power)
	case stepPower:
		return r.power(ctx, *p.power)
	}
	return fmt.Errorf("step %s is not known", s)
}

// setup makes the system pool. It is complete when storage says so, which is
// after the key is on the pool.
func (r *reconciler) setup(ctx context.Context, s api.SetupSpec) error {
	show := func(p api.SetupReport) {
		p.ID = s.ID
		if p.Plan != nil {
			r.lastPlan = p.Plan
		}
		p.Plan = r.lastPlan
		if p.Complete || p.Phase == "complete" {
			// Said by observe, when all of it is seen to be there.
			p.Complete, p.Phase = false, "storing key"
		}
		r.board.update(func(rep *api.Report) bool { return put(&rep.Setup, &p) })
	}
	r.lastPlan = nil
	if r.failures[stepSetup] == nil { // else the failure stays in sight
		show(api.SetupReport{Phase: "planning"})
	}
	err := r.runSetup(ctx, s, show)
	r.a.hardware.changed()
	if err != nil {
		show(api.SetupReport{Phase: "failed", Error: err.Error()})
		return err
	}
	r.obs.complete, r.obs.keyKept = s.ID, false
	return nil
}

func (r *reconciler) runSetup(ctx context.Context, s api.SetupSpec, show func(api.SetupReport)) error {
	r.a.Hardware.Forget()
	info, err := r.a.Hardware.Read(ctx)
	if err != nil {
		return fmt.Errorf("read disks: %w", err)
	}
	return r.a.Pools.Setup(ctx, s, info.Disks, show)
}

// storeKey puts the key on a complete pool that has none.
func (r *reconciler) storeKey(ctx context.Context) error {
	data, err := identity.MarshalKey(r.key)
	if err != nil {
		return err
	}
	if err := r.a.Config.WriteConfig(ctx, keyFile, data); err != nil {
		return err
	}
	r.obs.keyKept = true
	return nil
}

// storeSpec keeps the spec on the pool, so that the next boot can apply it with
// the head node away. Like the one in the run directory it has no power request.
func (r *reconciler) storeSpec(ctx context.Context) error {
	s := r.spec
	s.Power = nil
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := r.a.Config.WriteConfig(ctx, specFile, data); err != nil {
		return err
	}
	r.obs.specKept = specName(s)
	poke(r.a.copies.news)
	poke(r.a.ports.news) // where the spec is kept, they are
	if i := r.a.instances; i != nil {
		poke(i.set.news)
		poke(i.images.set.news)
		poke(i.snapshots.set.news)
		poke(i.load)
	}
	return nil
}

// reset destroys the pool that was named. It is tried once: a failure ends the
// request, and the operator asks again. From here on the server does nothing
// but go down.
func (r *reconciler) reset(ctx context.Context, w api.PowerSpec) error {
	if w.PoolGUID != "" {
		if err := r.a.Pools.Destroy(ctx, w.PoolGUID); err != nil {
			r.a.Log.Error("factory reset", "pool", w.PoolGUID, "err", err)
			r.obs.refused, r.obs.why = w.ID, fmt.Sprintf("The factory reset did not work: %v; ask for it again.", err)
			return err
		}
	}
	r.a.hardware.changed()
	// The last spec is of a server that was set up; it must not do so again.
	if err := os.Remove(filepath.Join(r.a.Dir, specFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.a.Log.Warn("remove last spec", "err", err)
	}
	r.obs.complete, r.obs.keyKept, r.obs.keyOther, r.obs.specKept = "", false, false, ""
	r.lastPlan = nil
	r.board.update(func(rep *api.Report) bool {
		setup, pools := put(&rep.Setup, nil), put(&rep.Pools, nil)
		return setup || pools
	})
	return nil
}

// power says that the request is taken up and goes down. The mark in the run
// directory carries the request over a restart of the agent in between.
func (r *reconciler) power(ctx context.Context, w api.PowerSpec) error {
	if err := writeJSON(filepath.Join(r.a.Dir, powerFile), w); err != nil {
		return err
	}
	r.obs.taken = &w
	if n := r.a.nics.Load(); n != nil {
		n.gate.close(gateDown)
	}
	if r.a.instances != nil {
		r.a.instances.goDown(ctx)
	}
	v := r.board.update(func(rep *api.Report) bool { return put(&rep.Power, &api.PowerReport{ID: w.ID}) })
	if tctx, cancel := context.WithTimeout(ctx, tellLimit); r.board.waitWritten(tctx, v) {
		pause(tctx, tellGrace)
		cancel()
	} else {
		cancel()
		r.a.Log.Warn("the head node could not be told", "power", w.Action)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	force := !r.down.IsZero()
	act := r.a.Power.Reboot
	if w.Action == "shutdown" {
		act = r.a.Power.Shutdown
	}
	if err := act(ctx, force); err != nil {
		return err
	}
	r.down = time.Now().Add(downLimit)
	r.a.say.say(title(w.Action) + " on request of the head node.")
	return nil
}

// taken reads the mark of a power request of this boot.
func (a *Agent) taken() *api.PowerSpec {
	var w api.PowerSpec
	ok, err := readJSON(filepath.Join(a.Dir, powerFile), &w)
	if err != nil {
		a.Log.Warn("read power request", "err", err)
	}
	if !ok || err != nil || w.BootID != a.Boot.BootID {
		return nil
	}
	return &w
}

// discipline sets the clock from the time servers, if there are any and it is
// time to.
func (r *reconciler) discipline(ctx context.Context) {
	if len(r.ntp) == 0 || time.Now().Before(r.ntpNext) {
		return
	}
	defer r.a.health.busy("reconciler", stepLimit)()
	r.ntpNext = time.Now().Add(ntpRefresh)
	s, err := r.a.NTP(ctx, r.ntp)
	if err != nil {
		if ctx.Err() == nil {
			r.a.Log.Info("no time server answered; the head node's Date sets the clock", "err", err)
		}
		return
	}
	r.a.ntpAt.Store(int64(r.a.Host.Monotonic()) + 1)
	diff, stepped, err := r.a.Clock.Correct(s.Offset, s.Delay/2)
	r.a.adjusted(diff, stepped, err, s.Server)
}

// ntpHeard says whether a time server was heard within the last three rounds.
func (a *Agent) ntpHeard() bool {
	at := a.ntpAt.Load()
	return at != 0 && a.Host.Monotonic()-time.Duration(at) < 3*housekeeping
}

// adjust brings the clock to t.
func (a *Agent) adjust(t time.Time, within time.Duration, source string) {
	diff, stepped, err := a.Clock.Adjust(t, within)
	a.adjusted(diff, stepped, err, source)
}

// adjusted reports what became of the clock.
func (a *Agent) adjusted(diff time.Duration, stepped bool, err error, source string) {
	switch {
	case err != nil:
		a.board.problem("clock", fmt.Sprintf("The clock is off by %s and could not be set: %v.", diff.Round(time.Second), err))
	case stepped:
		a.Log.Info("clock set", "by", diff.Round(time.Millisecond), "source", source)
		a.board.problem("clock", "")
	case a.Clock.Unset() == 0:
		a.board.problem("clock", "")
	}
}

// title begins a sentence.
func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
