package lab

import (
	"bytes"
	"context"
	"io"
	"os"
	"time"
)

// stalled is what a guest's kernel says when a processor's timer interrupt does not
// come any more: a fault of the software emulator on a loaded host (QEMU 10, TCG
// with several threads; seen once in some tens of boots), and not of the guest.
var stalled = []byte("rcu_preempt kthread timer wakeup didn't happen")

// nurse presses the reset button of a machine whose emulator lost a timer, as an
// operator would, so that the emulator's fault does not count as the guest's. The
// log says so each time. It ends with the machine's process.
func (m *Machine) nurse(ctx context.Context, done <-chan struct{}) {
	offset := int64(0)
	if st, err := os.Stat(m.Console()); err == nil {
		offset = st.Size()
	}
	tick := time.NewTicker(time.Second) // a file has no event to wait for across namespaces
	defer tick.Stop()
	for {
		select {
		case <-done:
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
