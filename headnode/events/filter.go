package events

import (
	"slices"
	"strings"

	"nereid/api"
)

// Filter says which events a reader wants: those that have one of the values of each
// list that is not empty.
type Filter struct {
	Kinds   []string // api.Event.Kind
	Sets    []string // api.Event.Set, or a beginning of it that ends with "/"
	Owners  []string // api.Event.Owner
	Servers []string // api.Event.Server
}

// wants says whether a filter lets an event through. Changes of sets are many, and in
// most cases another event tells of them: they are for those who ask for them.
func (f Filter) wants(ev api.Event) bool {
	among := func(list []string, v string) bool { return len(list) == 0 || slices.Contains(list, v) }
	if ev.Kind == api.EventSet && len(f.Kinds) == 0 && len(f.Sets) == 0 {
		return false
	}
	return among(f.Kinds, ev.Kind) && among(f.Owners, ev.Owner) && among(f.Servers, ev.Server) &&
		(len(f.Sets) == 0 || ev.Set != "" && slices.ContainsFunc(f.Sets, func(s string) bool {
			return s == ev.Set || strings.HasSuffix(s, "/") && strings.HasPrefix(ev.Set, s)
		}))
}

// OfSet is the event of a change of a set of the journal. The names of sets say whose
// they are: server/UUID/... and account/UUID/... .
func OfSet(set string) api.Event {
	ev := api.Event{Kind: api.EventSet, Set: set}
	if owner, _, is := api.AccountOfSet(set); is {
		ev.Owner = owner
	} else if rest, is := strings.CutPrefix(set, "server/"); is {
		ev.Server, _, _ = strings.Cut(rest, "/")
	}
	return ev
}
