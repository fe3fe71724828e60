package firewall

import (
	"encoding/binary"
	"maps"
	"slices"
)

// behaviours collects what groups do about patterns, equal ones once.
type behaviours struct {
	contents map[string]outcomes
	of       map[[2]uint32]string // numbers of group and pattern to content
}

func newBehaviours() *behaviours {
	return &behaviours{contents: make(map[string]outcomes), of: make(map[[2]uint32]string)}
}

// add returns the name of a content; that of an empty one is "".
func (b *behaviours) add(o outcomes) string {
	var name []byte
	for _, d := range o {
		name = append(name, d.protocol)
		name = binary.BigEndian.AppendUint16(name, d.first)
		name = binary.BigEndian.AppendUint16(name, d.last)
		name = binary.BigEndian.AppendUint32(name, d.outcome)
	}
	if _, known := b.contents[string(name)]; !known && len(name) > 0 {
		b.contents[string(name)] = o
	}
	return string(name)
}

// number gives each content the number it had. A content that has changed gets
// that of its predecessor: of a content that is no longer there and that one of
// its groups and patterns had, so that only the difference is sent to the kernel.
func (b *behaviours) number(n *numbers) {
	after := make(map[string]uint32, len(b.contents))
	for content := range b.contents {
		if id, known := n.behaviours[content]; known {
			after[content] = id
		}
	}
	claimed := make(map[uint32]bool, len(after))
	for _, id := range after {
		claimed[id] = true
	}
	used := make(map[[2]uint32]uint32, len(b.of))
	pairs := slices.SortedFunc(maps.Keys(b.of), func(x, y [2]uint32) int { return slices.Compare(x[:], y[:]) })
	for _, pair := range pairs {
		content := b.of[pair]
		id, numbered := after[content]
		if !numbered {
			var had bool
			if id, had = n.used[pair]; !had || claimed[id] {
				id = n.take()
			}
			after[content], claimed[id] = id, true
		}
		used[pair] = id
	}
	n.behaviours, n.used = after, used
}
