package networks

import (
	"fmt"
	"slices"

	"nereid/api"
	"nereid/headnode/store"
)

// maxPool is the greatest number of networks in a pool.
const maxPool = 64

// GetPool reads a pool by UUID or name.
func GetPool(tx store.Tx, id string) (_ api.NetworkPool, err error) {
	defer named(&err, "read network pool %s", id)
	t, err := resolve(tx, "", id)
	if err != nil {
		return api.NetworkPool{}, err
	}
	if t.pool == nil {
		return api.NetworkPool{}, missing("pool", fmt.Sprintf("%.64q (it is a network)", id), "nereid pool list")
	}
	return *t.pool, nil
}

// ListPools reads a page of pools by UUID; see store.Scan.
func ListPools(tx store.Tx, after string, limit int) (_ []api.NetworkPool, next string, err error) {
	defer named(&err, "list network pools")
	ps, next, err := store.Scan[api.NetworkPool](tx, poolPrefix, after, limit)
	if err != nil {
		return nil, "", err
	}
	var uuids []string
	for _, p := range ps {
		uuids = append(uuids, p.Networks...)
	}
	nets, err := loadAll(tx, uuids)
	if err != nil {
		return nil, "", err
	}
	for i := range ps {
		consist(&ps[i], nets[:len(ps[i].Networks)])
		nets = nets[len(ps[i].Networks):]
	}
	return ps, next, nil
}

// members loads a pool's networks and fills in what the pool has from them.
func members(tx store.Tx, p *api.NetworkPool) ([]network, error) {
	nets, err := loadAll(tx, p.Networks)
	consist(p, nets)
	return nets, err
}

// consist fills in what a pool has from its networks.
func consist(p *api.NetworkPool, nets []network) {
	p.Family, p.NICTags = "", nil
	for _, n := range nets {
		p.Family = n.Family
		if !slices.Contains(p.NICTags, n.NICTag) {
			p.NICTags = append(p.NICTags, n.NICTag)
		}
	}
	slices.Sort(p.NICTags)
}

// checkPool checks a pool and puts its networks' UUIDs for their names.
func checkPool(tx store.Tx, p *api.NetworkPool) (err error) {
	faults := []error{checkName("pool", p.Name), checkDescription(p.Description)}
	if p.Owners, err = parseUUIDs("owners of pool "+p.Name, p.Owners); err != nil {
		faults = append(faults, err)
	}
	if len(p.Networks) == 0 || len(p.Networks) > maxPool {
		faults = append(faults, invalid("name the networks, in the order in which they are tried", "pool %s has %d networks; want 1 to %d", p.Name, len(p.Networks), maxPool))
	}
	uuids := make([]string, 0, len(p.Networks))
	fam := ""
	for _, id := range p.Networks {
		n, err := GetNetwork(tx, id)
		switch {
		case err != nil:
		case n.Fabric:
			err = invalid("leave it out", "network %s is a fabric network; those are in no pool", n.Name)
		case fam != "" && n.Family != fam:
			err = invalid("make one pool for each family", "pool %s has networks of both families: %s is %s", p.Name, n.Name, n.Family)
		case slices.Contains(uuids, n.UUID):
			err = invalid("name each once", "network %s is in pool %s twice", n.Name, p.Name)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		fam = n.Family
		uuids = append(uuids, n.UUID)
	}
	p.Networks = uuids
	return api.Faults(faults...)
}

// CreatePool makes a pool.
func CreatePool(tx store.Tx, p api.NetworkPool) (_ api.NetworkPool, err error) {
	defer named(&err, "create network pool %s", p.Name)
	if err := checkPool(tx, &p); err != nil {
		return p, err
	}
	if p.UUID == "" {
		p.UUID = newUUID()
	} else {
		uuid, ok := parseUUID(p.UUID)
		if !ok {
			return p, invalid("leave it out, and one is made", "%.64q is not a UUID", p.UUID)
		}
		p.UUID = uuid
		if has, err := store.Has(tx, poolPrefix+uuid); err != nil || has {
			if err == nil {
				err = conflict("leave the UUID out, and one is made", "pool %s exists", uuid)
			}
			return p, err
		}
	}
	if err := takeName(tx, p.Name, p.UUID); err != nil {
		return p, err
	}
	return p, putPool(tx, &p, nil)
}

// putPool writes a pool and the index of its networks; old are those it had.
func putPool(tx store.Tx, p *api.NetworkPool, old []string) error {
	for _, uuid := range old {
		if err := tx.Delete(poolOfPrefix + uuid + "/" + p.UUID); err != nil {
			return err
		}
	}
	for _, uuid := range p.Networks {
		if err := tx.Put(poolOfPrefix+uuid+"/"+p.UUID, nil); err != nil {
			return err
		}
	}
	if _, err := members(tx, p); err != nil {
		return err
	}
	p.Revision = newRevision()
	return store.Put(tx, poolPrefix+p.UUID, *p)
}

// UpdatePool changes a pool. NICs keep their addresses.
func UpdatePool(tx store.Tx, id string, u api.NetworkPoolUpdate) (_ api.NetworkPool, err error) {
	defer named(&err, "change network pool %s", id)
	p, err := GetPool(tx, id)
	if err != nil {
		return p, err
	}
	old := p
	set(&p.Name, u.Name)
	set(&p.Networks, u.Networks)
	set(&p.Owners, u.Owners)
	set(&p.Description, u.Description)
	if err := checkPool(tx, &p); err != nil {
		return p, err
	}
	if s, err := GetSettings(tx); err != nil {
		return p, err
	} else if s.NATNetwork == p.UUID {
		nets, err := members(tx, &p)
		if err == nil {
			err = fabricsApart(tx, nets, old.Networks)
		}
		if err != nil {
			return p, err
		}
	}
	if p.Name != old.Name {
		if err := takeName(tx, p.Name, p.UUID); err != nil {
			return p, err
		}
		if err := tx.Delete(namePrefix + old.Name); err != nil {
			return p, err
		}
	}
	return p, putPool(tx, &p, old.Networks)
}

// DeletePool removes a pool. Its networks stay, and NICs keep their addresses.
func DeletePool(tx store.Tx, id string) (err error) {
	defer named(&err, "delete network pool %s", id)
	p, err := GetPool(tx, id)
	if err != nil {
		return err
	}
	s, err := GetSettings(tx)
	if err != nil {
		return err
	}
	if s.NATNetwork == p.UUID {
		u := &uses{}
		u.add("internet_nat of the fabrics takes its addresses")
		return u.refuse("name another network in the fabric settings first", "pool %s is in use", p.Name)
	}
	for _, uuid := range p.Networks {
		if err := tx.Delete(poolOfPrefix + uuid + "/" + p.UUID); err != nil {
			return err
		}
	}
	if err := tx.Delete(namePrefix + p.Name); err != nil {
		return err
	}
	return tx.Delete(poolPrefix + p.UUID)
}
