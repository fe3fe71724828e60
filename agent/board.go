package agent

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"nereid/api"
)

// board is the report as it stands. The reconciler writes it, the syncer sends
// it. Each change has a version, so that the reconciler can wait until the head
// node was told.
type board struct {
	mu       sync.Mutex
	report   api.Report
	problems map[string]string // by who reported it
	stale    bool              // the report's are others
	version  uint64
	written  uint64             // newest version that was sent in full
	cancel   context.CancelFunc // ends the poll in flight
	changed  chan struct{}      // closed and replaced at each change
	sent     chan struct{}      // closed and replaced when written grows
}

// aboutNIC begins the subjects that are instances' NICs. Of many that are wrong, so many
// are named.
const (
	aboutNIC = "nic "
	maxNICs  = 20
)

func newBoard(r api.Report) *board {
	return &board{
		report: r, version: 1, problems: map[string]string{},
		changed: make(chan struct{}), sent: make(chan struct{}),
	}
}

// update changes the report and, if f says that it is another one now, ends the poll in
// flight. It returns the version that carries the change. f must not keep its
// argument, and replaces what is behind pointers rather than changing it.
func (b *board) update(f func(*api.Report) (changed bool)) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f(&b.report) {
		b.bump()
	}
	return b.version
}

// put sets a field of the report, and says whether it was another before.
func put[T any](field *T, v T) (changed bool) {
	if reflect.DeepEqual(*field, v) {
		return false
	}
	*field = v
	return true
}

// bump tells everybody that the report is another one now.
func (b *board) bump() {
	b.version++
	close(b.changed)
	b.changed = make(chan struct{})
	if b.cancel != nil {
		b.cancel()
	}
}

// problem sets what is wrong with one subject; an empty sentence means that
// nothing is any more. It costs the same however much else is wrong.
func (b *board) problem(subject, sentence string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.problems[subject] == sentence {
		return
	}
	if sentence == "" {
		delete(b.problems, subject)
	} else {
		b.problems[subject] = sentence
	}
	b.stale = true
	b.bump()
}

// whole is the report with what is wrong in it, in a fixed order. b.mu is held.
func (b *board) whole() api.Report {
	if !b.stale {
		return b.report
	}
	b.stale, b.report.Problems = false, nil
	nics := 0
	for _, subject := range slices.Sorted(maps.Keys(b.problems)) {
		if strings.HasPrefix(subject, aboutNIC) {
			if nics++; nics > maxNICs {
				continue
			}
		}
		b.report.Problems = append(b.report.Problems, b.problems[subject])
	}
	if more := nics - maxNICs; more > 0 {
		b.report.Problems = append(b.report.Problems,
			"Not as the head node wants them are, besides those that are named, "+api.Plural(more, "NIC")+" of instances.")
	}
	return b.report
}

// nudge ends the poll in flight: there is something to tell that is not in the report.
func (b *board) nudge() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cancel != nil {
		b.cancel()
	}
}

// snapshot returns the report and its version. cancel is called at the first
// change after it; nil for none.
func (b *board) snapshot(cancel context.CancelFunc) (api.Report, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cancel = cancel
	return b.whole(), b.version
}

// peek is snapshot for those who only look.
func (b *board) peek() (api.Report, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole(), b.version
}

// newer is closed when the report is newer than the version.
func (b *board) newer(version uint64) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.version > version {
		done := make(chan struct{})
		close(done)
		return done
	}
	return b.changed
}

// markWritten says that the version has left for the head node.
func (b *board) markWritten(version uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if version > b.written {
		b.written = version
		close(b.sent)
		b.sent = make(chan struct{})
	}
}

// wasWritten says whether the version has left for the head node.
func (b *board) wasWritten(version uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.written >= version
}

// waitWritten waits until the version has left; false when ctx ended first.
func (b *board) waitWritten(ctx context.Context, version uint64) bool {
	for {
		b.mu.Lock()
		ok, ch := b.written >= version, b.sent
		b.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-ch:
		case <-ctx.Done():
			return false
		}
	}
}
