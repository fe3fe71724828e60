package agent

import (
	"context"
	"sync"
)

// sold is the memory that a server's instances may use together: the sum of their
// limits, whether they run or not, since each may be started.
type sold struct {
	mu   sync.Mutex
	of   map[string]int // MiB, by UUID
	mib  int
	news chan struct{} // one slot: the sum is another
}

func newSold() *sold { return &sold{of: map[string]int{}, news: make(chan struct{}, 1)} }

// put notes an instance's limit; 0: it is gone.
func (s *sold) put(uuid string, mib int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[uuid] == mib {
		return
	}
	s.mib += mib - s.of[uuid]
	if s.of[uuid] = mib; mib == 0 {
		delete(s.of, uuid)
	}
	poke(s.news)
}

func (s *sold) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(s.mib) << 20
}

// fitCache is the goroutine that bounds ZFS's cache to what instances leave, once it is
// known which there are.
func (i *instances) fitCache(ctx context.Context) error {
	for {
		select {
		case <-i.sold.news:
		case <-ctx.Done():
			return nil
		}
		if i.a.Zones.FitCache == nil {
			continue
		}
		problem := ""
		if err := i.a.Zones.FitCache(i.sold.bytes()); err != nil {
			i.a.Log.Error("instances", "err", err)
			problem = "ZFS's cache may grow into the memory of instances: " + err.Error() + "."
		}
		i.board.problem("cache", problem)
	}
}
