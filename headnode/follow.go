package headnode

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/journal"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// maxDeltas bounds the deltas of an answer, in bytes; what is left comes with the next.
const maxDeltas = 1 << 20

// mayFollow refuses a sync that asks for another server's own sets, or for too much.
// Sets that are not of one server are refused one by one, as what is on a server
// changes, when there is something of them to tell: see followable.
func mayFollow(server string, asked []api.Follow) error {
	if len(asked) > api.MaxFollow {
		return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "follow fewer", "server %s asks for %d sets; at most %d are allowed", server, len(asked), api.MaxFollow)
	}
	named := make(map[string]bool, len(asked))
	for _, f := range asked {
		_, isMap := api.VNIOfMap(f.Set)
		_, _, isAccounts := api.AccountOfSet(f.Set)
		if !isMap && !isAccounts && !ownSet(server, f.Set) {
			return refuse(http.StatusForbidden, api.CodeForbidden, "follow the sets of the server itself, those of the accounts with NICs on it, and the maps of their VNIs", "set %.100q is not one of server %s", f.Set, server)
		}
		if named[f.Set] {
			return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "name each set once", "server %s asks for set %.100q twice", server, f.Set)
		}
		named[f.Set] = true
	}
	return nil
}

// ownSet says whether a set is a server's own.
func ownSet(server, set string) bool { return strings.HasPrefix(set, "server/"+server+"/") }

// keptSet says whether a server's own set is one of which only tombstones remove: they stay
// until the server has them.
func keptSet(server, set string) bool {
	return ownSet(server, set) && set != api.ServerNATSet(server)
}

// followable says why a server may not follow a VNI's map; nil: it may. It may where it has
// a router of the account: the VNIs that have NICs here or a gateway, and the account's
// transit VNI. It costs a few reads, however much is on the server.
func followable(tx store.Tx, server string, vni uint32) (*api.Problem, error) {
	owner, transit, used, err := fabric.OwnerOf(tx, vni)
	if err != nil {
		return nil, err
	}
	may := false
	if used {
		may, err = routes(tx, server, owner)
	}
	if err == nil && may && !transit {
		if may, err = hostsVNI(tx, server, owner, vni); err == nil && !may {
			may, err = networks.HasGateway(tx, vni)
		}
	}
	if err != nil || may {
		return nil, err
	}
	return refuse(http.StatusForbidden, api.CodeForbidden, "follow the maps of the VNIs that have something here", "VNI %d has nothing on server %s", vni, server), nil
}

// followableOf says why a server may not follow a set of an account; nil: it may. It may
// follow the account's networks and NAT where it has a router of it, and the others where
// the account has NICs; those of all accounts every server may follow.
func followableOf(tx store.Tx, server, owner, set string) (*api.Problem, error) {
	if owner == "" {
		return nil, nil
	}
	look := networks.HasNICsOf
	if set == api.NetworkSet(owner) || set == api.NATSet(owner) {
		look = routes
	}
	may, err := look(tx, server, owner)
	if err != nil || may {
		return nil, err
	}
	return refuse(http.StatusForbidden, api.CodeForbidden, "follow the sets of the accounts that have NICs on the server, or that it is a gateway of", "nothing on server %s needs set %.200s", server, set), nil
}

// followed is what its follower knows of a set, as the journal has it.
func followed(f api.Follow) journal.Follow {
	return journal.Follow{Epoch: f.Epoch, Since: f.Since, Toward: f.Toward, Full: f.Full}
}

func setNames(asked []api.Follow) []string {
	out := make([]string, len(asked))
	for i, f := range asked {
		out[i] = f.Set
	}
	return out
}

// acknowledge forgets the tombstones of a server's own sets that it need not be told
// again. Where there are none it writes nothing.
func (s *Server) acknowledge(ctx context.Context, server string, asked []api.Follow) error {
	var some []api.Follow
	err := s.store.View(ctx, func(tx store.Tx) error {
		some = nil
		for _, f := range asked {
			if !keptSet(server, f.Set) {
				continue
			}
			does, err := journal.Acknowledges(tx, journal.Set{Name: f.Set, Keep: true}, journal.Follow{Epoch: f.Epoch, Since: f.Kept})
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
			if err := journal.Acknowledge(tx, journal.Set{Name: f.Set, Keep: true}, journal.Follow{Epoch: f.Epoch, Since: f.Kept}); err != nil {
				return err
			}
		}
		return nil
	})
}

// deltas are what a server lacks of some sets that it follows, about maxDeltas bytes
// of it, and the sets that it may not follow. tx is that of a View, and ctx the one that
// it was begun with.
func (s *Server) deltas(ctx context.Context, tx store.Tx, server string, look []api.Follow) (out []encodedDelta, refused []api.RefusedSet, err error) {
	left := maxDeltas
	for _, f := range look {
		if left <= 0 {
			break // the follower asks again
		}
		var (
			d    encodedDelta
			size int
			news bool
		)
		var why *api.Problem
		vni, isMap := api.VNIOfMap(f.Set)
		owner, _, isAccounts := api.AccountOfSet(f.Set)
		if isMap || isAccounts {
			// Who knows all of a set hears nothing of it, allowed or not.
			if current, err := journal.Current(tx, f.Set, followed(f)); err != nil {
				return nil, nil, err
			} else if current {
				continue
			}
		}
		if isMap {
			if why, err = followable(tx, server, vni); err == nil && why == nil {
				d, size, news, err = s.shared(ctx, tx, f, func() (api.Delta, error) {
					d, _, err := fabric.Delta(tx, vni, followed(f), maxDeltas)
					return d, err
				})
			}
		} else if isAccounts {
			if why, err = followableOf(tx, server, owner, f.Set); err == nil && why == nil {
				d, size, news, err = s.shared(ctx, tx, f, func() (api.Delta, error) {
					d, _, err := setDelta(tx, f, false, maxDeltas)
					return d, err
				})
			}
		} else {
			var a api.Delta
			if a, news, err = setDelta(tx, f, keptSet(server, f.Set), left); err == nil && news {
				d, size, err = encodeDelta(a)
			}
		}
		if err == nil && why != nil {
			refused = append(refused, api.RefusedSet{Set: f.Set, Why: *why})
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if !news {
			continue
		}
		if left -= size; left < 0 && len(out) > 0 {
			break // it comes with the next answer
		}
		out = append(out, d)
	}
	return out, refused, nil
}

// shared is what a server lacks of a set that many follow, with its size in bytes. It is
// cut to the same size for all, so that it is the same for all.
func (s *Server) shared(ctx context.Context, tx store.Tx, f api.Follow, lacks func() (api.Delta, error)) (encodedDelta, int, bool, error) {
	return s.encoded.Get(ctx, tx, f.Set, followed(f), func() (encodedDelta, int, error) {
		d, err := lacks()
		if err != nil {
			return nil, 0, err
		}
		return encodeDelta(d)
	})
}

// setDelta is what a server lacks of a set; news: it lacks something. keep: see keptSet.
func setDelta(tx store.Tx, f api.Follow, keep bool, limit int) (a api.Delta, news bool, err error) {
	d, err := journal.Changes(tx, journal.Set{Name: f.Set, Keep: keep}, followed(f), limit)
	if err != nil {
		return a, false, err
	}
	a = api.Delta{Set: d.Set, Epoch: d.Epoch, Version: d.Version, Toward: d.Toward, Full: d.Full}
	for _, e := range d.Entries {
		if e.Gone {
			a.Gone = append(a.Gone, e.Key)
		} else {
			a.Put = append(a.Put, e.Value)
		}
	}
	return a, d.News() || d.Epoch != f.Epoch, nil
}

// encodedDelta is an api.Delta as JSON. Followers that lack the same share it.
type encodedDelta []byte

func encodeDelta(d api.Delta) (encodedDelta, int, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return nil, 0, fmt.Errorf("write a delta of set %s: %w", d.Set, err)
	}
	return text, len(text), nil
}

// syncAnswer is an api.SyncResponse whose deltas are JSON already.
type syncAnswer struct {
	api.SyncResponse
	deltas []encodedDelta
}

// Schema describes it as what it is for who reads it.
func (syncAnswer) Schema(r huma.Registry) *huma.Schema {
	return r.Schema(reflect.TypeFor[api.SyncResponse](), true, "")
}

// writeJSON writes the deltas as they are, behind what else there is.
func (a *syncAnswer) writeJSON(w io.Writer) error {
	text, err := json.Marshal(a.SyncResponse)
	if err != nil {
		return err
	}
	out := bytes.NewBuffer(text)
	if len(a.deltas) > 0 {
		out.Truncate(out.Len() - len("}"))
		if out.Len() > len("{") {
			out.WriteByte(',')
		}
		out.WriteString(`"deltas":[`)
		for i, d := range a.deltas {
			if i > 0 {
				out.WriteByte(',')
			}
			out.Write(d)
		}
		out.WriteString("]}")
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(w)
	return err
}
