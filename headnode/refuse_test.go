package headnode

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

func TestTokens(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	a, b := h.machine(1), h.machine(2)
	a.powerOn()
	b.powerOn()

	own := a.token
	a.token = "guess"
	_, _, err := a.enrol()
	wantCode(t, "a guessed token", err, api.CodeTokenInvalid)
	a.token = b.token
	_, _, err = a.enrol()
	wantCode(t, "the token of another server's boot", err, api.CodeTokenInvalid)
	a.token, a.boot = b.token, b.boot
	_, _, err = a.enrol()
	wantCode(t, "another server's token and boot", err, api.CodeTokenInvalid)
	a.token, a.boot = own, a.rep.BootID
	if st, _, err := a.enrol(); st != http.StatusAccepted || err != nil {
		t.Fatalf("its own: %d %v", st, err)
	}
	good := a.key
	a.newKey()
	_, _, err = a.enrol()
	wantCode(t, "replayed with another key", err, api.CodeTokenUsed)
	a.key = good
	h.advance(time.Hour)
	if st, _, err := a.enrol(); st != http.StatusAccepted || err != nil {
		t.Errorf("the same key may ask until it is approved: %d %v", st, err)
	}
	_, _, err = b.enrol()
	wantCode(t, "not used in time", err, api.CodeTokenExpired)

	bs, err := h.client.BootsByMAC(context.Background(), a.mac)
	if err != nil {
		t.Fatal(err)
	}
	refusals := 0
	for _, e := range bs[0].Events {
		if e.Stage == api.StageRefused {
			refusals++
		}
	}
	if refusals == 0 {
		t.Errorf("refusals are not in the boot's record: %+v", bs[0].Events)
	}
}

func TestStolenTokenOfAServerThatIsSetUp(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	m := runningServer(h, 1)
	m.powerOn()
	good := m.key
	m.newKey()
	_, _, err := m.enrol()
	wantCode(t, "another key than the one on the pool", err, api.CodeKeyMismatch)
	h.advance(api.SilentAfter + time.Second)
	sv := h.server(m.uuid)
	if sv.State != api.StateHeld || len(sv.Alerts) == 0 {
		t.Errorf("it is shown: %s %q", sv.State, sv.Alerts)
	}
	m.powerOn()
	thief := m.key
	m.key = good
	if st, _, err := m.enrol(); st != http.StatusOK || err != nil {
		t.Errorf("the key on the pool: %d %v", st, err)
	}
	// Its disks were replaced, and the operator says so.
	m.powerOn()
	m.key = thief
	_, _, err = m.enrol()
	wantCode(t, "once more", err, api.CodeKeyMismatch)
	h.advance(api.SilentAfter + time.Second)
	wantCode(t, "a reset accepts no key", h.client.ResetServer(ctx, m.uuid, api.ServerReset{Hostname: sv.Hostname}), api.CodeConflict)
	if err := h.client.AcceptKey(ctx, m.uuid, ""); err != nil {
		t.Fatal(err)
	}
	if st, _, err := m.enrol(); st != http.StatusOK || err != nil {
		t.Errorf("after the operator accepted it: %d %v", st, err)
	}
	if out := m.mustSync(); out.Spec.Power != nil || out.Spec.Setup != nil {
		t.Errorf("accepting a key destroys nothing: %+v", out.Spec)
	}
}

func TestCollisionHoldsBothBoots(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	h.platform("20261122T101500Z")
	a := h.machine(1) // neither has a key on its pool, or one that syncs
	a.powerOn()
	if _, _, err := a.enrol(); err != nil {
		t.Fatal(err)
	}
	b := h.machine(2)
	b.uuid = a.uuid
	b.powerOn()
	_, _, err := b.enrol()
	wantCode(t, "the second machine", err, api.CodeUUIDCollision)
	for _, m := range []*machine{a, b} {
		m.dhcp("iPXE")
		plan, err := h.Plan(ctx, m.boot, m.addr)
		if err != nil || plan.Hold == "" || plan.RetryIn <= 0 || !strings.Contains(plan.Hold, " --mac ") {
			t.Errorf("%s is not held: %+v %v", m.mac, plan, err)
		}
		_, err = h.Config(ctx, m.boot, m.addr)
		wantCode(t, "configuration of "+m.mac, err, api.CodeConflict)
	}
	if sv := h.server(a.uuid); sv.State != api.StateHeld {
		t.Errorf("state %s", sv.State)
	}
	wantCode(t, "reboot", h.client.RebootServer(ctx, a.uuid), api.CodeUUIDCollision)
	if err := h.client.ApproveServer(ctx, a.uuid, a.mac); err != nil {
		t.Fatal(err)
	}
	if plan, err := h.Plan(ctx, a.boot, a.addr); err != nil || plan.Hold != "" {
		t.Errorf("the winner: %+v %v", plan, err)
	}
	if plan, err := h.Plan(ctx, b.boot, b.addr); err != nil || !strings.Contains(plan.Hold, "another machine") {
		t.Errorf("the loser: %+v %v", plan, err)
	}
}

func TestRejected(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	ctx := context.Background()
	m := h.machine(1)
	m.powerOn()
	if _, _, err := m.enrol(); err != nil {
		t.Fatal(err)
	}
	if err := h.client.RejectServer(ctx, m.uuid); err != nil {
		t.Fatal(err)
	}
	if st, out, err := m.enrol(); st != http.StatusAccepted || out.State != api.StateRejected || err != nil {
		t.Errorf("enrol: %d %+v %v", st, out, err)
	}
	if plan, err := h.Plan(ctx, m.boot, m.addr); err != nil || !strings.Contains(plan.Hold, "rejected") {
		t.Errorf("plan: %+v %v", plan, err)
	}
	if sv := h.server(m.uuid); sv.State != api.StateRejected {
		t.Errorf("state %s", sv.State)
	}
	if err := h.client.ApproveServer(ctx, m.uuid, ""); err != nil {
		t.Fatal(err)
	}
	if st, _, err := m.enrol(); st != http.StatusOK || err != nil {
		t.Errorf("approved after all: %d %v", st, err)
	}
}

func TestRangeFull(t *testing.T) {
	h := startIn(t, initDir(t, 101)) // two addresses
	h.platform("20261122T101500Z")
	ctx := context.Background()
	for n := range 2 {
		h.machine(n + 1).dhcp("")
	}
	late := h.machine(3)
	a := late.ask(api.KindDiscover, "", netip.Addr{})
	if a.Verdict != api.VerdictSilent || a.Rule != "range-full" || !strings.Contains(a.Reason, "127.77.0.100-127.77.0.101") || a.Change == "" {
		t.Errorf("the third machine: %+v", a)
	}
	dc, err := h.client.Datacenter(ctx)
	if err != nil || dc.AddressUse != 2 || dc.AddressCap != 2 || len(dc.Alerts) != 1 || !strings.Contains(dc.Alerts[0], "in use") {
		t.Errorf("datacenter %+v %v", dc, err)
	}
	if a := h.machine(1).ask(api.KindDiscover, "", netip.Addr{}); a.Verdict != api.VerdictAnswer {
		t.Errorf("who has an address keeps it: %+v", a)
	}
	h.advance(13 * time.Hour) // longer than a lease
	late.dhcp("")
	if dc, err = h.client.Datacenter(ctx); err != nil || len(dc.Alerts) != 0 {
		t.Errorf("the alert ends: %q %v", dc.Alerts, err)
	}
}

func TestNAK(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	a, b := h.machine(1), h.machine(2)
	a.dhcp("")
	b.dhcp("")
	for what, addr := range map[string]netip.Addr{"another's address": a.addr, "another of the range": b.addr.Next().Next(), "another network": netip.MustParseAddr("10.1.2.3")} {
		if got := b.ask(api.KindRequest, "", addr); got.Verdict != api.VerdictNAK || got.Reason == "" {
			t.Errorf("%s: %+v", what, got)
		}
	}
	if got := h.machine(3).ask(api.KindRequest, "", netip.MustParseAddr("127.77.0.7")); got.Verdict != api.VerdictNAK {
		t.Errorf("the head node's own address: %+v", got)
	}
}

// An address that its machine found in use is not given to anybody for a while.
func TestDecline(t *testing.T) {
	h := startHead(t)
	m := h.machine(1)
	bad := m.dhcp("").Address.Addr()
	if a := m.ask(api.KindDecline, "", bad); a.Verdict != api.VerdictSilent {
		t.Errorf("decline: %+v", a)
	}
	if got := m.dhcp("").Address.Addr(); got == bad {
		t.Errorf("%s was given again", bad)
	}
	if got := h.machine(2).dhcp("").Address.Addr(); got == bad {
		t.Errorf("%s was given to another", bad)
	}
	alerts := func() string {
		d, err := h.client.Datacenter(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(d.Alerts, "\n")
	}
	if got := alerts(); !strings.Contains(got, bad.String()+", declined by "+m.mac) {
		t.Errorf("alerts: %s", got)
	}
	for range 5 {
		m.ask(api.KindDecline, "", m.dhcp("").Address.Addr())
	}
	if got := alerts(); !strings.Contains(got, "4 declined addresses that are not kept back") || !strings.Contains(got, "the last of "+m.mac) {
		t.Errorf("alerts: %s", got)
	}
	m.dhcp("")
	if a := m.ask(api.KindRelease, "", m.addr); a.Verdict != api.VerdictSilent {
		t.Errorf("release: %+v", a)
	}
	if a := h.machine(3).ask(api.KindRelease, "", m.addr); !strings.Contains(a.Reason, "does not hold") {
		t.Errorf("release of another's: %+v", a)
	}
}

func TestConfigIsHandedOutOnce(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	ctx := context.Background()
	m, other := h.machine(1), h.machine(2)
	other.dhcp("")
	m.dhcp("iPXE")
	m.saw(api.StageScript)
	_, err := h.Config(ctx, m.boot, other.addr)
	wantCode(t, "another address", err, api.CodeForbidden)
	_, err = h.Config(ctx, "nosuchboot", m.addr)
	wantCode(t, "no such boot", err, api.CodeNotFound)
	first, err := h.Config(ctx, m.boot, m.addr)
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.Config(ctx, m.boot, m.addr)
	if err != nil || second.Token == first.Token {
		t.Fatalf("it may be asked again while it was not sent in full: %v", err)
	}
	m.saw(api.StageConfig)
	_, err = h.Config(ctx, m.boot, m.addr)
	wantCode(t, "after it was sent", err, api.CodeTokenUsed)
	m.token = first.Token
	_, _, err = m.enrol()
	wantCode(t, "the token of the cut answer", err, api.CodeTokenInvalid)
	m.token = second.Token
	if st, _, err := m.enrol(); st != http.StatusAccepted || err != nil {
		t.Errorf("the token that was sent: %d %v", st, err)
	}
	old := m.boot
	m.ask(api.KindDiscover, "", netip.Addr{})
	if _, err := h.Plan(ctx, old, m.addr); err != nil {
		t.Errorf("a DISCOVER, which anybody can send, ends no boot: %v", err)
	}
	m.dhcp("")
	_, err = h.Plan(ctx, old, m.addr)
	wantCode(t, "a boot that was left behind", err, api.CodeConflict)
	if err := h.Record(ctx, m.boot, other.addr, api.BootEvent{Stage: api.StageStub}); codeOf(err) != api.CodeForbidden {
		t.Errorf("an event from another address: %v", err)
	}
}

func TestNoPlatform(t *testing.T) {
	h := startHead(t)
	m := h.machine(1)
	m.dhcp("iPXE")
	plan, err := h.Plan(context.Background(), m.boot, m.addr)
	if err != nil || !strings.Contains(plan.Hold, "platform import") {
		t.Errorf("plan %+v %v", plan, err)
	}
}

// Firmware that does not know its UUID binds the token to the MAC alone.
func TestFirmwareWithoutUUID(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	for n, claimed := range []string{"", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff", "04030201-0000-4000-8000-000000000007"} {
		m := h.machine(n + 1)
		own := m.uuid
		if n == 3 {
			own = "01020304-0000-0040-8000-000000000007" // the same in the other byte order
		}
		m.uuid = claimed
		m.powerOn()
		m.uuid = own
		if st, _, err := m.enrol(); st != http.StatusAccepted || err != nil {
			t.Errorf("firmware says %q, the system %s: %d %v", claimed, own, st, err)
		}
	}
}

// A stop ends held polls with their "nothing new".
func TestStopEndsPolls(t *testing.T) {
	h := startHead(t)
	m := runningServer(h, 1)
	h.Server.cfg.Hold = time.Hour
	res := make(chan string, 1)
	go func() {
		st, _, err := m.sync()
		res <- fmt.Sprint(st, err)
	}()
	// The poll is held once its touch is seen: silence is measured from there.
	h.advance(10 * time.Second)
	for {
		if last, _ := h.live.get(m.uuid); h.clock().Sub(last) < 5*time.Second {
			break
		}
		select {
		case got := <-res:
			res <- got
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	h.stop() // a poll that it does not end is cut off, which is no answer
	if got := <-res; got != "204 <nil>" {
		t.Errorf("the held poll ended with %s", got)
	}
}
