package agent

import (
	"maps"

	"nereid/api"
)

// parts is what the head node has of what changes seldom in a sync. What it has is left
// out. It is the syncer's.
//
// A head node that never said what it has gets all each time: it may be one that knows
// nothing of this. So does one whose answer did not come: another may have its place.
type parts struct {
	have map[string]string // digests, by part; nil: the head node said nothing of it yet
}

// leaveOut names the parts of a sync by their digests, and leaves out those that the head
// node has.
func (p *parts) leaveOut(req *api.SyncRequest) error {
	req.Digests, req.TellHave = map[string]string{}, p.have == nil
	name := func(part string, v any, drop func()) error {
		d, err := api.DigestOf(v)
		if err != nil {
			return err
		}
		req.Digests[part] = d
		if p.have[part] == d {
			drop()
		}
		return nil
	}
	if err := name(api.PartReport, req.Report, func() { req.Report = api.Report{} }); err != nil {
		return err
	}
	if req.Usage.Network == nil {
		return nil
	}
	n := *req.Usage.Network // the observer keeps it
	req.Usage.Network = &n
	if len(n.Maps) > 0 {
		if err := name(api.PartMaps, n.Maps, func() { n.Maps = nil }); err != nil {
			return err
		}
	}
	if len(n.Drops) > 0 {
		if err := name(api.PartDrops, n.Drops, func() { n.Drops = nil }); err != nil {
			return err
		}
	}
	if len(n.Gateways) > 0 {
		return name(api.PartGateways, n.Gateways, func() { n.Gateways = nil })
	}
	return nil
}

// answered takes in what an answer says that the head node has: have, or with none (a
// 204) all of the request. It reports whether there is reason to sync again at once: the
// head node lacks what was left out, or said what it has because it was asked.
func (p *parts) answered(req api.SyncRequest, have map[string]string, none bool) (again bool) {
	if none {
		for part, d := range req.Digests {
			if _, known := p.have[part]; known {
				p.have[part] = d
			}
		}
		return false
	}
	again = p.have == nil && have != nil
	for part, d := range req.Digests {
		again = again || p.have[part] == d && have[part] != d
	}
	p.have = maps.Clone(have)
	return again
}

// lost is called when no answer came.
func (p *parts) lost() { p.have = nil }
