package headnode

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/journal"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
)

// maxDeltas bounds the deltas of an answer, in bytes; what is left comes with the next.
const maxDeltas = 1 << 20

// maxFollow bounds how many sets an agent follows.
const maxFollow = 4096

type syncInput struct {
	UUID string `path:"uuid"`
	Body api.SyncRequest
}

// sync takes in a report and holds the answer until something is wanted: the spec is
// another one, or a followed set changed.
func (s *Server) sync(ctx context.Context, in *syncInput) (*polled[api.SyncResponse], error) {
	c := callerOf(ctx)
	asked := in.Body.Follow
	if err := mayFollow(in.UUID, asked); err != nil {
		return nil, err
	}
	watch, cancel := context.WithCancel(ctx)
	defer cancel()
	changed := s.store.Watch(watch, inventory.ServerPrefix+in.UUID)
	need, err := s.takeReport(ctx, c, in)
	if err != nil {
		return nil, err
	}
	if s.live.follows(in.UUID, len(asked) > 0) {
		s.serverChanged(in.UUID, "")
	}
	if err := s.acknowledge(ctx, asked); err != nil {
		return nil, err
	}
	follower := s.sets.Follow(setNames(asked)...)
	defer follower.Close()
	s.probes.answered(in.UUID, in.Body.Probes)
	hold := time.NewTimer(s.cfg.Hold)
	defer hold.Stop()
	for look := asked; ; {
		out := api.SyncResponse{NeedInventory: need}
		var more <-chan struct{}
		out.Probes, more = s.probes.pending(in.UUID)
		err := s.store.View(ctx, func(tx store.Tx) error {
			out.Revision, out.Spec = "", nil
			r, err := s.authorised(tx, c, in.UUID)
			if err != nil {
				return err
			}
			if need || len(out.Probes) > 0 || r.Revision != in.Body.Seen {
				sp := r.Spec(s.ntp())
				if len(asked) > 0 { // an agent that follows nothing keeps the network that it has
					sp.Network, err = s.networkSpec(tx, r.UUID)
				}
				if err != nil {
					return err
				}
				out.Revision, out.Spec = sp.Revision, &sp
				look = asked // what one change wrote comes in one answer
			}
			out.Deltas, err = deltas(tx, look)
			return err
		})
		if err != nil {
			return nil, err
		}
		if out.Spec != nil || len(out.Deltas) > 0 {
			return &polled[api.SyncResponse]{Status: http.StatusOK, Body: &out}, nil
		}
		look = nil
		select {
		case <-changed:
			continue
		case <-more:
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
		return &polled[api.SyncResponse]{Status: http.StatusNoContent}, nil
	}
}

// mayFollow refuses what is not a server's own set, and what is too much.
func mayFollow(server string, asked []api.Follow) error {
	if len(asked) > maxFollow {
		return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "follow fewer", "server %s asks for %d sets; at most %d are allowed", server, len(asked), maxFollow)
	}
	named := make(map[string]bool, len(asked))
	for _, f := range asked {
		if !strings.HasPrefix(f.Set, "server/"+server+"/") {
			return refuse(http.StatusForbidden, api.CodeForbidden, "follow the sets of the server itself", "set %.100q is not one of server %s", f.Set, server)
		}
		if named[f.Set] {
			return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "name each set once", "server %s asks for set %.100q twice", server, f.Set)
		}
		named[f.Set] = true
	}
	return nil
}

// followed is a set as the journal has it, and what its follower knows of it.
func followed(f api.Follow) (journal.Set, journal.Follow) {
	return journal.Set{Name: f.Set, Keep: true}, journal.Follow{Epoch: f.Epoch, Since: f.Since, Toward: f.Toward, Full: f.Full}
}

func setNames(asked []api.Follow) []string {
	out := make([]string, len(asked))
	for i, f := range asked {
		out[i] = f.Set
	}
	return out
}

// acknowledge forgets the tombstones that a follower need not be told again. Where
// there are none it writes nothing.
func (s *Server) acknowledge(ctx context.Context, asked []api.Follow) error {
	var some []api.Follow
	err := s.store.View(ctx, func(tx store.Tx) error {
		some = nil
		for _, f := range asked {
			set, _ := followed(f)
			does, err := journal.Acknowledges(tx, set, journal.Follow{Epoch: f.Epoch, Since: f.Kept})
			if err != nil {
				return err
			}
			if does {
				some = append(some, f)
			}
		}
		return nil
	})
	if err != nil || len(some) == 0 {
		return err
	}
	return s.store.Update(ctx, func(tx store.Tx) error {
		for _, f := range some {
			set, _ := followed(f)
			if err := journal.Acknowledge(tx, set, journal.Follow{Epoch: f.Epoch, Since: f.Kept}); err != nil {
				return err
			}
		}
		return nil
	})
}

// deltas are what followers lack of some sets: about maxDeltas bytes of it.
func deltas(tx store.Tx, look []api.Follow) ([]api.Delta, error) {
	var out []api.Delta
	left := maxDeltas
	for _, f := range look {
		if left <= 0 {
			break // the follower asks again
		}
		set, from := followed(f)
		d, err := journal.Changes(tx, set, from, left)
		if err != nil {
			return nil, err
		}
		if !d.News() && d.Epoch == f.Epoch {
			continue
		}
		a := api.Delta{Set: d.Set, Epoch: d.Epoch, Version: d.Version, Toward: d.Toward, Full: d.Full}
		for _, e := range d.Entries {
			left -= len(e.Key) + len(e.Value)
			if e.Gone {
				a.Gone = append(a.Gone, e.Key)
			} else {
				a.Put = append(a.Put, e.Value)
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// networkApplied says whether a server has said that its network is as it is wanted.
func networkApplied(tx store.Tx, sv api.Server) (bool, error) {
	if sv.Report == nil || sv.Report.AppliedNetwork != sv.Revision || sv.Usage == nil || sv.Usage.Network == nil {
		return false, nil
	}
	state, _, err := journal.ReadState(tx, api.PortSet(sv.UUID))
	return sv.Usage.Network.Ports == fmt.Sprintf("%s:%d", state.Epoch, state.Version), err
}

// outdated says what becomes of a server whose agent follows no sets, and what to do.
func outdated(tx store.Tx, sv api.Server, now time.Time) (string, error) {
	all, err := platforms.List(tx, now)
	if err != nil {
		return "", err
	}
	newest := ""
	for _, p := range all {
		if p.Complete {
			newest = max(newest, p.Manifest.Stamp)
		}
	}
	text := fmt.Sprintf("Its platform %s is older than this head node: the network stays as it is, and takes no change; ", sv.Platform.Running)
	if newest <= sv.Platform.Running {
		return text + "build and import a newer platform, and boot that", nil
	}
	return text + fmt.Sprintf("boot platform %s: nereid platform assign %s %s, then nereid server reboot %s", newest, newest, sv.Hostname, sv.Hostname), nil
}
