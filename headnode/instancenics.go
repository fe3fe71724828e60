package headnode

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/placement"
	"nereid/headnode/store"
)

// The NICs of an instance are those of the networks that belong to it. The instance has
// them as it sees them, so that its spec is all that its server needs.

// instanceOf gives the instance that something belongs to; found is false when there is
// none, or when it is to be deleted.
func instanceOf(tx store.Tx, belongsTo string) (r instances.Record, found bool, err error) {
	uuid, ok := inventory.ParseUUID(belongsTo)
	if !ok {
		return r, false, nil
	}
	r, err = instances.There(tx, "", uuid)
	if isProblem(err, api.CodeNotFound) {
		return r, false, nil
	}
	return r, err == nil, err
}

// ownNIC reads a NIC, and the instance that has it.
func ownNIC(tx store.Tx, mac string) (n api.NetworkNIC, r instances.Record, owned bool, err error) {
	if n, err = networks.GetNIC(tx, mac); err != nil || n.Brand == "" {
		return n, r, false, err
	}
	r, owned, err = instanceOf(tx, n.BelongsTo)
	return n, r, owned, err
}

// joins gives the instance that a change of a NIC would give it to; an empty record where
// it would be an instance's that does not exist.
func joins(tx store.Tx, n api.NetworkNIC, u api.NICUpdate) (r instances.Record, would bool, err error) {
	if u.BelongsTo == nil || n.BelongsToType == api.BelongsToServer {
		return r, false, nil
	}
	r, would, err = instanceOf(tx, *u.BelongsTo)
	return r, would || n.BelongsToType == api.BelongsToZone, err
}

// noInstance refuses a NIC of an instance that does not exist.
func noInstance(uuid string) error {
	return refuse(http.StatusNotFound, api.CodeNotFound, "look for it (nereid instance list), or make it first (nereid instance create); what is no instance of ours is of type other (--belongs-to-type other)",
		"there is no instance %.64s for the NIC to belong to", uuid)
}

// byNobody is who asks for a change of a NIC, of which the log says it.
func (s *Server) byNobody() instances.Asked { return instances.Asked{By: "operator", Now: s.now()} }

// updateInstance changes an instance, and with it its NICs: rules see its tags.
func (s *Server) updateInstance(tx store.Tx, a instances.Asked, r instances.Record, u api.InstanceUpdate) (instances.Record, error) {
	before := r
	r, err := instances.Update(tx, a, r, u)
	if err != nil {
		return r, err
	}
	tags := instances.FirewallTags(r.Tags)
	retag := !maps.Equal(instances.FirewallTags(before.Tags), tags)
	if !retag && before.Firewall == r.Firewall {
		return r, nil
	}
	open := !r.Firewall
	for i, n := range r.NICs {
		u := api.NICUpdate{NoFirewall: &open}
		if retag && i == 0 { // all of the instance get them
			u.Tags = &tags
		}
		err := quietly(tx, func(tx store.Tx) error {
			c, err := networks.UpdateNIC(tx, n.MAC, u, nil)
			_, err = s.nicChanged(tx, c, err)
			return err
		})
		if err != nil {
			return r, err
		}
	}
	return r, nil
}

// addNIC gives an instance a NIC.
func (s *Server) addNIC(tx store.Tx, a instances.Asked, r instances.Record, nic api.NetworkNIC) (api.NetworkNIC, instances.Record, error) {
	if len(r.NICs) >= instances.MaxNICs {
		return nic, r, refuse(http.StatusConflict, api.CodeConflict, "take one away first", "instance %s has %s, and no more are allowed", r.Name, api.Plural(len(r.NICs), "NIC"))
	}
	if err := instances.OneMore(r); err != nil {
		return nic, r, err
	}
	if nic.Owner == "" {
		nic.Owner = r.Owner
	}
	if nic.Server == "" {
		nic.Server = r.Server
	}
	if nic.Owner != r.Owner || nic.Server != r.Server {
		return nic, r, refuse(http.StatusConflict, api.CodeConflict, "leave owner and server out", "instance %s is of account %s and on server %s; so is its NIC", r.Name, r.Owner, r.Server)
	}
	nic.BelongsTo, nic.BelongsToType, nic.Brand, nic.NoFirewall = r.UUID, api.BelongsToZone, r.Brand, !r.Firewall
	nic.Tags, nic.Primary = instances.FirewallTags(r.Tags), nic.Primary || len(r.NICs) == 0
	rec, err := inventory.Get(tx, r.Server)
	if err != nil {
		return nic, r, err
	}
	h, err := host(tx, rec.UUID, placement.Server{}, decided)
	if err != nil {
		return nic, r, err
	}
	c, err := s.createNIC(tx, nic, h.Tags)
	if err == nil && h.Used.Ports[networks.SegmentOf(*c.After)] >= placement.PortLimit {
		err = refuse(http.StatusConflict, api.CodeNoCapacity, "use another network", "the bridge of %s on server %s has all the NICs that it takes: %d", networks.SegmentOf(*c.After), rec.Hostname, placement.PortLimit)
	}
	made, err := s.nicChanged(tx, c, err)
	if err != nil {
		return made, r, err
	}
	r, err = s.renewNICs(tx, a, r, "add_nics")
	return made, r, err
}

// removeNIC takes a NIC from an instance.
func (s *Server) removeNIC(tx store.Tx, a instances.Asked, r instances.Record, mac string) (instances.Record, error) {
	hw, ok := inventory.ParseMAC(mac)
	if !ok {
		hw = strings.ToLower(mac)
	}
	if !slices.ContainsFunc(r.NICs, func(n api.InstanceNIC) bool { return n.MAC == hw }) {
		var has []string
		for _, n := range r.NICs {
			has = append(has, n.MAC)
		}
		return r, refuse(http.StatusNotFound, api.CodeNotFound, "name one of its own", "instance %s has no NIC %.64q; it has %s", r.Name, mac, strings.Join(has, ", "))
	}
	c, err := networks.DeleteNIC(tx, s.now(), hw)
	if _, err := s.nicChanged(tx, c, err); err != nil {
		return r, err
	}
	return s.renewNICs(tx, a, r, "remove_nics")
}

// renewNICs notes the NICs of an instance as they are now. action is what is noted in
// the audit; empty: nothing.
func (s *Server) renewNICs(tx store.Tx, a instances.Asked, r instances.Record, action string) (instances.Record, error) {
	nics, _, err := networks.ListNICs(tx, networks.NICFilter{BelongsTo: r.UUID}, "", 0)
	if err != nil {
		return r, err
	}
	slices.SortStableFunc(nics, func(a, b api.NetworkNIC) int {
		switch {
		case a.Primary == b.Primary:
			return 0
		case a.Primary:
			return -1
		}
		return 1
	})
	var inside []api.InstanceNIC
	var resolvers, segments []string
	for _, n := range nics {
		in, more, err := networks.Inside(tx, n)
		if err != nil {
			return r, err
		}
		inside, segments = append(inside, in), append(segments, networks.SegmentOf(n))
		for _, x := range more {
			if !slices.Contains(resolvers, x) {
				resolvers = append(resolvers, x)
			}
		}
	}
	tellInstance(tx, r, false)
	return instances.SetNICs(tx, a, r, inside, resolvers, segments, action)
}

// renewInstances has the instances on a network that changed note their NICs anew.
func (s *Server) renewInstances(tx store.Tx, network string) error {
	nics, _, err := networks.ListNICs(tx, networks.NICFilter{Network: network}, "", 0)
	if err != nil {
		return err
	}
	done := map[string]bool{}
	for _, n := range nics {
		if n.Brand == "" || done[n.BelongsTo] {
			continue
		}
		done[n.BelongsTo] = true
		r, found, err := instanceOf(tx, n.BelongsTo)
		if err != nil {
			return err
		}
		if !found || r.Wanted == instances.WantDeleted {
			continue
		}
		if _, err := s.renewNICs(tx, instances.Asked{Now: s.now()}, r, ""); err != nil {
			return err
		}
	}
	return nil
}

// changeOwnNIC changes a NIC of an instance as far as that is not the instance's own
// affair.
func (s *Server) changeOwnNIC(tx store.Tx, a instances.Asked, r instances.Record, mac string, u api.NICUpdate) (api.NetworkNIC, error) {
	var faults []error
	for _, f := range []struct {
		asked      bool
		what, next string
	}{
		{u.Server != nil && *u.Server != r.Server, "another server", "an instance and its NICs are on one server; make another instance there"},
		{u.Owner != nil && *u.Owner != r.Owner, "another owner", "an instance and its NICs are of one account"},
		{u.BelongsTo != nil && *u.BelongsTo != r.UUID, "another instance", "take it away, and give the other one a NIC: nereid instance nic remove " + r.UUID + " " + mac},
		{u.Tags != nil, "firewall tags of its own", "they are the instance's tags: nereid instance tag set " + r.UUID + " NAME=VALUE"},
	} {
		if f.asked {
			faults = append(faults, refuse(http.StatusConflict, api.CodeConflict, f.next, "NIC %s is instance %s's and cannot have %s", mac, r.Name, f.what))
		}
	}
	if err := api.Faults(faults...); err != nil {
		return api.NetworkNIC{}, err
	}
	c, err := networks.UpdateNIC(tx, mac, u, nil)
	out, err := s.nicChanged(tx, c, err)
	if err != nil {
		return out, err
	}
	_, err = s.renewNICs(tx, a, r, "")
	return out, err
}
