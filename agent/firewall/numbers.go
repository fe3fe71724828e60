package firewall

import (
	"fmt"
	"hash/fnv"
	"slices"
)

// numbers gives names to things by which the elements of sets refer to each other.
// What stays keeps its number, so that a small change of the input is a small
// change of the elements. A number is not given out again: a packet that is being
// judged while a change is made may still carry it.
type numbers struct {
	next       uint32
	generation uint32              // changes with everything that can change a verdict; never 0
	groups     map[groupKey]uint32 // by each of its ports
	patterns   map[string]uint32
	behaviours map[string]uint32    // by content
	used       map[[2]uint32]uint32 // group and pattern to behaviour
	logs       map[logKey]uint32
	zones      map[string]uint16 // by bridge
}

// Outcomes that are always there; those of rules that log have greater numbers.
const (
	outcomeAllow uint32 = iota + 1
	outcomeBlockIn
	outcomeBlockOut
	firstNumber = 16
)

type groupKey struct {
	direction direction
	port      [6]byte
}

type logKey struct {
	rule      string
	direction direction
	allow     bool
}

func (l logKey) String() string {
	return fmt.Sprintf("%s_%s_%s", l.direction, map[bool]string{true: "allow", false: "block"}[l.allow], l.rule)
}

// newNumbers begins anew. The generation is one that no connection carries yet.
func newNumbers(generation uint32) *numbers {
	return &numbers{next: firstNumber, generation: max(generation, 1)}
}

func (n *numbers) take() uint32 {
	n.next++
	return n.next - 1
}

// renumber gives each key the number it had, or a new one.
func renumber[K comparable](n *numbers, before map[K]uint32, keys []K) map[K]uint32 {
	after := make(map[K]uint32, len(keys))
	for _, k := range keys {
		id, known := before[k]
		if !known {
			id = n.take()
		}
		after[k] = id
	}
	return after
}

const maxZones = 60000

// assignZones gives each bridge a zone of connection tracking, 1 to 65535. A new
// one is found from its name, so that it is the same again after a restart, but
// for those few that two names would share.
func assignZones(before map[string]uint16, bridges []string) (map[string]uint16, error) {
	if len(bridges) > maxZones {
		return nil, fmt.Errorf("%d bridges: connection tracking has zones for %d", len(bridges), maxZones)
	}
	after := make(map[string]uint16, len(bridges))
	taken := make(map[uint16]bool, len(bridges))
	for _, b := range bridges {
		if z, known := before[b]; known && z != 0 && !taken[z] {
			after[b], taken[z] = z, true
		}
	}
	for _, b := range slices.Sorted(slices.Values(bridges)) {
		if after[b] != 0 {
			continue
		}
		z := zoneFor(b, func(z uint16) bool { return taken[z] })
		after[b], taken[z] = z, true
	}
	return after, nil
}

// zoneFor is a zone for a bridge that has none.
func zoneFor(bridge string, taken func(uint16) bool) uint16 {
	h := fnv.New32a()
	h.Write([]byte(bridge))
	z := uint16(h.Sum32())
	for z == 0 || taken(z) {
		z++
	}
	return z
}

// successor is a copy to change.
func (n *numbers) successor() *numbers {
	c := *n
	return &c
}

// nextGeneration is for a ruleset that may judge differently.
func (n *numbers) nextGeneration() {
	if n.generation++; n.generation == 0 {
		n.generation = 1
	}
}
