package store

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"

	bolt "go.etcd.io/bbolt"
)

// tx is a transaction: a bbolt bucket, and above it the writes of this Update,
// which reach the bucket only when its function has returned without error.
type tx struct {
	ctx    context.Context
	base   *bolt.Bucket
	writes map[string]write // nil in a View
	keys   []string         // of writes, in order
	done   bool
}

// write is a value, or its deletion.
type write struct {
	value   []byte
	deleted bool
}

// call runs fn; the transaction ends with it, also when it panics.
func (t *tx) call(fn func(Tx) error) error {
	defer t.end()
	return fn(t)
}

func (t *tx) end() { t.done = true }

// Get returns a copy of the value.
func (t *tx) Get(key string) ([]byte, error) {
	if t.done {
		return nil, fmt.Errorf("get %q: %w", key, ErrTxDone)
	}
	v := t.value(key)
	if v == nil {
		return nil, fmt.Errorf("get %q: %w", key, ErrNotFound)
	}
	return v, nil
}

// GetAll returns copies of the values.
func (t *tx) GetAll(keys ...string) ([][]byte, error) {
	if t.done {
		return nil, fmt.Errorf("get keys: %w", ErrTxDone)
	}
	values := make([][]byte, len(keys))
	for i, key := range keys {
		if err := t.ctx.Err(); i%64 == 63 && err != nil {
			return nil, fmt.Errorf("get keys: %w", err)
		}
		values[i] = t.value(key)
	}
	return values, nil
}

// value is a copy of a key's value; nil: it is not there.
func (t *tx) value(key string) []byte {
	if w, ok := t.writes[key]; ok {
		if w.deleted {
			return nil
		}
		return clone(w.value)
	}
	v := t.base.Get([]byte(key))
	if v == nil {
		return nil
	}
	return clone(v)
}

// clone copies a value; one that is there is never nil.
func clone(v []byte) []byte { return append(make([]byte, 0, len(v)), v...) }

// writable checks that key can be written now.
func (t *tx) writable(key string) error {
	switch {
	case t.done:
		return ErrTxDone
	case t.writes == nil:
		return ErrReadOnly
	case key == "":
		return fmt.Errorf("empty key")
	case len(key) > MaxKey:
		return fmt.Errorf("key of %d bytes: at most %d are allowed", len(key), MaxKey)
	}
	return nil
}

// Put keeps a copy of the value until the Update ends.
func (t *tx) Put(key string, value []byte) error {
	if err := t.writable(key); err != nil {
		return fmt.Errorf("put %.64q: %w", key, err)
	}
	if len(value) > MaxValue {
		return fmt.Errorf("put %q: value of %d bytes: at most %d are allowed", key, len(value), MaxValue)
	}
	t.write(key, write{value: clone(value)})
	return nil
}

// Delete notes that the key is to go.
func (t *tx) Delete(key string) error {
	if err := t.writable(key); err != nil {
		return fmt.Errorf("delete %.64q: %w", key, err)
	}
	t.write(key, write{deleted: true})
	return nil
}

func (t *tx) write(key string, w write) {
	if _, again := t.writes[key]; !again {
		i, _ := slices.BinarySearch(t.keys, key)
		t.keys = slices.Insert(t.keys, i, key)
	}
	t.writes[key] = w
}

// own is a write of this Update, as it was when a Scan began.
type own struct {
	key string
	write
}

// overlay copies the writes a Scan is to see above the bucket.
func (t *tx) overlay(prefix, after string) []own {
	var ws []own
	i, _ := slices.BinarySearch(t.keys, max(prefix, after))
	for _, k := range t.keys[i:] {
		if !strings.HasPrefix(k, prefix) {
			break
		}
		if k > after {
			ws = append(ws, own{k, t.writes[k]})
		}
	}
	return ws
}

// Scan merges the bucket, which does not change while the function runs, with
// this Update's own writes.
func (t *tx) Scan(prefix, after string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		if t.done {
			yield(Item{}, fmt.Errorf("scan %q: %w", prefix, ErrTxDone))
			return
		}
		ws := t.overlay(prefix, after)
		c := t.base.Cursor()
		k, v := c.Seek([]byte(max(prefix, after)))
		if k != nil && string(k) == after {
			k, v = c.Next()
		}
		for n := 0; ; n++ {
			if t.done {
				yield(Item{}, fmt.Errorf("scan %q: %w", prefix, ErrTxDone))
				return
			}
			if err := t.ctx.Err(); n%64 == 63 && err != nil {
				yield(Item{}, fmt.Errorf("scan %q: %w", prefix, err))
				return
			}
			inBase := k != nil && bytes.HasPrefix(k, []byte(prefix))
			var it Item
			switch {
			case len(ws) > 0 && (!inBase || ws[0].key <= string(k)):
				w := ws[0]
				ws = ws[1:]
				if inBase && w.key == string(k) {
					k, v = c.Next()
				}
				if w.deleted {
					continue
				}
				it = Item{w.key, clone(w.value)}
			case inBase:
				it = Item{string(k), clone(v)}
				k, v = c.Next()
			default:
				return
			}
			if !yield(it, nil) {
				return
			}
		}
	}
}
