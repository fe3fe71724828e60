package boots

import (
	"cmp"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Bounds of what is kept.
const (
	MaxPerMAC = 20   // boots of one MAC
	MaxBoots  = 5000 // boots in all; above, the oldest go
	MaxEvents = 200  // events of one boot; above, those in the middle go
	maxDetail = 1024 // bytes of an event's Detail
)

// Keys of this package. Lists are ordered by time: 16 hexadecimal digits of Unix
// nanoseconds, inverted where the newest is to come first.
const (
	idPrefix   = "boot/id/"
	macPrefix  = "boot/mac/"
	uuidPrefix = "boot/uuid/"
	timePrefix = "boot/time/"
	countKey   = "boot/count"
)

func newest(t time.Time) string { return fmt.Sprintf("%016x", math.MaxInt64-max(0, t.UnixNano())) }
func oldest(t time.Time) string { return fmt.Sprintf("%016x", max(0, t.UnixNano())) }

func macKey(b api.Boot) string  { return macPrefix + b.MAC + "/" + newest(b.Started) + "/" + b.ID }
func uuidKey(b api.Boot) string { return uuidPrefix + b.UUID + "/" + newest(b.Started) + "/" + b.ID }
func timeKey(b api.Boot) string { return timePrefix + oldest(b.Started) + "/" + b.ID }

// newID mints a boot id: 16 random bytes, which nobody guesses, in a form that
// fits URLs and kernel command lines.
func newID() string {
	b := make([]byte, 16)
	rand.Read(b) // never fails: crypto/rand
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b))
}

// read reads a written boot.
func read(tx store.Tx, id string) (api.Boot, error) {
	if id == "" || len(id) > 64 {
		return api.Boot{}, fmt.Errorf("boot %.64q: %w", id, store.ErrNotFound)
	}
	b, err := store.Get[api.Boot](tx, idPrefix+id)
	if err != nil {
		return api.Boot{}, fmt.Errorf("boot %s: %w", id, err)
	}
	return b, nil
}

// insert writes a new boot with its indexes and removes what is too much.
func insert(tx store.Tx, b api.Boot) error {
	n, _, err := store.Lookup[int](tx, countKey)
	if err != nil {
		return err
	}
	for _, k := range []string{macKey(b), timeKey(b)} {
		if err := tx.Put(k, nil); err != nil {
			return err
		}
	}
	if b.UUID != "" {
		if err := tx.Put(uuidKey(b), nil); err != nil {
			return err
		}
	}
	if err := store.Put(tx, idPrefix+b.ID, b); err != nil {
		return err
	}
	if err := store.Put(tx, countKey, n+1); err != nil {
		return err
	}
	kept := 0
	for it, err := range tx.Scan(macPrefix+b.MAC+"/", "") {
		if err != nil {
			return err
		}
		if kept++; kept > MaxPerMAC {
			if err := remove(tx, lastPart(it.Key)); err != nil {
				return err
			}
			n--
		}
	}
	for it, err := range tx.Scan(timePrefix, "") {
		if err != nil {
			return err
		}
		if n < MaxBoots {
			break
		}
		if err := remove(tx, lastPart(it.Key)); err != nil {
			return err
		}
		n--
	}
	return nil
}

func lastPart(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// remove deletes a boot with its indexes.
func remove(tx store.Tx, id string) error {
	b, err := read(tx, id)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	n, _, err := store.Lookup[int](tx, countKey)
	if err != nil {
		return err
	}
	keys := []string{idPrefix + id, macKey(b), timeKey(b)}
	if b.UUID != "" {
		keys = append(keys, uuidKey(b))
	}
	for _, k := range keys {
		if err := tx.Delete(k); err != nil {
			return err
		}
	}
	return store.Put(tx, countKey, max(0, n-1))
}

// replace writes a boot that is there already; its MAC and start do not change.
func replace(tx store.Tx, old, b api.Boot) error {
	if old.UUID != b.UUID {
		if old.UUID != "" {
			if err := tx.Delete(uuidKey(old)); err != nil {
				return err
			}
		}
		if b.UUID != "" {
			if err := tx.Put(uuidKey(b), nil); err != nil {
				return err
			}
		}
	}
	return store.Put(tx, idPrefix+b.ID, b)
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

// listed reads the boots an index lists, newest first.
func listed(tx store.Tx, prefix string, limit int) ([]api.Boot, error) {
	var boots []api.Boot
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return nil, err
		}
		if limit > 0 && len(boots) == limit {
			break
		}
		b, err := read(tx, lastPart(it.Key))
		if err != nil {
			return nil, err
		}
		boots = append(boots, b)
	}
	return boots, nil
}

// ByMAC lists the written boots of a MAC, newest first, at most limit; 0 means all
// that are kept.
func ByMAC(tx store.Tx, mac string, limit int) ([]api.Boot, error) {
	boots, err := listed(tx, macPrefix+strings.ToLower(mac)+"/", limit)
	if err != nil {
		return nil, fmt.Errorf("boots of %s: %w", mac, err)
	}
	return boots, nil
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
	for it, err := range tx.Scan(timePrefix, timePrefix+oldest(t)) {
		if err != nil {
			return nil, fmt.Errorf("boots since %v: %w", t, err)
		}
		b, err := read(tx, lastPart(it.Key))
		if err != nil {
			return nil, err
		}
		boots = append(boots, b)
	}
	return boots, nil
}

// Forget removes all boots of a MAC.
func Forget(tx store.Tx, mac string) error {
	boots, err := ByMAC(tx, mac, 0)
	if err != nil {
		return err
	}
	for _, b := range boots {
		if err := remove(tx, b.ID); err != nil {
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
