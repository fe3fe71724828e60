package machine

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"nereid/agent/machine/ga"
	"nereid/agent/machine/vm"
)

// thawLimit bounds what ends a guest's rest.
const thawLimit = 10 * time.Second

// Guest is the agent in the guest of a machine that runs. Errors are ga.ErrSilent where the
// guest has not opened its channel: no agent runs in it.
func (m *Machines) Guest(ctx context.Context, uuid string) (*ga.Agent, error) {
	c, err := m.monitor(uuid)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	var all []struct {
		Label string `json:"label"`
		Open  bool   `json:"frontend-open"`
	}
	if err := c.Call(ctx, "query-chardev", nil, &all); err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Label != vm.GuestChannel || !d.Open {
			continue
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		i := m.find(uuid)
		if i.turn == nil {
			i.turn = make(chan struct{}, 1)
		}
		socket := filepath.Join(vm.RunDir(m.dir(uuid)), vm.GuestAgent)
		return &ga.Agent{Turn: i.turn, Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}, nil
	}
	return nil, ga.ErrSilent
}

// Rester has the file systems of a machine's guest rest, and go on.
type Rester interface {
	Freeze(ctx context.Context) (n int, err error)
	Thaw(ctx context.Context) error
}

// rester is that of a machine that runs.
func (m *Machines) rester(ctx context.Context, uuid string) (Rester, error) {
	if m.Resters != nil {
		return m.Resters(ctx, uuid)
	}
	g, err := m.Guest(ctx, uuid)
	if err != nil {
		return nil, err // and not a nil *ga.Agent
	}
	return g, nil
}

// restFile is in a machine's run directory while its guest's file systems may be at rest
// because of this server's agent. What is left there is seen to by the next agent.
func (m *Machines) restFile(uuid string) string { return filepath.Join(m.dir(uuid), "at-rest") }

// AtRest calls f while the file systems of a machine's guest are at rest, which its agent
// sees to: a snapshot of its disks is one of whole file systems then. Where f was not
// called, err says why: there is no agent, or it refused. The guest goes on when f returns,
// also after the end of ctx; one that does not answer then is asked again (goOn).
func (m *Machines) AtRest(ctx context.Context, uuid string, f func(context.Context)) error {
	if !m.rests(uuid, true) {
		return fmt.Errorf("have the guest of instance %s rest: it goes on from another rest", uuid)
	}
	defer m.rests(uuid, false)
	g, err := m.rester(ctx, uuid)
	if err == nil {
		err = os.WriteFile(m.restFile(uuid), nil, 0o600)
	}
	if err != nil {
		return fmt.Errorf("have the guest of instance %s rest: %w", uuid, err)
	}
	if _, err = g.Freeze(ctx); err == nil {
		f(ctx)
	} else {
		err = fmt.Errorf("have the guest of instance %s rest: %w", uuid, err)
	}
	m.thaw(ctx, uuid, g) // one whose freezing failed, or was not answered, may be at rest all the same
	return err
}

// goOn has a guest go on that an agent left at rest. Where none is, or a snapshot is being
// taken, it does nothing.
func (m *Machines) goOn(ctx context.Context, uuid string) {
	if _, err := os.Lstat(m.restFile(uuid)); err != nil || !m.rests(uuid, true) {
		return
	}
	defer m.rests(uuid, false)
	if g, err := m.rester(ctx, uuid); err == nil {
		m.thaw(ctx, uuid, g)
	} else {
		m.atRest(uuid, err)
	}
}

// thaw ends a guest's rest. Called again it does no harm.
func (m *Machines) thaw(ctx context.Context, uuid string, g Rester) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawLimit)
	defer cancel()
	err := g.Thaw(ctx)
	if err == nil {
		err = os.Remove(m.restFile(uuid))
	}
	m.atRest(uuid, err)
}

// atRest notes why a guest may be at rest; nil: it is not.
func (m *Machines) atRest(uuid string, err error) {
	m.say(uuid, func(g *guestIs) {
		if g.rests = ""; err != nil {
			g.rests = "Its guest's file systems may be at rest since a snapshot; its agent is asked to end that every 10 s. Last: " + sentence(err)
		}
	})
}

// rests takes the right to have a guest rest, or gives it back. It reports whether nobody
// had it.
func (m *Machines) rests(uuid string, begins bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.find(uuid)
	had := i.rests
	i.rests = begins
	return !had
}
