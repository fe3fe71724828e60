package headnode

import (
	"context"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// TestTimeline: where the time of a create went, of what the head node did and its server
// reported, bounded; it is there until the instance is forgotten.
func TestTimeline(t *testing.T) {
	h, zs := zoneRack(t, 1)
	ctx := context.Background()
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, web("web0")))
	names := func() string {
		t.Helper()
		line := must[api.InstanceTimeline](t)(h.client.InstanceTimeline(ctx, made.UUID))
		var out []string
		for _, s := range line.Steps {
			out = append(out, s.Name)
		}
		return strings.Join(out, ", ")
	}
	if got := names(); got != "validate, place" {
		t.Errorf("before its server said anything: %s", got)
	}
	if got := must[api.InstanceTimeline](t)(h.client.InstanceTimeline(ctx, "web0")); !got.Done.IsZero() || got.Asked.IsZero() || got.Server != made.Server {
		t.Errorf("%+v", got)
	}
	heard := h.clock().Add(time.Second)
	steps := []api.InstanceStep{{Name: "clone", Start: heard, Seconds: 2}, {Name: strings.Repeat("x", 1000) + "\n", Start: heard.Add(2 * time.Second), Seconds: -1, Fault: strings.Repeat("y", 5000)}}
	zs[0].says("r1", []api.InstanceStatus{{UUID: made.UUID, State: "running", Made: true, Started: h.clock(), Steps: steps}})
	line := must[api.InstanceTimeline](t)(h.client.InstanceTimeline(ctx, "web0"))
	if got := names(); got != "validate, place, write and tell server, clone, "+strings.Repeat("x", 64) {
		t.Errorf("steps %s", got)
	}
	if len(line.Steps) != 5 || line.Steps[2].Seconds <= 0 || line.Steps[4].Seconds != 0 || len(line.Steps[4].Fault) > 512 || line.Done.Sub(heard) != 2*time.Second {
		t.Errorf("%+v", line)
	}
	// The clock of a server that is behind does not draw its work before the decision.
	steps[0].Start = line.Steps[1].Start.Add(-time.Hour)
	zs[0].says("r1b", []api.InstanceStatus{{UUID: made.UUID, State: "running", Made: true, Started: h.clock(), Steps: steps[:1]}})
	if line := must[api.InstanceTimeline](t)(h.client.InstanceTimeline(ctx, "web0")); !line.Steps[3].Start.Equal(line.Steps[1].End()) || line.Steps[2].Seconds != 0 || line.Done.Sub(line.Steps[3].Start) != 2*time.Second {
		t.Errorf("a clock that is behind: %+v", line)
	}
	// The same report once more, without the steps, does not lose them.
	zs[0].says("r2", []api.InstanceStatus{{UUID: made.UUID, State: "stopped", Made: true}})
	if got := names(); !strings.Contains(got, "clone") {
		t.Errorf("steps %s", got)
	}
	if _, err := h.client.DeleteInstance(ctx, "web0", false); err != nil {
		t.Fatal(err)
	}
	zs[0].report(nil)
	zs[0].says("r3", nil, made.UUID)
	if got := names(); !strings.Contains(got, "clone") {
		t.Errorf("steps of a deleted instance: %s", got)
	}
	_, err := h.client.InstanceTimeline(ctx, "nothing")
	wantCode(t, "timeline of nothing", err, api.CodeNotFound)
}
