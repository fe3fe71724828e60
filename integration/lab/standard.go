package lab

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"nereid/api"
)

// The standard rack: two running servers of one disk each, whose second NICs carry the
// fabric's underlay. Their third ones provide nothing; two cables go from server to
// server. Each network is a segment of its own.
//
//	admin0 ---- cn1 ==== cn2 ---- admin0
//	data0 ------++        ++------ data0
//	ext0 -------+          +------- ext0

// StandardStamp is the stamp of its platform, and Operator the owner of its servers'
// underlay addresses.
const (
	StandardStamp = "20260101T000000Z"
	Operator      = "0be4a700-0000-4000-8000-000000000000"
)

// ready is how long a server may take from power-on to running: it only says when to
// give up.
const ready = 12 * time.Minute

// PlatformDir is where the rack's platform is, with the lab's shell.
func (r *Rack) PlatformDir() string { return filepath.Join(r.opts.Dir, "platform") }

// NewStandard makes the standard rack out of a built platform, with the programs in
// bin. out gets what the operator's program says.
func NewStandard(ctx context.Context, opts Options, bin, built string, out io.Writer) (*Rack, error) {
	opts.Headnode = filepath.Join(bin, "nereid-headnode")
	r, err := New(ctx, opts)
	if err != nil {
		return nil, err
	}
	if err := r.standard(ctx, filepath.Join(bin, "nereid"), built, out); err != nil {
		err = fmt.Errorf("make the standard rack: %w; the head node says: %s", err, tail(r.HeadnodeLog()))
		_ = r.Close() // what went wrong first is what counts
		return nil, err
	}
	return r, nil
}

func (r *Rack) standard(ctx context.Context, nereid, built string, out io.Writer) error {
	if err := Derive(ctx, built, r.PlatformDir(), StandardStamp, ShellLayer()); err != nil {
		return err
	}
	if err := r.StartHeadnode(ctx); err != nil {
		return err
	}
	if _, err := ImportPlatform(ctx, r, nereid, r.PlatformDir(), out); err != nil {
		return err
	}
	if err := r.AddBridge(ctx, "ext0"); err != nil {
		return err
	}
	for n := 1; n <= 2; n++ {
		m, err := r.AddMachine(ctx, standardMachine(n))
		if err != nil {
			return err
		}
		if err := m.PowerOn(ctx); err != nil {
			return err
		}
	}
	operate := func(args ...string) error {
		return run(ctx, nereid, append([]string{"--server", r.Socket()}, args...)...)
	}
	for _, args := range [][]string{
		{"nictag", "create", "underlay", "--mtu", "9000"},
		{"network", "create", "underlay", "--nic-tag", "underlay", "--subnet", "10.77.0.0/24", "--start", "10.77.0.11"},
		{"fabric", "settings", "--underlay-nic-tag", "underlay"},
	} {
		if err := operate(args...); err != nil {
			return err
		}
	}
	for _, m := range r.Machines() {
		if err := WaitState(ctx, r.Client(), m.Spec.UUID, api.StatePending, ready); err != nil {
			return err
		}
		if err := operate("server", "approve", m.Spec.UUID, "--hostname", m.Spec.Name); err != nil {
			return err
		}
	}
	for _, m := range r.Machines() {
		if err := WaitState(ctx, r.Client(), m.Spec.UUID, api.StateApproved, ready); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"server", "setup", m.Spec.Name, "--yes"},
			{"nictag", "provide", m.Spec.Name, m.Spec.DataMACs[0], "underlay"},
			{"nic", "create", "--network", "underlay", "--on", m.Spec.Name, "--underlay", "--owner", Operator},
		} {
			if err := operate(args...); err != nil {
				return err
			}
		}
	}
	for _, m := range r.Machines() {
		if err := WaitState(ctx, r.Client(), m.Spec.UUID, api.StateRunning, ready); err != nil {
			return err
		}
	}
	return r.Settle(ctx)
}

func standardMachine(n int) MachineSpec {
	return MachineSpec{
		Name: fmt.Sprintf("cn%d", n), Firmware: BIOS, Disks: []int64{8 << 30},
		MAC:      fmt.Sprintf("52:54:00:00:01:%02x", n),
		DataMACs: []string{fmt.Sprintf("52:54:00:00:02:%02x", n), fmt.Sprintf("52:54:00:00:05:%02x", n)},
		Bridges:  []string{"data0", "ext0"},
		UUID:     fmt.Sprintf("4e455245-4944-4000-8000-0000000001%02x", n),
		Cables: []Cable{
			{MAC: fmt.Sprintf("52:54:00:00:03:%02x", n), Local: 2000 + n, Peer: 2000 + 3 - n},
			{MAC: fmt.Sprintf("52:54:00:00:04:%02x", n), Local: 2010 + n, Peer: 2010 + 3 - n},
		},
	}
}
