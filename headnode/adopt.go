package headnode

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	catalog "nereid/headnode/images"
	"nereid/headnode/instances"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// An instance that a server has and that is not known, as after a restore from a backup,
// runs on. Its MACs and addresses are given to nobody else, as far as nobody has them:
//
//	unexpected/held/<server>/<UUID>  []heldNIC
//	unexpected/mac/<MAC>             <server>/<UUID> whose it is
const (
	heldPrefix    = "unexpected/held/"
	heldMACPrefix = "unexpected/mac/"
)

// heldNIC is an address that is held for a NIC; an empty one is of a NIC without any.
type heldNIC struct {
	MAC     string `json:"mac"`
	Network string `json:"network,omitempty"`
	IP      string `json:"ip,omitempty"`
}

// heldMAC says which unexpected instance has a MAC, as a sentence goes on behind the MAC;
// empty: none.
func heldMAC(tx store.Tx, mac string) (string, error) {
	of, found, err := store.Lookup[string](tx, heldMACPrefix+mac)
	if err != nil || !found {
		return "", err
	}
	server, uuid, _ := strings.Cut(of, "/")
	return "is a NIC of instance " + uuid + ", which server " + server + " has and which is not known", nil
}

// holdUnexpected holds what instances have that a server reports and was not told of, and
// nothing for those that are known now.
func (s *Server) holdUnexpected(tx store.Tx, server string, t instances.Taken) error {
	for _, u := range t.Strange {
		if err := s.hold(tx, u); err != nil {
			return err
		}
	}
	for _, uuid := range t.Known {
		if err := s.release(tx, server, uuid); err != nil {
			return err
		}
	}
	return nil
}

// forgetUnexpected forgets unexpected instances, of which nothing is left.
func (s *Server) forgetUnexpected(tx store.Tx, server string, uuids []string) error {
	for _, uuid := range uuids {
		if err := s.release(tx, server, uuid); err != nil {
			return err
		}
	}
	return instances.Forget(tx, server, uuids)
}

// hold holds what an instance has. What it has not any more is given back.
func (s *Server) hold(tx store.Tx, u api.UnexpectedInstance) error {
	if u.Why != instances.NotKnown || u.Instance.Spec == nil {
		return s.release(tx, u.Server, u.Instance.UUID)
	}
	spec, key := u.Instance.Spec, heldPrefix+u.Server+"/"+u.Instance.UUID
	had, _, err := store.Lookup[[]heldNIC](tx, key)
	if err != nil {
		return err
	}
	var held []heldNIC
	for _, n := range spec.NICs[:min(len(spec.NICs), instances.MaxNICs)] {
		mac, ok := inventory.ParseMAC(n.MAC)
		if !ok {
			continue
		}
		held = append(held, heldNIC{MAC: mac})
		for _, a := range n.Addresses[:min(len(n.Addresses), maxHeld)] {
			ip, _, _ := strings.Cut(a.Address, "/")
			is, err := networks.Hold(tx, strings.ToLower(n.Network), spec.Owner, ip, mac, u.Server)
			if err != nil {
				return err
			}
			if is {
				held = append(held, heldNIC{mac, strings.ToLower(n.Network), ip})
			}
		}
	}
	if slices.Equal(had, held) {
		return nil
	}
	for _, h := range had {
		if !slices.Contains(held, h) {
			if err := s.giveUp(tx, u.Server+"/"+u.Instance.UUID, h); err != nil {
				return err
			}
		}
	}
	for _, h := range held {
		of, found, err := store.Lookup[string](tx, heldMACPrefix+h.MAC)
		if err == nil && !found {
			err = store.Put(tx, heldMACPrefix+h.MAC, u.Server+"/"+u.Instance.UUID)
		}
		if err != nil || found && of == "" {
			return err
		}
	}
	return store.Put(tx, key, held)
}

// maxHeld is how many addresses are held of one NIC.
const maxHeld = 16

// release gives back what is held of an instance.
func (s *Server) release(tx store.Tx, server, uuid string) error {
	key := heldPrefix + server + "/" + uuid
	had, found, err := store.Lookup[[]heldNIC](tx, key)
	if err != nil || !found {
		return err
	}
	for _, h := range had {
		if err := s.giveUp(tx, server+"/"+uuid, h); err != nil {
			return err
		}
	}
	return tx.Delete(key)
}

func (s *Server) giveUp(tx store.Tx, of string, h heldNIC) error {
	if h.IP != "" {
		return networks.Release(tx, s.now(), h.Network, h.IP, h.MAC)
	}
	is, _, err := store.Lookup[string](tx, heldMACPrefix+h.MAC)
	if err != nil || is != of {
		return err
	}
	return tx.Delete(heldMACPrefix + h.MAC)
}

func (s *Server) routeAdopt(h huma.API) {
	route(s, h, operators, http.MethodPost, "/v1/unexpected-instances/{id}/adopt", "Take back an instance that a server has and that is not known", func(ctx context.Context, in *struct {
		ID   string `path:"id" doc:"UUID, or a name that one of them has"`
		Body api.InstanceAdopt
	}) (*tagged[api.Instance], error) {
		var out api.Instance
		err := s.update(ctx, func(tx store.Tx) (err error) {
			return quietly(tx, func(tx store.Tx) (err error) {
				out, err = s.adopt(tx, callerOf(ctx).operator, in.ID, in.Body)
				return err
			})
		})
		if err == nil {
			s.live.took(out.Server, "") // it tells all, with the snapshots of what is known now
		}
		return withTag(out), err
	}, status(http.StatusCreated), lenient, collects)
}

// adopt makes an unexpected instance known as what its server keeps of it. It runs on.
func (s *Server) adopt(tx store.Tx, by, id string, in api.InstanceAdopt) (api.Instance, error) {
	u, err := instances.FindUnexpected(tx, id)
	if err != nil {
		return api.Instance{}, err
	}
	spec := u.Instance.Spec
	if u.Why != instances.NotKnown || spec == nil {
		why := u.Why
		if spec == nil {
			why = "its server keeps no spec of it"
		}
		return api.Instance{}, refuse(http.StatusConflict, api.CodeConflict, "see: nereid instance list --unexpected", "instance %s cannot be adopted: %s", u.Instance.UUID, why)
	}
	owner, ok := inventory.ParseUUID(spec.Owner)
	if !ok || spec.UUID != u.Instance.UUID {
		return api.Instance{}, refuse(http.StatusConflict, api.CodeConflict, "see: nereid instance list --unexpected", "what server %s keeps of instance %s is not its spec", u.Server, u.Instance.UUID)
	}
	name := spec.Name
	if in.Name != "" {
		name = in.Name
	}
	wanted := instances.WantRunning
	if spec.Wanted == api.InstanceStopped {
		wanted = instances.WantStopped
	}
	n := instances.New{Run: spec.Run, DNSDomain: spec.DNSDomain, Datacenter: spec.Datacenter, By: by, Adopted: &u.Instance,
		Placement: api.Placement{Instance: spec.UUID, Chosen: u.Server, Asked: true},
		Instance: api.Instance{UUID: spec.UUID, Owner: owner, Name: name, Brand: spec.Brand, Image: spec.Image, Package: spec.Package, Server: u.Server, Wanted: wanted, Restart: spec.Restart, VM: spec.VM,
			Firewall: in.Firewall, Tags: spec.Tags, Metadata: spec.Metadata, Internal: spec.Internal, Limits: spec.Limits}}
	faults := []error{instances.CheckTags(spec.Tags), instances.CheckMetadata(spec.Metadata), instances.CheckInternal(spec.Internal)}
	image, err := s.imageOf(tx, owner, spec.Image)
	switch p := (*api.Problem)(nil); {
	case err == nil:
		n.Image = catalog.SpecOf(image)
	case !errors.As(err, &p):
		return n.Instance, err
	}
	if len(spec.NICs) > instances.MaxNICs {
		faults = append(faults, refuse(http.StatusConflict, api.CodeConflict, "it is not as an agent of ours keeps it", "instance %s has %s; at most %d are allowed", spec.UUID, api.Plural(len(spec.NICs), "NIC"), instances.MaxNICs))
	}
	if err := api.Faults(faults...); err != nil {
		return n.Instance, err
	}
	if err := s.forgetUnexpected(tx, u.Server, []string{u.Instance.UUID}); err != nil {
		return n.Instance, err
	}
	if err := s.adoptNICs(tx, &n, spec); err != nil {
		return n.Instance, err
	}
	r, err := instances.Create(tx, s.now(), n)
	if err != nil {
		return n.Instance, err
	}
	tellInstance(tx, r, true)
	return s.showInstance(tx, r)
}

// adoptNICs makes the NICs of an instance known, as they are.
func (s *Server) adoptNICs(tx store.Tx, n *instances.New, spec *api.InstanceSpec) error {
	provided, err := provides(tx, n.Instance.Server)
	if err != nil {
		return err
	}
	for _, had := range spec.NICs {
		nic := api.NetworkNIC{MAC: had.MAC, Owner: n.Instance.Owner, Server: n.Instance.Server, BelongsTo: spec.UUID, BelongsToType: api.BelongsToZone, Brand: spec.Brand,
			Primary: had.Primary, Tags: instances.FirewallTags(spec.Tags), NoFirewall: !n.Instance.Firewall}
		for _, a := range had.Addresses {
			ip, _, _ := strings.Cut(a.Address, "/")
			nic.Addresses = append(nic.Addresses, api.NICAddress{Network: had.Network, IP: ip})
		}
		c, err := s.createNIC(tx, nic, provided)
		made, err := s.nicChanged(tx, c, err)
		if err != nil {
			return err
		}
		inside, resolvers, err := networks.Inside(tx, made)
		if err != nil {
			return err
		}
		inside.Interface = had.Interface
		n.Instance.NICs = append(n.Instance.NICs, inside)
		n.Segments = append(n.Segments, networks.SegmentOf(made))
		for _, r := range resolvers {
			if !slices.Contains(n.Instance.Resolvers, r) {
				n.Instance.Resolvers = append(n.Instance.Resolvers, r)
			}
		}
	}
	return nil
}
