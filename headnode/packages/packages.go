package packages

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Keys of this package; see the package comment.
const (
	packagePrefix = "packages/package/"
	namePrefix    = "packages/name/"
)

// Create makes a package. Its name is that of no other active one.
func Create(tx store.Tx, now time.Time, p api.Package) (_ api.Package, err error) {
	defer named(&err, "create package %s", p.Name)
	p.Owners = slices.Clone(p.Owners)
	faults := []error{check(&p)}
	if p.UUID == "" {
		p.UUID = newUUID()
	} else {
		p.UUID = strings.ToLower(p.UUID)
		taken, err := store.Has(tx, packagePrefix+p.UUID)
		switch {
		case err != nil:
			return p, err
		case !uuidRE.MatchString(p.UUID):
			faults = append(faults, invalid("leave it out and one is made", "uuid %.64q of the package is not a UUID", p.UUID))
		case taken:
			faults = append(faults, refuse(http.StatusConflict, api.CodeConflict, "leave it out and one is made", "there is a package %s already", p.UUID))
		}
	}
	faults = append(faults, nameFree(tx, p))
	if err := api.Faults(faults...); err != nil {
		return p, err
	}
	p.Active, p.Created = true, now.UTC()
	return p, put(tx, &p)
}

// nameFree refuses a name that another active package has.
func nameFree(tx store.Tx, p api.Package) error {
	if len(p.Name) > 63 {
		return nil // it is refused as it is
	}
	other, found, err := store.Lookup[string](tx, namePrefix+p.Name)
	if err == nil && found && other != p.UUID {
		err = refuse(http.StatusConflict, api.CodeConflict, "take another name, or disable that one first: nereid package disable "+p.Name, "package %s (%s) is active", p.Name, other)
	}
	return err
}

// put writes a package with a new revision; the name is an active one's.
func put(tx store.Tx, p *api.Package) error {
	p.Revision = newRevision()
	if err := store.Put(tx, packagePrefix+p.UUID, *p); err != nil {
		return err
	}
	if p.Active {
		return store.Put(tx, namePrefix+p.Name, p.UUID)
	}
	other, found, err := store.Lookup[string](tx, namePrefix+p.Name)
	if err != nil || !found || other != p.UUID {
		return err
	}
	return tx.Delete(namePrefix + p.Name)
}

// Get reads a package by UUID, or an active one by name.
func Get(tx store.Tx, id string) (_ api.Package, err error) {
	defer named(&err, "read package %.64s", id)
	uuid := strings.ToLower(id)
	if !uuidRE.MatchString(uuid) {
		uuid = ""
		if nameRE.MatchString(id) {
			if uuid, _, err = store.Lookup[string](tx, namePrefix+id); err != nil {
				return api.Package{}, err
			}
		}
	}
	p, found, err := store.Lookup[api.Package](tx, packagePrefix+uuid)
	if err == nil && (!found || uuid == "") {
		err = refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid package list", "there is no package %.64q", id)
	}
	return p, err
}

// ForNew reads a package that a new instance of an account is to be made in.
func ForNew(tx store.Tx, id, owner string) (api.Package, error) {
	p, err := Get(tx, id)
	switch {
	case err != nil:
		return p, err
	case !p.Active:
		err = refuse(http.StatusConflict, api.CodeConflict, "take another one: nereid package list", "package %s (%s) is disabled", p.Name, p.UUID)
	case len(p.Owners) > 0 && !slices.Contains(p.Owners, owner):
		err = refuse(http.StatusConflict, api.CodeConflict, "take another one: nereid package list", "package %s (%s) is not for account %s", p.Name, p.UUID, owner)
	}
	return p, err
}

// Filter chooses packages of a list.
type Filter struct {
	Owner  string // that this account may use
	Active *bool
	Name   string
}

// List gives a page of packages by UUID: at most limit (0: all) behind after. next is
// what to pass as after for the page that follows; empty on the last.
func List(tx store.Tx, f Filter, after string, limit int) (out []api.Package, next string, err error) {
	defer named(&err, "list packages")
	from := ""
	if after != "" {
		from = packagePrefix + after
	}
	for e, err := range store.EachBehind[api.Package](tx, packagePrefix, from) {
		p := e.Value
		switch {
		case err != nil:
			return nil, "", err
		case f.Active != nil && p.Active != *f.Active, f.Name != "" && p.Name != f.Name:
			continue
		case f.Owner != "" && len(p.Owners) > 0 && !slices.Contains(p.Owners, f.Owner):
			continue
		}
		if limit > 0 && len(out) == limit {
			return out, out[limit-1].UUID, nil
		}
		out = append(out, p)
	}
	return out, "", nil
}

// Update changes a package. One that becomes active again takes its name.
func Update(tx store.Tx, id string, u api.PackageUpdate) (_ api.Package, err error) {
	defer named(&err, "change package %.64s", id)
	p, err := Get(tx, id)
	if err != nil {
		return p, err
	}
	if u.Active != nil {
		p.Active = *u.Active
	}
	if u.Owners != nil {
		p.Owners = slices.Clone(*u.Owners)
	}
	if u.Group != nil {
		p.Group = *u.Group
	}
	if u.Description != nil {
		p.Description = *u.Description
	}
	faults := []error{check(&p)}
	if p.Active {
		faults = append(faults, nameFree(tx, p))
	}
	if err := api.Faults(faults...); err != nil {
		return p, err
	}
	return p, put(tx, &p)
}

// Samples makes the packages that a new datacenter begins with.
func Samples(tx store.Tx, now time.Time) error {
	for _, l := range []struct {
		name string
		api.Limits
	}{
		{"sample-128M", api.Limits{MemoryMiB: 128, SwapMiB: 128, VCPUs: 1, QuotaMiB: 2 << 10, Processes: 1000}},
		{"sample-512M", api.Limits{MemoryMiB: 512, SwapMiB: 512, VCPUs: 1, QuotaMiB: 10 << 10, Processes: 2000}},
		{"sample-2G", api.Limits{MemoryMiB: 2 << 10, SwapMiB: 2 << 10, VCPUs: 2, QuotaMiB: 25 << 10, Processes: 4000}},
		{"sample-8G", api.Limits{MemoryMiB: 8 << 10, SwapMiB: 8 << 10, VCPUs: 4, QuotaMiB: 100 << 10, Processes: 8000}},
	} {
		p := api.Package{Name: l.name, Group: "sample", Description: "a sample; make your own with: nereid package create", Limits: l.Limits}
		if _, err := Create(tx, now, p); err != nil {
			return err
		}
	}
	return nil
}

// named adds the operation to an error that is no refusal.
func named(err *error, format string, args ...any) {
	if p := (*api.Problem)(nil); *err != nil && !errors.As(*err, &p) {
		*err = fmt.Errorf(format+": %w", append(args, *err)...)
	}
}

// newRevision is 16 random hexadecimal digits.
func newRevision() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b)
}

// newUUID is a random UUID (RFC 9562, section 5.4).
func newUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
