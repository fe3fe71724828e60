package instances

import (
	"math"
	"slices"

	"nereid/api"
	"nereid/headnode/store"
)

// Bounds of what a server may report of a create.
const (
	maxSteps    = 32
	maxStepName = 64            // bytes
	maxStep     = 7 * 24 * 3600 // seconds
)

// boundedSteps are steps of a server's report as they are kept.
func boundedSteps(steps []api.InstanceStep) []api.InstanceStep {
	out := slices.Clone(steps[max(0, len(steps)-maxSteps):])
	for i, s := range out {
		if math.IsNaN(s.Seconds) { // no number of JSON's, but an API's caller may be other
			s.Seconds = 0
		}
		name := text(s.Name)
		out[i] = api.InstanceStep{Name: name[:min(len(name), maxStepName)], Start: s.Start.UTC(), Seconds: min(max(s.Seconds, 0), maxStep), Fault: text(s.Fault)}
	}
	slices.SortStableFunc(out, func(a, b api.InstanceStep) int { return a.Start.Compare(b.Start) })
	return out
}

// tellServer is the step between the head node's and the server's: the transaction, and
// the sync that brings it to the server.
const tellServer = "write and tell server"

// Timeline says where the time of an instance's create went.
func Timeline(tx store.Tx, r Record) (t api.InstanceTimeline, err error) {
	defer named(&err, "read timeline of instance %s", r.UUID)
	t = api.InstanceTimeline{Instance: r.UUID, Name: r.Name, Server: r.Server, Asked: r.Created, Steps: []api.InstanceStep{}}
	p, _, err := store.Lookup[api.Placement](tx, placementPrefix+r.UUID)
	if err != nil {
		return t, err
	}
	server, _, err := store.Lookup[[]api.InstanceStep](tx, stepsPrefix+r.UUID)
	if err != nil {
		return t, err
	}
	t.Steps = append(t.Steps, p.Steps...)
	decided := r.Created
	if n := len(t.Steps); n > 0 {
		t.Asked, decided = t.Steps[0].Start, t.Steps[n-1].End()
	}
	if len(server) == 0 {
		return t, nil
	}
	// A server's clock may be a moment behind: nothing is done before it was decided.
	wait := server[0].Start.Sub(decided)
	for i := range server {
		server[i].Start = server[i].Start.Add(max(0, -wait))
	}
	t.Steps = append(t.Steps, api.InstanceStep{Name: tellServer, Start: decided, Seconds: max(0, wait).Seconds()})
	t.Steps = append(t.Steps, server...)
	t.Done = slices.MaxFunc(server, func(a, b api.InstanceStep) int { return a.End().Compare(b.End()) }).End()
	return t, nil
}
