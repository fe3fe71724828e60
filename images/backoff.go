package images

import (
	"context"
	"math/rand/v2"
	"time"
)

// Backoff gives growing delays: Min, 2 Min, 4 Min ... up to Max, each shortened
// at random by up to a quarter, so that a rack of servers does not ask in step.
// The zero value goes from 1 s to 60 s.
type Backoff struct {
	Min, Max time.Duration
	Rand     func() float64 // in [0, 1); nil: math/rand

	n int
}

// Next returns the next delay.
func (b *Backoff) Next() time.Duration {
	lo, hi := b.Min, b.Max
	if lo <= 0 {
		lo = time.Second
	}
	if hi <= 0 {
		hi = time.Minute
	}
	d := hi
	if b.n < 32 && lo<<b.n > 0 && lo<<b.n < hi {
		d = lo << b.n
	}
	b.n++
	r := b.Rand
	if r == nil {
		r = rand.Float64
	}
	return d - time.Duration(r()*float64(d)/4)
}

// Reset starts again at Min.
func (b *Backoff) Reset() { b.n = 0 }

// sleep waits for d or the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
