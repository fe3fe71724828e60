package headnode

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// maxMapEntries bounds an answer to a poll for maps, but for a first snapshot.
const maxMapEntries = 16384

func (s *Server) routeFabrics(h huma.API) {
	s.routeForwards(h)
	route(s, h, operators, http.MethodGet, "/v1/fabric-settings", "Show the datacenter's fabric settings", func(ctx context.Context, _ *none) (*tagged[api.FabricSettings], error) {
		var out api.FabricSettings
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out, err = networks.GetSettings(tx)
			return err
		})
		return withTag(out), err
	})
	route(s, h, operators, http.MethodPut, "/v1/fabric-settings", "Replace the datacenter's fabric settings", func(ctx context.Context, in *body[api.FabricSettings]) (*tagged[api.FabricSettings], error) {
		var out api.FabricSettings
		err := s.update(ctx, func(tx store.Tx) (err error) {
			old, err := networks.GetSettings(tx)
			if err == nil {
				err = ifMatch(ctx, "the fabric settings", old.Revision)
			}
			if err != nil {
				return err
			}
			if out, err = networks.UpdateSettings(tx, in.Body); err != nil {
				return err
			}
			if err := s.renatAll(tx); err != nil {
				return err
			}
			tell(tx, objectEvent("fabric settings", "/v1/fabric-settings", api.Event{}, false))
			return touchAll(tx)
		})
		return withTag(out), err
	}, lenient, collects, conditional, confirms)
	routeObjects(s, h, objects[api.FabricVLAN, api.FabricVLANUpdate]{
		path: "/v1/accounts/{owner}/fabric/vlans", thing: "fabric VLAN", made: vlanMade(), fixed: vlanFixed(),
		about: func(v api.FabricVLAN) []api.Event { return ownedBy(strconv.Itoa(v.VLAN), v.Owner) },
		list: func(tx store.Tx, q listing) ([]api.FabricVLAN, string, error) {
			return fabric.ListVLANs(tx, q.args["owner"], q.after, q.limit)
		},
		get: func(tx store.Tx, a args) (api.FabricVLAN, error) { return fabricVLAN(tx, a, "id") },
		create: func(tx store.Tx, a args, v api.FabricVLAN) (api.FabricVLAN, error) {
			wrong := agrees("owner_uuid", v.Owner, a["owner"])
			v.Owner = a["owner"]
			v, err := fabric.CreateVLAN(tx, v, s.now())
			return v, api.Faults(wrong, err)
		},
		update: func(tx store.Tx, a args, u api.FabricVLANUpdate) (api.FabricVLAN, error) {
			v, err := fabricVLAN(tx, a, "id")
			if err != nil {
				return v, err
			}
			return fabric.UpdateVLAN(tx, v.Owner, v.VLAN, fabric.VLANUpdate{Name: u.Name, Description: u.Description})
		},
		delete: func(tx store.Tx, a args) error {
			v, err := fabricVLAN(tx, a, "id")
			if err != nil {
				return err
			}
			nets, err := networks.NetworksOfVNI(tx, v.VNI)
			if err != nil {
				return err
			}
			var users []string
			for _, n := range nets {
				users = append(users, "network "+n.Name)
			}
			return fabric.DeleteVLAN(tx, v.Owner, v.VLAN, users, s.now())
		},
	})
	routeObjects(s, h, objects[api.Network, api.NetworkUpdate]{
		path: "/v1/accounts/{owner}/fabric/vlans/{vlan}/networks", thing: "fabric network", made: fabricNetworkMade(), fixed: fabricNetworkFixed(),
		about: func(n api.Network) []api.Event { return ownedBy(n.UUID, n.Owners...) },
		list: func(tx store.Tx, q listing) ([]api.Network, string, error) {
			v, err := fabricVLAN(tx, q.args, "vlan")
			if err != nil {
				return nil, "", err
			}
			return networks.ListNetworks(tx, networks.NetworkFilter{VNI: v.VNI}, q.after, q.limit)
		},
		get:    func(tx store.Tx, a args) (api.Network, error) { return fabricNetwork(tx, a) },
		create: s.createFabricNetwork,
		update: func(tx store.Tx, a args, u api.NetworkUpdate) (api.Network, error) {
			n, err := fabricNetwork(tx, a)
			if err != nil {
				return n, err
			}
			return s.updateNetwork(tx, n.UUID, u)
		},
		delete: func(tx store.Tx, a args) error {
			n, err := fabricNetwork(tx, a)
			if err != nil {
				return err
			}
			return s.deleteNetwork(tx, n.UUID)
		},
	})
	route(s, h, operators, http.MethodGet, "/v1/fabrics/vni/{vni}/map", "Show where the addresses of a VNI are; held while nothing changed since", func(ctx context.Context, in *struct {
		VNI   uint32 `path:"vni" minimum:"1" maximum:"16777215"`
		Epoch string `query:"epoch" doc:"of the last answer; empty: the whole map at once"`
		Since uint64 `query:"since" doc:"version of the last answer"`
	}) (*polled[api.FabricMap], error) {
		maps, err := s.pollMaps(ctx, []api.MapFollow{{VNI: in.VNI, Epoch: in.Epoch, Since: in.Since}})
		if err != nil {
			return nil, err
		}
		if len(maps) == 0 {
			return &polled[api.FabricMap]{Status: http.StatusNoContent}, nil
		}
		return &polled[api.FabricMap]{Status: http.StatusOK, Body: &maps[0]}, nil
	})
	route(s, h, agents, http.MethodPost, "/v1/servers/{uuid}/maps", "Follow the maps of the VNIs that a server hosts; held while nothing changes", s.serverMaps, tolerant)
}

// fabricVLAN reads the VLAN whose number is an argument.
func fabricVLAN(tx store.Tx, a args, name string) (api.FabricVLAN, error) {
	n, err := a.number(name, 12)
	if err != nil {
		return api.FabricVLAN{}, err
	}
	return fabric.GetVLAN(tx, a["owner"], int(n))
}

// fabricNetwork reads a network of the VLAN that the path names.
func fabricNetwork(tx store.Tx, a args) (api.Network, error) {
	v, err := fabricVLAN(tx, a, "vlan")
	if err != nil {
		return api.Network{}, err
	}
	n, err := networks.FindNetwork(tx, v.Owner, a["id"])
	if err == nil && n.VNI != v.VNI {
		err = refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid fabric network list "+v.Owner+" "+a["vlan"], "network %s is not on VLAN %d", n.Name, v.VLAN)
	}
	return n, err
}

// createFabricNetwork makes a network on a VLAN; without a subnet it gets a free
// one, and its first host as the gateway.
func (s *Server) createFabricNetwork(tx store.Tx, a args, n api.Network) (api.Network, error) {
	v, err := fabricVLAN(tx, a, "vlan")
	if err != nil {
		return n, err
	}
	if n.Subnet == "" {
		p, err := networks.NextSubnet(tx, v.Owner, n.Family)
		if err != nil {
			return n, err
		}
		n.Subnet = p.String()
		if n.Gateway == "" {
			n.Gateway = p.Addr().Next().String()
		}
	}
	wrong := api.Faults(agrees("vlan_id", n.VLAN, v.VLAN), agrees("owner_uuids", strings.Join(n.Owners, ", "), v.Owner))
	n.Fabric, n.VNI, n.VLAN, n.Owners, n.NICTag = true, v.VNI, v.VLAN, []string{v.Owner}, ""
	n, err = networks.CreateNetwork(tx, n)
	if err := api.Faults(wrong, err); err != nil {
		return n, err
	}
	return n, s.networkChanged(tx, n)
}

// pollMaps gives the maps with news, or none when there was none for as long as a
// poll is held.
func (s *Server) pollMaps(ctx context.Context, follow []api.MapFollow) ([]api.FabricMap, error) {
	sets := make([]string, len(follow))
	asked := make([]fabric.Follow, len(follow))
	for i, f := range follow {
		sets[i], asked[i] = fabric.MapSet(f.VNI), fabric.Follow{VNI: f.VNI, Epoch: f.Epoch, Since: f.Since}
	}
	follower := s.sets.Follow(sets...)
	defer follower.Close()
	hold := time.NewTimer(s.cfg.Hold)
	defer hold.Stop()
	for look := asked; ; {
		var maps []api.FabricMap
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			maps, err = fabric.Changes(tx, look, maxMapEntries)
			return err
		})
		if err != nil || len(maps) > 0 {
			return maps, err
		}
		select {
		case <-follower.C():
			changed := follower.Changed()
			look = slices.DeleteFunc(slices.Clone(asked), func(f fabric.Follow) bool { return !slices.Contains(changed, fabric.MapSet(f.VNI)) })
		case <-hold.C:
			return nil, nil
		case <-stopOf(ctx):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// serverMaps is the poll of an agent. It may follow only what it takes part in:
// the maps of other accounts are none of its business.
func (s *Server) serverMaps(ctx context.Context, in *struct {
	UUID string `path:"uuid"`
	Body api.MapsRequest
}) (*polled[api.MapsResponse], error) {
	err := s.store.View(ctx, func(tx store.Tx) error {
		if _, err := s.authorised(tx, callerOf(ctx), in.UUID); err != nil {
			return err
		}
		hosted, err := hostedVNIs(tx, in.UUID)
		if err != nil {
			return err
		}
		for _, f := range in.Body.Follow {
			if !hosted[f.VNI] {
				return refuse(http.StatusForbidden, api.CodeForbidden, "sync, and follow what the spec has", "VNI %d has nothing on server %s", f.VNI, in.UUID)
			}
		}
		if n := len(in.Body.Follow); n > len(hosted) {
			return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "name each VNI once", "%d VNIs are to be followed, and server %s hosts %d", n, in.UUID, len(hosted))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	maps, err := s.pollMaps(ctx, in.Body.Follow)
	if err != nil {
		return nil, err
	}
	if len(maps) == 0 {
		return &polled[api.MapsResponse]{Status: http.StatusNoContent}, nil
	}
	return &polled[api.MapsResponse]{Status: http.StatusOK, Body: &api.MapsResponse{Maps: maps}}, nil
}
