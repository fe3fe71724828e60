package headnode

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/placement"
	"nereid/headnode/store"
)

// hosts keeps in memory what placement looks at of each server, so that a create does
// not read the inventory. It may be behind what is stored: who commits a choice reads
// that one server again.
type hosts struct {
	feeds map[string]*store.Feed // by prefix, behind which a key has a server's UUID

	mu     sync.Mutex
	loaded bool
	byUUID map[string]placement.Server
}

// follow begins to note which servers change. It ends with ctx.
func (h *hosts) follow(ctx context.Context, st store.Store) {
	h.feeds = map[string]*store.Feed{}
	for _, p := range slices.Concat(inventory.ServerPrefixes(), networks.ServerPrefixes(), []string{instances.UsePrefix}) {
		h.feeds[p] = st.Feed(ctx, p)
	}
}

// forget has all servers be read again.
func (h *hosts) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loaded = false
}

// all gives the servers as they were a moment ago.
func (h *hosts) all(ctx context.Context, st store.Store) ([]placement.Server, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed := map[string]bool{}
	for prefix, f := range h.feeds {
		for _, key := range f.Take() {
			uuid, _, _ := strings.Cut(key[len(prefix):], "/")
			changed[uuid] = true
		}
	}
	whole := !h.loaded
	h.loaded = false // until it is read in full
	err := st.View(ctx, func(tx store.Tx) error {
		if whole {
			h.byUUID, changed = map[string]placement.Server{}, map[string]bool{}
			for e, err := range inventory.All(tx) {
				if err != nil {
					return err
				}
				changed[e.Value.UUID] = true
			}
		}
		for uuid := range changed {
			r, err := inventory.Get(tx, uuid)
			if isNotFound(err) {
				delete(h.byUUID, uuid)
				continue
			}
			if err != nil {
				return err
			}
			if h.byUUID[uuid], err = host(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read servers for placement: %w", err)
	}
	h.loaded = true
	return slices.Collect(maps.Values(h.byUUID)), nil
}

// host is what is stored of a server and matters to placement.
func host(tx store.Tx, r inventory.Record) (placement.Server, error) {
	out := placement.Server{UUID: r.UUID, Hostname: r.Hostname, SetUp: r.Approved && r.SetUp, Reserved: r.Reserved, Rack: r.Rack, Traits: r.Traits}
	if r.Power != nil {
		out.Going = r.Power.Action
	}
	o, err := inventory.GetObserved(tx, r.UUID)
	if err != nil {
		return out, err
	}
	if o.Sysinfo != nil {
		out.MemoryMiB, out.CPUs = int(o.Sysinfo.MemoryBytes>>20), o.Sysinfo.CPU.Threads
	}
	if o.Report != nil {
		out.Platform = o.Report.Platform
		out.DiskMiB, out.Pool = pool(*o.Report)
	}
	if out.Tags, err = networks.ProvidedTags(tx, r.UUID); err != nil {
		return out, err
	}
	under, err := underlay(tx, r.UUID)
	if err != nil {
		return out, err
	}
	out.Underlay = under.IsValid()
	out.Used, err = instances.Use(tx, r.UUID)
	return out, err
}

// fullPool is the part of a pool in use, in percent, from which on it takes no new
// instances: ZFS gets slow, and what runs there needs the rest.
const fullPool = 90

// pool is the size of a server's pool in MiB, and what is wrong with it.
func pool(rep api.Report) (mib int, wrong string) {
	for _, p := range rep.Pools {
		if !p.System {
			continue
		}
		bytes := p.SizeBytes
		if s := rep.Setup; s != nil && s.Plan != nil && s.Plan.CapacityBytes > 0 {
			bytes = min(bytes, s.Plan.CapacityBytes) // without what is for parity
		}
		switch {
		case p.Health != "ONLINE" && p.Health != "DEGRADED":
			wrong = fmt.Sprintf("pool %s is %s", p.Name, p.Health)
		case p.SizeBytes > 0 && p.AllocatedBytes*100/p.SizeBytes >= fullPool:
			wrong = fmt.Sprintf("pool %s is full to %d percent; a new instance needs it below %d", p.Name, p.AllocatedBytes*100/p.SizeBytes, fullPool)
		}
		return int(bytes >> 20), wrong
	}
	return 0, "it reports no pool"
}

// now adds to what is stored of servers what is known in memory only.
func (s *Server) nowOf(hosts ...placement.Server) []placement.Server {
	now := s.now()
	for i := range hosts {
		hosts[i].Silent = s.silence(hosts[i].UUID, now)
		hosts[i].Runs = s.live.runs(hosts[i].UUID)
	}
	return hosts
}

// silence says since when nothing was heard of a server; empty: it syncs.
func (s *Server) silence(uuid string, now time.Time) string {
	switch last, _ := s.live.get(uuid); {
	case last.IsZero():
		return fmt.Sprintf("not heard of since the head node started %s ago", now.Sub(s.started).Round(time.Second))
	case now.Sub(last) > api.SilentAfter:
		return fmt.Sprintf("not heard of for %s", now.Sub(last).Round(time.Second))
	}
	return ""
}
