package headnode

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"nereid/api"
)

// An answer with deltas that are JSON already reads as one whose deltas were not, and is
// described as one.
func TestSyncAnswerJSON(t *testing.T) {
	ds := []api.Delta{
		{Set: "vni/000001", Epoch: "e", Version: 3, Toward: 7, Full: true, Put: []json.RawMessage{json.RawMessage(`{"ip":"10.0.0.1"}`)}, Gone: []string{"10.0.0.2"}},
		{Set: "server/x/ports", Epoch: "none"},
	}
	for _, want := range []api.SyncResponse{
		{},
		{Deltas: ds[:1]},
		{Deltas: ds, Revision: "r", NeedInventory: true, Spec: &api.Spec{Revision: "r", Hostname: "a<b"}},
		{Revision: "r", Refused: []api.RefusedSet{{Set: "vni/000002"}}},
	} {
		a := syncAnswer{SyncResponse: want}
		a.Deltas = nil
		for _, d := range want.Deltas {
			text, size, err := encodeDelta(d)
			if err != nil || size != len(text) {
				t.Fatalf("%d bytes said of %s: %v", size, text, err)
			}
			a.deltas = append(a.deltas, text)
		}
		var out bytes.Buffer
		if err := jsonFormat().Marshal(&out, &a); err != nil {
			t.Fatal(err)
		}
		var got api.SyncResponse
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s reads as %+v, want %+v: %v", out.Bytes(), got, want, err)
		}
	}
	h := startHead(t)
	var doc struct {
		Paths map[string]map[string]struct {
			Responses json.RawMessage `json:"responses"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(request(t, h, "GET", "/openapi.json"), &doc); err != nil {
		t.Fatal(err)
	}
	if text := string(doc.Paths["/v1/servers/{uuid}/sync"]["post"].Responses); !strings.Contains(text, `"#/components/schemas/SyncResponse"`) {
		t.Errorf("it is described as %s", text)
	}
}
