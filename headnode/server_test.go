package headnode

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"nereid/api"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDirEnv); dir != "" {
		crashHelper(dir)
		return
	}
	goleak.VerifyTestMain(m)
}

// A blank server from power-on to running, rebooted, renamed and shut down.
func TestPowerOnToRunning(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	stamp := h.platform("20261122T101500Z").Manifest.Stamp
	m := h.machine(1)
	m.powerOn()
	if m.cfg.CASHA256 != h.CASHA256() || m.cfg.Network.Address.String() != m.addr.String()+"/24" || m.cfg.Platform != stamp || m.cfg.Hostname != "52-54-00-00-00-01" {
		t.Errorf("configuration %+v", m.cfg)
	}

	// Unknown: waits, with its hardware listed.
	st, resp, err := m.enrol()
	if err != nil || st != http.StatusAccepted || resp.State != api.StatePending || resp.Reason == "" {
		t.Fatalf("enrol: %d %+v %v", st, resp, err)
	}
	sv := h.server(m.uuid)
	if sv.State != api.StatePending || sv.Sysinfo == nil || sv.Address != m.addr.String() || sv.Hostname != m.cfg.Hostname {
		t.Fatalf("pending: %+v", sv)
	}
	if err := h.client.RebootServer(ctx, m.uuid); codeOf(err) != api.CodeNotApproved {
		t.Errorf("reboot of a pending server: %v", err)
	}
	// The held poll ends with the approval. The operator's request is made when
	// the poll is there to be ended.
	done := make(chan error, 1)
	go func() {
		for {
			st, _, err := m.enrol()
			if err != nil || st == http.StatusOK {
				done <- err
				return
			}
		}
	}()
	if err := h.client.ApproveServer(ctx, m.mac, ""); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	out := m.mustSync()
	if !out.NeedInventory || out.Spec.Hostname != m.cfg.Hostname || len(out.Spec.NTP) != 1 || out.Spec.Revision != out.Revision {
		t.Fatalf("first sync: %+v", out)
	}
	if st, _, err := m.sync(); st != http.StatusNoContent || err != nil {
		t.Fatalf("nothing new: %d %v", st, err)
	}
	if sv = h.server(m.uuid); sv.State != api.StateApproved || sv.Platform.Running != stamp || sv.BootID != m.boot {
		t.Fatalf("approved: %+v", sv)
	}

	// A rename wakes the held sync.
	synced := make(chan api.SyncResponse, 1)
	go func() {
		for {
			st, out, err := m.sync()
			if err != nil || st == http.StatusOK {
				synced <- out
				return
			}
		}
	}()
	name := "cn-1"
	if sv, err = h.client.UpdateServer(ctx, m.uuid, api.ServerUpdate{Hostname: &name}, sv.Revision); err != nil || sv.Hostname != name {
		t.Fatalf("rename: %+v %v", sv, err)
	}
	if out := <-synced; out.Spec.Hostname != name {
		t.Fatalf("woken sync: %+v", out)
	}
	_, err = h.client.UpdateServer(ctx, name, api.ServerUpdate{Hostname: &name}, "stale")
	wantCode(t, "If-Match", err, api.CodeStale)

	// Setup.
	if err := h.client.SetupServer(ctx, name, api.SetupSpec{Layout: "triangle"}); codeOf(err) != api.CodeInvalid {
		t.Errorf("a layout there is none of: %v", err)
	}
	for _, bad := range []api.SetupSpec{{Distinct: []string{"a b"}}, {DataOn: "tape"}, {Width: 1}, {Width: 25}} {
		if err := h.client.SetupServer(ctx, name, bad); codeOf(err) != api.CodeInvalid {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	want := api.SetupSpec{Layout: "mirror", Width: 3, DataOn: "ssd", NoCache: true, Distinct: []string{"sda", "sdb"}}
	if err := h.client.SetupServer(ctx, name, want); err != nil {
		t.Fatal(err)
	}
	out = m.mustSync()
	if got := out.Spec.Setup; got == nil || got.Width != 3 || got.DataOn != "ssd" || !got.NoCache || len(got.Distinct) != 2 {
		t.Fatalf("setup %+v, asked for %+v", got, want)
	}
	if out.Spec.Setup == nil || out.Spec.Setup.Pool != "zones" || out.Spec.Setup.Layout != "mirror" || out.Spec.Setup.ID == "" {
		t.Fatalf("spec %+v", out.Spec)
	}
	if sv = h.server(name); sv.State != api.StateSettingUp {
		t.Errorf("state %s", sv.State)
	}
	m.rep.Setup = &api.SetupReport{ID: out.Spec.Setup.ID, Phase: "complete", Complete: true}
	m.rep.Pools = []api.Pool{{Name: "zones", GUID: "77", Health: "ONLINE", System: true}}
	m.mustSync()
	if sv = h.server(name); sv.State != api.StateRunning || !sv.SetUp {
		t.Fatalf("after setup: %+v", sv)
	}
	wantCode(t, "set up twice", h.client.SetupServer(ctx, name, api.SetupSpec{}), api.CodeConflict)

	// Reboot: for this boot only; pool and key come back.
	if err := h.client.RebootServer(ctx, name); err != nil {
		t.Fatal(err)
	}
	if out = m.mustSync(); out.Spec.Power == nil || out.Spec.Power.Action != "reboot" || out.Spec.Power.BootID != m.boot {
		t.Fatalf("power %+v", out.Spec.Power)
	}
	pools, setup := m.rep.Pools, m.rep.Setup
	m.bootUp()
	if sv = h.server(name); sv.State != api.StateBooting {
		t.Errorf("before its first sync: %s %s", sv.State, sv.StateReason)
	}
	m.rep.Pools, m.rep.Setup = pools, setup
	if out = m.mustSync(); out.Spec.Power != nil {
		t.Errorf("the boot after it: %+v", out.Spec.Power)
	}
	if sv = h.server(name); sv.State != api.StateRunning || sv.BootID != m.boot {
		t.Errorf("after the reboot: %+v", sv)
	}
	bs, err := h.client.Boots(ctx, name)
	if err != nil || len(bs) != 2 || bs[0].ID != m.boot || bs[0].Done == nil || len(bs[0].Legs) == 0 || bs[0].Platform != stamp {
		t.Fatalf("boots %+v %v", bs, err)
	}
	var stages []string
	for _, e := range bs[0].Events {
		stages = append(stages, string(e.Stage))
	}
	if got, want := strings.Join(stages, " "), "discover ack tftp ipxe-discover ipxe-ack script kernel initrd config enrol first-sync"; got != want {
		t.Errorf("events %s, want %s", got, want)
	}

	// Shutdown.
	if err := h.client.ShutdownServer(ctx, name); err != nil {
		t.Fatal(err)
	}
	m.rep.Power = &api.PowerReport{ID: m.mustSync().Spec.Power.ID}
	m.mustSync()
	h.advance(api.SilentAfter + time.Second)
	if sv = h.server(name); sv.State != api.StateOff {
		t.Errorf("shut down: %s %s", sv.State, sv.StateReason)
	}
}

func TestReset(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	m := runningServer(h, 1)
	name := h.server(m.uuid).Hostname
	wantCode(t, "wrong hostname", h.client.ResetServer(ctx, m.uuid, api.ServerReset{Hostname: "other"}), api.CodeConflict)
	if m.mustSync().Spec.Power != nil {
		t.Fatal("a refused reset reached the server")
	}
	if err := h.client.ResetServer(ctx, m.uuid, api.ServerReset{Hostname: name}); err != nil {
		t.Fatal(err)
	}
	p := m.mustSync().Spec.Power
	if p == nil || p.Action != "reset" || p.PoolGUID != "77" {
		t.Fatalf("power %+v", p)
	}
	m.rep.Power, m.rep.Pools, m.rep.Setup = &api.PowerReport{ID: p.ID}, nil, nil
	m.mustSync()
	m.newKey() // the old one was on the pool
	m.bootUp()
	m.mustSync()
	if sv := h.server(m.uuid); sv.State != api.StateApproved || sv.SetUp || sv.Setup != nil {
		t.Errorf("after the reset: %+v", sv)
	}
}

// runningServer is a machine that was approved and set up.
func runningServer(h *head, n int) *machine {
	h.t.Helper()
	return runningAs(h, h.machine(n))
}

// runningAs approves a machine and sets it up.
func runningAs(h *head, m *machine) *machine {
	h.t.Helper()
	ctx := context.Background()
	if dc, err := h.client.Datacenter(ctx); err != nil {
		h.t.Fatal(err)
	} else if dc.Default == "" {
		h.platform("20261122T101500Z")
	}
	m.powerOn()
	if _, _, err := m.enrol(); err != nil {
		h.t.Fatal(err)
	}
	if err := h.client.ApproveServer(ctx, m.uuid, ""); err != nil {
		h.t.Fatal(err)
	}
	if st, _, err := m.enrol(); err != nil || st != http.StatusOK {
		h.t.Fatalf("enrol: %d %v", st, err)
	}
	m.mustSync()
	if err := h.client.SetupServer(ctx, m.uuid, api.SetupSpec{}); err != nil {
		h.t.Fatal(err)
	}
	m.rep.Setup = &api.SetupReport{ID: m.mustSync().Spec.Setup.ID, Phase: "complete", Complete: true}
	m.rep.Pools = []api.Pool{{Name: "zones", GUID: "77", Health: "ONLINE", System: true}}
	m.mustSync()
	if sv := h.server(m.uuid); sv.State != api.StateRunning {
		h.t.Fatalf("not running: %+v", sv)
	}
	return m
}

func TestHeadNodeRestart(t *testing.T) {
	h := startHead(t)
	m := runningServer(h, 1)
	h.stop()
	h = startIn(t, h.dir)
	m.h = h
	if sv := h.server(m.uuid); sv.State != api.StateUnknown || !strings.Contains(sv.StateReason, "since the head node started") {
		t.Errorf("before it syncs: %s %s", sv.State, sv.StateReason)
	}
	if st, _, err := m.sync(); st != http.StatusNoContent || err != nil {
		t.Fatalf("the certificate is still good and nothing is new: %d %v", st, err)
	}
	if sv := h.server(m.uuid); sv.State != api.StateRunning {
		t.Errorf("after: %s %s", sv.State, sv.StateReason)
	}
}

func TestForget(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	m := runningServer(h, 1)
	if err := h.client.ForgetServer(ctx, m.uuid); err != nil {
		t.Fatal(err)
	}
	_, err := h.client.Server(ctx, m.uuid)
	wantCode(t, "forgotten", err, api.CodeNotFound)
	_, _, err = m.sync()
	wantCode(t, "its agent", err, api.CodeNotFound)
	_, _, err = m.enrol()
	wantCode(t, "its token", err, api.CodeTokenInvalid)
	if bs, err := h.client.BootsByMAC(ctx, m.mac); err != nil || len(bs) != 0 {
		t.Errorf("boots %+v %v", bs, err)
	}
	m.powerOn()
	if st, _, err := m.enrol(); st != http.StatusAccepted || err != nil {
		t.Errorf("it comes back as a newcomer: %d %v", st, err)
	}
}

func TestEvents(t *testing.T) {
	h := startHead(t)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	es, err := h.client.Events(ctx, api.EventQuery{})
	if err != nil {
		t.Fatal(err)
	}
	defer es.Close()
	missed := make(chan error, 1)
	go func() {
		want := map[string]bool{"platform": true, "boot": true, "server": true}
		for ev, err := range es.All() {
			if err != nil {
				missed <- fmt.Errorf("missed %v: %w", want, err)
				return
			}
			if delete(want, ev.Kind); len(want) == 0 {
				missed <- nil
				return
			}
		}
	}()
	runningServer(h, 1)
	if err := <-missed; err != nil {
		t.Error(err)
	}
}

func TestList(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	for n := range 5 {
		m := h.machine(n + 1)
		m.powerOn()
		if _, _, err := m.enrol(); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	after := ""
	for {
		page, next, err := h.client.ServersPage(context.Background(), after, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range page {
			got = append(got, s.MACs[0])
		}
		if after = next; next == "" {
			break
		}
	}
	if len(got) != 5 || !slices.IsSorted(got) {
		t.Errorf("got %v", got)
	}
}

const crashDirEnv = "NEREID_TEST_CRASH_DIR"

// crashHelper is the daemon TestCrash kills: it leases addresses as fast as it
// can and says of each when it was acknowledged.
func crashHelper(dir string) {
	ctx := context.Background()
	s, err := Open(ctx, Config{Dir: dir, Listen: netip.MustParseAddrPort("127.77.0.7:0")})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	go func() {
		<-s.Ready()
		for n := 0; ; n++ {
			mac := fmt.Sprintf("52:54:00:%02x:%02x:%02x", n>>16&255, n>>8&255, n&255)
			r := api.BootRequest{Kind: api.KindDiscover, MAC: mac, VendorClass: "PXEClient"}
			o, err := s.Boot(ctx, r)
			if err != nil || o.Verdict != api.VerdictAnswer {
				fmt.Println("error", o.Reason, err)
				return
			}
			r.Kind, r.Requested = api.KindRequest, o.Address.Addr()
			a, err := s.Boot(ctx, r)
			if err != nil || a.Verdict != api.VerdictAnswer {
				fmt.Println("error", a.Reason, err)
				return
			}
			fmt.Println("ack", mac, a.Address.Addr(), a.BootID)
		}
	}()
	if err := s.Run(ctx); err != nil {
		fmt.Println("error", err)
	}
}

// The daemon is killed while it acknowledges leases and while an operator makes
// tokens: after a restart every one of them is there.
func TestCrash(t *testing.T) {
	dir := initDir(t, 250)
	for round := range 3 {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), crashDirEnv+"="+dir)
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		acked, tokens := killWhileBusy(t, cmd, pipe, filepath.Join(dir, SocketFile), 20+7*round)

		h := startIn(t, dir)
		for mac, lease := range acked {
			a, err := h.Boot(context.Background(), api.BootRequest{Kind: api.KindDiscover, MAC: mac, Explain: true})
			if err != nil || a.Address.Addr().String() != lease[0] {
				t.Errorf("round %d: %s was promised %s and would get %s (%v)", round, mac, lease[0], a.Address, err)
			}
			bs, err := h.client.BootsByMAC(context.Background(), mac)
			if err != nil || !slices.ContainsFunc(bs, func(b api.Boot) bool { return b.ID == lease[1] }) {
				t.Errorf("round %d: boot %s of %s is not recorded: %v", round, lease[1], mac, err)
			}
		}
		have, err := h.client.Tokens(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range tokens {
			if !slices.ContainsFunc(have, func(x api.Token) bool { return x.ID == id }) {
				t.Errorf("round %d: token %s was acknowledged and is gone", round, id)
			}
		}
		if len(acked) == 0 || len(tokens) == 0 {
			t.Errorf("round %d: %d leases and %d tokens were acknowledged; the test proves nothing", round, len(acked), len(tokens))
		}
		h.stop()
	}
}
