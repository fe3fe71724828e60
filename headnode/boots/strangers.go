package boots

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// A stranger is a machine whose MAC belongs to no server. Its MAC may be invented, so
// what is kept of all strangers is bounded, apart from what is kept of servers, and
// apart for each rank: those that only have an address push nobody out who got
// further.
const (
	ranks      = 4
	maxOfRank  = 4096 // written boots of a rank; above, the oldest go. As many newcomers may be powered on at once
	rankSlack  = 512  // so many more before somebody looks
	maxListed  = 500  // strangers that Strangers lists
	rememberIt = 24 * time.Hour
)

func rankPrefix(rank int) string { return fmt.Sprintf("%s%d/", strangerPrefix, rank) }

// rank says how far a boot came: 0 firmware, 1 iPXE, 2 what iPXE loads, 3 the platform.
func rank(b api.Boot) int {
	far := 0
	for _, ev := range b.Events {
		switch ev.Stage {
		case api.StageDiscover, api.StageAck, api.StageTFTP, api.StageRefused, api.StageFailed:
		case api.StageIPXEDiscover, api.StageIPXEAck:
			far = max(far, 1)
		case api.StageScript, api.StageKernel, api.StageInitrd:
			far = max(far, 2)
		default:
			return 3
		}
	}
	return far
}

// trim removes the boots that are too many: of the MAC, and of a stranger's rank.
func (p *Pending) trim(tx store.Tx, r record) error {
	limit := MaxPerMAC
	if r.Stranger {
		limit = MaxPerStranger
	}
	entries, err := ofMAC(tx, r.MAC)
	if err != nil {
		return err
	}
	for _, e := range entries[min(limit, len(entries)):] {
		if err := p.drop(tx, lastPart(e)); err != nil {
			return err
		}
	}
	if !r.Stranger {
		return nil
	}
	return p.trimRank(tx, rank(r.Boot))
}

// trimRank looks only when there may be too many: it counts what was added since it
// last looked. An Update that was not made counts too, and only makes it look sooner.
func (p *Pending) trimRank(tx store.Tx, rank int) error {
	p.mu.Lock()
	p.written[rank]++
	look := p.written[rank] > p.ofRank+p.slack
	p.mu.Unlock()
	if !look {
		return nil
	}
	var ids []string
	for it, err := range tx.Scan(rankPrefix(rank), "") {
		if err != nil {
			return err
		}
		ids = append(ids, lastPart(it.Key))
	}
	over := max(0, len(ids)-p.ofRank)
	for _, id := range ids[:over] {
		if err := p.drop(tx, id); err != nil {
			return err
		}
	}
	p.mu.Lock()
	p.written[rank] = len(ids) - over
	p.mu.Unlock()
	return nil
}

// drop removes a boot, and tells Dropped.
func (p *Pending) drop(tx store.Tx, id string) error {
	r, err := remove(tx, id)
	if err != nil || r.ID == "" || p.Dropped == nil {
		return err
	}
	left, err := ByMAC(tx, r.MAC, 1)
	if err != nil {
		return err
	}
	return p.Dropped(tx, r.Boot, r.Stranger && len(left) == 0)
}

// Adopt makes the boots of a MAC those of a known server, which strangers do not
// push out.
func (p *Pending) Adopt(tx store.Tx, mac string) error {
	recs, err := records(tx, mac, 0)
	for _, old := range recs {
		if err == nil && old.Stranger {
			r := old
			r.Stranger = false
			err = write(tx, old, r)
		}
	}
	if err != nil {
		return fmt.Errorf("adopt boots of %s: %w", mac, err)
	}
	return nil
}

// Upgrade takes over the boots that a version before wrote: first what lists those of a
// MAC, then who of them is a stranger. known says whose MAC is a server's.
func Upgrade(tx store.Tx, known func(mac string) (bool, error)) error {
	if err := upgradeLists(tx); err != nil {
		return fmt.Errorf("upgrade lists of boots: %w", err)
	}
	return upgradeStrangers(tx, known)
}

// upgradeLists makes a MAC's list of keys of before: boot/mac/MAC/WHEN/ID.
func upgradeLists(tx store.Tx) error {
	const before = "boot/mac/"
	lists := map[string][]string{}
	for it, err := range tx.Scan(before, "") {
		if err != nil {
			return err
		}
		mac, entry, _ := strings.Cut(it.Key[len(before):], "/")
		lists[mac] = append(lists[mac], entry)
	}
	for mac, entries := range lists {
		if err := store.Put(tx, macsPrefix+mac, entries); err != nil {
			return err
		}
		for _, e := range entries {
			if err := tx.Delete(before + mac + "/" + e); err != nil {
				return err
			}
		}
	}
	return nil
}

// upgradeStrangers finds the strangers among boots of a version that kept one list of all,
// and their number.
func upgradeStrangers(tx store.Tx, known func(mac string) (bool, error)) error {
	const count = "boot/count"
	if has, err := store.Has(tx, count); err != nil || !has {
		return err
	}
	for e, err := range indexed(tx, timePrefix, "") {
		if err != nil {
			return fmt.Errorf("upgrade boots: %w", err)
		}
		old := e.Value
		is, err := known(old.MAC)
		if err == nil && !is {
			r := old
			r.Stranger = true
			err = write(tx, old, r)
		}
		if err != nil {
			return fmt.Errorf("upgrade boots: %w", err)
		}
	}
	return tx.Delete(count)
}

// Strangers gives the latest boot of each MAC that belonged to no server when it
// was last heard, within a day, by MAC. Of more than 500 they are those that got furthest, of these
// those that said something more than once, and of these the latest; more is how many others
// there are.
func (p *Pending) Strangers(tx store.Tx, now time.Time) (list []api.Boot, more int, err error) {
	latest := map[string]api.Boot{}
	take := func(b api.Boot) {
		was, there := latest[b.MAC]
		if now.Sub(lastEvent(b)) <= rememberIt && (!there || was.Started.Before(b.Started)) {
			latest[b.MAC] = b
		}
	}
	var stored []api.Boot
	for e, err := range indexed(tx, strangerPrefix, "") {
		if err != nil {
			return nil, 0, fmt.Errorf("boots of strangers: %w", err)
		}
		stored = append(stored, e.Value.Boot)
	}
	p.mu.Lock()
	for _, b := range stored {
		take(p.news(b))
	}
	for c := once; c < server; c++ {
		for e := p.class[c].Front(); e != nil; e = e.Next() {
			if v := e.Value.(*pending); !v.stored {
				take(merge(api.Boot{}, v))
			}
		}
	}
	p.mu.Unlock()
	for _, b := range latest {
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b api.Boot) int {
		return cmp.Or(cmp.Compare(rank(b), rank(a)), cmp.Compare(spoke(b), spoke(a)), lastEvent(b).Compare(lastEvent(a)), strings.Compare(a.MAC, b.MAC))
	})
	if more = max(0, len(list)-maxListed); more > 0 {
		list = list[:maxListed]
	}
	slices.SortFunc(list, func(a, b api.Boot) int { return strings.Compare(a.MAC, b.MAC) })
	return list, more, nil
}

// spoke is 1 for a boot that said more than one DISCOVER.
func spoke(b api.Boot) int {
	if len(b.Events) > 1 || len(b.Events) == 1 && b.Events[0].Count > 1 {
		return 1
	}
	return 0
}
