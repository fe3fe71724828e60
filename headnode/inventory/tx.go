package inventory

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"nereid/headnode/store"
)

// The key prefixes of this package. ServerPrefix+UUID changes with what is
// wanted of a server and with the operator's decisions about it, MACPrefix+MAC with
// whose the MAC is.
const (
	ServerPrefix   = "server/"
	observedPrefix = "observed/"
	MACPrefix      = "mac/"
	hostnamePrefix = "hostname/"
)

// ErrNoServer is a server that is not known. It is store.ErrNotFound too.
var ErrNoServer = fmt.Errorf("no such server: %w", store.ErrNotFound)

// Get reads a record by UUID.
func Get(tx store.Tx, uuid string) (Record, error) {
	r, found, err := store.Lookup[Record](tx, ServerPrefix+uuid)
	if err != nil {
		return r, fmt.Errorf("read server %s: %w", uuid, err)
	}
	if !found {
		return r, ErrNoServer
	}
	return r, nil
}

// Find reads a record by UUID, MAC or hostname.
func Find(tx store.Tx, id string) (Record, error) {
	if u, ok := ParseUUID(id); ok {
		return Get(tx, u)
	}
	if m, ok := ParseMAC(id); ok && strings.Contains(id, ":") {
		o, found, err := OwnerOf(tx, m)
		if err != nil {
			return Record{}, err
		}
		if !found {
			return Record{}, ErrNoServer
		}
		return Get(tx, o.UUID)
	}
	uuid, found, err := store.Lookup[string](tx, hostnamePrefix+strings.ToLower(id))
	if err != nil {
		return Record{}, fmt.Errorf("read hostname %s: %w", id, err)
	}
	if !found || id == "" {
		return Record{}, ErrNoServer
	}
	return Get(tx, uuid)
}

// OwnerOf says which server a MAC belongs to.
func OwnerOf(tx store.Tx, mac string) (Owner, bool, error) {
	o, found, err := store.Lookup[Owner](tx, MACPrefix+mac)
	if err != nil {
		err = fmt.Errorf("read owner of %s: %w", mac, err)
	}
	return o, found, err
}

// Owned gives the MACs that belong to a server.
func Owned(tx store.Tx) (map[string]bool, error) {
	owned := map[string]bool{}
	for e, err := range store.Each[Owner](tx, MACPrefix) {
		if err != nil {
			return nil, fmt.Errorf("read owners of MACs: %w", err)
		}
		if e.Value.Role == RoleOwned {
			owned[strings.TrimPrefix(e.Key, MACPrefix)] = true
		}
	}
	return owned, nil
}

// ByFirmware finds the server of a DHCP message: by MAC, which decides. A UUID
// alone is no proof of anything and is looked at when the server enrols.
func ByFirmware(tx store.Tx, mac string) (rec Record, role Role, found bool, err error) {
	o, found, err := OwnerOf(tx, mac)
	if err != nil || !found {
		return Record{}, "", false, err
	}
	rec, err = Get(tx, o.UUID)
	if errors.Is(err, ErrNoServer) {
		return Record{}, "", false, nil
	}
	return rec, o.Role, err == nil, err
}

// Put writes a record back.
func Put(tx store.Tx, r Record) error {
	if err := store.Put(tx, ServerPrefix+r.UUID, r); err != nil {
		return fmt.Errorf("write server %s: %w", r.UUID, err)
	}
	return nil
}

// GetObserved reads what a server reported; nothing yet is the zero value.
func GetObserved(tx store.Tx, uuid string) (Observed, error) {
	o, _, err := store.Lookup[Observed](tx, observedPrefix+uuid)
	if err != nil {
		err = fmt.Errorf("read report of %s: %w", uuid, err)
	}
	return o, err
}

// PutObserved writes what a server reported.
func PutObserved(tx store.Tx, uuid string, o Observed) error {
	if err := store.Put(tx, observedPrefix+uuid, o); err != nil {
		return fmt.Errorf("write report of %s: %w", uuid, err)
	}
	return nil
}

// List reads a page of records by UUID; next is empty on the last.
func List(tx store.Tx, after string, limit int) ([]Record, string, error) {
	return store.Scan[Record](tx, ServerPrefix, after, limit)
}

// All ranges over all records.
func All(tx store.Tx) iter.Seq2[store.Entry[Record], error] {
	return store.Each[Record](tx, ServerPrefix)
}

// own makes a MAC belong to a server.
func own(tx store.Tx, mac, uuid string, role Role) error {
	return store.Put(tx, MACPrefix+mac, Owner{UUID: uuid, Role: role})
}

// disown frees a MAC if it belongs to the server.
func disown(tx store.Tx, mac, uuid string) error {
	o, found, err := OwnerOf(tx, mac)
	if err != nil || !found || o.UUID != uuid {
		return err
	}
	return tx.Delete(MACPrefix + mac)
}

// takeHostname gives a name to a server and frees its old one.
func takeHostname(tx store.Tx, r *Record, name string) error {
	if r.Hostname == name {
		return nil
	}
	if r.Hostname != "" {
		if err := tx.Delete(hostnamePrefix + r.Hostname); err != nil {
			return err
		}
	}
	r.Hostname = name
	return store.Put(tx, hostnamePrefix+name, r.UUID)
}

// newHostname is the name of a newcomer: its boot MAC with dashes, and a number
// behind it when somebody has that name.
func newHostname(tx store.Tx, mac string) (string, error) {
	for i := 1; ; i++ {
		name := dashed(mac)
		if i > 1 {
			name = fmt.Sprintf("%s-%d", name, i)
		}
		taken, err := store.Has(tx, hostnamePrefix+name)
		if err != nil || !taken {
			return name, err
		}
	}
}

// addMACs gives unowned MACs to the server and notes those of other servers as
// moves on both records. It reports whether the record changed.
func addMACs(tx store.Tx, r *Record, macs []string, seen Move) (bool, error) {
	changed := false
	for _, m := range macs {
		o, found, err := OwnerOf(tx, m)
		if err != nil {
			return false, err
		}
		switch {
		case found && o.UUID == r.UUID && o.Role == RoleOwned:
		case !found || o.UUID == r.UUID || o.Role != RoleOwned:
			if err := own(tx, m, r.UUID, RoleOwned); err != nil {
				return false, err
			}
			r.MACs = append(r.MACs, m)
			changed = true
		default:
			if slices.ContainsFunc(r.Moves, func(x Move) bool { return x.MAC == m && x.Other == o.UUID && !x.Done }) {
				continue
			}
			r.Moves = append(r.Moves, Move{MAC: m, Other: o.UUID, Seen: seen.Seen})
			changed = true
			if err := noteLost(tx, o.UUID, Move{MAC: m, Other: r.UUID, Seen: seen.Seen}); err != nil {
				return false, err
			}
		}
	}
	slices.Sort(r.MACs)
	r.MACs = slices.Compact(r.MACs)
	return changed, nil
}

// noteLost tells a server's record that one of its MACs was seen elsewhere.
func noteLost(tx store.Tx, uuid string, m Move) error {
	r, err := Get(tx, uuid)
	if err != nil {
		return err
	}
	r.Lost = slices.DeleteFunc(r.Lost, func(x Move) bool { return x.MAC == m.MAC })
	r.Lost = append(r.Lost, m)
	return Put(tx, r)
}
