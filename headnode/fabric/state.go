package fabric

import (
	"fmt"
	"slices"

	"nereid/headnode/store"
)

// MinGone is how many deletions of a VNI are remembered at least; a VNI with more
// live addresses remembers as many as it has of them.
const MinGone = 1024

// maxPast is how many former epochs of a VNI are remembered.
const maxPast = 8

// noEpoch is the epoch of a VNI whose map never had an entry. A follower that
// knows it waits; one with an empty epoch is told at once that the map is empty.
const noEpoch = "none"

// state is what is known of a VNI's map as a whole.
type state struct {
	Epoch   string `json:"epoch"`
	Version uint64 `json:"version"`         // of the newest change
	Floor   uint64 `json:"floor,omitempty"` // of the newest deletion that is forgotten
	Live    int    `json:"live"`
	Gone    int    `json:"gone,omitempty"` // deletions that are remembered
	Seq     uint64 `json:"seq"`            // its place in the list of changed VNIs
	Run     string `json:"run,omitempty"`  // start of the head node that changed it last
	Past    []past `json:"past,omitempty"` // former epochs, oldest first
}

// past is a former epoch and its last version.
type past struct {
	Epoch string `json:"epoch"`
	Last  uint64 `json:"last"`
}

// Begin marks a start of the head node. It is to be called once per start, before
// anything changes a map: from then on each VNI's first change begins a new epoch,
// which is what makes a restored backup safe.
func Begin(tx store.Tx) error {
	if err := store.Put(tx, runKey, NewRevision()); err != nil {
		return fmt.Errorf("begin a run of the maps: %w", err)
	}
	return nil
}

// readState reads the state of a VNI's map; the zero value when it never had an
// entry.
func readState(tx store.Tx, vni uint32) (s state, found bool, err error) {
	return store.Lookup[state](tx, VersionKey(vni))
}

// Version gives epoch and version of a VNI's map.
func Version(tx store.Tx, vni uint32) (epoch string, version uint64, err error) {
	s, found, err := readState(tx, vni)
	if err != nil {
		return "", 0, fmt.Errorf("read version of VNI %d: %w", vni, err)
	}
	if !found {
		return noEpoch, 0, nil
	}
	return s.Epoch, s.Version, nil
}

// enter makes the state one that this run of the head node may change.
func (s *state) enter(run string) {
	if s.Epoch != "" && s.Run == run {
		return
	}
	if s.Epoch != "" {
		s.Past = append(slices.Clone(s.Past), past{s.Epoch, s.Version})
		s.Past = s.Past[max(0, len(s.Past)-maxPast):]
	}
	s.Epoch, s.Run = NewRevision(), run
}

// knows says whether a follower at a version of an epoch has what this state had
// then, so that a delta takes it to where the state is now.
func (s *state) knows(epoch string, since uint64) bool {
	if since < s.Floor || since > s.Version {
		return false
	}
	if epoch == s.Epoch {
		return true
	}
	i := slices.IndexFunc(s.Past, func(p past) bool { return p.Epoch == epoch })
	return i >= 0 && since <= s.Past[i].Last
}

// maxGone is how many deletions are to be remembered.
func (s *state) maxGone() int { return max(MinGone, s.Live) }
