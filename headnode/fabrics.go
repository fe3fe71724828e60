package headnode

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

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
			if out.NATNetwork != old.NATNetwork {
				if err := s.rerouteAll(tx); err != nil {
					return err
				}
			}
			tell(tx, objectEvent("fabric settings", "/v1/fabric-settings", api.Event{}, false))
			if out.UnderlayTag != old.UnderlayTag {
				return touchAll(tx)
			}
			return nil
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
		m, err := s.pollMap(ctx, in.VNI, in.Epoch, in.Since)
		if err != nil {
			return nil, err
		}
		if m == nil {
			return &polled[api.FabricMap]{Status: http.StatusNoContent}, nil
		}
		return &polled[api.FabricMap]{Status: http.StatusOK, Body: m}, nil
	})
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

// pollMap gives a VNI's map when it has news; nil when it had none for as long as a poll
// is held.
func (s *Server) pollMap(ctx context.Context, vni uint32, epoch string, since uint64) (*api.FabricMap, error) {
	follower := s.sets.Follow(fabric.MapSet(vni))
	defer follower.Close()
	hold := time.NewTimer(s.cfg.Hold)
	defer hold.Stop()
	for {
		var m api.FabricMap
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			m, err = fabric.Since(tx, vni, epoch, since)
			return err
		})
		if err != nil || m.Full || len(m.Entries) > 0 {
			return &m, err
		}
		select {
		case <-follower.C():
		case <-hold.C:
			return nil, nil
		case <-stopOf(ctx):
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
