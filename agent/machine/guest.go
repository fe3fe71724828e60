package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
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

// AtRest calls f while the file systems of a machine's guest are at rest, which its agent
// sees to: a snapshot of its disks is one of whole file systems then. Without an agent, and
// where it refuses, f is not called. The guest goes on when f returns, also after the end of
// ctx.
func (m *Machines) AtRest(ctx context.Context, uuid string, f func(context.Context) error) error {
	g, err := m.Guest(ctx, uuid)
	if err != nil {
		return fmt.Errorf("have the guest of instance %s rest: %w", uuid, err)
	}
	_, err = g.Freeze(ctx)
	if err == nil {
		err = f(ctx)
	}
	// One whose freezing failed, or was not answered, may be at rest all the same.
	tctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), thawLimit)
	defer cancel()
	if terr := g.Thaw(tctx); terr != nil {
		err = errors.Join(err, fmt.Errorf("have the guest of instance %s go on: %w", uuid, terr))
	}
	return err
}
