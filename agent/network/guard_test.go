package network

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// never is a head node that does not answer.
func never(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func guardedBy(f *fake, dir string, confirm func(context.Context) error) *Network {
	return &Network{System: f, Admin: adminAddr, Dir: dir, Confirm: confirm}
}

func TestGuardUndoes(t *testing.T) {
	for _, to := range []string{"plain", "bond", "shared"} {
		t.Run(to, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				f := server()
				before := admin(f)
				n := guardedBy(f, dir, never)
				start := time.Now()
				err := n.Apply(t.Context(), specs()[to])
				var back *RolledBack
				if !errors.As(err, &back) || time.Since(start) != GuardTime {
					t.Fatalf("Apply: %v after %s", err, time.Since(start))
				}
				if d := cmp.Diff(before, admin(f)); d != "" {
					t.Errorf("not undone:\n%s", d)
				}
				// Until the spec changes it is not tried again; the rest is done.
				f.take()
				for range 2 {
					start = time.Now()
					err = n.Apply(t.Context(), specs()[to])
					if err == nil || !strings.Contains(err.Error(), "it was undone at 2000-01-01T00:00:30Z, because the head node did not answer within 30s after it") || time.Since(start) != 0 {
						t.Fatalf("Apply again: %v after %s", err, time.Since(start))
					}
				}
				if d := cmp.Diff(before, admin(f)); d != "" {
					t.Errorf("tried again:\n%s", d)
				}
				if r, err := n.Report(t.Context()); err != nil || r.Applied || len(r.Problems) == 0 {
					t.Errorf("report %+v, %v", r, err)
				}
				// The head node is back and the operator asks for it again.
				n.Confirm = func(context.Context) error { return nil }
				if err := n.Retry(); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if err := n.Apply(t.Context(), specs()[to]); err != nil {
						t.Fatal(err)
					}
				}
				clean := server()
				clean.mustApply(t, specs()[to])
				if d := cmp.Diff(same(clean), same(f)); d != "" {
					t.Error(d)
				}
				if f, err := n.readGuard(); err != nil || f.Phase != "" || len(f.Refused) > 0 || len(f.Good.Tags) == 0 {
					t.Errorf("the file says %+v, %v", f, err)
				}
			})
		})
	}
}

// admin prints what the way to the head node depends on.
func admin(f *fake) string {
	s := f.state.clone()
	for name, l := range s.Links {
		if name != "eth0" && len(l.Addrs) == 0 {
			delete(s.Links, name)
		}
	}
	delete(s.Links, "eth2") // has the underlay's address
	return s.String()
}

// TestGuardTriesAnother: a spec with other bonds is tried again.
func TestGuardTriesAnother(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := server()
		asked := 0
		n := guardedBy(f, dir, func(ctx context.Context) error { asked++; return never(ctx) })
		for _, to := range []string{"bond", "bond", "lacp", "lacp"} {
			if err := n.Apply(t.Context(), specs()[to]); err == nil {
				t.Fatal("nothing said")
			}
		}
		if asked != 2 {
			t.Errorf("the head node was asked for %d times, want 2", asked)
		}
	})
}

// TestGuardNotNeeded: what does not touch the way to the head node does not wait.
func TestGuardNotNeeded(t *testing.T) {
	f := server()
	f.mustApply(t, specs()["plain"])
	n := guardedBy(f, t.TempDir(), func(context.Context) error { t.Error("the head node was asked for"); return nil })
	spec := specs()["plain"]
	spec.VNIs = append(spec.VNIs, vni(200))
	spec.Ports = append(spec.Ports, port(9, onVNI(200, "10.0.0.9/24")), port(8, onTag("admin", 0, "10.99.99.78/24", "")))
	spec.Bonds = []api.BondSpec{{Name: "bond7", Mode: "active-backup", MACs: []string{mac(4)}}}
	for range 2 {
		if err := n.Apply(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
	}
}

// TestGuardMTU: an MTU of the admin network is guarded.
func TestGuardMTU(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		f := server()
		f.mustApply(t, specs()["plain"])
		before := admin(f)
		spec := specs()["plain"]
		spec.Tags[0].MTU = 9000
		var back *RolledBack
		if err := guardedBy(f, dir, never).Apply(t.Context(), spec); !errors.As(err, &back) {
			t.Fatalf("Apply: %v", err)
		}
		if d := cmp.Diff(before, admin(f)); d != "" {
			t.Error(d)
		}
	})
}

// TestGuardKilledAnywhere: the agent is killed after each step of a guarded change,
// and while it waits. The next one undoes or goes on; at the end all is as if
// nothing had happened.
func TestGuardKilledAnywhere(t *testing.T) {
	yes := func(context.Context) error { return nil }
	for _, way := range [][2]string{{"tags", "plain"}, {"plain", "bond"}, {"bond", "lacp"}, {"lacp", "other nic"}, {"other nic", "shared"}, {"shared", "tags"}} {
		from, to := specs()[way[0]], specs()[way[1]]
		want := server()
		want.mustApply(t, from)
		before := restorable(want)
		want.mustApply(t, to)
		for k := 1; ; k++ {
			dir := t.TempDir()
			f := server()
			f.mustApply(t, from)
			f.left = k
			err := guardedBy(f, dir, yes).Apply(t.Context(), to)
			if f.left > 0 {
				if err != nil {
					t.Fatalf("%v: %v", way, err)
				}
				break
			}
			f.left = -1
			n := guardedBy(f, dir, yes)
			file, err := n.readGuard()
			if err != nil {
				t.Fatal(err)
			}
			if err := n.Recover(t.Context()); err != nil {
				t.Fatalf("%v, killed after step %d: Recover: %v", way, k, err)
			}
			if d := cmp.Diff(before, restorable(f)); file != nil && file.Phase == phaseChanging && d != "" {
				t.Fatalf("%v, killed after step %d: not undone:\n%s", way, k, d)
			}
			for range 2 {
				if err := n.Apply(t.Context(), to); err != nil {
					t.Fatalf("%v, killed after step %d: %v", way, k, err)
				}
			}
			if d := cmp.Diff(same(want), same(f)); d != "" {
				t.Fatalf("%v, killed after step %d:\n%s", way, k, d)
			}
		}
	}
}

// restorable prints what a rollback restores, but for uplinks' neighbours.
func restorable(f *fake) string {
	s := infrastructureState(f.state)
	return s.String()
}

// TestRecoverWaits: an agent that is restarted while a change waits for the head
// node goes on waiting.
func TestRecoverWaits(t *testing.T) {
	for _, answers := range []bool{true, false} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			f := server()
			before := admin(f)
			ctx, cancel := context.WithCancel(t.Context())
			n := guardedBy(f, dir, func(ctx context.Context) error { cancel(); return never(ctx) })
			if err := n.Apply(ctx, specs()["bond"]); !errors.Is(err, context.Canceled) {
				t.Fatalf("Apply: %v", err)
			}
			changed := admin(f)
			if err := n.Apply(t.Context(), specs()["bond"]); err == nil || !strings.Contains(err.Error(), "unfinished change") {
				t.Fatalf("Apply before Recover: %v", err)
			}
			n = guardedBy(f, dir, never)
			if answers {
				n.Confirm = func(context.Context) error { return nil }
			}
			err := n.Recover(t.Context())
			var back *RolledBack
			if answers != (err == nil) || !answers && !errors.As(err, &back) {
				t.Fatalf("Recover: %v", err)
			}
			want := before
			if answers {
				want = changed
			}
			if d := cmp.Diff(want, admin(f)); d != "" {
				t.Error(d)
			}
			if err := n.Recover(t.Context()); err != nil {
				t.Errorf("Recover again: %v", err)
			}
		})
	}
}

func TestGuardFileDamaged(t *testing.T) {
	n := guardedBy(server(), t.TempDir(), never)
	if err := os.WriteFile(n.guardPath(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), n.guardPath()) {
		t.Errorf("Recover: %v", err)
	}
}
