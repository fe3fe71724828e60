package agent

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"nereid/agent/identity"
	"nereid/agent/storage"
	"nereid/api"
)

// Times of the reconciler.
const (
	housekeeping = 10 * time.Minute // clock and pools are looked at without a reason
	stepLimit    = 2 * time.Minute
	setupLimit   = 30 * time.Minute
	importLimit  = 10 * time.Minute // a large pool replays its log
	maxRounds    = 8                // of one pass; a plan that never gets empty is a fault
)

// reconciler is the one goroutine that changes the server.
type reconciler struct {
	a     *Agent
	board *board
	box   mailbox
	poked chan struct{}
	key   *ecdsa.PrivateKey

	spec     api.Spec
	have     bool // there is a spec
	obs      observed
	failures map[stepKind]*failure
	ntp      []string
	ntpNext  time.Time
	lastPlan *api.PoolPlan
	down     time.Time // the machine was told to go down, and should be by then
}

// failure is a step that did not work, and when it is tried again.
type failure struct {
	backoff backoff
	next    time.Time
}

func newReconciler(a *Agent, b *board, box mailbox, poked chan struct{}, key *ecdsa.PrivateKey) *reconciler {
	return &reconciler{
		a: a, board: b, box: box, poked: poked, key: key,
		obs:      observed{bootID: a.Boot.BootID},
		failures: map[stepKind]*failure{},
		ntp:      a.Boot.NTP,
	}
}

// run works until ctx ends.
func (r *reconciler) run(ctx context.Context) error {
	r.discipline(ctx)
	for ctx.Err() == nil {
		r.pass(ctx)
		t := time.NewTimer(r.sleep(time.Now()))
		select {
		case s := <-r.box:
			r.take(s)
		case <-r.poked:
			r.reimport(ctx)
		case <-t.C:
			r.discipline(ctx)
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// sleep is how long there is nothing to do.
func (r *reconciler) sleep(now time.Time) time.Duration {
	d := housekeeping
	if !r.down.IsZero() {
		d = min(d, r.down.Sub(now))
	}
	for _, f := range r.failures {
		d = min(d, f.next.Sub(now))
	}
	return max(d, 10*time.Millisecond)
}

// take takes a new spec: what failed under the old one may work now.
func (r *reconciler) take(s api.Spec) {
	r.spec, r.have = s, true
	clear(r.failures)
	r.ntp = s.NTP
	r.ntpNext = time.Time{}
	if r.obs.taken != nil {
		return // going down; after a reset there is nothing to keep
	}
	if err := r.a.keepSpec(s); err != nil {
		r.a.Log.Warn("keep spec", "err", err)
	}
	r.a.Log.Info("spec", "revision", s.Revision)
}

// pass makes the server as the spec says, as far as that is possible now.
func (r *reconciler) pass(ctx context.Context) {
	if time.Now().Before(r.down) {
		return
	}
	done := r.a.health.busy("reconciler", stepLimit)
	defer func() { done() }()
	for range maxRounds {
		if !r.observe(ctx) {
			return
		}
		p := makePlan(r.spec, r.obs)
		r.refuse(p)
		ran, failed := false, len(p.refused) > 0
		for _, s := range p.steps {
			if f := r.failures[s]; f != nil && time.Now().Before(f.next) {
				failed = true
				if s == stepHostname { // nothing stands on it
					continue
				}
				break
			}
			limit := stepLimit
			if s == stepSetup || s == stepReset {
				limit = setupLimit
			}
			done = r.a.health.busy("reconciler", limit+stepLimit)
			sctx, cancel := context.WithTimeout(ctx, limit)
			err := r.do(sctx, s, p)
			cancel()
			if ctx.Err() != nil {
				return
			}
			ran = true
			if err != nil {
				failed = true
				if s == stepReset { // refused from now on
					break
				}
				r.fail(s, err)
				if s == stepHostname {
					continue
				}
				break
			}
			delete(r.failures, s)
			r.board.problem(string(s), "")
			if !r.down.IsZero() {
				return
			}
		}
		if !ran {
			if r.have && !failed && r.obs.taken == nil {
				r.board.update(func(rep *api.Report) bool { return put(&rep.AppliedSpec, r.spec.Revision) })
			}
			return
		}
	}
	r.a.Log.Error("steps are still left after the last round; the reconciler goes on in a minute", "rounds", maxRounds)
	r.failures[stepSpec] = &failure{next: time.Now().Add(time.Minute)}
}

// fail notes that a step did not work and when it is tried again.
func (r *reconciler) fail(s stepKind, err error) {
	f := r.failures[s]
	if f == nil {
		f = &failure{backoff: backoff{min: 5 * time.Second, max: 5 * time.Minute}}
		r.failures[s] = f
	}
	wait := f.backoff.next()
	f.next = time.Now().Add(wait)
	r.a.Log.Error("step", "step", s, "err", err, "again_in", wait.Round(time.Second))
	r.board.problem(string(s), fmt.Sprintf("%s did not work and is tried again: %v.", title(string(s)), err))
}

// refuse reports what the plan does not do, and why.
func (r *reconciler) refuse(p plan) {
	for _, s := range []stepKind{stepReset, stepPower, stepHostname, stepSetup, stepKey} {
		why := p.refused[s]
		if why == "" {
			if r.failures[s] == nil {
				r.board.problem(string(s), "")
			}
			continue
		}
		r.board.problem(string(s), why)
		switch s {
		case stepReset, stepPower:
			id := p.power.ID
			r.board.update(func(rep *api.Report) bool { return put(&rep.Power, &api.PowerReport{ID: id, Error: why}) })
		case stepSetup:
			id := r.spec.Setup.ID
			r.board.update(func(rep *api.Report) bool {
				return put(&rep.Setup, &api.SetupReport{ID: id, Phase: "failed", Error: why})
			})
		}
	}
}

// observe looks at the server; false when that did not work and nothing can be
// planned.
func (r *reconciler) observe(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	name, err := r.a.Host.Hostname()
	if err != nil {
		r.a.Log.Warn("read hostname", "err", err)
	}
	r.obs.hostname = name
	pools, err := r.a.Pools.Pools(ctx)
	if err != nil {
		if ctx.Err() == nil {
			r.board.problem("pools", "The pools could not be listed, so nothing is done about them: "+err.Error()+".")
		}
		return false
	}
	r.board.problem("pools", "")
	r.obs.pools = pools
	if r.obs.system() == nil {
		r.obs.complete, r.obs.keyKept, r.obs.keyOther, r.obs.specKept = "", false, false, ""
	} else if r.obs.complete != "" && !r.obs.keyKept {
		if k, err := r.a.poolKey(ctx); err != nil {
			r.board.problem("pools", "The key on the pool could not be read: "+err.Error()+".")
			return false
		} else if k != nil {
			r.obs.keyKept, r.obs.keyOther = k.Equal(r.key), !k.Equal(r.key)
		}
	}
	sys := r.obs.system()
	complete := r.obs.complete != "" && r.obs.keyKept
	r.board.update(func(rep *api.Report) bool {
		setup := rep.Setup
		if sys != nil && complete {
			setup = &api.SetupReport{ID: r.obs.complete, Phase: "complete", Complete: true, Plan: r.lastPlan}
		} else if setup != nil && setup.Complete {
			setup = nil
		}
		named, pooled, set := put(&rep.Hostname, name), put(&rep.Pools, pools), put(&rep.Setup, setup)
		return named || pooled || set
	})
	return true
}

// reimport looks for pools that came late, and for the key on them. With the
// system pool in order there is nothing to look for: pass lists the pools.
func (r *reconciler) reimport(ctx context.Context) {
	if r.obs.complete != "" || r.obs.taken != nil {
		return
	}
	defer r.a.health.busy("reconciler", importLimit+stepLimit)()
	im, ok := r.a.importPools(ctx, r.board)
	if !ok {
		return
	}
	r.imported(im)
	if k, err := r.a.poolKey(ctx); err == nil && k != nil && !k.Equal(r.key) && im.Complete {
		r.a.Log.Info("the pool's key is used from now on")
		r.key = k
		r.a.key.Store(k)
		if err := r.a.keepKey(k); err != nil {
			r.a.Log.Warn("keep key", "err", err)
		}
	}
}

func (r *reconciler) imported(im storage.Imported) {
	r.obs.complete = ""
	if im.System != nil && im.Complete {
		r.obs.complete = im.SetupID
		if r.obs.complete == "" {
			r.obs.complete = "unknown"
		}
	}
	r.obs.keyKept, r.obs.keyOther = false, false
	if r.a.instances != nil && r.obs.complete != "" {
		poke(r.a.instances.load)
	}
}

// poolKey is the key on the pool, nil when there is none.
func (a *Agent) poolKey(ctx context.Context) (*ecdsa.PrivateKey, error) {
	data, err := a.Config.ReadConfig(ctx, keyFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrNoPool) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return identity.ParseKey(data)
}

// StoreKey puts the agent's key on the pool: what storage calls before a setup
// counts as complete. It never replaces another key.
func (a *Agent) StoreKey(ctx context.Context, configDir string) error {
	path := filepath.Join(configDir, keyFile)
	old, err := readFile(path)
	if err == nil {
		if k, err := identity.ParseKey(old); err == nil && !k.Equal(a.key.Load()) {
			return errors.New("store key: the pool holds another key already")
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store key: %w", err)
	}
	data, err := identity.MarshalKey(a.key.Load())
	if err != nil {
		return fmt.Errorf("store key: %w", err)
	}
	return writeFile(path, data)
}

// keepSpec keeps the last spec in the run directory, for a restart. Power
// requests are not kept: the head node repeats one that still holds.
func (a *Agent) keepSpec(s api.Spec) error {
	s.Power = nil
	return writeJSON(filepath.Join(a.Dir, specFile), s)
}
