package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"iter"
)

// Get reads the JSON value of a key. A key that is not there gives an error that
// is ErrNotFound.
func Get[T any](tx Tx, key string) (T, error) {
	var v T
	b, err := tx.Get(key)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("decode %q: %w", key, err)
	}
	return v, nil
}

// Lookup is Get for a key that need not be there: found says whether it is.
func Lookup[T any](tx Tx, key string) (v T, found bool, err error) {
	v, err = Get[T](tx, key)
	if errors.Is(err, ErrNotFound) {
		return v, false, nil
	}
	return v, err == nil, err
}

// GetAll reads the JSON values of keys together, in their order. A key that is not
// there gives an error that is ErrNotFound.
func GetAll[T any](tx Tx, keys ...string) ([]T, error) {
	found, err := LookupAll[T](tx, keys...)
	if err != nil {
		return nil, err
	}
	out := make([]T, len(keys))
	for i, v := range found {
		if v == nil {
			return nil, fmt.Errorf("get %q: %w", keys[i], ErrNotFound)
		}
		out[i] = *v
	}
	return out, nil
}

// LookupAll is GetAll for keys that need not be there: those that are not have nil.
func LookupAll[T any](tx Tx, keys ...string) ([]*T, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	values, err := tx.GetAll(keys...)
	if err != nil {
		return nil, err
	}
	out := make([]*T, len(keys))
	for i, b := range values {
		if b == nil {
			continue
		}
		out[i] = new(T)
		if err := json.Unmarshal(b, out[i]); err != nil {
			return nil, fmt.Errorf("decode %q: %w", keys[i], err)
		}
	}
	return out, nil
}

// Has says whether a key is there.
func Has(tx Tx, key string) (bool, error) {
	_, err := tx.Get(key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// HasBelow says whether there is a key with a prefix.
func HasBelow(tx Tx, prefix string) (bool, error) {
	for _, err := range tx.Scan(prefix, "") {
		return err == nil, err
	}
	return false, nil
}

// Put writes a value as JSON.
func Put[T any](tx Tx, key string, v T) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %q: %w", key, err)
	}
	return tx.Put(key, b)
}

// Entry is a key and its decoded value.
type Entry[T any] struct {
	Key   string
	Value T
}

// Each ranges over the JSON values of all keys with a prefix, in key order.
func Each[T any](tx Tx, prefix string) iter.Seq2[Entry[T], error] {
	return EachBehind[T](tx, prefix, "")
}

// EachBehind is Each for the keys that are greater than after.
func EachBehind[T any](tx Tx, prefix, after string) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		for it, err := range tx.Scan(prefix, after) {
			e := Entry[T]{Key: it.Key}
			if err == nil {
				if err = json.Unmarshal(it.Value, &e.Value); err != nil {
					err = fmt.Errorf("decode %q: %w", it.Key, err)
				}
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Bounds of the batches that Through reads.
const (
	firstBatch = 16
	largeBatch = 1024
)

// Through ranges over the JSON values that an index leads to, in its order: key
// gives, for what Scan(prefix, after) finds, the key of the value. Each batch of
// values is read together, so that an index of n keys costs a scan and a few reads.
// What the loop writes to a value is not seen by the rest of its batch.
func Through[T any](tx Tx, prefix, after string, key func(Item) string) iter.Seq2[Entry[T], error] {
	return func(yield func(Entry[T], error) bool) {
		size := firstBatch
		var keys []string
		flush := func() bool {
			values, err := GetAll[T](tx, keys...)
			if err != nil {
				yield(Entry[T]{}, err)
				return false
			}
			for i, v := range values {
				if !yield(Entry[T]{Key: keys[i], Value: v}, nil) {
					return false
				}
			}
			keys, size = keys[:0], min(4*size, largeBatch)
			return true
		}
		for it, err := range tx.Scan(prefix, after) {
			if err != nil {
				yield(Entry[T]{}, err)
				return
			}
			if keys = append(keys, key(it)); len(keys) == size && !flush() {
				return
			}
		}
		if len(keys) > 0 {
			flush()
		}
	}
}

// Scan reads a page of the JSON values whose keys begin with prefix: at most limit
// of them (no limit when it is 0 or less), beginning behind the key prefix+after.
// next is what to pass as after for the page that follows; it is empty on the last.
func Scan[T any](tx Tx, prefix, after string, limit int) (items []T, next string, err error) {
	from, last := "", ""
	if after != "" {
		from = prefix + after
	}
	for it, err := range tx.Scan(prefix, from) {
		if err != nil {
			return nil, "", err
		}
		if limit > 0 && len(items) == limit {
			return items, last[len(prefix):], nil
		}
		var v T
		if err := json.Unmarshal(it.Value, &v); err != nil {
			return nil, "", fmt.Errorf("decode %q: %w", it.Key, err)
		}
		items, last = append(items, v), it.Key
	}
	return items, "", nil
}
