package headnode

import (
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// touch gives servers a new revision, so that their agents hear their spec again: NIC tags,
// bonds and the underlay, which change rarely. What is many, or an account's, is a set of
// the journal. A server that is not known is not waited for.
func touch(tx store.Tx, servers ...string) error {
	slices.Sort(servers)
	for _, uuid := range slices.Compact(servers) {
		if uuid == "" {
			continue
		}
		r, err := inventory.Get(tx, uuid)
		if isNotFound(err) {
			continue
		}
		if err == nil {
			err = inventory.Touch(tx, &r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// touchAll is touch for every server: for what all servers' specs have, and changes rarely.
func touchAll(tx store.Tx) error {
	var all []string
	for e, err := range inventory.All(tx) {
		if err != nil {
			return err
		}
		all = append(all, e.Value.UUID)
	}
	return touch(tx, all...)
}

// networkChanged does what follows from a change of a network. Of fabric networks servers
// hear by sets.
func (s *Server) networkChanged(tx store.Tx, n api.Network) error {
	if n.Fabric {
		return s.leadOutOf(tx, n.Owners[0])
	}
	settings, err := networks.GetSettings(tx)
	if err != nil {
		return err
	}
	if n.NICTag == settings.UnderlayTag { // where VXLAN may come from
		err = touchAll(tx)
	}
	if err != nil {
		return err
	}
	servers, err := networks.ServersOfNetwork(tx, n.UUID)
	for _, server := range servers {
		if err == nil {
			err = tellNAT(tx, server) // its external address may be there
		}
	}
	return err
}

func (s *Server) routeNetworks(h huma.API) {
	routeObjects(s, h, objects[api.NICTag, api.NICTagUpdate]{
		path: "/v1/nic-tags", thing: "NIC tag",
		about: func(t api.NICTag) []api.Event { return ownedBy(t.Name) },
		made:  map[string]string{"revision": noRevision},
		fixed: map[string]string{"name": "networks and servers know it by that; make another NIC tag"},
		list: func(tx store.Tx, q listing) ([]api.NICTag, string, error) {
			return networks.ListNICTags(tx, q.after, q.limit)
		},
		get: func(tx store.Tx, a args) (api.NICTag, error) { return networks.GetNICTag(tx, a["id"]) },
		create: func(tx store.Tx, _ args, t api.NICTag) (api.NICTag, error) {
			return networks.CreateNICTag(tx, t)
		},
		update: func(tx store.Tx, a args, u api.NICTagUpdate) (api.NICTag, error) {
			before, err := networks.GetNICTag(tx, a["id"])
			if err != nil {
				return before, err
			}
			t, err := networks.UpdateNICTag(tx, a["id"], u)
			if err != nil {
				return t, err
			}
			servers, err := networks.ServersProviding(tx, t.Name)
			if len(servers) > 0 && t.MTU != before.MTU {
				also(tx, "what provides it on %s gets MTU %d, not %d", api.Plural(len(servers), "server"), t.MTU, before.MTU)
			}
			if err != nil {
				return t, err
			}
			return t, touch(tx, servers...)
		},
		delete: func(tx store.Tx, a args) error { return networks.DeleteNICTag(tx, a["id"]) },
	})
	routeObjects(s, h, objects[api.Network, api.NetworkUpdate]{
		path: "/v1/networks", thing: "network", filters: []string{"nic_tag", "owner", "fabric", "family"}, made: networkMade(), fixed: networkFixed(),
		about: func(n api.Network) []api.Event { return ownedBy(n.UUID, n.Owners...) },
		list: func(tx store.Tx, q listing) ([]api.Network, string, error) {
			f := networks.NetworkFilter{NICTag: q.filter["nic_tag"], Owner: q.filter["owner"], Family: q.filter["family"]}
			if v, ok := q.filter["fabric"]; ok {
				only := v == "true"
				f.Fabric = &only
			}
			return networks.ListNetworks(tx, f, q.after, q.limit)
		},
		get: func(tx store.Tx, a args) (api.Network, error) { return networks.GetNetwork(tx, a["id"]) },
		create: func(tx store.Tx, _ args, n api.Network) (api.Network, error) {
			n.Fabric, n.VNI = false, 0 // refused where they were set
			n, err := networks.CreateNetwork(tx, n)
			if err != nil {
				return n, err
			}
			return n, s.networkChanged(tx, n)
		},
		update: func(tx store.Tx, a args, u api.NetworkUpdate) (api.Network, error) {
			return s.updateNetwork(tx, a["id"], u)
		},
		delete: func(tx store.Tx, a args) error { return s.deleteNetwork(tx, a["id"]) },
	})
	routeObjects(s, h, objects[api.NetworkPool, api.NetworkPoolUpdate]{
		path: "/v1/network-pools", thing: "network pool", made: poolMade(), fixed: map[string]string{"uuid": "it names the pool"},
		about: func(p api.NetworkPool) []api.Event { return ownedBy(p.UUID, p.Owners...) },
		list: func(tx store.Tx, q listing) ([]api.NetworkPool, string, error) {
			return networks.ListPools(tx, q.after, q.limit)
		},
		get: func(tx store.Tx, a args) (api.NetworkPool, error) { return networks.GetPool(tx, a["id"]) },
		create: func(tx store.Tx, _ args, p api.NetworkPool) (api.NetworkPool, error) {
			return networks.CreatePool(tx, p)
		},
		update: func(tx store.Tx, a args, u api.NetworkPoolUpdate) (api.NetworkPool, error) {
			p, err := networks.UpdatePool(tx, a["id"], u)
			if err != nil {
				return p, err
			}
			settings, err := networks.GetSettings(tx)
			if err == nil && settings.NATNetwork == p.UUID {
				err = s.rerouteAll(tx)
			}
			return p, err
		},
		delete: func(tx store.Tx, a args) error { return networks.DeletePool(tx, a["id"]) },
	})
	routeObjects(s, h, objects[api.IPAddress, api.IPUpdate]{
		path: "/v1/networks/{network}/ips", thing: "network address", fixed: addressFixed(),
		about: func(a api.IPAddress) []api.Event { return ownedBy(a.IP, a.Owner) },
		list: func(tx store.Tx, q listing) ([]api.IPAddress, string, error) {
			return networks.ListIPs(tx, q.args["network"], q.after, q.limit)
		},
		get: func(tx store.Tx, a args) (api.IPAddress, error) { return networks.GetIP(tx, a["network"], a["id"]) },
		update: func(tx store.Tx, a args, u api.IPUpdate) (api.IPAddress, error) {
			if err := s.makeRoom(tx, a["network"], a["id"]); err != nil {
				return api.IPAddress{}, err
			}
			return networks.UpdateIP(tx, s.now(), a["network"], a["id"], u)
		},
	})
	route(s, h, operators, http.MethodGet, "/v1/search/ips", "Find an address in all networks", func(ctx context.Context, in *struct {
		IP string `query:"ip" required:"true"`
	}) (*body[list[api.IPAddress]], error) {
		var out []api.IPAddress
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out, err = networks.SearchIPs(tx, in.IP)
			return err
		})
		return items(out), err
	})
	route(s, h, operators, http.MethodGet, "/v1/search/nics", "Find what has a MAC address", func(ctx context.Context, in *struct {
		MAC string `query:"mac" required:"true"`
	}) (*body[list[api.NetworkNIC]], error) {
		var out []api.NetworkNIC
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out, err = networks.SearchNICs(tx, in.MAC)
			return err
		})
		return items(out), err
	})
	s.routeProviders(h)
}

func (s *Server) updateNetwork(tx store.Tx, id string, u api.NetworkUpdate) (api.Network, error) {
	for _, a := range namedAddresses(u) {
		if err := s.makeRoom(tx, id, a); err != nil {
			return api.Network{}, err
		}
	}
	before, n, err := networks.UpdateNetwork(tx, s.now(), id, u)
	if err == nil {
		err = alsoOnNetwork(tx, before, n)
	}
	if err != nil {
		return n, err
	}
	if err := s.renewInstances(tx, n.UUID); err != nil {
		return n, err
	}
	return n, s.networkChanged(tx, n)
}

func (s *Server) deleteNetwork(tx store.Tx, id string) error {
	n, err := networks.DeleteNetwork(tx, id)
	if err != nil {
		return err
	}
	return s.networkChanged(tx, n)
}

// physical are the MACs of a server's NICs; nil while its hardware is not known.
func physical(tx store.Tx, uuid string) ([]string, error) {
	o, err := inventory.GetObserved(tx, uuid)
	if err != nil || o.Sysinfo == nil {
		return nil, err
	}
	macs := []string{}
	for _, n := range o.Sysinfo.NICs {
		macs = append(macs, n.MAC)
	}
	return macs, nil
}

// onServer runs fn, which changes what a server provides, with a server that exists
// and the MACs of its hardware, and does what follows. NIC tags that move from a
// provider that the request does not name are side effects.
func (s *Server) onServer(tx store.Tx, id string, fn func(uuid string, macs []string) error, named ...string) error {
	r, err := inventory.Find(tx, id)
	if err != nil {
		return err
	}
	before, err := networks.Providers(tx, r.UUID)
	if err != nil {
		return err
	}
	macs, err := physical(tx, r.UUID)
	if err == nil {
		err = fn(r.UUID, macs)
	}
	if err == nil {
		err = tagsMoved(tx, r, before, named)
	}
	if err == nil {
		err = s.reroute(tx, r.UUID)
	}
	if err != nil {
		return err
	}
	return touch(tx, r.UUID)
}

// routeProviders routes what servers provide: NIC tags of physical NICs, and bonds.
func (s *Server) routeProviders(h huma.API) {
	route(s, h, operators, http.MethodGet, "/v1/servers/{id}/nic-tags", "List which physical NICs provide NIC tags", func(ctx context.Context, in *serverID) (*body[list[api.NICTagUse]], error) {
		var out []api.NICTagUse
		err := s.store.View(ctx, func(tx store.Tx) error {
			r, err := inventory.Find(tx, in.ID)
			if err == nil {
				out, err = networks.NICTagUses(tx, r.UUID)
			}
			return err
		})
		return items(out), err
	})
	route(s, h, operators, http.MethodPut, "/v1/servers/{id}/nic-tags", "Say which NIC tags a physical NIC provides", func(ctx context.Context, in *serverBody[api.NICTagUse]) (*none, error) {
		var server string
		err := s.update(ctx, func(tx store.Tx) error {
			return s.onServer(tx, in.ID, func(uuid string, macs []string) error {
				server = uuid
				if err := s.ownNICs(tx, uuid, macs, in.Body.MAC); err != nil {
					return err
				}
				_, err := networks.SetNICTagUse(tx, uuid, in.Body, macs, true)
				return err
			}, nicNames(in.Body.MAC)...)
		})
		if err == nil {
			s.serverChanged(server, "")
		}
		return nil, err
	}, status(http.StatusNoContent), lenient, collects, confirms)

	routeObjects(s, h, objects[api.Bond, api.Bond]{
		path: "/v1/servers/{server}/bonds", thing: "bond",
		about: func(b api.Bond) []api.Event { return []api.Event{{Name: b.Name, Server: b.Server}} },
		list: func(tx store.Tx, q listing) ([]api.Bond, string, error) {
			r, err := inventory.Find(tx, q.args["server"])
			if err != nil {
				return nil, "", err
			}
			return networks.ListBonds(tx, r.UUID, q.after, q.limit)
		},
		get: func(tx store.Tx, a args) (api.Bond, error) {
			r, err := inventory.Find(tx, a["server"])
			if err != nil {
				return api.Bond{}, err
			}
			return networks.GetBond(tx, r.UUID, a["id"])
		},
		create: func(tx store.Tx, a args, b api.Bond) (out api.Bond, err error) {
			return out, s.onServer(tx, a["server"], func(uuid string, macs []string) error {
				if err := s.ownNICs(tx, uuid, macs, b.MACs...); err != nil {
					return err
				}
				wrong := agrees("server", b.Server, uuid)
				b.Server = uuid
				_, err := networks.GetBond(tx, uuid, b.Name)
				switch {
				case isProblem(err, api.CodeNotFound):
					out, err = networks.CreateBond(tx, b, macs, true)
				case err == nil:
					out, err = networks.UpdateBond(tx, b, macs, true)
				}
				return api.Faults(wrong, err)
			}, append(nicNames(b.MACs...), "bond "+b.Name)...)
		},
		delete: func(tx store.Tx, a args) error {
			return s.onServer(tx, a["server"], func(uuid string, _ []string) error { return networks.DeleteBond(tx, uuid, a["id"]) })
		},
	})
}

// isProblem says whether an error is a refusal with a code.
func isProblem(err error, code api.Code) bool {
	p, expected := problemOf(err)
	return err != nil && expected && p.Code == code
}
