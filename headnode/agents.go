package headnode

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
	"nereid/headnode/trust"
)

// polled is an answer that may be "nothing new".
type polled[T any] struct {
	Status int
	Body   *T
}

func (s *Server) routeAgents(h huma.API) {
	route(s, h, anyone, http.MethodPost, "/v1/enrol", "Ask for a client certificate with a one-boot token; held while an operator has to approve", s.enrol, s.enrolments)
	route(s, h, agents, http.MethodPost, "/v1/servers/{uuid}/sync", "Report and hear what is wanted; held while there is nothing new", s.sync, reports)
	route(s, h, agents, http.MethodPost, "/v1/servers/{uuid}/renew", "Renew a client certificate with the present one", s.renew, tolerant)
}

// enrol is a long poll: it ends when the server is approved, or after the hold.
func (s *Server) enrol(ctx context.Context, in *body[api.EnrolRequest]) (*polled[api.EnrolResponse], error) {
	req := in.Body
	csr, err := trust.ParseCSR(req.CSR)
	if err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "look at the agent's version", "%v", err)
	}
	turn := turnOf(ctx)
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	var changed <-chan struct{}
	hold := time.NewTimer(s.cfg.Hold)
	defer hold.Stop()
	for watched := ""; ; {
		out, err := s.enrolOnce(ctx, req, csr)
		if err != nil {
			return nil, err
		}
		if out.Refused != nil {
			return nil, out.Refused
		}
		uuid := out.Record.UUID
		if out.Granted {
			// Seen it is with its first sync; until then it is booting.
			s.serverChanged(uuid, out.Record.Hostname)
			csr.UUID = uuid
			return s.certify(csr)
		}
		if out.Record.Approved {
			turn.prove()
		}
		if watched != uuid { // which server it is was known only now: look again, watching
			changed, watched = s.store.Watch(watch, inventory.ServerPrefix+uuid), uuid
			continue
		}
		if s.live.touch(uuid, s.now(), nil) {
			s.serverChanged(uuid, out.Record.Hostname)
		}
		select {
		case <-changed:
		case <-turn.over():
			return nil, tooManyEnrol()
		case <-hold.C:
			return &polled[api.EnrolResponse]{Status: http.StatusAccepted, Body: waitAnswer(out)}, nil
		case <-stopOf(ctx):
			return &polled[api.EnrolResponse]{Status: http.StatusAccepted, Body: waitAnswer(out)}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func waitAnswer(out inventory.Outcome) *api.EnrolResponse {
	r := &api.EnrolResponse{State: api.StatePending, UUID: out.Record.UUID, Reason: out.Waits}
	if out.Record.Rejected {
		r.State = api.StateRejected
	}
	return r
}

// certify signs a request that was granted, for the server it names.
func (s *Server) certify(csr trust.Request) (*polled[api.EnrolResponse], error) {
	pem, until, err := s.ca.Sign(csr)
	if err != nil {
		return nil, err
	}
	return &polled[api.EnrolResponse]{Status: http.StatusOK, Body: &api.EnrolResponse{State: api.StateApproved, UUID: csr.UUID, Certificate: pem, NotAfter: until}}, nil
}

// enrolOnce is one look at an enrolment, in one transaction.
func (s *Server) enrolOnce(ctx context.Context, req api.EnrolRequest, csr trust.Request) (inventory.Outcome, error) {
	var (
		out     inventory.Outcome
		refused *api.Problem
		noted   bool
	)
	now := s.now()
	err := s.store.Update(ctx, func(tx store.Tx) error {
		out, refused, noted = inventory.Outcome{}, nil, false
		bound, err := trust.UseBoot(tx, now, req.Token, req.BootID, csr.Key, func(claimed string) bool {
			_, usable := inventory.Usable(req.Sysinfo.UUID)
			return !usable || inventory.SameUUID(claimed, req.Sysinfo.UUID)
		})
		if p, expected := problemOf(err); err != nil && expected {
			refused = p
			return s.noteRefused(tx, req.BootID, "", p, now)
		} else if err != nil {
			return err
		}
		b, err := s.pending.Get(tx, bound.BootID)
		recorded := err == nil
		if isNotFound(err) { // a server may run for longer than its boot's record is kept
			b = api.Boot{ID: bound.BootID, MAC: bound.MAC}
		} else if err != nil {
			return err
		}
		out, err = inventory.Enrol(tx, now, inventory.Enrolment{
			BootID: b.ID, BootMAC: bound.MAC, Started: b.Started, Sysinfo: req.Sysinfo, Key: csr.Key, Syncing: s.syncing,
		})
		if err != nil {
			return err
		}
		if err := s.unreserve(tx, out.Gone, now); err != nil {
			return err
		}
		if out.Refused != nil {
			uuid := "" // a boot that was refused is not the server's that it says it is
			if !out.Record.Approved {
				uuid = out.Record.UUID
			}
			return s.noteRefused(tx, b.ID, uuid, out.Refused, now)
		}
		if recorded {
			noted, err = s.noteEnrolled(tx, b, out, now)
		}
		return err
	})
	if err != nil {
		return out, err
	}
	if noted {
		s.pending.Written(req.BootID)
	}
	if refused != nil {
		return out, refused
	}
	uuid := out.Record.UUID
	if noted {
		s.log.Info("server enrolled", "server", uuid, "hostname", out.Record.Hostname, "boot", req.BootID, "certificate", out.Granted)
	}
	if out.Refused != nil {
		s.log.Warn("enrolment refused", "server", uuid, "boot", req.BootID, "code", string(out.Refused.Code), "why", out.Refused.Detail)
		s.serverChanged(uuid, out.Record.Hostname)
	}
	return out, nil
}

// syncing says whether a server's key syncs.
func (s *Server) syncing(r inventory.Record) bool {
	last, _ := s.live.get(r.UUID)
	return inventory.View{Started: s.started, LastSeen: last}.Syncing(s.now(), r)
}

// unreserve gives addresses back that were reserved for MACs a server has no more.
func (s *Server) unreserve(tx store.Tx, macs []string, now time.Time) error {
	if len(macs) == 0 {
		return nil
	}
	n, err := s.admin(tx)
	if err != nil {
		return err
	}
	for _, m := range macs {
		if err := addresses.Unreserve(tx, n, m, now); err != nil && !isNotFound(err) {
			return err
		}
	}
	return nil
}

// noteRefused adds a refusal to the boot's record, where there is one, and whose
// boot it was.
func (s *Server) noteRefused(tx store.Tx, bootID, uuid string, p *api.Problem, now time.Time) error {
	ev := api.BootEvent{Stage: api.StageRefused, Detail: "enrol: " + p.Error()}
	var err error
	if uuid == "" {
		err = s.pending.Note(tx, bootID, ev, now)
	} else {
		_, err = s.pending.Record(tx, bootID, ev, now, func(b *api.Boot) { b.UUID = uuid })
	}
	if isNotFound(err) {
		return nil
	}
	return err
}

// noteEnrolled ties the boot to the server, once: its address is reserved, and
// what is known of the machine by MAC becomes the server's. A machine that waits
// for approval has booted well, however long it waits.
func (s *Server) noteEnrolled(tx store.Tx, b api.Boot, out inventory.Outcome, now time.Time) (bool, error) {
	detail := "certificate issued"
	if !out.Granted {
		detail = out.Waits
	}
	for i := len(b.Events) - 1; i >= 0; i-- {
		if b.Events[i].Stage == api.StageEnrol {
			if b.Events[i].Detail == detail {
				return false, nil
			}
			break
		}
	}
	uuid := out.Record.UUID
	if err := platforms.Migrate(tx, b.MAC, uuid); err != nil {
		return false, err
	}
	owner, found, err := inventory.OwnerOf(tx, b.MAC)
	if err != nil {
		return false, err
	}
	if found && owner.UUID == uuid {
		n, err := s.admin(tx)
		if err != nil {
			return false, err
		}
		if _, err := addresses.Reserve(tx, n, b.MAC, uuid, now); err != nil {
			return false, err
		}
		if err := s.pending.Adopt(tx, b.MAC); err != nil {
			return false, err
		}
		changed, err := networks.BootedFrom(tx, uuid, b.MAC)
		if err == nil && changed {
			err = s.reroute(tx, uuid)
		}
		if err != nil {
			return false, err
		}
	}
	if !out.Granted && b.Platform != "" {
		if err := platforms.FirstSync(tx, uuid, b.Platform, now); err != nil {
			return false, err
		}
	}
	_, err = s.pending.Record(tx, b.ID, api.BootEvent{Stage: api.StageEnrol, Detail: detail}, now, func(b *api.Boot) {
		b.UUID = uuid
		if !out.Granted && b.Done == nil {
			b.Done = &now
		}
	})
	return true, err
}

// authorised reads the record of a server whose certificate may sync: the one
// issued last, or the one with the key on its pool.
func (s *Server) authorised(tx store.Tx, c caller, uuid string) (inventory.Record, error) {
	return s.stillAuthorised(tx, c, uuid, &inventory.Known{})
}

// stillAuthorised is authorised for one who asks again and again.
func (s *Server) stillAuthorised(tx store.Tx, c caller, uuid string, known *inventory.Known) (inventory.Record, error) {
	if c.uuid != uuid {
		return inventory.Record{}, refuse(http.StatusForbidden, api.CodeForbidden, "use the certificate of that server", "the client certificate is of server %s, not %s", c.uuid, uuid)
	}
	r, err := known.Get(tx, uuid)
	if err != nil {
		return r, err
	}
	switch {
	case r.Pin != "" && c.key != r.Pin:
		return r, refuse(http.StatusForbidden, api.CodeKeyMismatch, "enrol with the key on the pool", "the client certificate's key is not the one kept on the pool of server %s", r.Hostname)
	case !r.Approved:
		return r, refuse(http.StatusForbidden, api.CodeNotApproved, "approve it with: nereid server approve "+uuid, "server %s is not approved", r.Hostname)
	case c.key != r.Key && c.key != r.Pin:
		return r, refuse(http.StatusUnauthorized, api.CodeUnauthorized, "enrol again", "another certificate was issued to server %s since this one", r.Hostname)
	}
	return r, nil
}

// takeReport writes what a sync changed and says whether the inventory is
// needed. A sync that brings nothing new writes nothing.
func (s *Server) takeReport(ctx context.Context, c caller, in *syncInput) (need bool, err error) {
	now := s.now()
	req := inventory.Sync{Request: in.Body, Key: c.key}
	rep := in.Body.Report
	var (
		news bool
		rec  inventory.Record
	)
	err = s.store.View(ctx, func(tx store.Tx) (err error) {
		if rec, err = s.stillAuthorised(tx, c, in.UUID, &in.record); err != nil {
			return err
		}
		news, need, err = inventory.Look(tx, rec, &req)
		return err
	})
	if err != nil {
		return false, err
	}
	rep = req.Request.Report
	in.have = s.live.fill(in.UUID, &in.Body)
	if in.have != nil {
		in.have[api.PartReport] = req.Has
		if news {
			in.have[api.PartReport] = in.Body.Digests[api.PartReport] // once it is written
		}
	}
	back := s.live.touch(in.UUID, now, &in.Body.Usage)
	if !news {
		if back {
			s.serverChanged(in.UUID, rec.Hostname)
		}
		return need, nil
	}
	var first bool
	err = s.store.Update(ctx, func(tx store.Tx) error {
		first = false
		if _, err := s.authorised(tx, c, in.UUID); err != nil {
			return err
		}
		req.Started = time.Time{}
		b, err := s.pending.Get(tx, rep.BootID)
		known := err == nil
		if err != nil && !isNotFound(err) {
			return err
		}
		if known {
			// A server says nothing about another's boots.
			if known = slices.Contains(rec.MACs, b.MAC) || b.UUID == in.UUID; known {
				req.Started = b.Started
			}
		}
		seen, err := inventory.Observe(tx, in.UUID, req)
		if err != nil {
			return err
		}
		if err := s.unreserve(tx, seen.Gone, now); err != nil {
			return err
		}
		rec, need = seen.Record, seen.NeedInventory
		if err := s.noteLinks(tx, in.UUID, rep.NICTagsDown); err != nil {
			return err
		}
		if err := s.keepMapped(tx, in.UUID, rep.UnexpectedNICs); err != nil {
			return err
		}
		if !seen.FirstOfBoot {
			return nil
		}
		if known {
			first = true
			if err := s.noteFirstSync(tx, b, in.UUID, rep, now); err != nil {
				return err
			}
		}
		if rep.Platform == "" {
			return nil
		}
		return platforms.FirstSync(tx, in.UUID, rep.Platform, now)
	})
	if err != nil {
		return false, err
	}
	if first {
		s.pending.Written(rep.BootID)
		s.log.Info("server synced for the first time in this boot", "server", in.UUID, "hostname", rec.Hostname, "boot", rep.BootID, "platform", rep.Platform)
	}
	s.serverChanged(in.UUID, rec.Hostname)
	return need, nil
}

// noteFirstSync ends a boot's record.
func (s *Server) noteFirstSync(tx store.Tx, b api.Boot, uuid string, rep api.Report, now time.Time) error {
	_, err := s.pending.Record(tx, b.ID, api.BootEvent{Stage: api.StageFirstSync, Seconds: rep.Boot.FirstSync}, now, func(b *api.Boot) {
		b.UUID = uuid
		t := rep.Boot
		b.Timings = &t
		if b.Platform == "" {
			b.Platform = rep.Platform
		}
	})
	return err
}

// renew gives a server whose certificate is good another one, for the same key.
func (s *Server) renew(ctx context.Context, in *struct {
	UUID string `path:"uuid"`
	Body struct {
		CSR string `json:"csr" doc:"PEM PKCS#10 request, ECDSA P-256, subject CN = server UUID"`
	}
}) (*polled[api.EnrolResponse], error) {
	c := callerOf(ctx)
	if err := s.store.View(ctx, func(tx store.Tx) error { _, err := s.authorised(tx, c, in.UUID); return err }); err != nil {
		return nil, err
	}
	csr, err := trust.ParseCSR(in.Body.CSR)
	if err != nil {
		return nil, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "look at the agent's version", "%v", err)
	}
	if csr.UUID != in.UUID {
		return nil, refuse(http.StatusForbidden, api.CodeForbidden, "look at the agent's version", "the certificate request is for %q, the certificate for %s", csr.UUID, in.UUID)
	}
	if csr.Key != c.key {
		return nil, refuse(http.StatusForbidden, api.CodeKeyMismatch, "enrol again to use another key", "the certificate request has another key than the certificate it is to replace")
	}
	return s.certify(csr)
}
