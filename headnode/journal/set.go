package journal

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	"nereid/headnode/store"
)

// Keys of this package; doc.go explains them.
const (
	runKey      = "journal/run"
	setPrefix   = "journal/set/"
	entryPrefix = "journal/entry/"
	gonePrefix  = "journal/gone/"
	keyPrefix   = "journal/key/"
)

// MinGone is how many tombstones of an ordinary set are remembered at least.
const MinGone = 1024

// maxPast is how many former epochs of a set are remembered.
const maxPast = 8

// NoEpoch is the epoch of a set that never had an entry. A follower that knows
// NoEpoch waits; a follower with an empty epoch is told at once that the set is
// empty.
const NoEpoch = "none"

// Set says which set is meant, and how long its tombstones are kept.
type Set struct {
	Name string // such as "vni/00012a": 1 to 200 of a-z, 0-9, '/', '-', '_' and '.'
	Keep bool   // tombstones stay until Acknowledge; the same at every call
}

var nameRE = regexp.MustCompile(`^[a-z0-9/_.-]{1,200}$`)

// maxKey is the length of the longest key of a set, in bytes: with the prefix and
// the set's name it is one of the store.
const maxKey = 512

// check says what is wrong with the name of a set.
func (s Set) check() error {
	if !nameRE.MatchString(s.Name) {
		return fmt.Errorf("set %.64q: want 1 to 200 of a-z, 0-9, '/', '-', '_' and '.'", s.Name)
	}
	return nil
}

func stateKey(set string) string       { return setPrefix + set }
func memberKey(set, key string) string { return keyPrefix + set + ":" + key }

// logKey is where the entry or tombstone of a key is.
func logKey(set string, e Entry) string {
	log := entryPrefix
	if e.Gone {
		log = gonePrefix
	}
	return fmt.Sprintf("%s%s:%016x/%s", log, set, e.Version, e.Key)
}

// State is what is known of a set as a whole.
type State struct {
	Epoch   string `json:"epoch"`
	Version uint64 `json:"version"`         // of the newest change
	Floor   uint64 `json:"floor,omitempty"` // of the newest tombstone that was forgotten
	Live    int    `json:"live"`            // keys with a value
	Gone    int    `json:"gone,omitempty"`  // tombstones that are remembered
	Run     string `json:"run,omitempty"`   // start of the head node that changed the set last
	Past    []Past `json:"past,omitempty"`  // former epochs, oldest first
}

// Past is a former epoch and its last version.
type Past struct {
	Epoch string `json:"epoch"`
	Last  uint64 `json:"last"`
}

// Entry is a key of a set with its value, or a tombstone with the value it had.
type Entry struct {
	Key     string
	Value   json.RawMessage
	Version uint64 // of the set when the entry was made
	Gone    bool   // a tombstone
}

// pointer says where the newest entry or tombstone of a key is.
type pointer struct {
	Version uint64 `json:"version"`
	Gone    bool   `json:"gone,omitempty"`
}

// Begin marks a start of the head node. It is to be called once per start, before
// anything changes a set: from then on the first change of each set begins a new
// epoch, which makes a restored backup safe.
func Begin(tx store.Tx) error {
	if err := store.Put(tx, runKey, newEpoch()); err != nil {
		return fmt.Errorf("begin a run of the journal: %w", err)
	}
	return nil
}

// newEpoch is 16 random hexadecimal digits.
func newEpoch() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b)
}

// ReadState gives the state of a set; found is false, and the epoch NoEpoch, when
// the set never had an entry.
func ReadState(tx store.Tx, set string) (s State, found bool, err error) {
	s, found, err = store.Lookup[State](tx, stateKey(set))
	if err != nil {
		return s, false, fmt.Errorf("read state of set %s: %w", set, err)
	}
	if !found {
		s.Epoch = NoEpoch
	}
	return s, found, nil
}

// ReadStates gives the states of sets in their order, as ReadState does, read together.
func ReadStates(tx store.Tx, sets ...string) ([]State, error) {
	keys := make([]string, len(sets))
	for i, set := range sets {
		keys[i] = stateKey(set)
	}
	found, err := store.LookupAll[State](tx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read states of sets: %w", err)
	}
	out := make([]State, len(sets))
	for i, s := range found {
		if out[i].Epoch = NoEpoch; s != nil {
			out[i] = *s
		}
	}
	return out, nil
}

// enter makes the state one that this run of the head node may change.
func (s *State) enter(run string) {
	if s.Epoch != "" && s.Run == run {
		return
	}
	if s.Epoch != "" {
		s.Past = append(slices.Clone(s.Past), Past{s.Epoch, s.Version})
		s.Past = s.Past[max(0, len(s.Past)-maxPast):]
	}
	s.Epoch, s.Run = newEpoch(), run
}

// knows says whether a delta takes a follower to where the state is now: whether
// the follower has what the set had at the version it names.
func (s *State) knows(f Follow) bool {
	saw := max(f.Since, f.Toward)
	// In the middle of a snapshot, only what went since it was begun is missed.
	from := f.Since
	if f.Full {
		from = f.Toward
	}
	if from < s.Floor || saw > s.Version {
		return false
	}
	if f.Epoch == s.Epoch {
		return true
	}
	i := slices.IndexFunc(s.Past, func(p Past) bool { return p.Epoch == f.Epoch })
	return i >= 0 && saw <= s.Past[i].Last
}

// maxGone is how many tombstones an ordinary set is to remember.
func (s *State) maxGone() int { return max(MinGone, s.Live) }
