package bootserver

import (
	"net/netip"
	"sync"

	"nereid/api"
)

// maxRecent bounds each of the maps of recent boots.
const maxRecent = 4096

// recent remembers the newest maxRecent keys that were put.
type recent[K comparable, V any] struct {
	mu    sync.Mutex
	m     map[K]V
	order []K
}

func (r *recent[K, V]) put(k K, v V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[K]V{}
	}
	if _, there := r.m[k]; !there {
		if len(r.order) >= maxRecent {
			delete(r.m, r.order[0])
			r.order = append(r.order[:0], r.order[1:]...)
		}
		r.order = append(r.order, k)
	}
	r.m[k] = v
}

func (r *recent[K, V]) get(k K) (V, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.m[k]
	return v, ok
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
