package headnode

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/boots"
	"nereid/headnode/inventory"
	"nereid/headnode/store"
)

// counting counts the Updates that wrote, and what Views and Updates read.
type counting struct {
	store.Store
	mu     sync.Mutex
	writes int
	reads  map[string]int // by what the key begins with, to the last slash
}

type countingTx struct {
	store.Tx
	c     *counting
	wrote *bool
}

func (c *counting) View(ctx context.Context, fn func(store.Tx) error) error {
	return c.Store.View(ctx, func(tx store.Tx) error { return fn(countingTx{tx, c, new(bool)}) })
}

func (c *counting) Update(ctx context.Context, fn func(store.Tx) error) error {
	var wrote bool
	err := c.Store.Update(ctx, func(tx store.Tx) error { wrote = false; return fn(countingTx{tx, c, &wrote}) })
	if wrote && err == nil {
		c.mu.Lock()
		c.writes++
		c.mu.Unlock()
	}
	return err
}

func (c *counting) read(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads[key[:strings.LastIndexByte(key, '/')+1]]++
}

// since gives what was counted since it was last called.
func (c *counting) since() (writes int, reads map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	writes, reads = c.writes, c.reads
	c.writes, c.reads = 0, map[string]int{}
	return writes, reads
}

func (t countingTx) Get(key string) ([]byte, error) {
	t.c.read(key)
	return t.Tx.Get(key)
}

func (t countingTx) Scan(prefix, after string) iter.Seq2[store.Item, error] {
	return t.Tx.Scan(prefix, after)
}

func (t countingTx) Put(key string, v []byte) error { *t.wrote = true; return t.Tx.Put(key, v) }
func (t countingTx) Delete(key string) error        { *t.wrote = true; return t.Tx.Delete(key) }

// openCounted opens a head node without running it, so that nothing writes but what
// the test asks for.
func openCounted(t *testing.T) (*head, *counting) {
	t.Helper()
	h := &head{t: t, dir: initDir(t, 250)}
	s, err := Open(context.Background(), Config{Dir: h.dir, Now: h.clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	c := &counting{Store: s.store, reads: map[string]int{}}
	s.store, h.Server = c, s
	return h, c
}

// own makes a machine that has an address a server, as its enrolment does.
func (h *head) own(m *machine) {
	h.t.Helper()
	err := h.store.Update(context.Background(), func(tx store.Tx) error {
		out, err := inventory.Enrol(tx, h.clock(), inventory.Enrolment{BootID: m.boot, BootMAC: m.mac, Sysinfo: m.sysinfo(), Key: "k"})
		if err != nil || out.Refused != nil {
			return fmt.Errorf("enrol: %w %+v", err, out)
		}
		n, err := h.admin(tx)
		if err == nil {
			_, err = addresses.Reserve(tx, n, m.mac, out.Record.UUID, h.clock())
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// A REQUEST that changes nothing of note writes nothing, whatever boots a stranger
// makes of it; what it says of boots is written in one go.
func TestRepeatedRequestsWriteNothing(t *testing.T) {
	h, c := openCounted(t)
	m := h.machine(1)
	o := m.dhcp("")
	if w, _ := c.since(); w != 1 {
		t.Errorf("the first REQUEST made %d writes, want 1: its lease", w)
	}
	for i := range 100 {
		m.uuid = fmt.Sprintf("00000000-0000-4000-8000-%012d", i/10) // another boot each time
		for _, class := range []string{"", "iPXE"} {
			if a := m.ask(api.KindRequest, class, m.addr); a.Verdict != api.VerdictAnswer || a.Address != o.Address || a.BootID == "" {
				t.Fatalf("%+v", a)
			}
		}
		if a, err := h.Boot(context.Background(), api.BootRequest{Kind: api.KindRequest, MAC: m.mac, VendorClass: "dhcpcd", Requested: m.addr}); err != nil || a.Verdict != api.VerdictAnswer {
			t.Fatalf("%+v %v", a, err)
		}
	}
	if w, _ := c.since(); w != 0 {
		t.Errorf("300 repeated REQUESTs made %d writes", w)
	}
	if err := h.flushBoots(context.Background()); err != nil {
		t.Fatal(err)
	}
	if w, _ := c.since(); w != 1 {
		t.Errorf("what was noted of the boots took %d writes, want 1", w)
	}
	var bs []api.Boot
	err := h.store.View(context.Background(), func(tx store.Tx) (err error) {
		bs, err = boots.ByMAC(tx, m.mac, 0)
		return err
	})
	// The first, and the last: those between were begun anew before they were written.
	if err != nil || len(bs) != 2 || bs[0].UUID != m.uuid {
		t.Fatalf("%d boots are written, %+v %v", len(bs), bs, err)
	}
	for _, b := range bs {
		if b.Address != m.addr.String() || len(b.Events) == 0 {
			t.Errorf("written boot %+v", b)
		}
	}
}

// A lease that was written long ago is written before it is granted again, so that
// what a machine was told is never longer than what is on disk.
func TestGrantsAreNoLongerThanWhatIsOnDisk(t *testing.T) {
	h, c := openCounted(t)
	m := h.machine(1)
	m.dhcp("")
	start := h.clock()
	lease := h.answers.Admin.Lease
	writes := 0
	for range 20 {
		h.advance(lease / 16)
		c.since()
		a := m.ask(api.KindRequest, "", m.addr)
		w, _ := c.since()
		writes += w
		var l addresses.Lease
		if err := h.store.View(context.Background(), func(tx store.Tx) (err error) { l, err = addresses.ByMAC(tx, m.mac); return err }); err != nil {
			t.Fatal(err)
		}
		if left := l.Expires.Sub(h.clock()); a.Lease > left+time.Second || a.Lease < lease*3/4-time.Second {
			t.Errorf("after %v: %v are granted, %v are on disk", h.clock().Sub(start), a.Lease, left)
		}
	}
	if writes < 4 || writes > 10 {
		t.Errorf("%d of 20 renewals in one and a quarter lease times were written", writes)
	}
}

// A server's address is its own for good, so its firmware is answered from memory and
// a snapshot, however long ago that was written; the boot that iPXE is told of is on
// disk before the answer, and what repeats it is not written at once.
func TestServersLeaseIsOnDisk(t *testing.T) {
	h, c := openCounted(t)
	m := h.machine(1)
	m.dhcp("")
	h.own(m)
	h.advance(10 * h.answers.Admin.Lease)
	c.since()
	m.uuid = "00000000-0000-4000-8000-00000000000a"
	discover := m.ask(api.KindDiscover, "", netip.Addr{})
	a := m.ask(api.KindRequest, "", m.addr)
	if w, _ := c.since(); w != 0 || a.Server == "" || a.Address.Addr() != m.addr || a.BootID != discover.BootID {
		t.Errorf("the REQUEST of a server's firmware made %d writes, %+v", w, a)
	}
	if a := m.ask(api.KindRequest, "iPXE", m.addr); a.BootID != discover.BootID {
		t.Errorf("iPXE goes on with the boot %+v", a)
	}
	if w, _ := c.since(); w != 1 {
		t.Errorf("the first REQUEST of a server's iPXE made %d writes, want 1: its boot", w)
	}
	if b := h.written(a.BootID); b.Address != m.addr.String() || len(b.Events) != 3 {
		t.Errorf("written boot %+v", b)
	}
	for range 50 {
		if a := m.ask(api.KindRequest, "", m.addr); a.Verdict != api.VerdictAnswer || a.Lease != h.answers.Admin.Lease {
			t.Fatalf("%+v", a)
		}
	}
	if w, _ := c.since(); w != 0 {
		t.Errorf("50 repeated REQUESTs of a server made %d writes", w)
	}
	var l addresses.Lease
	if err := h.store.View(context.Background(), func(tx store.Tx) (err error) { l, err = addresses.ByMAC(tx, m.mac); return err }); err != nil || l.State != addresses.Reserved {
		t.Errorf("%+v %v", l, err)
	}
	if a := m.ask(api.KindRequest, "", netip.MustParseAddr("127.77.0.200")); a.Verdict != api.VerdictNAK {
		t.Errorf("another address: %+v", a)
	}
}

// written reads a boot as a head node that starts again finds it.
func (h *head) written(id string) (b api.Boot) {
	h.t.Helper()
	err := h.store.View(context.Background(), func(tx store.Tx) (err error) {
		b, err = boots.NewPending(0).Get(tx, id)
		return err
	})
	if err != nil {
		h.t.Errorf("boot %s: %v", id, err)
	}
	return b
}

// A head node that dies after its answer to a server's firmware has lost what firmware
// asked; iPXE goes on with a boot that is written.
func TestServersBootOutlivesTheHeadNode(t *testing.T) {
	h, c := openCounted(t)
	m := h.machine(1)
	m.dhcp("")
	h.own(m)
	m.dhcp("")
	h.pending = boots.NewPending(0)
	h.advance(time.Hour)
	c.since()
	o := m.dhcp("iPXE")
	if w, _ := c.since(); w != 1 || o.Server == "" || o.Address.Addr() != m.addr {
		t.Errorf("iPXE's exchange made %d writes, %+v", w, o)
	}
	if b := h.written(o.BootID); len(b.Events) == 0 || b.Address != m.addr.String() {
		t.Errorf("written boot %+v", b)
	}
}

// One look at the server, and at no more than its latest boot, for each message,
// however many boots are kept.
func TestMessagesReadLittle(t *testing.T) {
	h, c := openCounted(t)
	for i, owned := range []bool{false, true} {
		m := h.machine(i)
		m.dhcp("")
		if owned {
			h.own(m)
		}
		for n := range 20 {
			m.uuid = fmt.Sprintf("00000000-0000-4000-8000-%012d", 100+n)
			m.dhcp("")
		}
		if err := h.flushBoots(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, kind := range []api.BootKind{api.KindDiscover, api.KindRequest, api.KindInform} {
			c.since()
			m.ask(kind, "iPXE", m.addr)
			_, reads := c.since()
			if reads["server/"] > 1 || reads["mac/"] > 1 || reads["boot/id/"] > 3 {
				t.Errorf("%s of a server (%v) read %v", kind, owned, reads)
			}
		}
	}
}
