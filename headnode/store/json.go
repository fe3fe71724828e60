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

// Has says whether a key is there.
func Has(tx Tx, key string) (bool, error) {
	_, err := tx.Get(key)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
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
	return func(yield func(Entry[T], error) bool) {
		for it, err := range tx.Scan(prefix, "") {
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
