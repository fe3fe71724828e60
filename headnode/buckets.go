package headnode

import (
	"sync"
	"time"
)

// A boot may report so many events at once, and so many a second from then on. The
// stub reports fewer than ten in all.
const (
	reportsPerSecond = 10
	reportBurst      = 30
)

// maxBuckets bounds how many boots are counted at once.
const maxBuckets = 4096

// buckets says how many events each boot may still report: one token bucket a boot.
// A bucket that is full again is as good as none, and is forgotten.
type buckets struct {
	mu   sync.Mutex
	left map[string]bucket
}

type bucket struct {
	tokens float64
	at     time.Time
}

// fill is what is in a bucket now.
func (b bucket) fill(now time.Time) float64 {
	return min(reportBurst, b.tokens+max(0, now.Sub(b.at).Seconds())*reportsPerSecond)
}

// take says whether one more event of the boot is taken.
func (l *buckets) take(boot string, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, there := l.left[boot]
	if !there {
		if len(l.left) >= maxBuckets {
			l.sweep(now)
		}
		if l.left == nil {
			l.left = map[string]bucket{}
		}
		b = bucket{tokens: reportBurst, at: now}
	}
	b.tokens, b.at = b.fill(now), now
	ok := b.tokens >= 1
	if ok {
		b.tokens--
	}
	l.left[boot] = b
	return ok
}

// sweep forgets full buckets, and all where none is: they fill in three seconds.
func (l *buckets) sweep(now time.Time) {
	for boot, b := range l.left {
		if b.fill(now) >= reportBurst {
			delete(l.left, boot)
		}
	}
	if len(l.left) >= maxBuckets {
		clear(l.left)
	}
}
