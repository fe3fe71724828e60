package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"

	"nereid/api"
)

// Env is what the specs leave to the server they are for.
type Env struct {
	// Server is the server's UUID. Its MAC on an external network is made of it.
	Server string
	// Bridge gives the bridge of a NIC tag and VLAN, empty: there is none.
	Bridge func(tag string, vlan int) string
	// Deny are the subnets that nothing may reach by NAT: the admin network and
	// the underlay.
	Deny []netip.Prefix
}

func (e Env) bridge(tag string, vlan int) string {
	if e.Bridge == nil {
		return ""
	}
	return e.Bridge(tag, vlan)
}

// world is the kernel, or the tests' fake of it.
type world interface {
	// Read says what there is.
	Read(ctx context.Context) (*state, error)
	// Do makes one step. Removing what is not there is no error, and adding may be
	// done after it was done halfway.
	Do(ctx context.Context, s step, rules map[string]string) error
}

// Routers makes the routers of one server. The zero value is for the namespace
// that the process is in.
type Routers struct {
	// Host is the path of the network namespace that is the server's, empty: the
	// process's.
	Host string
	// Dir is where namespaces are named, empty: /run/netns, where ip(8) sees them.
	Dir string
	// Monitor is told what it has to watch, when it is there.
	Monitor *Monitor
	// Logger is for each step; nil: none.
	Logger *slog.Logger

	change sync.Mutex
	world  world            // nil: the kernel
	hook   func(step) error // called before each step in tests
}

// Apply makes the routers be as specs say, and removes those of other accounts
// that it made before. The bridges of the VNIs (vb<vni>) and of the NIC tags must
// be there. It does what it can: an account whose spec cannot be met (ErrSpec) is
// left as it is, and the error says so; what one account lacks is no reason for
// another to wait. Where there are no network namespaces it returns an error that
// is errors.ErrUnsupported.
func (r *Routers) Apply(ctx context.Context, specs []api.RouterSpec, env Env) error {
	r.change.Lock()
	defer r.change.Unlock()
	w, done, err := r.open()
	if err != nil {
		return fmt.Errorf("apply routers: %w", err)
	}
	defer done()
	have, err := w.Read(ctx)
	if err != nil {
		return fmt.Errorf("read routers: %w", err)
	}
	accounts, broken, problems := read(specs)
	d := desire(accounts, broken, have, env)
	problems = append(problems, d.problems...)
	failed := map[string]bool{}
	for _, s := range plan(have, d.items, d.keep) {
		if failed[s.For] {
			continue
		}
		if err := r.step(ctx, w, s, d.rules); err != nil {
			if ctx.Err() != nil {
				return errors.Join(append(problems, err)...)
			}
			failed[s.For] = true
			problems = append(problems, err)
		}
	}
	if r.Monitor != nil {
		r.Monitor.watch(d.paths)
	}
	return errors.Join(problems...)
}

func (r *Routers) step(ctx context.Context, w world, s step, rules map[string]string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.hook != nil {
		if err := r.hook(s); err != nil {
			return err
		}
	}
	if err := w.Do(ctx, s, rules); err != nil {
		verb := [...]string{"add", "change", "remove"}[s.op]
		return fmt.Errorf("%s %s: %w", verb, s.key, err)
	}
	if r.Logger != nil {
		r.Logger.DebugContext(ctx, "router", "step", s.String())
	}
	return nil
}

// read parses specs. broken are the owners of those that cannot be met.
func read(specs []api.RouterSpec) (accounts []account, broken []string, problems []error) {
	seen := map[string]bool{}
	for _, s := range specs {
		a, err := parse(s)
		if err == nil && seen[s.Owner] {
			err = specError("a second router of this account")
		}
		seen[s.Owner] = true
		if err != nil {
			broken = append(broken, s.Owner)
			problems = append(problems, fmt.Errorf("router of %s: %w", s.Owner, err))
			continue
		}
		accounts = append(accounts, a)
	}
	return accounts, broken, problems
}
