package boots

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

var t0 = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func at(s float64) time.Time { return t0.Add(time.Duration(s * 1e9)) }

const mac1 = "52:54:00:00:00:01"

// world is a store and what is pending in memory.
type world struct {
	*testing.T
	s store.Store
	p *Pending
}

func newWorld(t *testing.T) *world {
	b, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return &world{t, storetest.Twice(b), NewPending(0)}
}

func (w *world) view(fn func(store.Tx) error) {
	w.Helper()
	if err := w.s.View(w.Context(), fn); err != nil {
		w.Fatal(err)
	}
}

func (w *world) update(fn func(store.Tx) error) {
	w.Helper()
	if err := w.s.Update(w.Context(), fn); err != nil {
		w.Fatal(err)
	}
}

func (w *world) begin(r api.BootRequest, now time.Time) (b api.Boot, fresh bool) {
	w.Helper()
	if r.MAC == "" {
		r.MAC = mac1
	}
	w.view(func(tx store.Tx) (err error) { b, fresh, err = w.p.Begin(tx, r, true, now); return err })
	return b, fresh
}

func (w *world) record(id string, stage api.BootStage, now time.Time) (b api.Boot) {
	w.Helper()
	w.update(func(tx store.Tx) (err error) {
		b, err = w.p.Record(tx, id, api.BootEvent{Stage: stage}, now, nil)
		return err
	})
	w.p.Written(id)
	return b
}

func (w *world) get(id string) (b api.Boot) {
	w.Helper()
	w.view(func(tx store.Tx) (err error) { b, err = w.p.Get(tx, id); return err })
	return b
}

// stages prints a record's events, with counts.
func stages(b api.Boot) string {
	var out []string
	for _, ev := range b.Events {
		s := string(ev.Stage)
		if ev.Count > 1 {
			s += fmt.Sprintf("x%d", ev.Count)
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

var (
	firmware = api.BootRequest{Kind: api.KindDiscover, UUID: "u1", VendorClass: "PXEClient:Arch:00000"}
	ipxe     = api.BootRequest{Kind: api.KindDiscover, UUID: "u1", UserClass: "iPXE"}
)

func request(r api.BootRequest) api.BootRequest { r.Kind = api.KindRequest; return r }

func TestOneBoot(t *testing.T) {
	w := newWorld(t)
	b, fresh := w.begin(firmware, at(0))
	if !fresh || len(b.ID) != 26 || b.Started != at(0) || b.UUID != "u1" {
		t.Fatalf("first DISCOVER: %+v, fresh %v", b, fresh)
	}
	id := b.ID
	same := func(r api.BootRequest, s float64) {
		t.Helper()
		if b, fresh := w.begin(r, at(s)); fresh || b.ID != id {
			t.Fatalf("%s at %v s: boot %s, fresh %v; want %s", r.Kind, s, b.ID, fresh, id)
		}
	}
	same(firmware, 1)
	same(request(firmware), 2)
	w.record(id, api.StageAck, at(2))
	w.record(id, api.StageTFTP, at(3))
	same(firmware, 4) // asks again after TFTP failed
	same(request(firmware), 5)
	w.record(id, api.StageAck, at(5))
	w.record(id, api.StageTFTP, at(6))
	same(ipxe, 8)
	same(ipxe, 9)
	same(request(ipxe), 10)
	w.record(id, api.StageIPXEAck, at(10))
	same(ipxe, 11)
	b = w.record(id, api.StageScript, at(12))
	if got, want := stages(b), "discoverx3 ackx2 tftpx2 ipxe-ack ipxe-discoverx3 script"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
	if b.Started != at(0) || b.Done != nil {
		t.Errorf("boot %+v", b)
	}
	b = w.record(id, api.StageFirstSync, at(30))
	if b.Done == nil || !b.Done.Equal(at(30)) {
		t.Errorf("done %v", b.Done)
	}
	if b = w.record(id, api.StageFirstSync, at(40)); !b.Done.Equal(at(30)) {
		t.Errorf("done moved to %v", b.Done)
	}
	if _, fresh := w.begin(firmware, at(50)); !fresh {
		t.Error("firmware asks again after the boot, and it is no new one")
	}
}

func TestContinue(t *testing.T) {
	for _, c := range []struct {
		name   string
		passed []api.BootStage
		r      api.BootRequest
		after  time.Duration
		want   bool
	}{
		{"firmware after refused", []api.BootStage{api.StageRefused}, firmware, time.Second, true},
		{"firmware after tftp", []api.BootStage{api.StageAck, api.StageTFTP}, firmware, time.Second, true},
		{"firmware after ipxe", []api.BootStage{api.StageAck, api.StageIPXEDiscover}, firmware, time.Second, false},
		{"firmware after script", []api.BootStage{api.StageAck, api.StageScript}, firmware, time.Second, false},
		{"ipxe after tftp", []api.BootStage{api.StageAck, api.StageTFTP}, ipxe, time.Second, true},
		{"ipxe after its ack", []api.BootStage{api.StageAck, api.StageTFTP, api.StageIPXEAck}, ipxe, time.Second, true},
		{"ipxe after script", []api.BootStage{api.StageAck, api.StageTFTP, api.StageIPXEAck, api.StageScript}, ipxe, time.Second, false},
		{"ipxe after kernel", []api.BootStage{api.StageIPXEAck, api.StageScript, api.StageKernel}, ipxe, time.Second, false},
		{"ipxe request after its ack", []api.BootStage{api.StageIPXEAck}, request(ipxe), time.Second, true},
		{"firmware after a pause", []api.BootStage{api.StageAck}, firmware, ContinueGap, true},
		{"firmware after a long pause", []api.BootStage{api.StageAck}, firmware, ContinueGap + time.Second, false},
		{"other UUID", []api.BootStage{api.StageAck}, api.BootRequest{Kind: api.KindDiscover, UUID: "u2"}, time.Second, false},
		{"no UUID", []api.BootStage{api.StageAck}, api.BootRequest{Kind: api.KindDiscover}, time.Second, true},
		{"after failure", []api.BootStage{api.StageFailed}, ipxe, time.Second, false},
	} {
		w := newWorld(t)
		b, _ := w.begin(firmware, t0)
		for _, s := range c.passed {
			w.record(b.ID, s, t0)
		}
		r := c.r
		r.MAC = mac1
		w.view(func(tx store.Tx) error {
			p, fresh, err := w.p.Peek(tx, r, true, t0.Add(c.after))
			if fresh == c.want || err != nil || fresh && p.ID != "" {
				t.Errorf("%s: peek: fresh %v, id %q, %v", c.name, fresh, p.ID, err)
			}
			return nil
		})
		if n, fresh := w.begin(c.r, t0.Add(c.after)); fresh == c.want || (n.ID == b.ID) != c.want {
			t.Errorf("%s: continued %v, want %v", c.name, !fresh, c.want)
		}
	}
}

// TestROMIsIPXE: a boot may begin with iPXE's DISCOVER.
func TestROMIsIPXE(t *testing.T) {
	w := newWorld(t)
	b, fresh := w.begin(ipxe, at(0))
	if !fresh {
		t.Fatal("not a new boot")
	}
	b = w.record(b.ID, api.StageIPXEAck, at(1))
	if got := stages(b); got != "ipxe-discover ipxe-ack" {
		t.Errorf("events %q", got)
	}
}

// TestHeadNodeRestarts: what was only in memory is lost, and the boot goes on.
func TestHeadNodeRestarts(t *testing.T) {
	w := newWorld(t)
	w.begin(firmware, at(0))
	w.p = NewPending(0)
	b, fresh := w.begin(request(firmware), at(1))
	if !fresh {
		t.Fatal("REQUEST without a known boot did not mint one")
	}
	w.record(b.ID, api.StageAck, at(1))
	w.begin(ipxe, at(3))
	w.p = NewPending(0)
	if c, fresh := w.begin(request(ipxe), at(4)); fresh || c.ID != b.ID {
		t.Errorf("iPXE's REQUEST: boot %s, fresh %v, want %s", c.ID, fresh, b.ID)
	}
}

// TestTwoRecordsInOneUpdate: what is in memory is written once.
func TestSince(t *testing.T) {
	w := newWorld(t)
	var ids []string
	for i := range 3 {
		r := api.BootRequest{Kind: api.KindRequest, MAC: fmt.Sprintf("52:54:00:00:00:0%d", i), UserClass: "iPXE"}
		b, _ := w.begin(r, at(float64(10*i)))
		w.record(b.ID, api.StageIPXEAck, at(float64(10*i)))
		ids = append(ids, b.ID)
	}
	for _, c := range []struct {
		since float64
		want  []string
	}{{0, ids}, {10, ids[1:]}, {10.5, ids[2:]}, {21, nil}} {
		var got []string
		w.view(func(tx store.Tx) error {
			bs, err := Since(tx, at(c.since))
			for _, b := range bs {
				got = append(got, b.ID)
			}
			return err
		})
		if !slices.Equal(got, c.want) {
			t.Errorf("since %v s: %v, want %v", c.since, got, c.want)
		}
	}
}

func TestTwoRecordsInOneUpdate(t *testing.T) {
	w := newWorld(t)
	b, _ := w.begin(firmware, at(0))
	w.begin(firmware, at(1))
	w.update(func(tx store.Tx) error {
		for _, s := range []api.BootStage{api.StageAck, api.StageTFTP} {
			if _, err := w.p.Record(tx, b.ID, api.BootEvent{Stage: s}, at(2), nil); err != nil {
				return err
			}
		}
		_, err := w.p.Edit(tx, b.ID, func(b *api.Boot) { b.Address = "10.0.0.1"; b.MAC = "other"; b.ID = "other" })
		return err
	})
	want := "discoverx2 ack tftp"
	if got := w.get(b.ID); stages(got) != want || got.Address != "10.0.0.1" || got.MAC != mac1 || got.ID != b.ID {
		t.Errorf("before Written: %q, %+v", stages(got), got)
	}
	w.p.Written(b.ID)
	if got := stages(w.get(b.ID)); got != want {
		t.Errorf("after Written: %q", got)
	}
}

func TestBounds(t *testing.T) {
	w := newWorld(t)
	var ids []string
	for i := range MaxPerMAC + 5 {
		b, _ := w.begin(firmware, t0.Add(time.Duration(i)*time.Hour))
		w.record(b.ID, api.StageAck, t0.Add(time.Duration(i)*time.Hour))
		ids = append(ids, b.ID)
	}
	w.view(func(tx store.Tx) error {
		for name, list := range map[string]func() ([]api.Boot, error){
			"by MAC":    func() ([]api.Boot, error) { return ByMAC(tx, strings.ToUpper(mac1), 0) },
			"by server": func() ([]api.Boot, error) { return ByServer(tx, "u1", 0) },
		} {
			got, err := list()
			if err != nil || len(got) != MaxPerMAC || got[0].ID != ids[len(ids)-1] || got[MaxPerMAC-1].ID != ids[5] {
				t.Errorf("%s: %d boots, %v", name, len(got), err)
			}
		}
		if got, err := ByMAC(tx, mac1, 3); err != nil || len(got) != 3 || got[2].ID != ids[len(ids)-3] {
			t.Errorf("limit: %d boots, %v", len(got), err)
		}
		if _, err := w.p.Get(tx, ids[0]); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("removed boot: %v", err)
		}
		keys := 0
		for range tx.Scan("boot/", "") {
			keys++
		}
		if keys != 3*MaxPerMAC+1 {
			t.Errorf("%d keys for %d boots", keys, MaxPerMAC)
		}
		return nil
	})
	id := ids[len(ids)-1]
	for i := range 300 {
		w.update(func(tx store.Tx) error {
			_, err := w.p.Record(tx, id, api.BootEvent{Stage: api.StageFailed, Detail: fmt.Sprint("attempt ", i)}, t0.Add(1000*time.Hour+time.Duration(i)*time.Second), nil)
			return err
		})
	}
	b := w.get(id)
	if len(b.Events) != MaxEvents || b.Events[0].Stage != api.StageDiscover || b.Events[MaxEvents-1].Detail != "attempt 299" {
		t.Errorf("%d events, from %v to %v", len(b.Events), b.Events[0], b.Events[len(b.Events)-1])
	}
	w.update(func(tx store.Tx) error { return Forget(tx, mac1) })
	w.view(func(tx store.Tx) error {
		for it := range tx.Scan("boot/", "") {
			t.Errorf("left behind: %s = %s", it.Key, it.Value)
		}
		return nil
	})
}

func TestEvents(t *testing.T) {
	var evs []api.BootEvent
	add := func(s float64, stage api.BootStage, detail string) {
		evs = appendEvent(evs, api.BootEvent{Time: at(s), Stage: stage, Detail: detail, Seconds: s})
	}
	for i := range 4 { // a machine that is refused and asks again
		add(float64(2*i), api.StageDiscover, "")
		add(float64(2*i+1), api.StageRefused, "range is full")
	}
	add(9, api.StageRefused, "something else")
	if got, want := stages(api.Boot{Events: evs}), "discoverx4 refusedx4 refused"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
	if evs[0].Time != at(6) || evs[0].Seconds != 6 {
		t.Errorf("repeated event has not the latest values: %+v", evs[0])
	}
	long := appendEvent(nil, api.BootEvent{Detail: strings.Repeat("ü", 1000) + "\x00\n\xff"})[0].Detail
	if len(long) > maxDetail || !utf8.ValidString(long) || strings.ContainsRune(long, utf8.RuneError) {
		t.Errorf("long detail: %d bytes", len(long))
	}
	if got := clip("a\x00b\nc\xffd\x1b[2J"); got != "a b cd [2J" {
		t.Errorf("control characters: %q", got)
	}
}

func FuzzClip(f *testing.F) {
	f.Add("ä\x00\xff", uint16(600))
	f.Fuzz(func(t *testing.T, s string, n uint16) {
		s = strings.Repeat(s, int(n)%2048)
		if got := clip(s); len(got) > maxDetail || !utf8.ValidString(got) {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func TestLoop(t *testing.T) {
	boot := func(hours float64, platform string, done bool) api.Boot {
		b := api.Boot{ID: fmt.Sprint(hours), Platform: platform, Started: at(hours * 3600)}
		b.Events = []api.BootEvent{{Time: b.Started, Stage: api.StageKernel}, {Time: b.Started, Stage: api.StageFailed, Detail: "no disk"}}
		if done {
			b.Done = &b.Started
		}
		return b
	}
	fails := func(n int) (bs []api.Boot) {
		for i := range n {
			bs = append(bs, boot(10-float64(i+1)/10, "p", false))
		}
		return bs
	}
	now := boot(10, "", false)
	for _, c := range []struct {
		name     string
		earlier  []api.Boot
		failures int
		delay    time.Duration
	}{
		{"first boot", nil, 0, 0},
		{"after one failure", fails(1), 1, 0},
		{"after two", fails(2), 2, 0},
		{"after three", fails(3), 3, 15 * time.Second},
		{"after four", fails(4), 4, 30 * time.Second},
		{"after eight", fails(8), 8, 480 * time.Second},
		{"after nine", fails(9), 9, 600 * time.Second},
		{"after twenty", fails(20), 20, 600 * time.Second},
		{"itself in the list", append([]api.Boot{now}, fails(3)...), 3, 15 * time.Second},
		{"good one between", append(append(fails(2), boot(9.75, "p", true)), fails(5)[2:]...), 2, 0},
		{"refused ones do not count", append(fails(2), boot(9.75, "", false), boot(9.7, "p", false)), 3, 15 * time.Second},
		{"long ago", []api.Boot{boot(1, "p", false), boot(0.9, "p", false), boot(0.8, "p", false)}, 0, 0},
	} {
		h := Loop(now, c.earlier, now.Started)
		if h.Failures != c.failures || h.Held != (c.delay > 0) || h.RetryIn != int(c.delay.Seconds()) || (h.Reason == "") != (c.failures == 0) {
			t.Errorf("%s: %+v", c.name, h)
		}
		if h.Held {
			if !h.Until.Equal(now.Started.Add(c.delay)) || !strings.Contains(h.Reason, "held back") || !strings.Contains(h.Reason, `"kernel" and said: no disk`) {
				t.Errorf("%s: %+v", c.name, h)
			}
			if h := Loop(now, c.earlier, now.Started.Add(c.delay-time.Millisecond)); !h.Held || h.RetryIn != 1 {
				t.Errorf("%s, just before: %+v", c.name, h)
			}
			if h := Loop(now, c.earlier, now.Started.Add(c.delay)); h.Held || h.RetryIn != 0 {
				t.Errorf("%s, after the delay: %+v", c.name, h)
			}
			loaded := now
			loaded.Platform = "p"
			if h := Loop(loaded, c.earlier, now.Started); h.Held {
				t.Errorf("%s, has its platform: %+v", c.name, h)
			}
		}
	}
}
