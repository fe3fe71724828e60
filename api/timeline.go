package api

import "time"

// InstanceStep is a span of the time that a new instance took until it ran. Those of the
// head node are by its clock, those of a server by the server's, which it sets by the
// head node's.
type InstanceStep struct {
	Name    string    `json:"name" doc:"validate, place, write and tell server; by its server: fetch image, clone, keep spec, wait for NICs, start unit, start zone"`
	Start   time.Time `json:"start"`
	Seconds float64   `json:"seconds"`
	Fault   string    `json:"fault,omitempty" doc:"why it did not succeed; it was tried again"`
}

// End is when the step was over.
func (s InstanceStep) End() time.Time {
	return s.Start.Add(time.Duration(s.Seconds * float64(time.Second)))
}

// InstanceTimeline is where the time of a create went, from the request to the end of
// the zone's own start.
type InstanceTimeline struct {
	Instance string         `json:"instance_uuid"`
	Name     string         `json:"name"`
	Server   string         `json:"server_uuid"`
	Asked    time.Time      `json:"asked" doc:"the request came"`
	Done     time.Time      `json:"done,omitzero" doc:"it was for the first time what was asked for; not there: not yet, or it is not known"`
	Steps    []InstanceStep `json:"steps"`
}
