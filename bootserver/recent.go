package bootserver

import (
	"net/netip"
	"sync"

	"nereid/api"
)

// maxRecent bounds each ring of recent boots.
const maxRecent = 4096

// Whose a key is: strangers push out nothing of servers of the inventory.
const (
	ofStranger = iota
	ofServer
	owners
)

// recent remembers the newest maxRecent keys that were put for servers, and as many
// that were put for strangers.
type recent[K comparable, V any] struct {
	mu    sync.Mutex
	m     map[K]entry[V]
	rings [owners]ring[K]
}

// entry is a value, and the place that its key has.
type entry[V any] struct {
	v            V
	whose, place int
}

// ring are keys in the order in which they were put, from next on.
type ring[K comparable] struct {
	keys []K
	next int
}

// put remembers a value for a key, which is a server's or a stranger's from now on.
func (r *recent[K, V]) put(k K, v V, whose int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[K]entry[V]{}
	}
	e, there := r.m[k]
	if !there || e.whose != whose {
		e = entry[V]{whose: whose, place: r.claim(k, whose)}
	}
	e.v = v
	r.m[k] = e
}

// claim gives a key a place, and forgets the key that was put there the longest ago,
// unless it has another place by now.
func (r *recent[K, V]) claim(k K, whose int) int {
	o := &r.rings[whose]
	if len(o.keys) < maxRecent {
		o.keys = append(o.keys, k)
		return len(o.keys) - 1
	}
	at := o.next
	if old := r.m[o.keys[at]]; old.whose == whose && old.place == at {
		delete(r.m, o.keys[at])
	}
	o.keys[at], o.next = k, (at+1)%maxRecent
	return at
}

func (r *recent[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.m[k]
	return e.v, ok
}

// bootFiles is what a boot may fetch, and how much of it it has.
type bootFiles struct {
	from  netip.Addr
	stage map[string]api.BootStage // by SHA-256

	mu   sync.Mutex
	have map[string]int64 // bytes sent from the start on, by SHA-256
}

func newBootFiles(plan api.BootPlan, from netip.Addr) *bootFiles {
	b := &bootFiles{from: from, stage: map[string]api.BootStage{}, have: map[string]int64{}}
	if m := plan.Manifest; m != nil {
		for _, l := range m.Layers {
			b.stage[l.SHA256] = api.StageLayer
		}
		b.stage[m.Kernel.SHA256] = api.StageKernel
		b.stage[m.Initrd.SHA256] = api.StageInitrd
	}
	return b
}

// sent notes that n bytes from offset start of a file went out, and returns how
// much there is from the start on now.
func (b *bootFiles) sent(sha256 string, start, n int64) (have int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if start <= b.have[sha256] {
		b.have[sha256] = max(b.have[sha256], start+n)
	}
	return b.have[sha256]
}
