package headnode

import (
	"context"
	"errors"
	"strings"
	"testing"

	"nereid/api"
)

// TestInternalMetadata: operators' metadata is set at the create and later, is in what the
// server is told and in what is read of one instance, in no list, and gone once the
// instance is; names of the datacenter's are refused, and no guest can change it.
func TestInternalMetadata(t *testing.T) {
	h, zs := zoneRack(t, 1)
	ctx := context.Background()
	in := web("web0")
	in.Internal = map[string]any{"ops:rack": "r1", "sdc:x": "y"}
	var p *api.Problem
	if _, err := h.client.CreateInstance(ctx, in); !errors.As(err, &p) || !strings.Contains(p.Error(), "sdc:x") {
		t.Errorf("a name of the datacenter's: %v", err)
	}
	delete(in.Internal, "sdc:x")
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, in))
	has := func(what string, want string) {
		t.Helper()
		zs[0].report(nil)
		shown, told := h.instance("web0"), zs[0].specs[made.UUID]
		for _, md := range []map[string]any{shown.Internal, told.Internal} {
			if md["ops:rack"] != "r1" || md["root_pw"] != any(want) && want != "" || want == "" && len(md) != 1 {
				t.Errorf("%s: %v", what, md)
			}
		}
		if shown.Metadata["root_pw"] != nil || told.Metadata["root_pw"] != nil {
			t.Errorf("%s: it is the instance's, too", what)
		}
	}
	has("made", "")
	must[api.Instance](t)(h.client.Instances().Update(ctx, "web0", api.InstanceUpdate{SetInternal: map[string]any{"root_pw": "secret"}}, ""))
	has("set", "secret")
	for i, err := range h.client.Instances().All(ctx, nil) {
		if err != nil || i.Internal != nil {
			t.Errorf("a list has %v (%v)", i.Internal, err)
		}
	}
	must[api.Instance](t)(h.client.Instances().Update(ctx, "web0", api.InstanceUpdate{RemoveInternal: []string{"root_pw"}}, ""))
	has("removed", "")
	must[api.Instance](t)(h.client.DeleteInstance(ctx, "web0", false))
	if got, err := h.client.Instances().Get(ctx, made.UUID); err != nil || got.Internal != nil {
		t.Errorf("of one that goes there is %v (%v)", got.Internal, err)
	}
}
