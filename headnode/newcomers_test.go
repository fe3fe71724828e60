package headnode

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/boots"
	"nereid/headnode/events"
	"nereid/headnode/store"
)

// list reads all servers and newcomers, a few at a time.
func (h *head) list(limit int) (all []api.Server) {
	h.t.Helper()
	for after := ""; ; {
		page, next, err := h.client.ServersPage(context.Background(), after, limit)
		if err != nil {
			h.t.Fatal(err)
		}
		if len(page) > limit {
			h.t.Errorf("a page of %d, asked for %d", len(page), limit)
		}
		all = append(all, page...)
		if next == "" {
			return all
		}
		after = next
	}
}

// Machines that hang in firmware are listed from their first DISCOVER on, with the
// leg where they stand and why, until they enrol.
func TestNewcomersAreListed(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	if got := h.list(10); len(got) != 0 {
		t.Fatalf("listed %+v", got)
	}
	known := h.machine(200)
	known.bootUpHeld()
	for i := range 40 {
		m := h.machine(i)
		for range 12 {
			m.ask(api.KindDiscover, "", netip.Addr{})
		}
	}
	far := h.machine(7)
	far.dhcp("")
	for _, limit := range []int{1, 7, 41, 200} {
		all := h.list(limit)
		if len(all) != 41 {
			t.Fatalf("pages of %d: %d are listed", limit, len(all))
		}
		seen := map[string]bool{}
		for i, sv := range all {
			if seen[sv.MACs[0]] {
				t.Errorf("pages of %d: %s is listed twice", limit, sv.MACs[0])
			}
			seen[sv.MACs[0]] = true
			want := "firmware: DISCOVER answered 12 times, no REQUEST"
			switch {
			case i == 0:
				if sv.UUID != known.uuid || sv.State != api.StatePending {
					t.Errorf("first is %+v", sv)
				}
				continue
			case sv.MACs[0] == far.mac:
				want = "firmware: has " + far.addr.String() + " and has read no boot file"
			}
			if sv.UUID != "" || sv.State != api.StateNew || !strings.HasPrefix(sv.StateReason, want) || sv.LastSeen == nil {
				t.Errorf("newcomer %+v, want %q", sv, want)
			}
		}
	}
	if sv := h.server(far.mac); sv.State != api.StateNew || sv.Address != far.addr.String() || sv.Hostname != "52-54-00-00-00-07" {
		t.Errorf("by its MAC: %+v", sv)
	}
	if bs, err := h.client.BootsByMAC(context.Background(), "52:54:00:00:00:03"); err != nil || len(bs) != 1 || bs[0].Events[0].Count != 12 {
		t.Errorf("boots of a machine that hangs: %+v %v", bs, err)
	}
	err := h.client.ApproveServer(context.Background(), far.mac, "")
	wantCode(t, "approve", err, api.CodeConflict)
	far.bootUpHeld()
	if all := h.list(200); len(all) != 41 || all[1].UUID == "" && all[0].UUID == "" {
		t.Errorf("after it enrolled: %d are listed, first %+v", len(all), all[0])
	}
}

// bootUpHeld boots a machine until it waits for approval.
func (m *machine) bootUpHeld() {
	m.h.t.Helper()
	m.powerOn()
	if st, out, err := m.enrol(); err != nil || st != http.StatusAccepted {
		m.h.t.Fatalf("enrol: %d %+v %v", st, out, err)
	}
}

// A machine that gets no address is listed, and so is the reason.
func TestNewcomerWithoutAddress(t *testing.T) {
	h := startIn(t, initDir(t, 101))
	for i := range 3 {
		m := h.machine(i)
		o := m.ask(api.KindDiscover, "", netip.Addr{})
		if i < 2 {
			m.dhcp("")
			continue
		}
		if o.Rule != "range-full" || o.BootID == "" {
			t.Fatalf("third machine: %+v", o)
		}
		// The boot server records what it did not answer.
		if err := h.Record(context.Background(), o.BootID, netip.Addr{}, api.BootEvent{Stage: api.StageRefused, Detail: "DHCP DISCOVER: " + o.Reason}); err != nil {
			t.Fatal(err)
		}
		if sv := h.server(m.mac); sv.State != api.StateNew || !strings.HasPrefix(sv.StateReason, "firmware: refused: DHCP DISCOVER: ") || !strings.Contains(sv.StateReason, "all 2 addresses") {
			t.Errorf("shown as %+v", sv)
		}
	}
}

// Watchers are told of each newcomer and of each of its legs, however soon it follows
// another: within a second, together.
func TestNewsOfNewcomersIsNotLost(t *testing.T) {
	h := startHead(t)
	id := h.events.Now()
	told := func(what string) {
		t.Helper()
		for limit := time.After(20 * time.Second); ; {
			p := h.events.Read(id, events.Filter{Kinds: []string{"boot"}})
			if id = p.ID; len(p.Events) > 0 {
				return
			}
			select {
			case <-p.More:
			case <-limit:
				t.Fatalf("watchers are not told of %s", what)
			}
		}
	}
	h.machine(1).ask(api.KindDiscover, "", netip.Addr{})
	told("the first machine")
	h.machine(2).ask(api.KindDiscover, "", netip.Addr{})
	told("the second machine")
	h.machine(2).ask(api.KindDiscover, "iPXE", netip.Addr{})
	told("its iPXE")
	for range 100 {
		h.machine(2).ask(api.KindDiscover, "iPXE", netip.Addr{})
	}
	told("what it repeats")
	if n := len(h.events.Read(id, events.Filter{Kinds: []string{"boot"}}).Events); n > 1 {
		t.Errorf("%d events wait after 100 messages", n)
	}
}

// A flood of invented MACs leaves the boots of known servers alone, is counted, and
// what is listed of it is bounded.
func TestFloodOfInventedMACs(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	known := h.machine(1)
	known.bootUpHeld()
	before, err := h.client.BootsByMAC(context.Background(), known.mac)
	if err != nil || len(before) != 1 {
		t.Fatal(before, err)
	}
	known.ask(api.KindDiscover, "", netip.Addr{}) // only in memory
	for i := range 6000 {
		r := api.BootRequest{Kind: api.KindDiscover, MAC: fmt.Sprintf("0a:00:00:00:%02x:%02x", i>>8, i&255), VendorClass: "PXEClient"}
		if _, err := h.Boot(context.Background(), r); err != nil {
			t.Fatal(err)
		}
	}
	after, err := h.client.BootsByMAC(context.Background(), known.mac)
	if err != nil || len(after) != 2 || after[1].ID != before[0].ID || len(after[0].Events) != 1 {
		t.Errorf("boots of the known server: %+v %v", after, err)
	}
	if all := h.list(1000); len(all) != 501 || all[0].UUID != known.uuid {
		t.Errorf("%d are listed, first %+v", len(all), all[0])
	}
	d, err := h.client.Datacenter(context.Background())
	if err != nil || !strings.Contains(strings.Join(d.Alerts, "\n"), "3596 machines asked") {
		t.Errorf("alerts %q %v", d.Alerts, err)
	}
}

// What a machine reports of its boot is taken at ten a second, and is not a write
// each; the rest is counted and its machine named.
func TestReportsAreBounded(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	m := h.machine(1)
	m.dhcp("iPXE")
	ctx := context.Background()
	report := func() error {
		return h.Record(ctx, m.boot, m.addr, api.BootEvent{Stage: api.StageFailed, Detail: "no root"})
	}
	refused := 0
	for range 200 {
		switch err := report(); {
		case err == nil:
		default:
			var p *api.Problem
			if !errors.As(err, &p) || p.Status != http.StatusTooManyRequests {
				t.Fatal(err)
			}
			refused++
		}
	}
	if refused < 100 || refused > 170 {
		t.Errorf("%d of 200 were refused", refused)
	}
	if d, err := h.client.Datacenter(ctx); err != nil || !strings.Contains(strings.Join(d.Alerts, "\n"), fmt.Sprintf("%d reports of boots beyond 10 a second", refused)) ||
		!strings.Contains(strings.Join(d.Alerts, "\n"), "the last of "+m.mac) {
		t.Errorf("alerts %q %v", d.Alerts, err)
	}
	h.advance(time.Second)
	if err := report(); err != nil {
		t.Errorf("a second later: %v", err)
	}
	// A head node that ends writes what it noted.
	dir := h.dir
	h.stop()
	h = startIn(t, dir)
	if bs, err := h.client.BootsByMAC(ctx, m.mac); err != nil || len(bs) != 1 || bs[0].Events[len(bs[0].Events)-1].Count != 200-refused+1 {
		t.Errorf("after a restart: %+v %v", bs, err)
	}
}

// What a boot passes is on disk at once only where a crash must not undo it.
func TestPassingEventsShareAWrite(t *testing.T) {
	ctx := context.Background()
	s, err := Open(ctx, Config{Dir: initDir(t, 250)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var ids []string
	for i := range 3 {
		r := api.BootRequest{Kind: api.KindRequest, MAC: fmt.Sprintf("52:54:00:00:00:%02x", i), UserClass: "iPXE", Requested: netip.AddrFrom4([4]byte{127, 77, 0, byte(100 + i)})}
		a, err := s.Boot(ctx, r)
		if err != nil || a.BootID == "" {
			t.Fatalf("%+v %v", a, err)
		}
		ids = append(ids, a.BootID)
	}
	stored := func(i int) (out []api.BootStage) {
		err := s.store.View(ctx, func(tx store.Tx) error {
			bs, err := boots.ByMAC(tx, fmt.Sprintf("52:54:00:00:00:%02x", i), 1)
			for _, e := range bs[0].Events {
				out = append(out, e.Stage)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for i, id := range ids {
		for _, stage := range []api.BootStage{api.StageTFTP, api.StageRefused} {
			if err := s.Record(ctx, id, netip.Addr{}, api.BootEvent{Stage: stage}); err != nil {
				t.Fatal(err)
			}
		}
		if got := fmt.Sprint(stored(i)); got != "[ipxe-ack]" {
			t.Errorf("written at once: %s", got)
		}
	}
	if err := s.Record(ctx, ids[0], netip.Addr{}, api.BootEvent{Stage: api.StageConfig}); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(stored(0)); got != "[ipxe-ack tftp refused config]" {
		t.Errorf("with the configuration: %s", got)
	}
	if err := s.flushBoots(ctx); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(stored(1), stored(2)); got != "[ipxe-ack tftp refused] [ipxe-ack tftp refused]" {
		t.Errorf("flushed: %s", got)
	}
	wantCode(t, "a boot that never was", s.Record(ctx, "nosuchboot", netip.Addr{}, api.BootEvent{Stage: api.StageTFTP}), api.CodeNotFound)
}

func TestBucketsAreBounded(t *testing.T) {
	var l buckets
	now := time.Now()
	for i := range 3 * maxBuckets {
		l.take(fmt.Sprint(i), now.Add(time.Duration(i)*time.Millisecond))
	}
	if len(l.left) > maxBuckets {
		t.Errorf("%d buckets", len(l.left))
	}
}
