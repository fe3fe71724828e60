package fabric

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/headnode/store"
)

// seen is a node's LOG_REQ, as a composer answers it.
func (w *world) seen(underlay string, now time.Time) (out []string, ids [][16]byte, written bool) {
	w.Helper()
	var hints []SVPHint
	read := func(tx store.Tx) (err error) {
		hints, written, err = SVPHints(tx, addr(underlay), 100_000, now)
		return err
	}
	w.view(read)
	if written {
		w.do(func(tx store.Tx) error { return SVPSeen(tx, addr(underlay), now) })
		w.view(read)
		if written {
			w.Error("SVPSeen did not note it")
		}
		written = true
	}
	for _, h := range hints {
		s := fmt.Sprintf("%d %s", h.VNI, h.MAC)
		if h.IP.IsValid() {
			s = fmt.Sprintf("%d %v", h.VNI, h.IP)
		}
		out = append(out, s)
		ids = append(ids, h.ID)
	}
	return out, ids, written
}

func (w *world) clients() (out []SVPClient) {
	w.Helper()
	w.view(func(tx store.Tx) (err error) { out, err = SVPClients(tx); return err })
	return out
}

// TestHints: a SmartOS node hears what changed in the VNIs it is on, once.
func TestHints(t *testing.T) {
	w := newWorld(t)
	vni, other := w.vlan(alice, 2).VNI, w.vlan(bob, 2).VNI
	const node, elsewhere = "172.16.0.9", "172.16.0.8"
	want := func(what, underlay string, want ...string) [][16]byte {
		t.Helper()
		got, ids, _ := w.seen(underlay, t0)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
		return ids
	}
	hint := func(s string) string { return fmt.Sprintf("%d %s", vni, s) }
	w.put(vni, entry("10.0.0.1", mac1, node), entry("fd00::1", mac1, node), entry("10.0.0.2", mac2, ul1), entry("10.0.0.3", "02:00:00:00:00:03", ul1))
	w.put(other, entry("10.0.0.2", mac2, ul1))
	w.do(func(tx store.Tx) error { _, err := Delete(tx, vni, addr("10.0.0.3")); return err })
	want("elsewhere has nothing", elsewhere)
	// It may have cached whatever there was before it was known.
	ids := want("first request", node, hint(mac1), hint(mac2), hint("02:00:00:00:00:03"))
	w.do(func(tx store.Tx) error { return SVPRemove(tx, ids...) })
	want("after removal", node)

	w.do(func(tx store.Tx) error { _, err := Move(tx, vni, mac2, addr(ul2)); return err })
	ids = want("move", node, hint(mac2))
	w.put(vni, entry("10.0.0.2", mac2, ul1))
	again := want("moved on", node, hint(mac2))
	w.do(func(tx store.Tx) error { return SVPRemove(tx, ids...) }) // of the one that was replaced
	if diff := cmp.Diff(again, want("the newer one stays", node, hint(mac2))); diff != "" || again[0] == ids[0] {
		t.Errorf("ids (-want +got):\n%s", diff)
	}
	w.do(func(tx store.Tx) error { return SVPRemove(tx, append(again, again...)...) })

	w.put(vni, entry("10.0.0.4", "02:00:00:00:00:04", ul1), entry("fd00::4", "02:00:00:00:00:04", ul1))
	want("a new address; nothing of IPv6", node, hint("10.0.0.4"))
	w.put(vni, entry("10.0.0.2", mac1, ul1), entry("fd00::4", mac1, ul1))
	w.do(func(tx store.Tx) error { _, err := Delete(tx, vni, addr("10.0.0.4")); return err })
	w.put(other, entry("10.0.0.2", mac1, ul2)) // the node is not there
	want("another MAC, and a deletion", node, hint("10.0.0.4"), hint(mac2), hint("10.0.0.2"), hint("02:00:00:00:00:04"))
	want("elsewhere still has nothing", elsewhere)

	cs := w.clients()
	if len(cs) != 2 || cs[1] != (SVPClient{Underlay: addr(node), Seen: t0, Pending: 4}) {
		t.Errorf("clients: %+v", cs)
	}
}

// TestHintsBounded: a node that does not remove its hints keeps the newest.
func TestHintsBounded(t *testing.T) {
	w := newWorld(t)
	vni := w.vlan(alice, 2).VNI
	const node = "172.16.0.9"
	w.seen(node, t0)
	entries := []api.MapEntry{entry("10.1.0.1", mac1, node)}
	for i := range MaxSVPHints + 4 {
		entries = append(entries, entry(fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), mac2, ul1))
	}
	w.put(vni, entries...)
	got, _, _ := w.seen(node, t0)
	if len(got) != MaxSVPHints || got[0] != fmt.Sprintf("%d 10.0.0.5", vni) {
		t.Errorf("%d hints, the first is %q", len(got), got[0])
	}
	if c := w.clients()[0]; c.Pending != MaxSVPHints || c.Dropped != 5 {
		t.Errorf("client: %+v", c)
	}
}

// TestSilence: a node is written once an hour, and forgotten after a day.
func TestSilence(t *testing.T) {
	w := newWorld(t)
	vni := w.vlan(alice, 2).VNI
	const node, other = "172.16.0.9", "172.16.0.8"
	w.put(vni, entry("10.0.0.1", mac1, node))
	for _, c := range []struct {
		after   time.Duration
		written bool
	}{{0, true}, {0, false}, {59 * time.Minute, false}, {time.Hour, true}, {90 * time.Minute, false}} {
		if _, _, written := w.seen(node, t0.Add(c.after)); written != c.written {
			t.Errorf("after %v: written is %v", c.after, written)
		}
	}
	w.seen(other, t0.Add(20*time.Hour))
	expire := func(after time.Duration) (n int) {
		for more := true; more; n++ {
			w.do(func(tx store.Tx) (err error) { more, err = SVPExpire(tx, t0.Add(after)); return err })
		}
		return n - 1
	}
	if n := expire(25 * time.Hour); n != 0 {
		t.Errorf("%d forgotten too early", n)
	}
	if n := expire(26 * time.Hour); n != 1 {
		t.Errorf("%d forgotten, want 1", n)
	}
	if cs := w.clients(); len(cs) != 1 || cs[0].Underlay != addr(other) {
		t.Errorf("clients: %+v", cs)
	}
	w.view(func(tx store.Tx) error {
		for _, p := range []string{svpHintPrefix, svpForPrefix, svpIDPrefix} {
			for it := range tx.Scan(p, "") {
				t.Errorf("%s is left", it.Key)
			}
		}
		return nil
	})
}

func TestTooManyClients(t *testing.T) {
	w := newWorld(t)
	w.do(func(tx store.Tx) error {
		for i := range MaxSVPClients {
			a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			if err := store.Put(tx, svpClientPrefix+addrHex(a), svpClient{Seen: t0}); err != nil {
				return err
			}
		}
		return nil
	})
	wantProblem(t, "one too many", w.try(func(tx store.Tx) error { return SVPSeen(tx, addr("10.1.0.0"), t0) }), api.CodeUnavailable)
	w.do(func(tx store.Tx) error { return SVPSeen(tx, addr("10.0.0.0"), t0) }) // a known one
}

func TestAddressKeys(t *testing.T) {
	for s, want := range map[string]string{"10.0.0.1": "40a000001", "::ffff:10.0.0.1": "40a000001", "fd00::1": "6fd000000000000000000000000000001"} {
		if got := addrHex(addr(s)); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
		if a, err := parseAddrHex(want); err != nil || a != addr(s).Unmap() {
			t.Errorf("%s: %v, %v", want, a, err)
		}
	}
	for _, s := range []string{"", "4", "40a0000", "60a000001", "4zz000001", "50a000001"} {
		if a, err := parseAddrHex(s); err == nil {
			t.Errorf("%q is taken for %v", s, a)
		}
	}
}
