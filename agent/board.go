package agent

import (
	"context"
	"reflect"
	"slices"
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
	version  uint64
	written  uint64             // newest version that was sent in full
	cancel   context.CancelFunc // ends the poll in flight
	changed  chan struct{}      // closed and replaced at each change
	sent     chan struct{}      // closed and replaced when written grows
}

func newBoard(r api.Report) *board {
	return &board{
		report: r, version: 1, problems: map[string]string{},
		changed: make(chan struct{}), sent: make(chan struct{}),
	}
}

// update changes the report and, if it is another one now, ends the poll in
// flight. It returns the version that carries the change. f must not keep its
// argument, and replaces what is behind pointers rather than changing it.
func (b *board) update(f func(*api.Report)) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.report
	f(&b.report)
	b.bumpIfChanged(before)
	return b.version
}

func (b *board) bumpIfChanged(before api.Report) {
	if reflect.DeepEqual(before, b.report) {
		return
	}
	b.version++
	close(b.changed)
	b.changed = make(chan struct{})
	if b.cancel != nil {
		b.cancel()
	}
}

// problem sets what is wrong with one subject; an empty sentence means that
// nothing is any more.
func (b *board) problem(subject, sentence string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if sentence == "" {
		delete(b.problems, subject)
	} else {
		b.problems[subject] = sentence
	}
	before := b.report
	b.report.Problems = nil
	subjects := make([]string, 0, len(b.problems))
	for s := range b.problems {
		subjects = append(subjects, s)
	}
	slices.Sort(subjects)
	for _, s := range subjects {
		b.report.Problems = append(b.report.Problems, b.problems[s])
	}
	b.bumpIfChanged(before)
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
	return b.report, b.version
}

// peek is snapshot for those who only look.
func (b *board) peek() (api.Report, uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.report, b.version
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
