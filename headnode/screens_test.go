package headnode

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"nereid/api"
)

// TestScreenSessions: a virtual machine's screen, a picture of it and an NMI are sessions
// that its audit tells of, with how they ended; of a zone they are refused with words.
func TestScreenSessions(t *testing.T) {
	h, zs := machineRack(t, withKVM)
	ctx, z := t.Context(), zs[0]
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, machine0("vm0")))
	zone := must[api.Instance](t)(h.client.CreateInstance(ctx, web("zone")))
	z.says("r1", []api.InstanceStatus{{UUID: made.UUID, State: "running"}, {UUID: zone.UUID, State: "running"}})
	open := func(name, kind string) *websocket.Conn {
		t.Helper()
		client, address, header, err := h.client.SessionURL(name)
		if err != nil {
			t.Fatal(err)
		}
		ws, _, err := websocket.Dial(ctx, address, &websocket.DialOptions{HTTPClient: client, HTTPHeader: header})
		if err == nil {
			var text []byte
			if text, err = json.Marshal(api.SessionRequest{Kind: kind}); err == nil {
				err = ws.Write(ctx, websocket.MessageText, text)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return ws
	}
	exit := func(ws *websocket.Conn) (e api.SessionExit) {
		t.Helper()
		defer ws.CloseNow()
		_, m, err := ws.Read(ctx)
		if err != nil || len(m) == 0 || m[0] != api.MessageExit || json.Unmarshal(m[1:], &e) != nil {
			t.Fatalf("%q, %v", m, err)
		}
		return e
	}
	come := func() (*websocket.Conn, string) {
		t.Helper()
		for {
			if r := z.mustSync(); len(r.Sessions) == 1 {
				agent, _, err := z.comes(r.Sessions[0].ID)
				if err != nil {
					t.Fatal(err)
				}
				return agent, r.Sessions[0].Kind
			}
		}
	}
	kinds := []string{api.SessionScreen, api.SessionScreenshot, api.SessionNMI}
	for _, kind := range kinds {
		if e := exit(open("zone", kind)); !strings.Contains(e.Error, "is a zone, which has no screen") {
			t.Errorf("%s of a zone: %+v", kind, e)
		}
	}
	for _, kind := range kinds {
		ws := open("vm0", kind)
		agent, got := come()
		if got != kind {
			t.Errorf("the server is asked for %s: want %s", got, kind)
		}
		end := api.SessionExit{}
		if kind == api.SessionNMI {
			end = api.SessionExit{Code: 126, Error: "the instance does not run"}
		}
		if err := agent.Write(ctx, websocket.MessageBinary, api.ExitMessage(end)); err != nil {
			t.Fatal(err)
		}
		if e := exit(ws); e != end {
			t.Errorf("%s ends with %+v: want %+v", kind, e, end)
		}
		agent.CloseNow()
	}
	// A viewer that goes is no fault; who does not wait for the picture has none.
	for _, kind := range []string{api.SessionScreen, api.SessionScreenshot} {
		ws := open("vm0", kind)
		agent, _ := come()
		ws.CloseNow()
		if _, _, err := agent.Read(ctx); err == nil {
			t.Error("the server's end goes on without a client")
		}
		agent.CloseNow()
	}
	h.Server.sessions.open.Wait()
	var got []string
	for _, a := range must[[]api.InstanceAudit](t)(h.client.InstanceAudit(ctx, "vm0")) {
		if a.Action != "provision" {
			got = append(got, fmt.Sprint(a.Action, " ", a.Success, " ", a.Error, a.Finished.IsZero()))
		}
	}
	slices.Reverse(got)
	want := []string{"vnc true false", "screenshot true false", "nmi false the instance does not runfalse",
		"vnc true false", "screenshot false who asked for it went before it was donefalse"}
	slices.Sort(got) // of one moment of the test's clock
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("audit %q: want %q", got, want)
	}
}
