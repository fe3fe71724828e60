package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"nereid/agent/sysinfo"
	"nereid/api"
)

// Times of reading the hardware.
const (
	inventoryAge  = 5 * time.Minute // the hardware is read again
	inventoryLate = time.Minute     // a read that takes longer is a problem in the report
)

// inventory is the hardware as one read found it.
type inventory struct {
	info   api.Sysinfo
	digest string
}

// inspector is the goroutine that reads the hardware. A read takes as long as the
// slowest disk does, so nobody else waits for one: the syncer takes what the last
// good read found.
type inspector struct {
	a     *Agent
	board *board
	again chan struct{} // one slot: disks changed
	news  chan struct{} // one slot: a read ended

	mu   sync.Mutex
	last inventory // without a digest: there is none yet
	err  error     // of the last read
}

func newInspector(a *Agent, b *board) *inspector {
	return &inspector{a: a, board: b, again: make(chan struct{}, 1), news: make(chan struct{}, 1)}
}

// get is what the last good read found, and the error of the last read.
func (i *inspector) get() (inventory, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.last, i.err
}

// changed has the hardware read again; it never blocks.
func (i *inspector) changed() { poke(i.again) }

// run reads until ctx ends: at once, when disks changed, and every inventoryAge.
// Until it was read once, it is tried again soon.
func (i *inspector) run(ctx context.Context) error {
	retry := backoff{min: 500 * time.Millisecond, max: 30 * time.Second}
	for ctx.Err() == nil {
		i.read(ctx)
		wait := inventoryAge
		if inv, _ := i.get(); inv.digest == "" {
			wait = retry.next()
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-i.again:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// read reads once. What is new travels with the next sync, which begins at once.
func (i *inspector) read(ctx context.Context) {
	begun := time.Now()
	late := time.AfterFunc(inventoryLate, func() {
		i.board.problem("hardware", fmt.Sprintf("The hardware is being read since %s: a disk may not answer; see the server's kernel log.", begun.UTC().Format(time.RFC3339)))
	})
	rctx, cancel := context.WithTimeout(ctx, callTimeout)
	info, err := i.a.Hardware.Read(rctx)
	cancel()
	late.Stop()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		i.board.problem("hardware", "The hardware could not be read: "+err.Error()+"; it is tried again.")
	} else {
		i.board.problem("hardware", "")
	}
	i.mu.Lock()
	i.err = err
	other := false
	if err == nil {
		inv := inventory{info: info, digest: sysinfo.Digest(info)}
		other = i.last.digest != inv.digest
		i.last = inv
	}
	i.mu.Unlock()
	poke(i.news)
	if other {
		i.board.nudge()
	}
}

// poke fills a channel's one slot; it never blocks.
func poke(slot chan struct{}) {
	select {
	case slot <- struct{}{}:
	default:
	}
}
