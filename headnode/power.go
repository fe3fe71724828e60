package headnode

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/store"
)

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }

// shortDuration writes 12h instead of 12h0m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// routePower adds setup, reboot, shutdown and factory reset.
func (s *Server) routePower(h huma.API) {
	route(s, h, operators, http.MethodPost, "/v1/servers/{id}/setup", "Make a server's pool and first datasets", func(ctx context.Context, in *serverBody[api.SetupSpec]) (*tagged[api.Server], error) {
		return wrap(s.change(ctx, in.ID, func(tx store.Tx, r *inventory.Record) error { return s.setup(tx, r, in.Body) }))
	}, lenient, collects, conditional)
	for _, action := range []string{"reboot", "shutdown"} {
		route(s, h, operators, http.MethodPost, "/v1/servers/{id}/"+action, strings.ToUpper(action[:1])+action[1:]+" a server", func(ctx context.Context, in *serverID) (*tagged[api.Server], error) {
			return wrap(s.change(ctx, in.ID, func(tx store.Tx, r *inventory.Record) error {
				if err := s.reachable(tx, r, action); err != nil {
					return err
				}
				then := "and starts again when the server has booted"
				if action == "shutdown" {
					then = "until the server is powered on"
				}
				if err := alsoInstances(tx, r.UUID, then); err != nil {
					return err
				}
				return inventory.AskPower(tx, s.now(), r, action, "")
			}))
		}, conditional, confirms)
	}
	route(s, h, operators, http.MethodPost, "/v1/servers/{id}/reset", "Destroy a server's pool and begin anew", func(ctx context.Context, in *serverBody[api.ServerReset]) (*tagged[api.Server], error) {
		return wrap(s.change(ctx, in.ID, func(tx store.Tx, r *inventory.Record) error { return s.reset(tx, r, in.Body.Hostname) }))
	}, conditional)
}

// contested refuses orders to a server that may be any of several machines.
func (s *Server) contested(tx store.Tx, r *inventory.Record) error {
	rivals, err := inventory.Claimants(tx, r.UUID)
	if err == nil && inventory.Contested(*r, rivals, s.syncing(*r)) {
		err = refuse(http.StatusConflict, api.CodeUUIDCollision, "decide first with: nereid server approve "+r.UUID+" --mac MAC", "two machines claim the UUID %s, so neither gets orders", r.UUID)
	}
	return err
}

// reachable says whether a server can be told something: it is approved and was
// heard of lately.
func (s *Server) reachable(tx store.Tx, r *inventory.Record, what string) error {
	if err := s.contested(tx, r); err != nil {
		return err
	}
	if !r.Approved {
		return refuse(http.StatusConflict, api.CodeNotApproved, "approve it first: nereid server approve "+r.UUID, "server %s is not approved, so it takes no %s", r.Hostname, what)
	}
	last, _ := s.live.get(r.UUID)
	if r.BootID == "" || last.IsZero() || s.now().Sub(last) > api.SilentAfter {
		return refuse(http.StatusConflict, api.CodeConflict, "see nereid server get "+r.Hostname+"; a server that does not answer is power-cycled by hand", "server %s is not heard of, so it cannot be told to %s", r.Hostname, what)
	}
	return nil
}

func (s *Server) setup(tx store.Tx, r *inventory.Record, spec api.SetupSpec) error {
	if err := checkSetup(spec); err != nil {
		return err
	}
	if err := s.contested(tx, r); err != nil {
		return err
	}
	switch {
	case !r.Approved:
		return refuse(http.StatusConflict, api.CodeNotApproved, "approve it first: nereid server approve "+r.UUID, "server %s is not approved", r.Hostname)
	case r.SetUp:
		return refuse(http.StatusConflict, api.CodeConflict, "look at its pool with: nereid server get "+r.Hostname, "server %s is set up already", r.Hostname)
	case r.Power != nil && r.Power.Action == "reset":
		return refuse(http.StatusConflict, api.CodeConflict, "ask again when it has booted", "server %s is being reset", r.Hostname)
	}
	return inventory.AskSetup(tx, r, spec)
}

// checkSetup says what is wrong with a setup as far as it can be said here; the
// agent checks it against the disks.
func checkSetup(spec api.SetupSpec) error {
	var faults []error
	bad := func(format string, args ...any) {
		faults = append(faults, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "see: nereid server setup --help", format, args...))
	}
	switch spec.Layout {
	case "", "single", "mirror", "raidz1", "raidz2", "raidz3":
	default:
		bad("layout %q; want single, mirror, raidz1, raidz2 or raidz3", spec.Layout)
	}
	if !slices.Contains([]string{"", "hdd", "ssd"}, spec.DataOn) {
		bad("data on %q; want hdd or ssd", spec.DataOn)
	}
	if spec.Width != 0 && (spec.Width < 2 || spec.Width > 24) {
		bad("vdevs of %d disks; want a width of 2 to 24", spec.Width)
	}
	if spec.Spares != nil && (*spec.Spares < 0 || *spec.Spares > 64) {
		bad("%d spares; want 0 to 64", *spec.Spares)
	}
	if !poolName(spec.Pool) {
		bad("pool %q; want a letter, then up to 63 letters, digits, and - _ . characters, and no name ZFS keeps for itself", spec.Pool)
	}
	for _, d := range slices.Concat(spec.Exclude, spec.Wipe, spec.Distinct) {
		if d == "" || len(d) > 255 || strings.ContainsAny(d, " \t\n\x00") {
			bad("disk %q is no kernel name or id", d)
		}
	}
	return api.Faults(faults...)
}

// poolName checks a pool's name as zpool-create(8) does; empty is the default.
func poolName(s string) bool {
	if s == "" {
		return true
	}
	if len(s) > 64 || !(s[0] >= 'a' && s[0] <= 'z' || s[0] >= 'A' && s[0] <= 'Z') {
		return false
	}
	for _, c := range s {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_.", c)) {
			return false
		}
	}
	for _, reserved := range []string{"mirror", "raidz", "draid", "spare"} {
		if strings.HasPrefix(s, reserved) {
			return false
		}
	}
	return s != "log"
}

// reset asks for a factory reset.
func (s *Server) reset(tx store.Tx, r *inventory.Record, typed string) error {
	if typed != r.Hostname {
		return refuse(http.StatusConflict, api.CodeConflict, "type the hostname exactly", "%q is not the hostname of this server, which is %s; nothing was done", typed, r.Hostname)
	}
	if err := instancesOn(tx, r.UUID, r.Hostname, "reset"); err != nil {
		return err
	}
	if err := s.reachable(tx, r, "reset"); err != nil {
		return err
	}
	o, err := inventory.GetObserved(tx, r.UUID)
	if err != nil {
		return err
	}
	if o.Report != nil {
		for _, p := range o.Report.Pools {
			if p.System {
				return inventory.AskPower(tx, s.now(), r, "reset", p.GUID)
			}
		}
	}
	if r.Setup != nil || r.SetUp {
		if o.Report != nil && o.Report.BootID == r.BootID {
			// There is no pool to destroy; what is left of the setup is forgotten.
			return inventory.ForgetSetup(tx, r)
		}
	}
	return refuse(http.StatusConflict, api.CodeConflict, "set it up with: nereid server setup "+r.Hostname, "server %s reports no system pool, so there is nothing to reset", r.Hostname)
}
