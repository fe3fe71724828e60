package headnode

import (
	"context"
	"net/http"
	"net/netip"
	"testing"

	"nereid/api"
)

// A machine boots by a boot server that is not in the head node's process: over
// HTTPS, with an operator's token, it decides and records what the head node's own
// would.
func TestBootOverTheAPI(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	ctx := context.Background()
	if err := h.client.SetDefaultPlatform(ctx, "20261122T101500Z"); err != nil {
		t.Fatal(err)
	}
	tok, err := h.client.CreateToken(ctx, api.TokenCreate{Name: "rack 2"})
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewClient("https://" + h.HTTPS().String())
	c.Token, c.CASHA256 = tok.Secret, h.CASHA256()
	t.Cleanup(c.Close)

	m := h.machine(1)
	r := api.BootRequest{Kind: api.KindDiscover, MAC: m.mac, UUID: m.uuid, Arch: 7, VendorClass: "PXEClient:Arch:00007"}
	offer, err := c.BootRequest(ctx, r)
	if err != nil || offer.Verdict != api.VerdictAnswer {
		t.Fatalf("discover: %+v %v", offer, err)
	}
	r.Kind, r.Requested = api.KindRequest, offer.Address.Addr()
	ack, err := c.BootRequest(ctx, r)
	if err != nil || ack.Verdict != api.VerdictAnswer || ack.Address != offer.Address || ack.BootID == "" {
		t.Fatalf("offer %+v, ack %+v: %v", offer, ack, err)
	}
	id, from := ack.BootID, ack.Address.Addr()
	plan, err := c.BootPlan(ctx, id, from)
	if err != nil || plan.Manifest == nil || plan.Manifest.Stamp != "20261122T101500Z" {
		t.Fatalf("plan %+v %v", plan, err)
	}
	if err := c.ReportBoot(ctx, id, api.BootReport{Stage: api.StageScript}); err != nil {
		t.Fatal(err)
	}
	other := netip.MustParseAddr("127.77.0.200")
	_, err = c.BootPlan(ctx, id, other)
	wantCode(t, "the plan from another address", err, api.CodeForbidden)
	_, err = c.BootConfig(ctx, id, other)
	wantCode(t, "the configuration from another address", err, api.CodeForbidden)
	m.cfg, err = c.BootConfig(ctx, id, from)
	if err != nil || m.cfg.Token == "" || m.cfg.API != "https://"+h.HTTPS().String() || m.cfg.CASHA256 != h.CASHA256() {
		t.Fatalf("configuration %+v %v", m.cfg, err)
	}
	if err := c.ReportBoot(ctx, id, api.BootReport{Stage: api.StageConfig}); err != nil {
		t.Fatal(err)
	}
	_, err = c.BootConfig(ctx, id, from)
	wantCode(t, "the configuration a second time", err, api.CodeTokenUsed)

	m.boot, m.addr, m.token = id, from, m.cfg.Token
	if st, out, err := m.enrol(); st != http.StatusAccepted || out.State != api.StatePending || err != nil {
		t.Fatalf("enrol: %d %+v %v", st, out, err)
	}
	bs, err := h.client.BootsByMAC(ctx, m.mac)
	if err != nil || len(bs) != 1 {
		t.Fatalf("boots %+v %v", bs, err)
	}
	var stages []api.BootStage
	for _, ev := range bs[0].Events {
		stages = append(stages, ev.Stage)
	}
	want := []api.BootStage{api.StageDiscover, api.StageAck, api.StageScript, api.StageConfig, api.StageEnrol}
	if len(stages) != len(want) {
		t.Fatalf("stages %v, want %v", stages, want)
	}
	for i := range want {
		if stages[i] != want[i] {
			t.Errorf("stages %v, want %v", stages, want)
		}
	}

	for what, err := range map[string]error{
		"a MAC that is none":       second(c.BootRequest(ctx, api.BootRequest{Kind: api.KindDiscover, MAC: "zz"})),
		"an address that is none":  second(c.BootPlan(ctx, id, netip.Addr{})),
		"a stage that nobody sees": c.ReportBoot(ctx, id, api.BootReport{Stage: "first-sync"}),
	} {
		wantCode(t, what, err, api.CodeInvalid)
	}
	wantCode(t, "an unknown boot", second(c.BootConfig(ctx, "nobody", from)), api.CodeNotFound)
	s := runningServer(h, 2)
	var out api.BootConfig
	_, err = s.post(h.ca.Pool(), "/v1/boots/"+id+"/config?from="+from.String(), struct{}{}, &out)
	wantCode(t, "a server's certificate", err, api.CodeForbidden)
}

func second[T any](_ T, err error) error { return err }
