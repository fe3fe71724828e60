package network

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"nereid/api"
)

// GuardTime is how long the head node has to answer after a change of the links
// by which it is reached, before the change is undone.
const GuardTime = 30 * time.Second

// guardFile is in the run directory, which is in RAM, as the network is.
const guardFile = "network-guard.json"

// Phases of a guarded change.
const (
	phaseChanging  = "changing"  // some steps are done
	phaseWaiting   = "waiting"   // all are; the head node has not answered yet
	phaseRestoring = "restoring" // it did not
)

// guarded is the file's content. It is written before the first step of a guarded
// change, and again when the head node has answered. An agent that starts and
// finds a change that is not finished goes on from there (Recover).
type guarded struct {
	Phase    string   `json:"phase,omitempty"`
	Before   *State   `json:"before,omitempty"`
	Spec     string   `json:"spec,omitempty"`    // digest of bonds, tags and underlay
	Steps    []string `json:"steps"`             // texts of the steps that touch the way to the head node
	Refused  []string `json:"refused,omitempty"` // what was undone, and is not tried again for Spec
	RolledAt string   `json:"rolled_back_at,omitempty"`
	// Good are bonds, NIC tags and underlay that the head node answered with.
	// They stay in force while others are refused.
	Good api.NetworkSpec `json:"good"`
}

// RolledBack says that a change cut the server off from the head node and was
// undone.
type RolledBack struct {
	Steps []string
	Cause error // what Confirm said
}

func (r *RolledBack) Error() string {
	return fmt.Sprintf("the head node did not answer within %s after %q; the change was undone and is not tried again until bonds, NIC tags or the underlay are changed",
		GuardTime, strings.Join(r.Steps, "; "))
}

func (r *RolledBack) Unwrap() error { return r.Cause }

// guard is one Apply's use of the file.
type guard struct {
	n    *Network
	file guarded
	spec string
	on   bool // a guarded change is under way
}

func (n *Network) guardPath() string { return filepath.Join(n.Dir, guardFile) }

func (n *Network) guards() bool { return n.Confirm != nil && n.Admin.IsValid() }

// openGuard reads the file.
func (n *Network) openGuard(spec api.NetworkSpec) (*guard, error) {
	g := &guard{n: n, spec: infrastructure(spec)}
	if !n.guards() {
		return g, nil
	}
	f, err := n.readGuard()
	if err != nil || f == nil {
		return g, err
	}
	if f.Phase != "" {
		return nil, errors.New("an unfinished change of the admin network is there; it is finished at the agent's start")
	}
	g.file = *f
	if f.Spec != g.spec {
		g.file = guarded{Good: f.Good}
	}
	return g, nil
}

// inForce is the spec that is applied: the one that was asked for, or, while its
// bonds, tags and underlay are refused, with those that were good.
func (g *guard) inForce(spec api.NetworkSpec) (_ api.NetworkSpec, refused []string) {
	if len(g.file.Refused) == 0 {
		return spec, nil
	}
	spec.Bonds, spec.Tags, spec.Underlay = g.file.Good.Bonds, g.file.Good.Tags, g.file.Good.Underlay
	return spec, []string{fmt.Sprintf("%s is not done: it was undone at %s, because the head node did not answer within %s after it; check the switch and the cables, and change bonds, NIC tags or the underlay.",
		strings.Join(g.file.Refused, "; "), g.file.RolledAt, GuardTime)}
}

func (n *Network) readGuard() (*guarded, error) {
	b, err := os.ReadFile(n.guardPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read guarded change: %w", err)
	}
	var f guarded
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("read guarded change %s: %w", n.guardPath(), err)
	}
	return &f, nil
}

// before is called before steps that touch the way to the head node. It writes
// down what is there; or it says that these steps are not done, as they were
// undone before.
func (g *guard) before(state *State, risky []Step) (refused bool, err error) {
	if !g.n.guards() {
		return false, nil
	}
	texts := make([]string, len(risky))
	for i, s := range risky {
		texts[i] = s.String()
	}
	if len(g.file.Refused) > 0 && !slices.ContainsFunc(texts, func(t string) bool { return !slices.Contains(g.file.Refused, t) }) {
		return true, nil
	}
	if !g.on {
		g.file.Phase, g.file.Before, g.file.Spec, g.file.Steps = phaseChanging, infrastructureState(state), g.spec, nil
	}
	g.on = true
	for _, t := range texts {
		if !slices.Contains(g.file.Steps, t) {
			g.file.Steps = append(g.file.Steps, t)
		}
	}
	return false, g.n.writeGuard(g.file)
}

// shield keeps a guarded change from ending half-way because somebody lost
// interest.
func (g *guard) shield(ctx context.Context) context.Context {
	if g.on {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// after waits for the head node, and undoes the change if it does not answer. spec
// is good then.
func (g *guard) after(ctx context.Context, spec api.NetworkSpec) error {
	if g.on {
		g.file.Phase = phaseWaiting
		if err := g.n.writeGuard(g.file); err != nil {
			return err
		}
		if err := g.n.decide(ctx, g.file); err != nil {
			return err
		}
	}
	good := api.NetworkSpec{Bonds: spec.Bonds, Tags: spec.Tags, Underlay: spec.Underlay}
	if !g.n.guards() || len(g.file.Refused) > 0 || !g.on && reflect.DeepEqual(good, g.file.Good) {
		return nil
	}
	return g.n.writeGuard(guarded{Good: good})
}

// decide ends a guarded change. When ctx ends before the head node answered,
// the file stays: the agent's next start goes on with it.
func (n *Network) decide(ctx context.Context, f guarded) error {
	n.log().Info("the admin network was changed; waiting for the head node", "limit", GuardTime)
	wait, cancel := context.WithTimeout(ctx, GuardTime)
	defer cancel()
	cause := n.Confirm(wait)
	if cause == nil {
		return n.endGuard(f)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	n.log().Error("the head node did not answer; the change of the admin network is undone", "err", cause)
	f.Phase = phaseRestoring
	if err := n.writeGuard(f); err != nil {
		return err
	}
	if err := n.restore(ctx, f.Before); err != nil {
		return err
	}
	err := n.writeGuard(f.refused())
	return errors.Join(&RolledBack{Steps: f.Steps, Cause: cause}, err)
}

// Recover finishes a guarded change that an earlier run of the agent began. Call
// it before the first Apply. A change that was not complete is undone; one that
// was has the head node's answer to wait for.
func (n *Network) Recover(ctx context.Context) error {
	if !n.guards() {
		return nil
	}
	n.change.Lock()
	defer n.change.Unlock()
	f, err := n.readGuard()
	if err != nil || f == nil || f.Phase == "" {
		return err
	}
	if f.Phase == phaseWaiting {
		return n.decide(ctx, *f)
	}
	n.log().Warn("a change of the admin network was cut short and is undone", "phase", f.Phase)
	if err := n.restore(ctx, f.Before); err != nil {
		return err
	}
	if f.Phase == phaseChanging {
		return n.endGuard(*f)
	}
	return n.writeGuard(f.refused())
}

// refused is the file's content after a change was undone.
func (f guarded) refused() guarded {
	return guarded{Spec: f.Spec, Good: f.Good, Refused: f.Steps, RolledAt: time.Now().UTC().Format(time.RFC3339)}
}

// Retry lets a change be tried again that was undone.
func (n *Network) Retry() error {
	n.change.Lock()
	defer n.change.Unlock()
	f, err := n.readGuard()
	if err != nil || f == nil || f.Phase != "" {
		return err
	}
	return n.endGuard(*f)
}

// endGuard leaves nothing of a guarded change but what was good before.
func (n *Network) endGuard(f guarded) error { return n.writeGuard(guarded{Good: f.Good}) }

func (n *Network) writeGuard(f guarded) error {
	b, err := json.MarshalIndent(f, "", "\t")
	if err != nil {
		return fmt.Errorf("write guarded change: %w", err)
	}
	if err := renameio.WriteFile(n.guardPath(), b, 0o600); err != nil {
		return fmt.Errorf("write guarded change: %w", err)
	}
	return nil
}

// infrastructure is a digest of the part of a spec that the way to the head node
// depends on.
func infrastructure(spec api.NetworkSpec) string {
	b, err := json.Marshal(api.NetworkSpec{Bonds: spec.Bonds, Tags: spec.Tags, Underlay: spec.Underlay})
	if err != nil { // there is nothing in it that cannot be marshalled
		b = nil
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
