package boots

import (
	"cmp"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Bounds of what is kept.
const (
	MaxPerMAC      = 20   // boots of one MAC of a known server
	MaxPerStranger = 10   // boots of any other MAC
	MaxEvents      = 200  // events of one boot; above, those in the middle go
	maxDetail      = 1024 // bytes of an event's Detail
)

// Keys of this package. Lists are ordered by time: 16 hexadecimal digits of Unix
// nanoseconds, inverted where the newest is to come first.
const (
	idPrefix       = "boot/id/"
	macsPrefix     = "boot/macs/" // what each MAC has: a list, as a MAC keeps few
	uuidPrefix     = "boot/uuid/"
	timePrefix     = "boot/time/"
	strangerPrefix = "boot/stranger/"
)

// record is a boot as it is written.
type record struct {
	api.Boot
	Stranger bool `json:"stranger,omitempty"` // its MAC belonged to no server
}

func newest(t time.Time) string { return fmt.Sprintf("%016x", math.MaxInt64-max(0, t.UnixNano())) }
func oldest(t time.Time) string { return fmt.Sprintf("%016x", max(0, t.UnixNano())) }

// index are the keys that list a boot.
func (r record) index() []string {
	old := oldest(r.Started) + "/" + r.ID
	var keys []string
	if r.Stranger {
		keys = append(keys, rankPrefix(rank(r.Boot))+old)
	} else {
		keys = append(keys, timePrefix+old)
	}
	if r.UUID != "" {
		keys = append(keys, uuidPrefix+r.UUID+"/"+newest(r.Started)+"/"+r.ID)
	}
	return keys
}

// newID mints a boot id: 16 random bytes, which nobody guesses, in a form that
// fits URLs and kernel command lines.
func newID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// read reads a written boot.
func read(tx store.Tx, id string) (record, error) {
	if id == "" || len(id) > 64 {
		return record{}, fmt.Errorf("boot %.64q: %w", id, store.ErrNotFound)
	}
	b, err := store.Get[record](tx, idPrefix+id)
	if err != nil {
		return record{}, fmt.Errorf("boot %s: %w", id, err)
	}
	return b, nil
}

// write writes a boot with its indexes in place of old, which is zero for a new
// one.
func write(tx store.Tx, old, r record) error {
	var before []string
	if old.ID != "" {
		before = old.index()
	}
	after := r.index()
	for _, k := range before {
		if !slices.Contains(after, k) {
			if err := tx.Delete(k); err != nil {
				return err
			}
		}
	}
	for _, k := range after {
		if !slices.Contains(before, k) {
			if err := tx.Put(k, nil); err != nil {
				return err
			}
		}
	}
	if old.ID == "" {
		if err := enlist(tx, r); err != nil {
			return err
		}
	}
	return store.Put(tx, idPrefix+r.ID, r)
}

// entry is what the list of its MAC has of a boot: when it began, and its id.
func (r record) entry() string { return newest(r.Started) + "/" + r.ID }

// ofMAC reads what the list of a MAC has, newest first.
func ofMAC(tx store.Tx, mac string) ([]string, error) {
	entries, _, err := store.Lookup[[]string](tx, macsPrefix+mac)
	return entries, err
}

// enlist adds a boot to the list of its MAC.
func enlist(tx store.Tx, r record) error {
	entries, err := ofMAC(tx, r.MAC)
	if err != nil {
		return err
	}
	at, there := slices.BinarySearch(entries, r.entry())
	if there {
		return nil
	}
	return store.Put(tx, macsPrefix+r.MAC, slices.Insert(entries, at, r.entry()))
}

// unlist takes a boot from the list of its MAC.
func unlist(tx store.Tx, r record) error {
	entries, err := ofMAC(tx, r.MAC)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e string) bool { return e == r.entry() })
	if len(entries) == 0 {
		return tx.Delete(macsPrefix + r.MAC)
	}
	return store.Put(tx, macsPrefix+r.MAC, entries)
}

func lastPart(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// remove deletes a boot with its indexes.
func remove(tx store.Tx, id string) (record, error) {
	r, err := read(tx, id)
	if errors.Is(err, store.ErrNotFound) {
		return record{}, nil
	}
	if err != nil {
		return record{}, err
	}
	for _, k := range append(r.index(), idPrefix+id) {
		if err := tx.Delete(k); err != nil {
			return record{}, err
		}
	}
	return r, unlist(tx, r)
}

// appendEvent adds an event. One like an event among the last few (a retry, or a
// loop of a few stages) is counted there instead, with the time and size of the
// latest; events stay in the order of their times.
func appendEvent(evs []api.BootEvent, ev api.BootEvent) []api.BootEvent {
	ev.Detail = clip(ev.Detail)
	ev.Count = 0
	evs = slices.Clone(evs)
	for i := len(evs) - 1; i >= 0 && i >= len(evs)-4; i-- {
		if evs[i].Stage == ev.Stage && evs[i].Detail == ev.Detail && (evs[i].Bytes > 0) == (ev.Bytes > 0) {
			ev.Count = max(1, evs[i].Count) + 1
			evs = slices.Delete(evs, i, i+1)
			break
		}
	}
	evs = append(evs, ev)
	slices.SortStableFunc(evs, func(a, b api.BootEvent) int { return a.Time.Compare(b.Time) })
	if len(evs) > MaxEvents {
		evs = slices.Delete(evs, MaxEvents/2, MaxEvents/2+len(evs)-MaxEvents)
	}
	return evs
}

// clip makes a sentence from the network fit to be kept and shown.
func clip(s string) string {
	if len(s) > maxDetail {
		s = s[:maxDetail] // a rune cut in half goes with what is not UTF-8
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, ""))
}

// indexed ranges over the boots that an index lists behind a key.
func indexed(tx store.Tx, prefix, after string) iter.Seq2[store.Entry[record], error] {
	return store.Through[record](tx, prefix, after, func(it store.Item) string { return idPrefix + lastPart(it.Key) })
}

// listed reads the boots an index lists, newest first.
func listed(tx store.Tx, prefix string, limit int) ([]api.Boot, error) {
	var boots []api.Boot
	for e, err := range indexed(tx, prefix, "") {
		if err != nil {
			return nil, err
		}
		if boots = append(boots, e.Value.Boot); len(boots) == limit {
			break
		}
	}
	return boots, nil
}

// ByMAC lists the written boots of a MAC, newest first, at most limit; 0 means all
// that are kept.
func ByMAC(tx store.Tx, mac string, limit int) ([]api.Boot, error) {
	recs, err := records(tx, mac, limit)
	if err != nil {
		return nil, fmt.Errorf("boots of %s: %w", mac, err)
	}
	boots := make([]api.Boot, len(recs))
	for i, r := range recs {
		boots[i] = r.Boot
	}
	return boots, nil
}

// records is ByMAC as they are written.
func records(tx store.Tx, mac string, limit int) ([]record, error) {
	entries, err := ofMAC(tx, strings.ToLower(mac))
	if err != nil {
		return nil, err
	}
	if limit > 0 && len(entries) > limit {
		entries = entries[:limit]
	}
	keys := make([]string, len(entries))
	for i, e := range entries {
		keys[i] = idPrefix + lastPart(e)
	}
	return store.GetAll[record](tx, keys...)
}

// ByServer lists the written boots of a server, of all its MACs, newest first, at
// most limit; 0 means all that are kept.
func ByServer(tx store.Tx, uuid string, limit int) ([]api.Boot, error) {
	boots, err := listed(tx, uuidPrefix+strings.ToLower(uuid)+"/", limit)
	if err != nil {
		return nil, fmt.Errorf("boots of %s: %w", uuid, err)
	}
	return boots, nil
}

// Since lists the written boots that started at or after a time, oldest first.
func Since(tx store.Tx, t time.Time) ([]api.Boot, error) {
	var boots []api.Boot
	from := []string{timePrefix}
	for rank := range ranks {
		from = append(from, rankPrefix(rank))
	}
	for _, prefix := range from {
		for e, err := range indexed(tx, prefix, prefix+oldest(t)) {
			if err != nil {
				return nil, fmt.Errorf("boots since %v: %w", t, err)
			}
			boots = append(boots, e.Value.Boot)
		}
	}
	slices.SortStableFunc(boots, func(a, b api.Boot) int { return a.Started.Compare(b.Started) })
	return boots, nil
}

// Forget removes all boots of a MAC.
func Forget(tx store.Tx, mac string) error {
	boots, err := ByMAC(tx, mac, 0)
	if err != nil {
		return err
	}
	for _, b := range boots {
		if _, err := remove(tx, b.ID); err != nil {
			return fmt.Errorf("forget boots of %s: %w", mac, err)
		}
	}
	return nil
}

// lastEvent is the time of a boot's latest event.
func lastEvent(b api.Boot) time.Time {
	if len(b.Events) == 0 {
		return b.Started
	}
	return slices.MaxFunc(b.Events, func(x, y api.BootEvent) int { return cmp.Compare(x.Time.UnixNano(), y.Time.UnixNano()) }).Time
}
