package agenttest

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"nereid/api"
)

// zonePast is what is there of an instance's past, and what is written in it now.
type zonePast struct {
	text   string // what programs in it wrote
	snaps  []zoneSnap
	rolled []string // ids of rollbacks, with "!" those that were refused
	times  int      // rollbacks that were done
}

type zoneSnap struct {
	api.SnapshotStatus
	text  string
	disks map[string]int
}

// String is empty for one that has no past.
func (p zonePast) String() string {
	var b strings.Builder
	if p.text != "" {
		b.WriteString(" text " + p.text)
	}
	for _, s := range p.snaps {
		b.WriteString(" @" + s.Name)
	}
	return b.String()
}

// Write is what a program in an instance does: what it wrote is the instance's text.
func (z *Zones) Write(uuid, text string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.sets[uuid].past.text = text
}

// Rollbacks is how often an instance was rolled back.
func (z *Zones) Rollbacks(uuid string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.sets[uuid].past.times
}

// Past is what the pool has of an instance's past.
func (z *Zones) Past(uuid string) (snaps []api.SnapshotStatus, rolled []string, refused map[string]bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	refused = map[string]bool{}
	if z.sets[uuid] == nil {
		return nil, nil, refused
	}
	for _, s := range z.sets[uuid].past.snaps {
		snaps = append(snaps, s.SnapshotStatus)
	}
	for _, id := range z.sets[uuid].past.rolled {
		id, not := strings.CutPrefix(id, "!")
		rolled, refused[id] = append(rolled, id), not
	}
	return snaps, rolled, refused
}

// TakeSnapshot implements machine.Snapshots.
func (z *Zones) TakeSnapshot(ctx context.Context, uuid string, s api.SnapshotStatus) (api.SnapshotStatus, error) {
	s.State = api.SnapshotCreated
	err := z.do(ctx, "snapshot "+uuid+" "+s.Name, func() error {
		set := z.sets[uuid]
		if set == nil {
			return errors.New("dataset does not exist")
		}
		if at := set.past.at(s.ID); at >= 0 {
			s = set.past.snaps[at].SnapshotStatus
			return nil
		}
		set.past.snaps = append(set.past.snaps, zoneSnap{s, set.past.text, maps.Clone(set.disks)})
		return nil
	})
	return s, err
}

func (p zonePast) at(id string) int {
	return slices.IndexFunc(p.snaps, func(s zoneSnap) bool { return s.ID == id })
}

// DropSnapshot implements machine.Snapshots.
func (z *Zones) DropSnapshot(ctx context.Context, uuid, id string) error {
	return z.do(ctx, "destroy snapshot "+uuid+" "+id, func() error {
		if set := z.sets[uuid]; set != nil {
			set.past.snaps = slices.DeleteFunc(set.past.snaps, func(s zoneSnap) bool { return s.ID == id })
		}
		return nil
	})
}

// refuses says why a rollback cannot be.
func (p zonePast) refuses(r api.RollbackSpec) string {
	at := p.at(r.Snapshot)
	if at < 0 {
		return "there is no snapshot " + r.Snapshot
	}
	for _, s := range p.snaps[at+1:] {
		if !slices.Contains(r.Newer, s.ID) {
			return "snapshot " + s.Name + " is newer, and the request does not name it"
		}
	}
	return ""
}

// CheckRollback implements machine.Snapshots.
func (z *Zones) CheckRollback(ctx context.Context, uuid string, r api.RollbackSpec) (refused string, err error) {
	return refused, z.do(ctx, "check rollback "+uuid+" "+r.ID, func() error {
		refused = z.sets[uuid].past.refuses(r)
		return nil
	})
}

// RollBack implements machine.Snapshots.
func (z *Zones) RollBack(ctx context.Context, uuid string, r api.RollbackSpec) (refused string, err error) {
	err = z.do(ctx, "rollback "+uuid+" "+r.ID, func() error {
		for name := range z.units {
			if strings.Contains(name, uuid) {
				return errors.New("dataset is busy")
			}
		}
		set := z.sets[uuid]
		if refused = set.past.refuses(r); refused != "" {
			return nil
		}
		at := set.past.at(r.Snapshot)
		set.past.snaps = set.past.snaps[:at+1]
		set.past.text = set.past.snaps[at].text
		for name, size := range set.past.snaps[at].disks {
			if set.disks[name] != 0 {
				set.disks[name] = size
			}
		}
		set.past.rolled = append(set.past.rolled, r.ID)
		set.past.times++
		return nil
	})
	return refused, err
}

// EndRollback implements machine.Snapshots.
func (z *Zones) EndRollback(ctx context.Context, uuid, id string) error {
	return z.do(ctx, "end rollback "+uuid+" "+id, func() error {
		if set := z.sets[uuid]; set != nil && !slices.Contains(set.past.rolled, "!"+id) {
			set.past.rolled = append(set.past.rolled, "!"+id)
		}
		return nil
	})
}
