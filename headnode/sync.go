package headnode

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

type syncInput struct {
	UUID string `path:"uuid"`
	Body api.SyncRequest

	have   map[string]string // digests of the parts that the head node has, after takeReport
	record inventory.Known   // as this poll read it last
}

// sync takes in a report and holds the answer until something is wanted: the spec is
// another one, or a followed set changed.
func (s *Server) sync(ctx context.Context, in *syncInput) (*polled[syncAnswer], error) {
	c := callerOf(ctx)
	asked := in.Body.Follow
	if err := mayFollow(in.UUID, asked); err != nil {
		return nil, err
	}
	if err := mayName(in.UUID, in.Body.Digests); err != nil {
		return nil, err
	}
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := s.store.Watch(watch, inventory.ServerPrefix+in.UUID)
	need, err := s.takeReport(ctx, c, in)
	if err != nil {
		return nil, err
	}
	if err := s.takeInstances(ctx, in.UUID, in.Body.Instances); err != nil {
		return nil, err
	}
	current := follows(asked, api.RuleSet("")) && follows(asked, api.ServerNATSet(in.UUID))
	if !current { // its rules or its routers were in its spec: it keeps its NICs and those as they are
		asked = slices.DeleteFunc(slices.Clone(asked), func(f api.Follow) bool { return f.Set == api.PortSet(in.UUID) })
	}
	s.live.accounts(in.UUID, ofAccounts(in.UUID, asked))
	zones := current && follows(asked, api.InstanceSet(in.UUID))
	answerNow := s.live.instances(in.UUID, zones) || in.Body.Instances != nil // so that the report is acknowledged
	if s.live.follows(in.UUID, current) {
		s.serverChanged(in.UUID, "")
	}
	if err := s.acknowledge(ctx, in.UUID, asked); err != nil {
		return nil, err
	}
	follower := s.sets.Follow(setNames(asked)...)
	defer follower.Close()
	s.probes.answered(in.UUID, in.Body.Probes)
	hold := time.NewTimer(s.cfg.Hold)
	defer hold.Stop()
	for look := asked; ; {
		out := syncAnswer{SyncResponse: api.SyncResponse{NeedInventory: need, Have: in.have, InstancesSeen: s.live.report(in.UUID)}}
		var more, others <-chan struct{}
		out.Probes, more = s.probes.pending(in.UUID)
		out.Sessions, others = s.sessions.pending(in.UUID)
		err := s.store.View(ctx, func(tx store.Tx) error {
			out.Revision, out.Spec = "", nil
			r, err := s.stillAuthorised(tx, c, in.UUID, &in.record)
			if err != nil {
				return err
			}
			if need || len(out.Probes) > 0 || r.Revision != in.Body.Seen {
				sp := r.Spec(s.ntp())
				if current { // an older agent keeps the network that it has
					sp.Network, err = s.networkSpec(tx, r.UUID)
				}
				if err != nil {
					return err
				}
				out.Revision, out.Spec = sp.Revision, &sp
				look = asked // what one change wrote comes in one answer
			}
			out.deltas, out.Refused, err = s.deltas(ctx, tx, in.UUID, look)
			return err
		})
		if err != nil {
			return nil, err
		}
		if out.Spec != nil || len(out.deltas)+len(out.Refused)+len(out.Sessions) > 0 || answerNow || in.lacks() {
			return &polled[syncAnswer]{Status: http.StatusOK, Body: &out}, nil
		}
		look = nil
		select {
		case <-changed:
			continue
		case <-more:
			continue
		case <-others:
			continue
		case <-follower.C():
			names := follower.Changed()
			look = slices.DeleteFunc(slices.Clone(asked), func(f api.Follow) bool { return !slices.Contains(names, f.Set) })
			continue
		case <-hold.C:
			s.live.touch(in.UUID, s.now(), nil)
		case <-stopOf(ctx):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return &polled[syncAnswer]{Status: http.StatusNoContent}, nil
	}
}

// ofAccounts are the names of those that are asked for of accounts' sets, and of the
// server's set of NAT.
func ofAccounts(uuid string, asked []api.Follow) (out []string) {
	for _, f := range asked {
		if _, _, is := api.AccountOfSet(f.Set); is || f.Set == api.ServerNATSet(uuid) {
			out = append(out, f.Set)
		}
	}
	return out
}

// networkApplied says whether a server has said that its network is as it is wanted: by its
// spec, its ports, and the sets of accounts that its agent follows.
func networkApplied(tx store.Tx, sv api.Server, sets []string) (bool, error) {
	if sv.Report == nil || sv.Report.AppliedNetwork != sv.Revision || sv.Usage == nil || sv.Usage.Network == nil {
		return false, nil
	}
	states, err := journal.ReadStates(tx, append([]string{api.PortSet(sv.UUID)}, sets...)...)
	if err != nil {
		return false, err
	}
	now := make([]api.Follow, len(sets))
	for i, set := range sets {
		now[i] = api.Follow{Set: set, Epoch: states[i+1].Epoch, Since: states[i+1].Version}
	}
	n := sv.Usage.Network
	return n.Ports == fmt.Sprintf("%s:%d", states[0].Epoch, states[0].Version) && n.Sets == api.Versions(now), nil
}

// follows says whether a set is one that is asked for.
func follows(asked []api.Follow, set string) bool {
	return slices.ContainsFunc(asked, func(f api.Follow) bool { return f.Set == set })
}

// outdated says what becomes of a server whose agent does not follow all of its network, and
// what to do; newest is the newest platform that is complete, or empty.
func outdated(sv api.Server, newest string) string {
	text := fmt.Sprintf("Its platform %s is older than this head node: the network stays as it is, and takes no change; ", sv.Platform.Running)
	if newest <= sv.Platform.Running {
		return text + "build and import a newer platform, and boot that"
	}
	return text + fmt.Sprintf("boot platform %s: nereid platform assign %s %s, then nereid server reboot %s", newest, newest, sv.Hostname, sv.Hostname)
}
