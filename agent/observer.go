package agent

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"nereid/api"
)

// Times of the observer.
const (
	observeEvery = api.SyncHold    // links are looked at without a reason
	countEvery   = time.Minute     // the rules' counters are read
	mapsGather   = 2 * time.Second // changes of maps are told of together
	linkSteady   = 5 * time.Second // a link that came back is good after so long
)

// observer is the goroutine that looks at the network and keeps what it saw, so that
// the syncer need not look: however long a change of the network takes, the syncer
// tells what was seen last.
type observer struct {
	a     *Agent
	board *board
	nics  *nics
	links chan struct{}      // one slot: links may have come or gone
	maps  chan struct{}      // one slot: a map was applied
	asked chan chan struct{} // closed when the look is done

	tags    atomic.Pointer[[]api.TagSpec]     // of the spec that was applied last
	applied atomic.Bool                       // a spec was: what it does not name is unexpected
	used    atomic.Bool                       // there are ports or routers, or were
	at      atomic.Pointer[versions]          // of what was applied last
	saw     atomic.Pointer[api.NetworkReport] // nil: nothing yet
	drops   map[string]uint64                 // as counted last; nil: never
	count   time.Time                         // when
	good    <-chan time.Time                  // links that came back are good then
}

func newObserver(a *Agent, b *board, nics *nics) *observer {
	o := &observer{a: a, board: b, nics: nics, links: make(chan struct{}, 1), maps: make(chan struct{}, 1), asked: make(chan chan struct{})}
	o.linksChanged() // the first look is at once
	return o
}

// run looks until ctx ends.
func (o *observer) run(ctx context.Context) error {
	every := time.NewTicker(observeEvery)
	defer every.Stop()
	var gathered <-chan time.Time
	for {
		var asked chan struct{}
		judge, steady := false, false // the NIC tags' links
		select {
		case asked = <-o.asked:
			judge = true
		case <-o.links:
			judge = true
		case <-o.good:
			judge, steady = true, true
		case <-every.C:
		case <-o.maps:
			if gathered == nil {
				gathered = time.After(mapsGather)
			}
			continue
		case <-gathered:
			gathered = nil
		case <-ctx.Done():
			return nil
		}
		done := o.a.health.busy("observer", networkLimit+stepLimit)
		lctx, cancel := context.WithTimeout(ctx, networkLimit)
		if r, ok := o.look(lctx); ok && judge {
			o.carrier(r.Links, steady)
		}
		cancel()
		done()
		if asked != nil {
			close(asked)
		}
	}
}

// linksChanged has run look at the links; it never blocks.
func (o *observer) linksChanged() { poke(o.links) }

// refresh returns when what was there at the call has been seen.
func (o *observer) refresh(ctx context.Context) {
	done := make(chan struct{})
	select {
	case o.asked <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// unexpected reports whether NICs that nobody wants were seen last.
func (o *observer) unexpected() bool {
	r := o.saw.Load()
	return r == nil || len(r.Unexpected) > 0
}

// versions name what a network is made of: the set of ports, and those of accounts.
type versions struct{ ports, sets string }

// has notes what was applied. It reports whether that is something else than before.
func (o *observer) has(at versions) bool {
	was := o.at.Swap(&at)
	return was == nil || *was != at
}

// report is what was seen last; nil when nothing was.
func (o *observer) report() *api.NetworkReport {
	saw := o.saw.Load()
	if saw == nil {
		return nil
	}
	r := *saw
	if at := o.at.Load(); at != nil {
		r.Ports, r.Sets = at.ports, at.sets
	}
	return &r
}

// look sees what there is. Rules are asked for their counters only where there is
// something that they could have dropped.
func (o *observer) look(ctx context.Context) (r api.NetworkReport, ok bool) {
	r, err := o.a.Net.Links.Report(ctx)
	if err != nil {
		o.a.Log.Debug("look at the network", "err", err)
		return r, false
	}
	if o.used.Load() {
		if o.drops == nil || time.Since(o.count) >= countEvery {
			o.drops, o.count = o.counters(ctx), time.Now()
		}
		r.Drops = o.drops
		if o.a.Net.Routers != nil {
			r.Gateways = o.a.Net.Routers.Gateways()
		}
	}
	if o.applied.Load() {
		r.Unexpected = slices.DeleteFunc(r.Unexpected, func(u api.UnexpectedNIC) bool { return u.Closed && o.nics.wants(u.MAC) })
		o.board.update(func(b *api.Report) bool { return put(&b.UnexpectedNICs, r.Unexpected) })
	}
	o.saw.Store(&r)
	return r, true
}

func (o *observer) counters(ctx context.Context) map[string]uint64 {
	all := map[string]uint64{}
	if o.a.Net.Filter != nil {
		drops, err := o.a.Net.Filter.Counters(ctx)
		if err != nil {
			o.a.Log.Debug("count what the firewall dropped", "err", err)
		}
		maps.Copy(all, drops)
	}
	if o.a.Net.Routers != nil {
		drops, err := o.a.Net.Routers.Drops(ctx)
		if err != nil {
			o.a.Log.Debug("count what routers dropped", "err", err)
		}
		for reason, packets := range drops {
			all["router_"+reason] = packets
		}
	}
	return all
}

// carrier tells the head node which NIC tags have no link: at once when one goes,
// and when one has come back, not before it stayed for linkSteady.
func (o *observer) carrier(links []api.LinkReport, steady bool) {
	tags := o.tags.Load()
	if tags == nil {
		return
	}
	down := tagsDown(*tags, links)
	o.board.update(func(r *api.Report) bool {
		told := down
		if !steady {
			told = slices.Compact(slices.Sorted(slices.Values(slices.Concat(down, r.NICTagsDown))))
		}
		o.good = nil
		if len(told) > len(down) {
			o.good = time.After(linkSteady)
		}
		return put(&r.NICTagsDown, told)
	})
}

// tagsDown are the NIC tags whose NIC or bond is there and has no carrier.
func tagsDown(tags []api.TagSpec, links []api.LinkReport) []string {
	var down []string
	for _, t := range tags {
		provides := func(l api.LinkReport) bool { return slices.Contains(l.NICTags, t.Name) }
		if slices.ContainsFunc(links, provides) && !slices.ContainsFunc(links, func(l api.LinkReport) bool { return provides(l) && l.Up }) {
			down = append(down, t.Name)
		}
	}
	slices.Sort(down)
	return down
}
