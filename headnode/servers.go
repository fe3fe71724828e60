package headnode

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/boots"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
	"nereid/headnode/trust"
)

// listedBoots is how many boots an answer lists.
const listedBoots = 50

type serverID struct {
	ID string `path:"id" doc:"UUID, hostname or MAC"`
}

type serverBody[T any] struct {
	ID   string `path:"id" doc:"UUID, hostname or MAC"`
	Body T
}

func (s *Server) routeServers(h huma.API) {
	type page struct {
		Limit int    `query:"limit" minimum:"0" maximum:"1000" doc:"at most so many; 0: 200"`
		After string `query:"after" doc:"next of the page before"`
	}
	route(s, h, operators, http.MethodGet, "/v1/servers", "List servers", func(ctx context.Context, in *page) (*body[list[api.Server]], error) {
		out := list[api.Server]{}
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out.Items, out.Next, err = s.servers(tx, in.After, in.Limit)
			return err
		})
		return answer(out), err
	})
	route(s, h, operators, http.MethodGet, "/v1/servers/{id}", "Show a server", func(ctx context.Context, in *serverID) (*tagged[api.Server], error) {
		var sv api.Server
		err := s.store.View(ctx, func(tx store.Tx) error {
			r, err := inventory.Find(tx, in.ID)
			if err == nil {
				sv, err = s.view(tx, r)
			}
			if isNotFound(err) {
				if got, found, ferr := s.findNewcomer(tx, in.ID); found || ferr != nil {
					sv, err = got, ferr
				}
			}
			return err
		})
		return withTag(sv), err
	})
	route(s, h, operators, http.MethodPatch, "/v1/servers/{id}", "Rename a server, assign it a platform, or say what placement is to know of it", func(ctx context.Context, in *serverBody[api.ServerUpdate]) (*tagged[api.Server], error) {
		sv, err := s.change(ctx, in.ID, func(tx store.Tx, r *inventory.Record) error {
			var name, platform error
			if in.Body.Hostname != nil {
				name = inventory.Rename(tx, r, *in.Body.Hostname)
			}
			if in.Body.Platform != nil {
				if platform = platforms.Assign(tx, r.UUID, *in.Body.Platform); platform == nil {
					platform = inventory.Touch(tx, r)
				}
			}
			return api.Faults(name, platform, inventory.Describe(tx, r, in.Body.Rack, in.Body.Traits, in.Body.Reserved))
		})
		return withTag(sv), err
	}, conditional, lenient, collects, settable(serverFixed(), nil))
	route(s, h, operators, http.MethodDelete, "/v1/servers/{id}", "Forget a server", s.forget, conditional, confirms, status(http.StatusNoContent))

	route(s, h, operators, http.MethodPost, "/v1/servers/{id}/approve", "Let a server in", s.decideOn(inventory.Approve), conditional)
	route(s, h, operators, http.MethodPost, "/v1/servers/{id}/accept-key", "Accept the other key that a server presents", s.decideOn(inventory.AcceptKey), conditional)
	route(s, h, operators, http.MethodPost, "/v1/servers/{id}/reject", "Refuse a server", func(ctx context.Context, in *serverID) (*tagged[api.Server], error) {
		return wrap(s.change(ctx, in.ID, inventory.Reject))
	}, conditional)
	s.routePower(h)

	route(s, h, operators, http.MethodGet, "/v1/servers/{id}/boots", "List a server's boots, newest first", func(ctx context.Context, in *serverID) (*body[list[api.Boot]], error) {
		var out []api.Boot
		err := s.store.View(ctx, func(tx store.Tx) error {
			r, err := inventory.Find(tx, in.ID)
			if err == nil {
				out, err = s.bootsOf(tx, r, listedBoots)
			}
			return err
		})
		return items(withLegs(out)), err
	})
	route(s, h, operators, http.MethodGet, "/v1/boots", "List the boots of a MAC, newest first", func(ctx context.Context, in *struct {
		MAC string `query:"mac" required:"true"`
	}) (*body[list[api.Boot]], error) {
		mac, ok := inventory.ParseMAC(in.MAC)
		if !ok {
			return nil, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "write it as 52:54:00:12:34:56", "%q is no MAC address", in.MAC)
		}
		var out []api.Boot
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out, err = s.pending.ByMAC(tx, mac, listedBoots)
			return err
		})
		return items(withLegs(out)), err
	})
}

// approval is the body of a decision about who a machine is.
type approval struct {
	MAC string `json:"mac,omitempty" doc:"of the machine that is meant, where several claim to be the server"`
}

type approvalOf struct {
	ID   string `path:"id" doc:"UUID, hostname or MAC"`
	Body *approval
}

// decideOn is an operator's decision on which machine a server is. Addresses of MACs
// that the server has no more are given back.
func (s *Server) decideOn(decide func(tx store.Tx, now time.Time, r *inventory.Record, mac string, syncing bool) (gone []string, err error)) func(context.Context, *approvalOf) (*tagged[api.Server], error) {
	return func(ctx context.Context, in *approvalOf) (*tagged[api.Server], error) {
		mac, err := macIn(in.Body)
		if err != nil {
			return nil, err
		}
		return wrap(s.change(ctx, in.ID, func(tx store.Tx, r *inventory.Record) error {
			gone, err := decide(tx, s.now(), r, mac, s.syncing(*r))
			if err != nil {
				return err
			}
			return s.unreserve(tx, gone, s.now())
		}))
	}
}

// macIn is the MAC of a decision, empty when it names none.
func macIn(a *approval) (string, error) {
	if a == nil || a.MAC == "" {
		return "", nil
	}
	mac, ok := inventory.ParseMAC(a.MAC)
	if !ok {
		return "", refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "write it as 52:54:00:12:34:56", "%q is no MAC address", a.MAC)
	}
	return mac, nil
}

func wrap(sv api.Server, err error) (*tagged[api.Server], error) { return withTag(sv), err }

// change runs fn on a server in one transaction and shows what came of it.
func (s *Server) change(ctx context.Context, id string, fn func(store.Tx, *inventory.Record) error) (api.Server, error) {
	var sv api.Server
	err := s.update(ctx, func(tx store.Tx) error {
		r, err := inventory.Find(tx, id)
		if isNotFound(err) {
			err = cmp.Or(s.notEnrolled(tx, id), err)
		}
		if err == nil {
			err = ifMatch(ctx, "server "+r.Hostname, r.Revision)
		}
		if err != nil {
			return err
		}
		if err := fn(tx, &r); err != nil {
			return err
		}
		sv, err = s.view(tx, r)
		return err
	})
	if err == nil {
		s.serverChanged(sv.UUID, sv.Hostname)
	}
	return sv, err
}

// forget frees everything that is kept of a server.
func (s *Server) forget(ctx context.Context, in *serverID) (*none, error) {
	var gone inventory.Record
	err := s.update(ctx, func(tx store.Tx) error {
		r, err := inventory.Find(tx, in.ID)
		if err == nil {
			err = ifMatch(ctx, "server "+r.Hostname, r.Revision)
		}
		if err != nil {
			return err
		}
		if err := instancesOn(tx, r.UUID, r.Hostname, "forgotten"); err != nil {
			return err
		}
		macs, err := inventory.Forget(tx, r)
		if err != nil {
			return err
		}
		admin, err := s.admin(tx)
		if err != nil {
			return err
		}
		for _, m := range macs {
			bs, err := boots.ByMAC(tx, m, 0)
			if err != nil {
				return err
			}
			for _, b := range bs {
				if err := trust.ForgetBoot(tx, b.ID); err != nil {
					return err
				}
			}
			if err := boots.Forget(tx, m); err != nil {
				return err
			}
			if err := addresses.Unreserve(tx, admin, m, s.now()); err != nil && !isNotFound(err) {
				return err
			}
			if err := platforms.Forget(tx, m); err != nil && !isNotFound(err) {
				return err
			}
		}
		if err := platforms.Forget(tx, r.UUID); err != nil && !isNotFound(err) {
			return err
		}
		nics, err := networks.ForgetServer(tx, s.now(), r.UUID)
		if err != nil {
			return err
		}
		for _, c := range nics {
			if _, err := s.nicChanged(tx, c, nil); err != nil {
				return err
			}
		}
		if err := s.keepMapped(tx, r.UUID, nil); err != nil {
			return err
		}
		if err := s.reroute(tx, r.UUID); err != nil {
			return err
		}
		if err := forgetNAT(tx, r.UUID); err != nil {
			return err
		}
		gone = r
		return nil
	})
	if err == nil {
		s.live.forget(gone.UUID)
		s.serverChanged(gone.UUID, gone.Hostname)
	}
	return nil, err
}

// bootsOf lists the boots of all MACs of a server, newest first, without those of
// other machines with one of them.
func (s *Server) bootsOf(tx store.Tx, r inventory.Record, limit int) ([]api.Boot, error) {
	var out []api.Boot
	for _, m := range r.MACs {
		bs, err := s.pending.ByMAC(tx, m, limit)
		if err != nil {
			return nil, err
		}
		for _, b := range bs {
			its, err := inventory.Booted(tx, r, m, b.UUID)
			if err != nil {
				return nil, err
			}
			if its {
				out = append(out, b)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b api.Boot) int { return b.Started.Compare(a.Started) })
	if len(out) > limit {
		out = out[:limit]
	}
	return out, nil
}

// withLegs computes the waterfalls.
func withLegs(bs []api.Boot) []api.Boot {
	for i := range bs {
		bs[i].Legs = boots.Legs(bs[i], time.Time{})
	}
	return bs
}
