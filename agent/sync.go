package agent

import (
	"context"
	"errors"
	"net/http"
	"path/filepath"
	"time"

	"nereid/api"
)

// sync tells the head node how the server is and hears what it should be: one
// long poll. It returns how long to wait before the next.
func (l *link) sync(ctx context.Context) time.Duration {
	if gap := time.Until(l.lastSync.Add(minSyncGap)); gap > 0 && !l.partial && !pause(ctx, gap) {
		return 0
	}
	l.lastSync = time.Now()
	if !l.first {
		l.board.update(func(r *api.Report) bool { return put(&r.Boot.FirstSync, l.a.Host.Monotonic().Seconds()) })
	}
	pctx, cancel := context.WithTimeout(ctx, heldTimeout)
	defer cancel()
	if l.a.copies.serve(l.uuid) {
		l.a.refollow()
	}
	follow := []api.Follow{l.a.ports.follow(l.uuid)}
	var told *api.InstanceReport
	end := cancel
	if i := l.a.instances; i != nil {
		follow = append(follow, i.set.follow(l.uuid), i.images.set.follow(l.uuid), i.snapshots.set.follow(l.uuid))
		// What is told of instances is answered at once, so that an end before the answer
		// would only have it told again.
		if told = i.told.report(i.written.report(i.named)); told != nil {
			end = func() { time.AfterFunc(tellGrace, cancel) }
		}
	}
	report, version := l.board.snapshot(end)
	defer l.board.snapshot(nil)
	l.observe() // what is new from here on ends the poll
	req := api.SyncRequest{
		Seen:            l.seen,
		InventoryDigest: l.inv.digest,
		Report:          report,
		Usage:           usage(l.a.ProcRoot),
		Probes:          l.probed,
		Follow:          follow,
		Instances:       told,
	}
	req.Follow = append(req.Follow, l.a.copies.follow()...)
	req.Follow = append(req.Follow, l.net.maps.follow(api.MaxFollow-len(req.Follow))...)
	req.Usage.Network = l.net.seen.report()
	if l.wantInv {
		req.Inventory = &l.inv.info
	}
	if err := l.parts.leaveOut(&req); err != nil {
		return l.syncFailed(ctx, err)
	}
	var resp api.SyncResponse
	status, err := l.mutual.call(pctx, http.MethodPost, "/v1/servers/"+l.uuid+"/sync", req, &resp, func() {
		l.board.markWritten(version)
	})
	if errors.Is(err, context.Canceled) {
		// By a change of the board, or by the agent's end. It was held, so it was
		// heard.
		if l.board.wasWritten(version) {
			l.noteFirst(report.Boot)
		}
		return 0
	}
	if err != nil {
		l.parts.lost()
		return l.syncFailed(ctx, err)
	}
	again := l.parts.answered(req, resp.Have, status == http.StatusNoContent)
	if status != http.StatusNoContent && (resp.Spec == nil && len(resp.Deltas)+len(resp.Refused)+len(resp.Sessions) == 0 && resp.Have == nil && l.a.instances == nil || resp.Spec != nil && (resp.Revision == "" || resp.Spec.Revision != resp.Revision)) {
		return l.syncFailed(ctx, errors.New("sync: the head node's answer does not name one revision"))
	}
	l.noteFirst(report.Boot)
	l.wantInv, l.probed = false, nil
	l.lastGood = l.a.Clock.Now()
	l.say.say("Connected to the head node at " + l.base.Host + " as server " + l.uuid + ".")
	fresh := false
	if status != http.StatusNoContent {
		l.sessions.want(resp.Sessions)
		fresh = again || resp.NeedInventory && req.Inventory == nil || len(resp.Sessions) > 0
		l.wantInv = resp.NeedInventory
		if l.hear(resp) {
			fresh = true
		}
		if len(resp.Probes) > 0 {
			l.probed = l.a.Net.probe(ctx, resp.Probes)
			return 0
		}
	}
	// A head node that neither holds the poll nor has news is not asked in a loop.
	if !fresh && time.Since(l.lastSync) < quickAnswer {
		select {
		case <-l.board.newer(version):
		default:
			return l.syncBackoff.next()
		}
	}
	l.syncBackoff.reset()
	return 0
}

// hear hands over what an answer says of the server: another spec, other ports, other
// rules or other maps. It reports whether there was any of that. What needs sets of which
// not all has come is left for later, and asked for at once: a port without its rules, or
// a spec with a part of the ports that it names, which comes again.
func (l *link) hear(resp api.SyncResponse) (news bool) {
	l.partial = false
	for _, r := range resp.Refused {
		l.net.maps.refuse(r)
		l.stale = l.a.copies.refuse(r) || l.stale
	}
	if i := l.a.instances; i != nil {
		took, told := i.told.heard(resp.InstancesSeen)
		for _, uuid := range told {
			i.m.Told(uuid)
		}
		news = took
		for _, d := range resp.Deltas {
			// Images first: instances ask for them.
			some, _ := i.images.set.take(d)
			more, _ := i.set.take(d)
			snaps, _ := i.snapshots.set.take(d)
			news = news || some || more || snaps
		}
		i.images.took()
		i.took()
		i.snapshotsTook()
		if took {
			for _, uuid := range i.written.heard() {
				i.look(uuid)
			}
			news = news || i.written.more(i.named) || i.told.more()
		}
	}
	for _, d := range resp.Deltas {
		l.partial = l.partial || d.Toward != 0
		if _, isMap := api.VNIOfMap(d.Set); isMap {
			news = l.net.maps.take(d) || news
			continue
		}
		some, whole := l.a.ports.take(d)
		if isCopy(d.Set) {
			some, whole = l.a.copies.take(d)
		}
		news, l.stale = news || some, l.stale || some && whole
	}
	spec := resp.Spec != nil && resp.Revision != l.seen
	if !spec && !l.stale {
		return news
	}
	if spec {
		l.a.copies.again()
	}
	more := l.a.refollow()
	if l.a.ports.partial() || l.a.copies.lacks() {
		l.partial = l.partial || more
		return news || more
	}
	next := l.spec
	if spec {
		next, l.seen = *resp.Spec, resp.Revision
		if next.Network != nil {
			l.wanted = next.Network
		}
	}
	l.stale = false
	next.Network = l.a.network(l.spec.Network, l.wanted)
	l.spec = next
	if name := specName(next); spec || name != l.stored {
		l.box.put(next)
		l.stored = name
	}
	l.net.put(next)
	return true
}

// noteFirst keeps the time of this boot's first sync for a restarted agent.
func (l *link) noteFirst(t api.BootTimings) {
	if l.first {
		return
	}
	l.first = true
	if err := writeJSON(filepath.Join(l.a.Dir, timingsFile), t); err != nil {
		l.a.Log.Warn("keep boot timings", "err", err)
	}
}

// observe notes what changed without the reconciler: pool health, which costs a read
// of /proc, and the hardware as it was read last.
func (l *link) observe() {
	if s := poolStates(l.a.ProcRoot); s != l.states {
		if l.states != "" {
			l.a.poke()
		}
		l.states = s
	}
	if inv, _ := l.a.hardware.get(); inv.digest != "" {
		l.inv = inv
	}
}

// syncFailed decides what a failed sync means: a clock that is wrong, an
// identity that is not accepted, or a head node that is away.
func (l *link) syncFailed(ctx context.Context, err error) time.Duration {
	var p *api.Problem
	if errors.As(err, &p) {
		switch p.Status {
		case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
			// Enrolling says what is wrong, or brings another certificate.
			l.a.Log.Warn("the head node does not accept this server's certificate", "err", err)
			l.rejected = true
			return l.syncBackoff.next()
		}
	} else if l.contact(ctx, err) {
		return 0
	} else if !l.cert.Valid(l.a.Clock.Now()) {
		return 0
	}
	l.say.say(l.explain(err))
	return l.syncBackoff.next()
}
