package headnode

import (
	"slices"
	"sync"

	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/boots"
	"nereid/headnode/instances"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
)

// view computes what is shown of a server.
func (s *Server) view(tx store.Tx, r inventory.Record) (api.Server, error) {
	all, err := s.views(tx, []inventory.Record{r})
	if err != nil {
		return api.Server{}, err
	}
	return all[0], nil
}

// views is view for servers in the order of their UUIDs, whose parts are read together: how
// often the store is asked does not grow with how many they are.
func (s *Server) views(tx store.Tx, recs []inventory.Record) ([]api.Server, error) {
	sh, err := share(tx, recs)
	if err != nil {
		return nil, err
	}
	out := make([]api.Server, len(recs))
	return out, store.Together(tx, len(recs), func(i int, tx store.Tx) (err error) {
		out[i], err = s.show(tx, recs[i], sh)
		return err
	})
}

// shared is what the views of several servers have in common, read once.
type shared struct {
	rivals     map[string][]inventory.Record       // by the server whose UUID they claim
	unexpected map[string][]api.UnexpectedInstance // by the server that has them
	networks   func() ([]api.Network, error)       // all
	newest     func() (stamp string, err error)    // complete platform
}

func share(tx store.Tx, recs []inventory.Record) (sh shared, err error) {
	uuids := make([]string, len(recs))
	for i, r := range recs {
		uuids[i] = r.UUID
	}
	if sh.rivals, err = inventory.ClaimantsOf(tx, uuids); err != nil {
		return sh, err
	}
	sh.unexpected, err = instances.UnexpectedOn(tx, uuids)
	sh.networks = sync.OnceValues(func() ([]api.Network, error) {
		all, _, err := networks.ListNetworks(tx, networks.NetworkFilter{}, "", 0)
		return all, err
	})
	sh.newest = sync.OnceValues(func() (string, error) { return platforms.Newest(tx) })
	return sh, err
}

// show is view with what servers share.
func (s *Server) show(tx store.Tx, r inventory.Record, sh shared) (api.Server, error) {
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
	v := inventory.View{Started: s.started, LastSeen: last, Rivals: sh.rivals[r.UUID]}
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
	unexpected, err := unexpectedAlerts(tx, r, o.Report, sh.networks)
	if err != nil {
		return sv, err
	}
	sv.Alerts = append(sv.Alerts, unexpected...)
	if sv.Use, sv.Alerts, err = withInstances(tx, r, sh.unexpected[r.UUID], sv.Alerts); err != nil {
		return sv, err
	}
	if sv.NetworkApplied, err = networkApplied(tx, sv, s.live.account(r.UUID)); err != nil {
		return sv, err
	}
	if s.live.outdated(r.UUID) && sv.Platform.Running != "" {
		newest, err := sh.newest()
		if err != nil {
			return sv, err
		}
		sv.Alerts = append(sv.Alerts, outdated(sv, newest))
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
