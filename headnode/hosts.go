package headnode

import (
	"context"
	"fmt"
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
// what that one server has given out again.
type hosts struct {
	feeds []hostFeed

	mu     sync.Mutex
	loaded bool
	list   []placement.Server
	at     map[string]int // of a server in list
}

// hostFeed is of keys in which a server's UUID follows a prefix.
type hostFeed struct {
	prefix string
	depth  depth // what is to be read of a server again
	feed   *store.Feed
}

// depth is how much of a server is to be read: what its instances use, also what is
// decided of it, or also what was observed of it, which is much and changes seldom.
type depth int

const (
	use depth = iota + 1
	decided
	everything
)

// follow begins to note which servers change. It ends with ctx.
func (h *hosts) follow(ctx context.Context, st store.Store) {
	for depth, prefixes := range map[depth][]string{
		use:        {instances.UsePrefix},
		decided:    append(networks.ServerPrefixes(), inventory.ServerPrefix),
		everything: inventory.ObservedPrefixes(),
	} {
		for _, p := range prefixes {
			h.feeds = append(h.feeds, hostFeed{p, depth, st.Feed(ctx, p)})
		}
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
	changed := map[string]depth{}
	for _, f := range h.feeds {
		for _, key := range f.feed.Take() {
			uuid, _, _ := strings.Cut(key[len(f.prefix):], "/")
			changed[uuid] = max(changed[uuid], f.depth)
		}
	}
	whole := !h.loaded
	h.loaded = false // until it is read in full
	err := st.View(ctx, func(tx store.Tx) error {
		if whole {
			h.list, h.at, changed = nil, map[string]int{}, map[string]depth{}
			for e, err := range inventory.All(tx) {
				if err != nil {
					return err
				}
				changed[e.Value.UUID] = everything
			}
		}
		for uuid, deep := range changed {
			if err := h.renew(tx, uuid, deep); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read servers for placement: %w", err)
	}
	h.loaded = true
	return slices.Clone(h.list), nil
}

// renew reads a server again. It is called with h.mu held.
func (h *hosts) renew(tx store.Tx, uuid string, deep depth) error {
	i, is := h.at[uuid]
	before := placement.Server{}
	if is {
		before = h.list[i]
	} else {
		deep = everything
	}
	now, err := host(tx, uuid, before, deep)
	switch {
	case isNotFound(err) && is:
		last := len(h.list) - 1
		h.list[i] = h.list[last]
		h.at[h.list[i].UUID] = i
		h.list = h.list[:last]
		delete(h.at, uuid)
		return nil
	case isNotFound(err):
		return nil
	case err != nil:
		return err
	case is:
		h.list[i] = now
	default:
		h.at[uuid] = len(h.list)
		h.list = append(h.list, now)
	}
	return nil
}

// host is what is stored of a server and matters to placement. What is not so deep is
// as it was before.
func host(tx store.Tx, uuid string, before placement.Server, deep depth) (placement.Server, error) {
	out := before
	var err error
	if out.Used, err = instances.Use(tx, uuid); err != nil || deep == use {
		return out, err
	}
	r, err := inventory.Get(tx, uuid)
	if err != nil {
		return out, err
	}
	out.UUID, out.Hostname, out.SetUp, out.Reserved, out.Rack, out.Traits = r.UUID, r.Hostname, r.Approved && r.SetUp, r.Reserved, r.Rack, r.Traits
	out.Going = ""
	if r.Power != nil {
		out.Going = r.Power.Action
	}
	if out.Tags, err = networks.ProvidedTags(tx, uuid); err != nil {
		return out, err
	}
	under, err := underlay(tx, uuid)
	if err != nil {
		return out, err
	}
	if out.Underlay = under.IsValid(); deep == decided {
		return out, nil
	}
	o, err := inventory.GetObserved(tx, uuid)
	if err != nil {
		return out, err
	}
	out.MemoryMiB, out.CPUs, out.Platform, out.DiskMiB, out.Pool, out.Hypervisor = 0, 0, "", 0, "", api.Hypervisor{}
	if o.Sysinfo != nil {
		out.Hypervisor = o.Sysinfo.Hypervisor
		out.MemoryMiB, out.CPUs = int(o.Sysinfo.MemoryBytes>>20), o.Sysinfo.CPU.Threads
	}
	if o.Report != nil {
		out.Platform = o.Report.Platform
		out.DiskMiB, out.Pool = pool(*o.Report)
	}
	return out, nil
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
