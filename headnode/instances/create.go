package instances

import (
	"encoding/json"
	"fmt"
	"time"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// New is an instance to be made, with all that other subjects decided: its server, its
// NICs, the limits of its package.
type New struct {
	Instance  api.Instance // without NICs' interface names
	Run       api.ImageRun
	DNSDomain string
	// Datacenter is its name.
	Datacenter string
	Image      api.ImageSpec
	Segments   []string // layer-2 segments of its NICs
	Placement  api.Placement
	By         string // who asked
	// Adopted is what its server reported of one that is there already; nil: it is to be
	// made.
	Adopted *api.InstanceStatus
}

// Create writes a new instance and puts it into its server's set.
func Create(tx store.Tx, now time.Time, n New) (_ Record, err error) {
	defer named(&err, "create instance %s", n.Instance.UUID)
	r := Record{Instance: n.Instance, Segments: map[string]int{}}
	r.Created = now.UTC()
	if has, err := exists(tx, r.UUID); err != nil || has {
		if err == nil {
			err = conflict("leave it out and one is made", "there is an instance %s already, or there was one lately", r.UUID)
		}
		return r, err
	}
	if err := CheckName(tx, r.Owner, r.Name, r.UUID); err != nil {
		return r, err
	}
	for i := range r.NICs {
		if n.Adopted == nil {
			r.NICs[i].Interface = fmt.Sprintf("net%d", i)
		}
	}
	for _, s := range n.Segments {
		r.Segments[s]++
	}
	for _, k := range index(r) {
		if err := store.Put(tx, k, r.UUID); err != nil {
			return r, err
		}
	}
	if err := addUse(tx, r, 1); err != nil {
		return r, err
	}
	o := Observed{State: api.InstanceProvisioning, Reason: "its server has not heard of it yet"}
	if n.Adopted != nil {
		o = of(*n.Adopted)
		err = did(tx, now, r, n.By, "adopt")
	} else {
		err = ask(tx, now, &r, n.By, "provision", "")
	}
	if err != nil {
		return r, err
	}
	if err := store.Put(tx, statePrefix+r.UUID, o); err != nil {
		return r, err
	}
	if err := store.Put(tx, placementPrefix+r.UUID, n.Placement); err != nil {
		return r, err
	}
	if err := put(tx, &r); err != nil {
		return r, err
	}
	spec := api.InstanceSpec{UUID: r.UUID, Owner: r.Owner, Name: r.Name, Hostname: r.Name, DNSDomain: n.DNSDomain, Brand: r.Brand, Image: r.Image, Package: r.Package, Datacenter: n.Datacenter,
		Run: n.Run, Wanted: r.Wanted, Restart: r.Restart, NICs: r.NICs, Resolvers: r.Resolvers, Metadata: r.Metadata, Internal: r.Internal, Tags: r.Tags, VM: r.VM, Limits: r.Limits,
		Made: n.Adopted != nil}
	if n.Image.UUID == "" { // of one that was adopted: its image is not known
		return r, putSpec(tx, r.Server, spec)
	}
	if err := putImage(tx, r.Server, n.Image); err != nil {
		return r, err
	}
	return r, putSpec(tx, r.Server, spec)
}

// exists says whether there is, or was lately, an instance with a UUID.
func exists(tx store.Tx, uuid string) (bool, error) {
	values, err := tx.GetAll(recordPrefix+uuid, deletedPrefix+uuid)
	return err == nil && (values[0] != nil || values[1] != nil), err
}

// putImage lets a server fetch an image.
func putImage(tx store.Tx, server string, image api.ImageSpec) error {
	value, err := json.Marshal(image)
	if err != nil {
		return fmt.Errorf("image %s: %w", image.UUID, err)
	}
	_, err = journal.Put(tx, ImageSet(server), image.UUID, value)
	return err
}

// dropImage ends that once no instance of the image is on the server.
func dropImage(tx store.Tx, server, image string) error {
	for _, err := range tx.Scan(imagePrefix+image+"/"+server+"/", "") {
		return err // there is another one, or the store fails
	}
	_, err := journal.Delete(tx, ImageSet(server), image)
	return err
}

// UsesImage says whether an instance of an image is there, and names one.
func UsesImage(tx store.Tx, image string) (uuid string, used bool, err error) {
	for e, err := range store.Each[string](tx, imagePrefix+image+"/") {
		if err != nil {
			return "", false, fmt.Errorf("read instances of image %s: %w", image, err)
		}
		return e.Value, true, nil
	}
	return "", false, nil
}

// addUse adds an instance to the sums of its server, or with -1 takes it out.
func addUse(tx store.Tx, r Record, sign int) error {
	u, err := Use(tx, r.Server)
	if err != nil {
		return err
	}
	u.Instances += sign
	u.MemoryMiB += sign * r.MemoryMiB
	u.DiskMiB += sign * r.QuotaMiB
	u.VCPUs += sign * r.VCPUs
	for s, n := range r.Segments {
		if u.Ports == nil {
			u.Ports = map[string]int{}
		}
		if u.Ports[s] += sign * n; u.Ports[s] <= 0 {
			delete(u.Ports, s)
		}
	}
	if u.Instances <= 0 {
		return tx.Delete(UsePrefix + r.Server)
	}
	return store.Put(tx, UsePrefix+r.Server, u)
}

// Use gives the sums of the limits of a server's instances.
func Use(tx store.Tx, server string) (api.ServerUse, error) {
	u, _, err := store.Lookup[api.ServerUse](tx, UsePrefix+server)
	if err != nil {
		err = fmt.Errorf("read what the instances of server %s use: %w", server, err)
	}
	return u, err
}

// Recount says what those sums would be, from the instances themselves.
func Recount(tx store.Tx, server string) (u api.ServerUse, err error) {
	defer named(&err, "count what the instances of server %s use", server)
	for r, err := range onServer(tx, server) {
		if err != nil {
			return u, err
		}
		u.Instances++
		u.MemoryMiB += r.MemoryMiB
		u.DiskMiB += r.QuotaMiB
		u.VCPUs += r.VCPUs
		for s, n := range r.Segments {
			if u.Ports == nil {
				u.Ports = map[string]int{}
			}
			u.Ports[s] += n
		}
	}
	return u, nil
}
