package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"nereid/api"
)

// stalled is what a guest's kernel says when a processor's timer interrupt does not
// come any more: a fault of the software emulator on a loaded host (QEMU 10, TCG
// with several threads; seen once in some tens of boots), and not of the guest.
var stalled = []byte("rcu_preempt kthread timer wakeup didn't happen")

// gaveUp is what the console says where a boot ends for good, or for six minutes, when
// the head node was away at the wrong moment: OVMF's shell, after every boot option was
// tried once, and iPXE without a script. Real servers are set to begin again.
var gaveUp = [][]byte{[]byte("UEFI Interactive Shell v"), []byte("No more network devices")}

// nurse does for a machine what an operator would do for one whose hardware fails, so
// that the emulator's fault does not count as the guest's:
//
//   - a machine whose emulator lost a timer is reset;
//   - a machine whose emulator broke off by an assertion of its own (QEMU 10 in
//     msix_table_mmio_write; seen once) is powered on again;
//   - a machine whose firmware ran out of boot options is reset;
//   - the new key of a server that lost its key by this is accepted: without a pool the
//     key was in RAM only.
//
// The log says so each time. The nurse ends with the machine's process.
func (m *Machine) nurse(ctx context.Context, p *process) {
	offset := int64(0)
	if st, err := os.Stat(m.Console()); err == nil {
		offset = st.Size()
	}
	tick := time.NewTicker(time.Second) // a file has no event to wait for across namespaces
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			if aborted(p.err) && ctx.Err() == nil {
				m.revive(ctx, p)
			}
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		m.acceptKey(ctx)
		said, n := readFrom(m.Console(), offset)
		why := ailment(said)
		if why == "" {
			offset += max(0, n-int64(len(stalled))) // a message may come in two parts
			continue
		}
		offset += n
		m.rack.log.Warn("this machine is reset: "+why, "machine", m.Spec.Name)
		m.mayLoseKey(ctx)
		if err := m.Reset(ctx); err != nil {
			m.rack.log.Warn("reset", "machine", m.Spec.Name, "err", err)
		}
	}
}

// ailment is what a console says that only a reset cures; empty when it says nothing
// of the kind.
func ailment(said []byte) string {
	switch {
	case bytes.Contains(said, stalled):
		return "its emulator lost a timer interrupt"
	case slices.ContainsFunc(gaveUp, func(end []byte) bool { return bytes.Contains(said, end) }):
		return "its firmware or iPXE gave up booting"
	}
	return ""
}

// mayLoseKey notes that the server of the machine may come back with another key.
func (m *Machine) mayLoseKey(ctx context.Context) {
	s, err := m.rack.Client().Server(ctx, m.Spec.UUID)
	if err != nil { // the server did not enrol yet, so it has no key to lose
		return
	}
	m.keyOf = s.BootID
}

// acceptKey accepts another key of a server that may have lost its key, when the head
// node holds the server for it.
func (m *Machine) acceptKey(ctx context.Context) {
	if m.keyOf == "" {
		return
	}
	c := m.rack.Client()
	s, err := c.Server(ctx, m.Spec.UUID)
	switch {
	case err != nil: // the head node is away
	case s.State == api.StateHeld:
		if err := c.AcceptKey(ctx, s.UUID, ""); err != nil { // refused while the old key may still sync
			return
		}
		m.rack.log.Warn("the key of this machine's new boot is accepted", "machine", m.Spec.Name)
		m.keyOf = ""
	case s.BootID != m.keyOf && (s.State == api.StateRunning || s.State == api.StateApproved):
		m.keyOf = ""
	}
}

// aborted reports whether a process ended itself by abort(3).
func aborted(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGABRT
}

// revive powers a machine on again whose process broke off, unless somebody did
// something else with it meanwhile.
func (m *Machine) revive(ctx context.Context, p *process) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc != p {
		return
	}
	m.rack.log.Warn("the emulator of this machine broke off; it is powered on again", "machine", m.Spec.Name, "emulator", tail(m.path("qemu.log")))
	m.qmp.close()
	m.mayLoseKey(ctx)
	if err := m.powerOn(ctx); err != nil {
		m.rack.log.Warn("power on", "machine", m.Spec.Name, "err", err)
	}
}

// readFrom reads a file from an offset: what was read, and how much that is.
func readFrom(path string, offset int64) ([]byte, int64) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, offset, 1<<20))
	if err != nil {
		return nil, 0
	}
	return b, int64(len(b))
}
