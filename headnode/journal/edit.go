package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"nereid/headnode/store"
)

// Editor changes one set within a transaction.
type Editor struct {
	tx    store.Tx
	set   Set
	state State
}

// Edit opens a set, lets fn change it, and writes what follows from the changes.
// It returns the version of the set after them.
func Edit(tx store.Tx, set Set, fn func(*Editor) error) (version uint64, err error) {
	if version, err = edit(tx, set, fn); err != nil {
		return 0, fmt.Errorf("edit set %.200s: %w", set.Name, err)
	}
	return version, nil
}

func edit(tx store.Tx, set Set, fn func(*Editor) error) (uint64, error) {
	if err := set.check(); err != nil {
		return 0, err
	}
	run, _, err := store.Lookup[string](tx, runKey)
	if err != nil {
		return 0, err
	}
	s, _, err := store.Lookup[State](tx, stateKey(set.Name))
	if err != nil {
		return 0, err
	}
	e := &Editor{tx: tx, set: set, state: s}
	from := s.Version
	e.state.enter(run)
	if err := fn(e); err != nil {
		return 0, err
	}
	if e.state.Version == from {
		return from, nil // the state is not written: a new epoch begins with a change
	}
	if !set.Keep {
		if err := e.forget(e.state.Gone-e.state.maxGone(), e.state.Version); err != nil {
			return 0, err
		}
	}
	return e.state.Version, store.Put(tx, stateKey(set.Name), e.state)
}

// Put makes value the value of a key. A key that has the value already is no
// change. It returns the version of the set after it.
func Put(tx store.Tx, set Set, key string, value []byte) (version uint64, err error) {
	return Edit(tx, set, func(e *Editor) error { return e.Put(key, value) })
}

// Delete leaves a tombstone in place of a key's value. A key without a value is no
// change. It returns the version of the set after it.
func Delete(tx store.Tx, set Set, key string) (version uint64, err error) {
	return Edit(tx, set, func(e *Editor) error { return e.Delete(key) })
}

// Get reads the value of a key as the changes before left it; nil when the key has
// none.
func (e *Editor) Get(key string) (json.RawMessage, error) {
	old, _, err := find(e.tx, e.set.Name, key)
	if err != nil || old.Gone {
		return nil, err
	}
	return old.Value, nil
}

// Put makes value, which is JSON, the value of a key.
func (e *Editor) Put(key string, value []byte) error {
	if key == "" || len(key) > maxKey {
		return fmt.Errorf("put key of %d bytes: want 1 to %d", len(key), maxKey)
	}
	old, found, err := find(e.tx, e.set.Name, key)
	if err != nil {
		return err
	}
	if found && !old.Gone && bytes.Equal(old.Value, value) {
		return nil
	}
	if err := e.unlink(old, found); err != nil {
		return err
	}
	e.state.Version++
	e.state.Live++
	return e.write(Entry{Key: key, Value: value, Version: e.state.Version})
}

// Delete leaves a tombstone in place of a key's value.
func (e *Editor) Delete(key string) error {
	old, found, err := find(e.tx, e.set.Name, key)
	if err != nil || !found || old.Gone {
		return err
	}
	if err := e.unlink(old, found); err != nil {
		return err
	}
	e.state.Version++
	e.state.Gone++
	return e.write(Entry{Key: key, Value: old.Value, Version: e.state.Version, Gone: true})
}

// write puts an entry or a tombstone into the log.
func (e *Editor) write(n Entry) error {
	if err := e.tx.Put(logKey(e.set.Name, n), n.Value); err != nil {
		return err
	}
	return store.Put(e.tx, memberKey(e.set.Name, n.Key), pointer{Version: n.Version, Gone: n.Gone})
}

// unlink removes what find found from the log; another entry takes its place.
func (e *Editor) unlink(old Entry, found bool) error {
	switch {
	case !found:
		return nil
	case old.Gone:
		e.state.Gone--
	default:
		e.state.Live--
	}
	return e.tx.Delete(logKey(e.set.Name, old))
}

// forget drops the oldest tombstones: at most n, and none of a version behind
// last. An ordinary edit with m deletions drops 2m at most: each is one tombstone
// more, and one live key less.
func (e *Editor) forget(n int, last uint64) error {
	if n <= 0 {
		return nil
	}
	for t, err := range behind(e.tx, gonePrefix, e.set.Name, 0) {
		if err != nil {
			return err
		}
		if n == 0 || t.Version > last {
			return nil
		}
		n--
		if err := dropOne(e.tx, e.set.Name, t); err != nil {
			return err
		}
		e.state.Gone--
		e.state.Floor = t.Version
	}
	return nil
}

// dropOne drops an entry or a tombstone.
func dropOne(tx store.Tx, set string, t Entry) error {
	if err := tx.Delete(memberKey(set, t.Key)); err != nil {
		return err
	}
	return tx.Delete(logKey(set, t))
}

// Acknowledge forgets the tombstones of a kept set that a follower has: it is at
// version since of the set's present epoch, or of a former one that is known. It
// writes nothing when there are none.
func Acknowledge(tx store.Tx, set Set, f Follow) error {
	if err := acknowledge(tx, set, f); err != nil {
		return fmt.Errorf("acknowledge set %s: %w", set.Name, err)
	}
	return nil
}

func acknowledge(tx store.Tx, set Set, f Follow) error {
	s, found, err := store.Lookup[State](tx, stateKey(set.Name))
	if err != nil || !found || s.Gone == 0 || f.Toward != 0 || !s.knows(f) {
		return err
	}
	e := &Editor{tx: tx, set: set, state: s}
	if err := e.forget(s.Gone, f.Since); err != nil {
		return err
	}
	if e.state.Gone == s.Gone {
		return nil
	}
	return store.Put(tx, stateKey(set.Name), e.state)
}

// Acknowledges says whether Acknowledge would forget anything.
func Acknowledges(tx store.Tx, set Set, f Follow) (bool, error) {
	s, found, err := ReadState(tx, set.Name)
	if err != nil || !found || s.Gone == 0 || f.Toward != 0 || !s.knows(f) {
		return false, err
	}
	for t, err := range Gone(tx, set.Name) {
		return err == nil && t.Version <= f.Since, err
	}
	return false, nil
}

// ErrNotEmpty is the error of Drop for a set that has live keys.
var ErrNotEmpty = errors.New("the set has entries")

// Drop removes all that is left of a set without live keys: its tombstones, its
// versions and its epochs. A set that never was is no error.
func Drop(tx store.Tx, set string) error {
	if err := drop(tx, set); err != nil {
		return fmt.Errorf("drop set %s: %w", set, err)
	}
	return nil
}

func drop(tx store.Tx, set string) error {
	s, found, err := store.Lookup[State](tx, stateKey(set))
	if err != nil || !found {
		return err
	}
	if s.Live > 0 {
		return fmt.Errorf("%d: %w", s.Live, ErrNotEmpty)
	}
	return clearSet(tx, set, gonePrefix)
}

// Clear is Drop for a set with live keys or without: an ordinary one, that nobody wants
// any more. Who follows it is told that it is empty.
func Clear(tx store.Tx, set string) error {
	if err := clearSet(tx, set, entryPrefix, gonePrefix); err != nil {
		return fmt.Errorf("clear set %s: %w", set, err)
	}
	return nil
}

// clearSet removes the state of a set and what is in its logs.
func clearSet(tx store.Tx, set string, logs ...string) error {
	for _, log := range logs {
		for e, err := range behind(tx, log, set, 0) {
			if err == nil {
				err = dropOne(tx, set, e)
			}
			if err != nil {
				return err
			}
		}
	}
	return tx.Delete(stateKey(set))
}

// Adopt makes a set what a log of another form was: with its epochs and the
// versions of its entries, so that followers notice nothing. Entries are in the
// order of their versions. The set must not be there yet.
func Adopt(tx store.Tx, set Set, s State, entries []Entry) error {
	err := set.check()
	if err == nil {
		var found bool
		if _, found, err = store.Lookup[State](tx, stateKey(set.Name)); err == nil && found {
			err = errors.New("it is there already")
		}
	}
	s.Live, s.Gone = 0, 0
	e := &Editor{tx: tx, set: set}
	for _, n := range entries {
		if err != nil {
			break
		}
		if n.Gone {
			s.Gone++
		} else {
			s.Live++
		}
		err = e.write(n)
	}
	if err == nil {
		err = store.Put(tx, stateKey(set.Name), s)
	}
	if err != nil {
		return fmt.Errorf("adopt set %s: %w", set.Name, err)
	}
	return nil
}

// find reads the newest entry or tombstone of a key.
func find(tx store.Tx, set, key string) (e Entry, found bool, err error) {
	p, found, err := store.Lookup[pointer](tx, memberKey(set, key))
	if err != nil || !found {
		return e, false, err
	}
	e = Entry{Key: key, Version: p.Version, Gone: p.Gone}
	e.Value, err = tx.Get(logKey(set, e))
	return e, err == nil, err
}
