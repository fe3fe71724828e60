package agent

import (
	"context"
	"sync"
	"time"
)

// crew has a worker for each of many things of one kind: what is to be done of it, its
// own failure and its own backoff. A worker is a goroutine only while there is something
// to do. One that fails or waits delays no other; slots bound how many work at once.
//
// What a thing is wanted to be is the owner's, who guards it with crew's mutex.
type crew struct {
	gate  *gate
	slots chan struct{}
	most  time.Duration // after which one that failed is tried again, at the latest

	// begin is called with mu held when there is something to do of a thing. It gives
	// what does it, which is called without mu; and what notes how it went, with mu held,
	// which reports whether the thing is to be forgotten when nothing is to be done of it.
	begin func(key string) (try func(ctx context.Context) error, end func(err error) (forget bool))

	mu      sync.Mutex
	ctx     context.Context // of run; nil: not begun
	all     map[string]*worker
	busy    int // of all, those with something to do
	bad     int // of all, those that failed
	workers sync.WaitGroup
}

// worker is that of one thing. It is guarded by crew.mu.
type worker struct {
	key   string
	dirty bool  // there is something to do
	works bool  // a goroutine is at it
	err   error // of the last try
	retry backoff
	again *time.Timer
}

func newCrew(slots int, most time.Duration, reasons ...string) *crew {
	return &crew{gate: newGate(reasons...), slots: make(chan struct{}, slots), most: most, all: map[string]*worker{}}
}

// run lets the workers work until ctx ends, and waits for them.
func (c *crew) run(ctx context.Context) error {
	c.mu.Lock()
	c.ctx = ctx
	for _, w := range c.all {
		c.wake(w)
	}
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	for _, w := range c.all {
		if w.again != nil {
			w.again.Stop()
		}
	}
	c.mu.Unlock()
	c.workers.Wait()
	return nil
}

// disturbed has a thing looked at that the crew has; others it does not know.
func (c *crew) disturbed(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all[key] != nil {
		c.changed(key)
	}
}

// retryFailed has what failed tried again: what was wrong may have been mended.
func (c *crew) retryFailed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bad == 0 {
		return
	}
	for key, w := range c.all {
		if w.err != nil {
			c.changed(key)
		}
	}
}

// good reports whether all is as it is wanted.
func (c *crew) good() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.busy+c.bad == 0
}

// fine reports whether a thing is as it is wanted. c.mu is held, as by all that follow.
func (c *crew) fine(key string) bool {
	w := c.all[key]
	return w != nil && w.err == nil && !w.dirty && !w.works
}

// changed gives a thing's worker something to do, at once.
func (c *crew) changed(key string) {
	w := c.all[key]
	if w == nil {
		w = &worker{key: key, retry: backoff{min: time.Second, max: c.most}}
		c.all[key] = w
	}
	if !w.dirty && !w.works {
		c.busy++
	}
	w.dirty = true
	c.wake(w)
}

func (c *crew) wake(w *worker) {
	if w.again != nil {
		w.again.Stop()
		w.again = nil
	}
	if c.ctx == nil || c.ctx.Err() != nil || w.works || !w.dirty {
		return
	}
	w.works = true
	ctx := c.ctx
	c.workers.Go(func() { c.work(ctx, w) })
}

// work does what there is to do of a thing until it is done, or failed.
func (c *crew) work(ctx context.Context, w *worker) {
	for c.gate.wait(ctx) {
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		c.mu.Lock()
		try, end := c.begin(w.key)
		w.dirty = false
		c.mu.Unlock()
		err := try(ctx)
		<-c.slots
		if ctx.Err() != nil || c.done(w, err, end) {
			return
		}
	}
}

// done notes what came of a try, and reports whether the worker has nothing to do now.
func (c *crew) done(w *worker, err error, end func(error) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case w.err == nil && err != nil:
		c.bad++
	case w.err != nil && err == nil:
		c.bad--
	}
	w.err = err
	if err == nil {
		w.retry.reset()
	}
	idle := !w.dirty
	if idle {
		w.works = false
		c.busy--
	}
	forget := end(err)
	switch {
	case !idle:
		return false
	case err != nil:
		w.again = time.AfterFunc(w.retry.next(), func() { c.disturbed(w.key) })
	case forget:
		delete(c.all, w.key)
	}
	return true
}
