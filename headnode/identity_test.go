package headnode

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// stranger is a machine that boots from its own MAC and lists, and says, what is
// another server's.
func (h *head) stranger(of *machine) *machine {
	m := h.machine(2)
	m.mac, m.uuid = "3c:ec:ef:00:00:02", of.uuid
	m.nics = []string{m.mac, "3c:ec:ef:00:00:1a"}
	return m
}

// global gives a machine NICs whose MACs only it has.
func (m *machine) global() *machine {
	m.mac = "3c:ec:ef:00:00:0a"
	m.nics = []string{m.mac, "3c:ec:ef:00:00:1a"}
	return m
}

// Server 1 is approved and not set up. Machine 2 says it is server 1: it gets
// nothing, and server 1 goes on.
func TestStrangerTakesNothingOfAnApprovedServer(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	ctx := context.Background()
	m := h.machine(1).global()
	m.powerOn()
	if _, _, err := m.enrol(); err != nil {
		t.Fatal(err)
	}
	if err := h.client.ApproveServer(ctx, m.uuid, ""); err != nil {
		t.Fatal(err)
	}
	if st, _, err := m.enrol(); err != nil || st != http.StatusOK {
		t.Fatalf("enrol: %d %v", st, err)
	}
	m.mustSync()
	strangerTakesNothing(t, h, m, api.StateApproved)
}

// The same with server 1 set up.
func TestStrangerTakesNothingOfARunningServer(t *testing.T) {
	h := startHead(t)
	strangerTakesNothing(t, h, runningAs(h, h.machine(1).global()), api.StateRunning)
}

func strangerTakesNothing(t *testing.T, h *head, m *machine, state api.ServerState) {
	t.Helper()
	ctx := context.Background()
	before := h.server(m.uuid)
	s := h.stranger(m)
	s.powerOn()
	if st, resp, err := s.enrol(); st != http.StatusConflict || resp.Certificate != "" {
		t.Fatalf("the stranger: %d %+v %v", st, resp, err)
	}
	after := h.server(m.uuid)
	if after.State != state || after.Address != m.addr.String() || after.BootID != m.boot || strings.Join(after.MACs, " ") != strings.Join(before.MACs, " ") {
		t.Errorf("server 1 is %+v", after)
	}
	if _, _, err := m.sync(); err != nil {
		t.Errorf("server 1 syncs: %v", err)
	}
	// It takes orders, and boots.
	if err := h.client.RebootServer(ctx, m.uuid); err != nil {
		t.Errorf("server 1 takes orders: %v", err)
	}
	p := m.mustSync().Spec.Power
	m.rep.Power = &api.PowerReport{ID: p.ID}
	m.mustSync()
	if state != api.StateRunning {
		m.newKey() // the old one was in RAM only
	}
	pools, setup := m.rep.Pools, m.rep.Setup
	m.bootUp()
	m.rep.Pools, m.rep.Setup = pools, setup
	m.mustSync()
	if sv := h.server(m.uuid); sv.State != state && sv.State != api.StateApproved {
		t.Errorf("after its reboot: %s %s", sv.State, sv.StateReason)
	}
	// The stranger is a server of its own, which is held.
	sv := h.server(s.mac)
	if sv.UUID == m.uuid || sv.State != api.StateHeld || sv.Claims != m.uuid || sv.Address != s.addr.String() {
		t.Errorf("the stranger is %+v", sv)
	}
	for _, text := range append([]string{sv.StateReason}, h.server(m.uuid).Alerts...) {
		for _, verb := range []string{"reset", "forget", "delete"} {
			if strings.Contains(text, "server "+verb) {
				t.Errorf("a hint destroys something: %s", text)
			}
		}
	}
	wantCode(t, "accept a key while the server's syncs", h.client.AcceptKey(ctx, m.uuid, s.mac), api.CodeConflict)
	if err := h.client.RejectServer(ctx, s.mac); err != nil {
		t.Fatal(err)
	}
	if sv := h.server(s.mac); sv.State != api.StateRejected {
		t.Errorf("rejected by its MAC: %s", sv.State)
	}
	if err := h.client.ForgetServer(ctx, s.mac); err != nil {
		t.Fatal(err)
	}
	_, err := h.client.Server(ctx, s.mac)
	wantCode(t, "forgotten by its MAC", err, api.CodeNotFound)
	if _, _, err := m.sync(); err != nil || len(h.server(m.uuid).Alerts) != 0 {
		t.Errorf("server 1: %v, alerts %q", err, h.server(m.uuid).Alerts)
	}
}

// A server that is not set up has its key in RAM. Switched off and on by hand it
// comes with another: held, and one verb accepts it.
func TestPowerCutBeforeSetup(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	ctx := context.Background()
	m := h.machine(1)
	m.powerOn()
	if _, _, err := m.enrol(); err != nil {
		t.Fatal(err)
	}
	if err := h.client.ApproveServer(ctx, m.uuid, ""); err != nil {
		t.Fatal(err)
	}
	m.bootUp()
	m.mustSync()
	m.newKey()
	m.powerOn()
	_, _, err := m.enrol()
	wantCode(t, "the boot after the power cut", err, api.CodeKeyMismatch)
	wantCode(t, "too early", h.client.AcceptKey(ctx, m.uuid, ""), api.CodeConflict)
	h.advance(api.SilentAfter + time.Second)
	sv := h.server(m.uuid)
	if sv.State != api.StateHeld || !strings.Contains(sv.StateReason, "nereid server accept-key "+sv.Hostname) {
		t.Errorf("shown as %s: %s", sv.State, sv.StateReason)
	}
	if err := h.client.AcceptKey(ctx, sv.Hostname, ""); err != nil {
		t.Fatal(err)
	}
	if st, _, err := m.enrol(); st != http.StatusOK || err != nil {
		t.Fatalf("accepted: %d %v", st, err)
	}
	m.mustSync()
	if sv := h.server(m.uuid); sv.State != api.StateApproved || len(sv.Alerts) != 0 {
		t.Errorf("shown as %s, alerts %q", sv.State, sv.Alerts)
	}
}

// Two machines with one placeholder for a UUID, or none, are two servers. Each
// keeps its UUID when it boots from another of its NICs.
func TestMachinesWithoutAUsableUUID(t *testing.T) {
	for _, claim := range []string{"", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "03000200-0400-0500-0006-000700080009"} {
		t.Run(claim, func(t *testing.T) {
			h := startHead(t)
			h.platform("20261122T101500Z")
			ctx := context.Background()
			uuids := map[string]bool{}
			for _, last := range []string{"a", "b"} {
				m := h.machine(1)
				m.mac, m.uuid = "3c:ec:ef:00:00:0"+last, claim
				m.nics = []string{m.mac, "3c:ec:ef:00:00:1" + last}
				m.powerOn()
				st, resp, err := m.enrol()
				if st != http.StatusAccepted || resp.State != api.StatePending || err != nil || m.cfg.UUID != "" && m.cfg.UUID != resp.UUID {
					t.Fatalf("%d %+v %v, configuration for %s", st, resp, err, m.cfg.UUID)
				}
				uuids[resp.UUID] = true
				if err := h.client.ApproveServer(ctx, m.mac, ""); err != nil {
					t.Fatal(err)
				}
				if st, resp, err = m.enrol(); st != http.StatusOK || err != nil {
					t.Fatalf("%d %+v %v", st, resp, err)
				}
				if sv := h.server(resp.UUID); sv.Sysinfo.UUID != claim {
					t.Errorf("its hardware says %q", sv.Sysinfo.UUID)
				}
				m.mac = m.nics[1]
				m.powerOn()
				again, resp2, err := m.enrol()
				if again != http.StatusOK || resp2.UUID != resp.UUID || m.cfg.UUID != resp.UUID {
					t.Errorf("from its other NIC: %d %+v %v, configuration for %s", again, resp2, err, m.cfg.UUID)
				}
			}
			if len(uuids) != 2 {
				t.Errorf("two machines are the servers %v", uuids)
			}
		})
	}
}
