package machine

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"nereid/api"
)

// kind is one of the schedules. Its time is cut into slots, which begin at another moment
// for each instance, so that a server does not take all at once.
type kind struct {
	name  string
	every time.Duration
	keep  func(*api.SnapshotSchedule) int
}

func kinds() []kind {
	return []kind{
		{api.SnapshotHourly, time.Hour, func(s *api.SnapshotSchedule) int { return s.Hourly }},
		{api.SnapshotDaily, 24 * time.Hour, func(s *api.SnapshotSchedule) int { return s.Daily }},
		{api.SnapshotWeekly, 7 * 24 * time.Hour, func(s *api.SnapshotSchedule) int { return s.Weekly }},
	}
}

func kindNamed(name string) (kind, bool) {
	for _, k := range kinds() {
		if k.name == name {
			return k, true
		}
	}
	return kind{}, false
}

// offset is where in a slot's length those of an instance begin, in seconds.
func (k kind) offset(uuid string) int64 {
	sum := sha256.Sum256([]byte(k.name + uuid))
	return int64(binary.BigEndian.Uint64(sum[:8]) % uint64(k.every/time.Second))
}

// slot is the number of the slot that a moment is in.
func (k kind) slot(uuid string, at time.Time) int64 {
	long := int64(k.every / time.Second)
	n := at.Unix() - k.offset(uuid)
	if n < 0 {
		n -= long - 1
	}
	return n / long
}

// begins is when a slot begins.
func (k kind) begins(uuid string, slot int64) time.Time {
	return time.Unix(slot*int64(k.every/time.Second)+k.offset(uuid), 0).UTC()
}

// snapshot is that of a slot. One of the same slot has the same id: it is not taken twice.
func (k kind) snapshot(uuid string, slot int64) api.SnapshotStatus {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s %d", uuid, k.name, slot))
	return api.SnapshotStatus{ID: hex.EncodeToString(sum[:8]), Schedule: k.name,
		Name: k.name + "-" + k.begins(uuid, slot).Format("20060102T150405Z")}
}

// scheduled is what there is to do by an instance's schedule. A slot that began before the
// schedule was made is not its. What one kind keeps no more of is left: the oldest go only
// beside as many newer ones as it keeps.
func (s seen) scheduled(uuid string, sched *api.SnapshotSchedule, w Wishes, now time.Time) (steps []step) {
	if sched == nil {
		return nil
	}
	for _, k := range kinds() {
		keep := k.keep(sched)
		if keep < 1 {
			continue
		}
		var have []api.SnapshotStatus
		for _, snap := range s.snaps {
			if snap.Schedule == k.name && !w.Gone[snap.ID] {
				have = append(have, snap)
			}
		}
		n := len(have)
		slot := k.slot(uuid, now)
		last, some := s.slots[k.name]
		next := k.snapshot(uuid, slot)
		if (!some || last != slot) && !s.holds(next.ID) && !w.Gone[next.ID] && !k.begins(uuid, slot).Before(sched.Since) {
			steps = append(steps, stepTake{next})
			n++
		}
		for _, old := range have[:min(len(have), max(0, n-keep))] {
			steps = append(steps, stepDropSnapshot{ID: old.ID, Name: old.Name, Expired: true})
		}
	}
	return steps
}

// scheduleLook is after which time a schedule is looked at again at the latest: the clock
// may be set.
const scheduleLook = 30 * time.Minute

// nextSlot is after which time the next slot of a schedule begins, at most scheduleLook;
// 0: it has none.
func nextSlot(uuid string, sched *api.SnapshotSchedule, now time.Time) time.Duration {
	if sched == nil || !slices.ContainsFunc(kinds(), func(k kind) bool { return k.keep(sched) > 0 }) {
		return 0
	}
	wait := scheduleLook
	for _, k := range kinds() {
		if k.keep(sched) > 0 {
			wait = min(wait, k.begins(uuid, k.slot(uuid, now)+1).Sub(now))
		}
	}
	return max(wait, time.Second)
}
