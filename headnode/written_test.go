package headnode

import (
	"context"
	"reflect"
	"strings"
	"testing"

	"nereid/api"
)

// TestWritten: what an instance wrote of its metadata reaches its record, once however
// often its server tells it, and not over what an operator said since; types stay where
// the text does; what the head node does not keep is left out; the audit says who.
func TestWritten(t *testing.T) {
	h, zs := zoneRack(t, 1)
	ctx, z := context.Background(), zs[0]
	in := web("web0")
	in.Metadata = map[string]any{"n": 3, "k": "old", "user-script": "#!/bin/sh\n"}
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, in))
	z.report(nil)
	text := func(s string) *string { return &s }
	change := func(id, key string, value *string) api.MetadataChange {
		return api.MetadataChange{ID: id, Instance: made.UUID, Key: key, Value: value}
	}
	says := func(now string, written ...api.MetadataChange) {
		t.Helper()
		z.report(&api.InstanceReport{Since: z.seen, Now: now, Written: written})
		if z.seen != now {
			t.Fatalf("the head node has seen %q, not %q", z.seen, now)
		}
	}
	is := func(what string, want map[string]any) {
		t.Helper()
		if got := h.instance("web0").Metadata; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		if got := z.specs[made.UUID].Metadata; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: the server is told %v, want %v", what, got, want)
		}
	}
	first := []api.MetadataChange{change("1", "k", text("inside")), change("2", "n", text("3")), change("3", "user-script", nil), change("4", "sdc:uuid", text("x")),
		change("5", "big", text(strings.Repeat("x", 128<<10))), change("6", "j", text("4"))}
	says("r1", first...)
	is("first", map[string]any{"n": 3.0, "k": "inside", "j": "4"})
	revision := h.instance("web0").Revision

	// An operator's word is the last one; the server did not hear the answer, and tells
	// all that it keeps once more, and what is new.
	must[api.Instance](t)(h.client.Instances().Update(ctx, "web0", api.InstanceUpdate{SetMetadata: map[string]any{"k": "operator"}}, revision))
	z.report(&api.InstanceReport{Now: "r2", Full: true, Put: []api.InstanceStatus{{UUID: made.UUID, State: "running", Made: true}}, Written: append(first, change("7", "j", text("five")))})
	is("again", map[string]any{"n": 3.0, "k": "operator", "j": "five"})
	says("r3", append(first, change("7", "j", text("five")))...)
	is("again", map[string]any{"n": 3.0, "k": "operator", "j": "five"})
	says("r4", change("8", "k", text("inside again")))
	is("the last one", map[string]any{"n": 3.0, "k": "inside again", "j": "five"})

	// Of another server's, or of none, nothing is taken in.
	says("r5", api.MetadataChange{ID: "9", Instance: strings.Repeat("0", 8) + made.UUID[8:], Key: "k", Value: text("x")}, api.MetadataChange{ID: "9", Instance: "x", Key: "k"})
	is("strangers'", map[string]any{"n": 3.0, "k": "inside again", "j": "five"})
	by := map[string]int{}
	for _, a := range must[[]api.InstanceAudit](t)(h.client.InstanceAudit(ctx, made.UUID)) {
		by[a.By+" "+a.Action]++
	}
	if by["agent set_metadata"] != 3 || by["root set_metadata"] != 1 {
		t.Errorf("audit: %v", by)
	}
}
