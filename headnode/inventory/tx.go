package inventory

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// The key prefixes of this package. ServerPrefix+UUID changes with what is
// wanted of a server and with the operator's decisions about it, MACPrefix+MAC with
// whose the MAC is.
const (
	ServerPrefix   = "server/"
	observedPrefix = "observed/"
	hardwarePrefix = "hardware/"
	MACPrefix      = "mac/"
	hostnamePrefix = "hostname/"
	keyPrefix      = "key/"
	claimPrefix    = "claim/"
)

// ServerPrefixes are what the keys begin with that say something of a server, whose
// UUID follows.
func ServerPrefixes() []string { return []string{ServerPrefix, observedPrefix, hardwarePrefix} }

// ObservedPrefixes are those of these keys that change with what was observed of a server.
func ObservedPrefixes() []string { return []string{observedPrefix, hardwarePrefix} }

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

// Known is a record as somebody read it last, so that one who reads it again and again
// decodes it only when it changed. The zero Known knows nothing. Nobody changes what is
// in a record that it gives.
type Known struct {
	key   string
	value []byte
	r     Record
}

// Get is Get for one who read the record before.
func (k *Known) Get(tx store.Tx, uuid string) (Record, error) {
	key := ServerPrefix + uuid
	value, err := tx.Get(key)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return Record{}, ErrNoServer
	case err != nil:
		return Record{}, fmt.Errorf("read server %s: %w", uuid, err)
	case key == k.key && bytes.Equal(value, k.value):
		return k.r, nil
	}
	var r Record
	if err := json.Unmarshal(value, &r); err != nil {
		return Record{}, fmt.Errorf("read server %s: decode: %w", uuid, err)
	}
	*k = Known{key, value, r}
	return r, nil
}

// Find reads a record by UUID, MAC or hostname.
func Find(tx store.Tx, id string) (Record, error) {
	if u, ok := ParseUUID(id); ok {
		return Get(tx, u)
	}
	if m, ok := ParseMAC(id); ok && strings.Contains(id, ":") {
		return findMAC(tx, m)
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

// OwnerOf says which server's boots those from a MAC are.
func OwnerOf(tx store.Tx, mac string) (Owner, bool, error) {
	o, _, err := ownerOf(tx, mac)
	return o, err == nil && o.UUID != "", err
}

// ownerOf reads all that is known of a MAC.
func ownerOf(tx store.Tx, mac string) (Owner, bool, error) {
	o, found, err := store.Lookup[Owner](tx, MACPrefix+mac)
	if err != nil {
		err = fmt.Errorf("read owner of %s: %w", mac, err)
	}
	return o, found, err
}

// WithoutOwner gives those of some MACs that belong to no server.
func WithoutOwner(tx store.Tx, macs []string) ([]string, error) {
	keys := make([]string, len(macs))
	for i, mac := range macs {
		keys[i] = MACPrefix + mac
	}
	owners, err := store.LookupAll[Owner](tx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read owners of MACs: %w", err)
	}
	var out []string
	for i, o := range owners {
		if o == nil || o.UUID == "" {
			out = append(out, macs[i])
		}
	}
	return out, nil
}

// Hostnames gives the names of those servers that there are, by UUID.
func Hostnames(tx store.Tx, uuids []string) (map[string]string, error) {
	keys := make([]string, len(uuids))
	for i, uuid := range uuids {
		keys[i] = ServerPrefix + uuid
	}
	recs, err := store.LookupAll[Record](tx, keys...)
	if err != nil {
		return nil, fmt.Errorf("read hostnames: %w", err)
	}
	out := map[string]string{}
	for _, r := range recs {
		if r != nil {
			out[r.UUID] = r.Hostname
		}
	}
	return out, nil
}

// Owned gives the MACs that belong to a server.
func Owned(tx store.Tx) (map[string]bool, error) {
	owned := map[string]bool{}
	for e, err := range store.Each[Owner](tx, MACPrefix) {
		if err != nil {
			return nil, fmt.Errorf("read owners of MACs: %w", err)
		}
		if e.Value.UUID != "" {
			owned[strings.TrimPrefix(e.Key, MACPrefix)] = true
		}
	}
	return owned, nil
}

// findMAC reads the record of the machine with a MAC. Where several booted from
// it, an operator has to say which one is meant.
func findMAC(tx store.Tx, mac string) (Record, error) {
	o, _, err := ownerOf(tx, mac)
	if err != nil {
		return Record{}, err
	}
	var owner, booted, listed []Record
	for _, uuid := range append([]string{o.UUID}, o.Also...) {
		r, found, err := store.Lookup[Record](tx, ServerPrefix+uuid)
		if err != nil {
			return Record{}, err
		}
		switch {
		case !found:
		case uuid == o.UUID:
			owner = append(owner, r)
		case slices.Contains(r.BootMACs, mac):
			booted = append(booted, r)
		default:
			listed = append(listed, r)
		}
	}
	found := append(owner, booted...)
	if len(found) == 0 {
		found = listed
	}
	switch len(found) {
	case 0:
		return Record{}, ErrNoServer
	case 1:
		return found[0], nil
	}
	var names []string
	for _, r := range found {
		names = append(names, r.Hostname+" ("+r.UUID+")")
	}
	return Record{}, problem(http.StatusConflict, api.CodeConflict,
		fmt.Sprintf("the MAC %s was seen in more machines than one: %s", mac, strings.Join(names, ", ")), "name the one you mean, by its hostname or UUID")
}

// Having says which server that was let in has a NIC with a MAC; where several
// have, the one whose boots those from the MAC are.
func Having(tx store.Tx, mac string) (rec Record, found bool, err error) {
	o, _, err := ownerOf(tx, mac)
	if err != nil {
		return Record{}, false, err
	}
	for _, uuid := range append([]string{o.UUID}, o.Also...) {
		r, known, err := store.Lookup[Record](tx, ServerPrefix+uuid)
		if err != nil {
			return Record{}, false, err
		}
		if known && (uuid == o.UUID || r.accepted()) {
			return r, true, nil
		}
	}
	return Record{}, false, nil
}

// ByFirmware finds the server of a DHCP message: by MAC, which decides. A UUID
// alone is no proof of anything and is looked at when the server enrols.
func ByFirmware(tx store.Tx, mac string) (rec Record, found bool, err error) {
	o, _, err := ownerOf(tx, mac)
	if err != nil || o.UUID == "" {
		return Record{}, false, err
	}
	rec, err = Get(tx, o.UUID)
	if errors.Is(err, ErrNoServer) {
		return Record{}, false, nil
	}
	return rec, err == nil, err
}

// Booted says whether a boot from a server's MAC is the server's, and not the one
// of another machine that has the MAC too. uuid is the server the boot enrolled as,
// or what its firmware said.
func Booted(tx store.Tx, r Record, mac, uuid string) (bool, error) {
	if uuid == r.UUID {
		return true, nil
	}
	other, found, err := store.Lookup[Record](tx, ServerPrefix+uuid)
	if err != nil || found && slices.Contains(other.BootMACs, mac) {
		return false, err
	}
	o, _, err := ownerOf(tx, mac)
	return o.UUID == r.UUID, err
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
	o, err := getReport(tx, uuid)
	if err == nil {
		o.Sysinfo, err = getHardware(tx, uuid)
	}
	return o, err
}

// PutObserved writes what a server reported.
func PutObserved(tx store.Tx, uuid string, o Observed) error {
	if o.Sysinfo == nil {
		if err := tx.Delete(hardwarePrefix + uuid); err != nil {
			return fmt.Errorf("write hardware of %s: %w", uuid, err)
		}
	} else if err := putHardware(tx, uuid, o.Sysinfo); err != nil {
		return err
	}
	return putReport(tx, uuid, o)
}

// getReport reads what a server reported but for its hardware, which each sync would
// read in vain.
func getReport(tx store.Tx, uuid string) (Observed, error) {
	o, _, err := store.Lookup[Observed](tx, observedPrefix+uuid)
	if err != nil {
		err = fmt.Errorf("read report of %s: %w", uuid, err)
	}
	return o, err
}

func putReport(tx store.Tx, uuid string, o Observed) error {
	o.Sysinfo = nil
	if err := store.Put(tx, observedPrefix+uuid, o); err != nil {
		return fmt.Errorf("write report of %s: %w", uuid, err)
	}
	return nil
}

func getHardware(tx store.Tx, uuid string) (*api.Sysinfo, error) {
	info, _, err := store.Lookup[*api.Sysinfo](tx, hardwarePrefix+uuid)
	if err != nil {
		err = fmt.Errorf("read hardware of %s: %w", uuid, err)
	}
	return info, err
}

func putHardware(tx store.Tx, uuid string, info *api.Sysinfo) error {
	if err := store.Put(tx, hardwarePrefix+uuid, info); err != nil {
		return fmt.Errorf("write hardware of %s: %w", uuid, err)
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

// claimKey leads from a UUID to a machine that claims it.
func claimKey(r Record) string { return claimPrefix + r.Claims + "/" + r.UUID }

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
