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

// view computes what is shown of a server.
func (s *Server) view(tx store.Tx, r inventory.Record) (api.Server, error) {
	now := s.now()
	o, err := inventory.GetObserved(tx, r.UUID)
	if err != nil {
		return api.Server{}, err
	}
	bs, err := s.bootsOf(tx, r, 10)
	if err != nil {
		return api.Server{}, err
	}
	last, usage := s.live.get(r.UUID)
	v := inventory.View{Started: s.started, LastSeen: last}
	if v.Rivals, err = inventory.Claimants(tx, r.UUID); err != nil {
		return api.Server{}, err
	}
	current := ""
	if len(bs) > 0 {
		v.Boot, current = &bs[0], bs[0].ID
		if bs[0].Done == nil {
			if l := boots.Loop(bs[0], bs[1:], now); l.Failures >= boots.LoopFree {
				v.Loop = l.Reason
			}
		}
	}
	state, reason := inventory.State(now, r, o, v)
	d, err := platforms.Next(tx, r.UUID, current, now)
	if err != nil {
		return api.Server{}, err
	}
	sv := api.Server{
		UUID: r.UUID, Hostname: r.Hostname, State: state, StateReason: reason, MACs: r.MACs, Claims: r.Claims,
		Approved: r.Approved, SetUp: r.SetUp, Created: r.Created, BootID: r.BootID,
		Platform: d.Choice(), Sysinfo: o.Sysinfo, Report: o.Report, Usage: usage, Setup: r.Setup,
		Alerts: inventory.Alerts(r, o, v.Rivals), Revision: r.Revision, Rack: r.Rack, Traits: r.Traits, Reserved: r.Reserved,
	}
	if sv.MACs == nil {
		sv.MACs = []string{}
	}
	if !last.IsZero() {
		sv.LastSeen = &last
	}
	if !r.Booted.IsZero() {
		sv.Booted = &r.Booted
	}
	if o.Report != nil && (state == api.StateRunning || state == api.StateApproved || state == api.StateSettingUp) {
		sv.Platform.Running = o.Report.Platform
	}
	if sv.Platform.Failed != "" {
		sv.Alerts = append(sv.Alerts, "Platform "+sv.Platform.Failed+" failed its trial here: "+sv.Platform.Reason)
	}
	shared, err := inventory.SharedBootMAC(tx, r)
	if err != nil {
		return sv, err
	}
	if shared != "" {
		sv.Alerts = append(sv.Alerts, shared)
	}
	unexpected, err := unexpectedAlerts(tx, r, o.Report)
	if err != nil {
		return sv, err
	}
	sv.Alerts = append(sv.Alerts, unexpected...)
	if sv.Use, sv.Alerts, err = withInstances(tx, r, sv.Alerts); err != nil {
		return sv, err
	}
	if sv.NetworkApplied, err = networkApplied(tx, sv, s.live.account(r.UUID)); err != nil {
		return sv, err
	}
	if s.live.outdated(r.UUID) && sv.Platform.Running != "" {
		text, err := outdated(tx, sv, now)
		if err != nil {
			return sv, err
		}
		sv.Alerts = append(sv.Alerts, text)
	}
	sv.Address, err = addressOf(tx, r, bs)
	return sv, err
}

// addressOf is the address of the NIC the server boots from.
func addressOf(tx store.Tx, r inventory.Record, bs []api.Boot) (string, error) {
	macs := slices.Clone(r.MACs)
	if len(bs) > 0 {
		macs = append([]string{bs[0].MAC}, macs...)
	}
	for _, m := range macs {
		l, err := addresses.ByMAC(tx, m)
		if err == nil {
			return l.Address.String(), nil
		}
		if !isNotFound(err) {
			return "", err
		}
	}
	return "", nil
}
