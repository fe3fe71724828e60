package store

import (
	"context"
	"errors"
	"iter"
)

// Errors of every backend, to be tested with errors.Is.
var (
	ErrNotFound = errors.New("not found")          // Get of a key that is not there
	ErrClosed   = errors.New("store is closed")    // any use after Close
	ErrReadOnly = errors.New("read-only")          // Put or Delete in a View
	ErrTxDone   = errors.New("transaction ended")  // use of a Tx after its function returned
	ErrNoSpace  = errors.New("no space on disk")   // an Update that did not fit; nothing of it is kept
	ErrLocked   = errors.New("in use")             // another process has the store open
	ErrCorrupt  = errors.New("file is damaged")    // the file is truncated, or not a store
	ErrBroken   = errors.New("storage is failing") // a write to disk failed; no more Updates until a restart
)

// A Store keeps keys and values, in transactions.
type Store interface {
	// View runs fn on a consistent snapshot. It never waits for an Update.
	View(ctx context.Context, fn func(Tx) error) error

	// Update runs fn in a transaction that sees every earlier Update. When fn
	// returns nil the writes are made, all or none, and Update returns once they
	// are on disk. When fn returns an error or panics, or ctx ends before fn
	// returned, nothing is written. fn may run more than once.
	//
	// Once fn has returned, the end of ctx no longer interrupts: the outcome is
	// always known.
	Update(ctx context.Context, fn func(Tx) error) error

	// Watch returns a channel that receives after every Update which wrote or
	// deleted a key with the prefix. The channel holds one value, so that changes
	// a slow reader missed become one. It is closed when ctx ends or the store is
	// closed. What was changed before Watch returned is not told: watch, then read.
	Watch(ctx context.Context, prefix string) <-chan struct{}

	// Feed tells which keys with the prefix Updates wrote or deleted. Its channel
	// is closed when ctx ends or the store is closed. As with Watch, what was
	// changed before Feed returned is not told.
	Feed(ctx context.Context, prefix string) *Feed

	// Close waits for transactions to end and closes the store.
	Close() error
}

// A Tx is a transaction. It must not be used by two goroutines at once, nor after
// the function it was given to has returned. Values it returns are the caller's
// to keep and change.
type Tx interface {
	// Get returns the value of a key, or an error that is ErrNotFound.
	Get(key string) ([]byte, error)

	// GetAll returns the values of keys in their order, read together: over a
	// network it costs what one Get costs. A key that is not there has nil, and
	// the value of one that is there is not nil. A key may be named twice.
	GetAll(keys ...string) ([][]byte, error)

	// Put sets the value of a key. Keys have 1 to MaxKey bytes.
	Put(key string, value []byte) error

	// Delete removes a key. A key that is not there is no error.
	Delete(key string) error

	// Scan ranges over the keys that begin with prefix and are greater than
	// after, in the order of their bytes, as they were when the range began:
	// writes inside the loop are allowed and not seen by it. After an error the
	// range ends.
	Scan(prefix, after string) iter.Seq2[Item, error]
}

// Item is a key and its value.
type Item struct {
	Key   string
	Value []byte
}

// MaxKey is the length of the longest key, in bytes.
const MaxKey = 1024

// MaxValue is the size of the largest value, in bytes.
const MaxValue = 16 << 20
