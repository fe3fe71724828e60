package headnode

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// How many statuses, deletions, and instances' snapshots, of a report one transaction
// takes in.
const (
	takeAtOnce  = 256
	endAtOnce   = 16
	snapsAtOnce = 64
)

// takeInstances takes in what changed of a server's instances. A report that does not
// follow on the last one is left: the answer names the one that was taken in, and the
// agent sends all.
func (s *Server) takeInstances(ctx context.Context, server string, rep *api.InstanceReport) error {
	if rep == nil || !rep.Full && rep.Since != s.live.report(server) {
		return nil
	}
	var news []api.InstanceStatus
	var gone []instances.Record
	var forget []string
	var snaps []api.SnapshotReport
	err := s.store.View(ctx, func(tx store.Tx) (err error) {
		if news, err = instances.News(tx, server, rep.Put); err != nil {
			return err
		}
		if gone, forget, err = instances.Left(tx, server, *rep); err != nil {
			return err
		}
		snaps, err = instances.SnapshotNews(tx, server, rep.Snapshots)
		return err
	})
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(news, takeAtOnce) {
		var t instances.Taken
		err := s.write(ctx, func(n *noting) (err error) {
			t, err = instances.Take(n, s.now(), server, chunk)
			for _, r := range t.Changed {
				tellInstance(n, r, false)
			}
			if err == nil {
				err = s.holdUnexpected(n, server, t)
			}
			return err
		})
		if err != nil {
			return err
		}
		s.noteTaken(server, t)
	}
	if len(rep.Written) > 0 {
		var t instances.Taken
		err := s.write(ctx, func(n *noting) (err error) {
			t, err = instances.Write(n, s.now(), server, rep.Written)
			for _, r := range t.Changed {
				tellInstance(n, r, false)
			}
			return err
		})
		if err != nil {
			return err
		}
		s.noteTaken(server, t)
	}
	for chunk := range slices.Chunk(snaps, snapsAtOnce) {
		err := s.write(ctx, func(n *noting) error {
			changed, err := instances.TakeSnapshots(n, s.now(), server, chunk)
			for _, r := range changed {
				tellInstance(n, r, false)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(gone, endAtOnce) {
		err := s.write(ctx, func(n *noting) error {
			for _, r := range chunk {
				if err := s.endInstance(n, r.UUID); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, r := range chunk {
			s.log.Info("instance is gone", "instance", r.UUID, "name", r.Name, "server", server)
		}
	}
	if len(forget) > 0 {
		err := s.store.Update(ctx, func(tx store.Tx) error { return s.forgetUnexpected(tx, server, forget) })
		if err != nil {
			return err
		}
		s.serverChanged(server, "")
	}
	s.live.took(server, rep.Now)
	return nil
}

// noteTaken tells the log what of a report is not as it should be.
func (s *Server) noteTaken(server string, t instances.Taken) {
	for _, u := range t.Unexpected {
		s.log.Warn("a server has an instance that it was not told of; it stays as it is", "server", server, "instance", u.Instance.UUID, "why", u.Why)
		s.serverChanged(server, "")
	}
	for _, why := range t.Ignored {
		s.log.Warn("part of a server's report was not taken in", "server", server, "what", why)
	}
}

// endInstance frees what an instance that is to be deleted had: nothing is left of it.
func (s *Server) endInstance(tx store.Tx, uuid string) error {
	r, err := instances.Find(tx, "", uuid)
	if err != nil || r.Wanted != instances.WantDeleted || r.State == api.InstanceDeleted {
		return err // another report said so before
	}
	nics, _, err := networks.ListNICs(tx, networks.NICFilter{BelongsTo: uuid}, "", 0)
	if err != nil {
		return err
	}
	for _, n := range nics {
		if err := s.dropForwards(tx, n); err != nil {
			return err
		}
		c, err := networks.DeleteNIC(tx, s.now(), n.MAC)
		if _, err := s.nicChanged(tx, c, err); err != nil {
			return err
		}
	}
	tellInstance(tx, r, false)
	_, err = instances.Finish(tx, s.now(), r)
	return err
}

// deleteInstance has an instance removed by its server, or with lost frees at once what
// it had. A port forward to it stands against that.
func (s *Server) deleteInstance(tx store.Tx, a instances.Asked, r instances.Record, lost bool) (instances.Record, error) {
	nics, _, err := networks.ListNICs(tx, networks.NICFilter{BelongsTo: r.UUID}, "", 0)
	if err != nil {
		return r, err
	}
	if r.Wanted != instances.WantDeleted {
		var forwards []error
		for _, n := range nics {
			forwards = append(forwards, keepsForwards(tx, networks.Change{Before: &n}))
		}
		if err := api.Faults(forwards...); err != nil {
			return r, err
		}
	}
	silence := s.silence(r.Server, a.Now)
	if lost && silence == "" {
		return r, refuse(409, api.CodeConflict, "leave out server_lost, and its server removes it; see: nereid server get "+nameOf(tx, r.Server),
			"server %s of instance %s is not lost: it syncs", nameOf(tx, r.Server), r.Name)
	}
	if r, err = instances.Delete(tx, a, r); err != nil || !lost {
		return r, err
	}
	also(tx, "what is on server %s (%s) of instance %s is not removed now; should the server come back, it removes it then", nameOf(tx, r.Server), silence, r.Name)
	also(tx, "the addresses %s may be given to others, while the instance may still run there", strings.Join(addressesOf(r.Instance), ", "))
	if err := quietly(tx, func(tx store.Tx) error { return s.endInstance(tx, r.UUID) }); err != nil {
		return r, err
	}
	return instances.Find(tx, "", r.UUID)
}

func addressesOf(i api.Instance) []string {
	var out []string
	for _, n := range i.NICs {
		for _, a := range n.Addresses {
			ip, _, _ := strings.Cut(a.Address, "/")
			out = append(out, ip)
		}
	}
	if len(out) == 0 {
		return []string{"(none)"}
	}
	return out
}

// cleanAtOnce is how many deleted instances one transaction forgets.
const cleanAtOnce = 100

// cleanInstances forgets instances that were deleted long ago.
func (s *Server) cleanInstances(ctx context.Context) error {
	for {
		n := 0
		err := s.store.Update(ctx, func(tx store.Tx) error {
			settings, err := instances.GetSettings(tx)
			if err == nil {
				n, err = instances.Clean(tx, s.now().Add(-time.Duration(settings.KeepDays)*24*time.Hour), cleanAtOnce)
			}
			return err
		})
		if err != nil || n < cleanAtOnce {
			return err
		}
	}
}

// instancesOn refuses what would destroy a server's instances, or lose them.
func instancesOn(tx store.Tx, server, hostname, what string) error {
	var names []string
	for r, err := range instances.OfServer(tx, server, "") {
		if err != nil {
			return err
		}
		names = append(names, "instance "+r.Name+" ("+r.UUID+") of account "+r.Owner)
		if len(names) == 21 {
			names[20] = "and more"
			break
		}
	}
	if len(names) == 0 {
		return nil
	}
	return &api.Problem{Title: "In use", Status: 409, Code: api.CodeInUse, Errors: names,
		Detail: "server " + hostname + " has instances, so it is not " + what, Next: "delete them first, if they are to go: nereid instance list --on " + hostname}
}

// withInstances says what the instances of a server use, and adds an alert for those
// that it was not told of.
func withInstances(tx store.Tx, r inventory.Record, unexpected []api.UnexpectedInstance, alerts []string) (*api.ServerUse, []string, error) {
	use, err := instances.Use(tx, r.UUID)
	if err != nil {
		return nil, alerts, err
	}
	for i, u := range unexpected {
		if i == 20 {
			alerts = append(alerts, fmt.Sprintf("It has %s more that it was not told of; see: nereid instance list --unexpected", api.Plural(len(unexpected)-i, "instance")))
			break
		}
		name := u.Instance.UUID
		if sp := u.Instance.Spec; sp != nil && sp.Name != "" {
			name = fmt.Sprintf("%.63s (%s)", sp.Name, name)
		}
		alerts = append(alerts, fmt.Sprintf("Instance %s is here and %s: %s; it stays as it is.", name, u.Instance.State, u.Why))
		if u.Instance.Spec != nil && u.Why == instances.NotKnown {
			alerts[len(alerts)-1] += " To take it back: nereid instance adopt " + u.Instance.UUID
		}
	}
	if use.Instances == 0 {
		return nil, alerts, nil
	}
	return &use, alerts, nil
}

// alsoInstances notes which instances a reboot or a shutdown of a server stops.
func alsoInstances(tx store.Tx, server, then string) error {
	n := 0
	for r, err := range instances.OfServer(tx, server, "") {
		if err != nil {
			return err
		}
		if r.Wanted != instances.WantRunning {
			continue
		}
		if n++; n <= 20 {
			also(tx, "instance %s (%s) stops, %s", r.Name, r.UUID, then)
		}
	}
	if n > 20 {
		also(tx, "and so do %s more", api.Plural(n-20, "instance"))
	}
	return nil
}
