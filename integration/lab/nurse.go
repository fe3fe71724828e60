package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// stalled is what a guest's kernel says when a processor's timer interrupt does not
// come any more: a fault of the software emulator on a loaded host (QEMU 10, TCG
// with several threads; seen once in some tens of boots), and not of the guest.
var stalled = []byte("rcu_preempt kthread timer wakeup didn't happen")

// nurse presses the reset button of a machine whose emulator lost a timer, as an
// operator would, and the power button of one whose emulator broke off by an assertion
// of its own (QEMU 10 in msix_table_mmio_write; seen once), so that the emulator's fault
// does not count as the guest's. The log says so each time. It ends with the machine's
// process.
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
		said, n := readFrom(m.Console(), offset)
		if !bytes.Contains(said, stalled) {
			offset += max(0, n-int64(len(stalled))) // it may come in two parts
			continue
		}
		offset += n
		m.rack.log.Warn("the emulator lost a timer interrupt of this machine; it is reset", "machine", m.Spec.Name)
		if err := m.Reset(ctx); err != nil {
			m.rack.log.Warn("reset", "machine", m.Spec.Name, "err", err)
		}
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
