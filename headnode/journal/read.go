package journal

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	"nereid/headnode/store"
)

// Follow is what a follower knows of a set. It is zero for a follower that knows
// nothing; Take brings it up to date.
type Follow struct {
	Epoch  string // of the last Delta
	Since  uint64 // Version of the last Delta
	Toward uint64 // Toward of the last Delta
	Full   bool   // the last Delta was a part of a snapshot, and not its last one
}

// Take is what a follower knows once it has taken in a Delta.
func (f Follow) Take(d Delta) Follow {
	return Follow{Epoch: d.Epoch, Since: d.Version, Toward: d.Toward, Full: d.Toward != 0 && (d.Full || f.Full)}
}

// Delta is what a follower lacks of a set, by version; Entries come oldest first.
type Delta struct {
	Set     string
	Epoch   string
	Version uint64  // what the follower has after it, and passes as Since next time
	Toward  uint64  // of a part: the version of the set it was cut from; 0 when nothing was cut
	Full    bool    // a snapshot begins: what is not in it, up to its last part, is not in the set
	Entries []Entry // at most one of each key
}

// News says whether a Delta tells its follower anything.
func (d Delta) News() bool { return d.Full || d.Toward != 0 || len(d.Entries) > 0 }

// overhead is what an entry costs in an answer besides its key and value, in bytes.
const overhead = 32

// Changes is what a follower lacks: the changes since its version, or the whole
// set when those are not known any more or the follower was never there. A Delta
// without News says that there are none.
//
// The entries of the answer have at most limit bytes (0: no limit), or else there
// is one entry only; Toward then says that the next part is to be asked for. A
// snapshot of a kept set carries its tombstones.
func Changes(tx store.Tx, set Set, f Follow, limit int) (Delta, error) {
	s, found, err := ReadState(tx, set.Name)
	if err != nil {
		return Delta{}, err
	}
	d := Delta{Set: set.Name, Epoch: s.Epoch, Version: s.Version}
	if !found {
		d.Full = f.Epoch != NoEpoch || f.Since != 0
		return d, nil
	}
	if f.current(s) {
		return d, nil
	}
	since := f.Since
	if d.Full = !s.knows(f); d.Full {
		since = 0
	}
	logs := []string{entryPrefix, gonePrefix}
	if d.Full && !set.Keep {
		logs = logs[:1]
	}
	size := 0
	for e, err := range merged(tx, set.Name, since, logs) {
		if err != nil {
			return Delta{}, fmt.Errorf("read set %s: %w", set.Name, err)
		}
		size += len(e.Key) + len(e.Value) + overhead
		if limit > 0 && size > limit && len(d.Entries) > 0 {
			d.Version, d.Toward = d.Entries[len(d.Entries)-1].Version, s.Version
			break
		}
		d.Entries = append(d.Entries, e)
	}
	return d, nil
}

// Current says whether a follower has all of a set. It costs one read.
func Current(tx store.Tx, set string, f Follow) (bool, error) {
	s, _, err := ReadState(tx, set)
	return err == nil && f.current(s), err
}

// current says whether a follower has all that there is at a state.
func (f Follow) current(s State) bool {
	return f.Epoch == s.Epoch && f.Since == s.Version && f.Toward == 0
}

// Get reads the value of a key and the version it was set at; found is false when
// the key has no value.
func Get(tx store.Tx, set, key string) (e Entry, found bool, err error) {
	e, found, err = find(tx, set, key)
	if err != nil {
		return e, false, fmt.Errorf("read %s of set %s: %w", key, set, err)
	}
	return e, found && !e.Gone, nil
}

// IsGone says whether a set has a tombstone for a key.
func IsGone(tx store.Tx, set, key string) (bool, error) {
	p, found, err := store.Lookup[pointer](tx, memberKey(set, key))
	if err != nil {
		return false, fmt.Errorf("read %s of set %s: %w", key, set, err)
	}
	return found && p.Gone, nil
}

// Live ranges over the keys of a set that have a value, oldest change first.
func Live(tx store.Tx, set string) iter.Seq2[Entry, error] { return behind(tx, entryPrefix, set, 0) }

// Gone ranges over the tombstones of a set, oldest first.
func Gone(tx store.Tx, set string) iter.Seq2[Entry, error] { return behind(tx, gonePrefix, set, 0) }

// behind ranges over the entries of a log with a greater version.
func behind(tx store.Tx, log, set string, since uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		prefix := log + set + ":"
		// '0' comes after the '/' that ends a version.
		for it, err := range tx.Scan(prefix, fmt.Sprintf("%s%016x0", prefix, since)) {
			var e Entry
			if err == nil {
				e, err = entryAt(it, prefix)
				e.Gone = log == gonePrefix
			}
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// entryAt is the entry that a key of a log with its value is.
func entryAt(it store.Item, prefix string) (Entry, error) {
	version, key, _ := strings.Cut(it.Key[len(prefix):], "/")
	v, err := strconv.ParseUint(version, 16, 64)
	if err != nil {
		return Entry{}, fmt.Errorf("key %q: %w", it.Key, err)
	}
	return Entry{Key: key, Value: it.Value, Version: v}, nil
}

// merged ranges over the entries of some logs with a greater version, by version.
func merged(tx store.Tx, set string, since uint64, logs []string) iter.Seq2[Entry, error] {
	if len(logs) == 1 {
		return behind(tx, logs[0], set, since)
	}
	return func(yield func(Entry, error) bool) {
		next, stop := iter.Pull2(behind(tx, logs[1], set, since))
		defer stop()
		other, err, more := next()
		for e, eerr := range behind(tx, logs[0], set, since) {
			for ; more && err == nil && (eerr != nil || other.Version < e.Version); other, err, more = next() {
				if !yield(other, nil) {
					return
				}
			}
			if err != nil {
				yield(Entry{}, err)
				return
			}
			if !yield(e, eerr) || eerr != nil {
				return
			}
		}
		for ; more; other, err, more = next() {
			if !yield(other, err) || err != nil {
				return
			}
		}
	}
}
