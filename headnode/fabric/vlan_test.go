package fabric

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// The accounts of these tests.
const (
	alice = "aaaaaaaa-0000-4000-8000-000000000001"
	bob   = "bbbbbbbb-0000-4000-8000-000000000002"
)

// world is a store; each Update in it runs twice.
type world struct {
	testing.TB
	s   store.Store
	ctx context.Context
}

func newWorld(t testing.TB) *world {
	s, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return &world{t, storetest.Twice(s), t.Context()}
}

func (w *world) try(fn func(store.Tx) error) error {
	w.Helper()
	return w.s.Update(w.ctx, fn)
}

func (w *world) do(fn func(store.Tx) error) {
	w.Helper()
	if err := w.try(fn); err != nil {
		w.Fatal(err)
	}
}

func (w *world) view(fn func(store.Tx) error) {
	w.Helper()
	if err := w.s.View(w.ctx, fn); err != nil {
		w.Fatal(err)
	}
}

func (w *world) vlan(owner string, vlan int) (v api.FabricVLAN) {
	w.Helper()
	w.do(func(tx store.Tx) (err error) {
		v, err = CreateVLAN(tx, api.FabricVLAN{Owner: owner, VLAN: vlan, Name: fmt.Sprint("vlan", vlan)}, t0)
		return err
	})
	return v
}

func wantProblem(t testing.TB, what string, err error, code api.Code, words ...string) {
	t.Helper()
	var p *api.Problem
	if !errors.As(err, &p) || p.Code != code {
		t.Errorf("%s: error is %v, want a problem %s", what, err, code)
		return
	}
	if p.Status < 400 || p.Title == "" || p.Detail == "" {
		t.Errorf("%s: problem has no status, title or detail: %+v", what, p)
	}
	for _, s := range words {
		if !strings.Contains(p.Error(), s) {
			t.Errorf("%s: %q does not say %q", what, p.Error(), s)
		}
	}
}

func TestVLANs(t *testing.T) {
	w := newWorld(t)
	v := w.vlan(alice, 2)
	if v.VNI == 0 || v.VNI > maxVNI || v.Revision == "" {
		t.Fatalf("created: %+v", v)
	}
	other := w.vlan(bob, 2) // the same number and name, of another account
	if other.VNI == v.VNI {
		t.Errorf("both have VNI %d", v.VNI)
	}
	w.vlan(alice, 0)
	w.vlan(alice, 4094)

	for _, bad := range []api.FabricVLAN{
		{Owner: "alice", VLAN: 3, Name: "x"},
		{Owner: strings.ToUpper(alice), VLAN: 3, Name: "x"},
		{Owner: alice, VLAN: 1, Name: "x"},
		{Owner: alice, VLAN: -1, Name: "x"},
		{Owner: alice, VLAN: 4095, Name: "x"},
		{Owner: alice, VLAN: 3, Name: ""},
		{Owner: alice, VLAN: 3, Name: "a/b"},
		{Owner: alice, VLAN: 3, Name: strings.Repeat("x", 64)},
		{Owner: alice, VLAN: 3, Name: "x", Description: strings.Repeat("x", 1025)},
	} {
		err := w.try(func(tx store.Tx) error { _, err := CreateVLAN(tx, bad, t0); return err })
		wantProblem(t, fmt.Sprintf("create %.60v", bad), err, api.CodeInvalid)
	}
	create := func(vlan int, name string) error {
		return w.try(func(tx store.Tx) error {
			_, err := CreateVLAN(tx, api.FabricVLAN{Owner: alice, VLAN: vlan, Name: name}, t0)
			return err
		})
	}
	wantProblem(t, "number taken", create(2, "fresh"), api.CodeConflict, "fabric VLAN 2")
	wantProblem(t, "name taken", create(3, "vlan2"), api.CodeConflict, "vlan2")

	w.view(func(tx store.Tx) error {
		got, err := ByVNI(tx, v.VNI)
		if err != nil || got != v {
			t.Errorf("by VNI: %+v, %v", got, err)
		}
		got, err = FindVLAN(tx, alice, "vlan2")
		if err != nil || got != v {
			t.Errorf("by name: %+v, %v", got, err)
		}
		_, err = FindVLAN(tx, bob, "vlan4094")
		wantProblem(t, "another account's name", err, api.CodeNotFound)
		_, err = GetVLAN(tx, bob, 4094)
		wantProblem(t, "another account's number", err, api.CodeNotFound)
		var numbers []int
		for after := ""; ; {
			page, next, err := ListVLANs(tx, alice, after, 2)
			if err != nil {
				return err
			}
			for _, v := range page {
				numbers = append(numbers, v.VLAN)
			}
			if after = next; after == "" {
				break
			}
		}
		if diff := cmp.Diff([]int{0, 2, 4094}, numbers); diff != "" {
			t.Errorf("list (-want +got):\n%s", diff)
		}
		all, _, err := ListVLANs(tx, "", "", 0)
		if err != nil || len(all) != 4 {
			t.Errorf("list of all: %v, %v", all, err)
		}
		return nil
	})
}

func TestChangeVLAN(t *testing.T) {
	w := newWorld(t)
	v, other := w.vlan(alice, 2), w.vlan(alice, 3)
	update := func(vlan int, u VLANUpdate) (got api.FabricVLAN, err error) {
		err = w.try(func(tx store.Tx) (err error) { got, err = UpdateVLAN(tx, alice, vlan, u); return err })
		return got, err
	}
	text := func(s string) *string { return &s }
	got, err := update(2, VLANUpdate{Name: text("web"), Description: text("front ends")})
	want := v
	want.Name, want.Description, want.Revision = "web", "front ends", got.Revision
	if err != nil || got != want || got.Revision == v.Revision {
		t.Errorf("changed: %+v, %v", got, err)
	}
	if same, err := update(2, VLANUpdate{Name: text("web")}); err != nil || same != got {
		t.Errorf("no change: %+v, %v", same, err)
	}
	_, err = update(2, VLANUpdate{Name: text(other.Name)})
	wantProblem(t, "name taken", err, api.CodeConflict)
	_, err = update(2, VLANUpdate{Name: text("no spaces")})
	wantProblem(t, "bad name", err, api.CodeInvalid)
	_, err = update(9, VLANUpdate{})
	wantProblem(t, "unknown", err, api.CodeNotFound)
	if err := w.try(func(tx store.Tx) error {
		_, err := CreateVLAN(tx, api.FabricVLAN{Owner: alice, VLAN: 9, Name: "vlan2"}, t0)
		return err
	}); err != nil {
		t.Errorf("the former name is not free: %v", err)
	}
}

func TestDeleteVLAN(t *testing.T) {
	w := newWorld(t)
	v := w.vlan(alice, 2)
	remove := func(users ...string) error {
		return w.try(func(tx store.Tx) error { return DeleteVLAN(tx, alice, 2, users, t0) })
	}
	wantProblem(t, "used by networks", remove("web (10.0.0.0/24)"), api.CodeInUse, "web (10.0.0.0/24)", "delete these first")
	many := make([]string, 100)
	for i := range many {
		many[i] = fmt.Sprint("net", i)
	}
	wantProblem(t, "used by many", remove(many...), api.CodeInUse, "used by 100", "net19", "and 80 more")
	w.do(func(tx store.Tx) error {
		_, err := Put(tx, v.VNI, api.MapEntry{IP: "10.0.0.1", MAC: "02:00:00:00:00:01", Underlay: "172.16.0.1"})
		return err
	})
	wantProblem(t, "map not empty", remove(), api.CodeInUse, "10.0.0.1")
	w.do(func(tx store.Tx) error { _, err := Delete(tx, v.VNI, netip.MustParseAddr("10.0.0.1")); return err })
	if err := remove(); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, "deleted twice", remove(), api.CodeNotFound)
	w.view(func(tx store.Tx) error {
		_, err := ByVNI(tx, v.VNI)
		wantProblem(t, "VNI of a deleted VLAN", err, api.CodeNotFound)
		return nil
	})
	err := w.try(func(tx store.Tx) error {
		_, err := Put(tx, v.VNI, api.MapEntry{IP: "10.0.0.1", MAC: "02:00:00:00:00:01", Underlay: "172.16.0.1"})
		return err
	})
	wantProblem(t, "entry in a deleted VNI", err, api.CodeNotFound)
	if again := w.vlan(alice, 2); again.VNI == v.VNI { // once in 16 million runs
		t.Errorf("VNI %d was given out again", v.VNI)
	}
}

// TestQuarantine: a VNI that was given back rests, and then leaves nothing behind.
func TestQuarantine(t *testing.T) {
	w := newWorld(t)
	next := []uint32{7, 7, 7, 9}
	vlanAt := func(vlan int, now time.Time) (got api.FabricVLAN) {
		t.Helper()
		w.do(func(tx store.Tx) (err error) {
			left := next
			got, err = create(tx, api.FabricVLAN{Owner: alice, VLAN: vlan, Name: fmt.Sprint("n", vlan)}, now, func() uint32 {
				v := left[0]
				left = left[1:]
				return v
			})
			return err
		})
		return got
	}
	if v := vlanAt(2, t0); v.VNI != 7 {
		t.Fatalf("VNI %d, want 7", v.VNI)
	}
	w.do(func(tx store.Tx) error {
		if _, err := Put(tx, 7, api.MapEntry{IP: "10.0.0.1", MAC: "02:00:00:00:00:01", Underlay: "172.16.0.1"}); err != nil {
			return err
		}
		if _, err := Delete(tx, 7, netip.MustParseAddr("10.0.0.1")); err != nil {
			return err
		}
		return DeleteVLAN(tx, alice, 2, nil, t0)
	})
	if v := vlanAt(3, t0.Add(Quarantine)); v.VNI != 9 {
		t.Errorf("VNI %d during quarantine, want 9", v.VNI)
	}
	if v := vlanAt(4, t0.Add(Quarantine+time.Second)); v.VNI != 7 {
		t.Errorf("VNI %d after quarantine, want 7", v.VNI)
	}
	w.view(func(tx store.Tx) error {
		if epoch, version, err := Version(tx, 7); epoch != journal.NoEpoch || version != 0 || err != nil {
			t.Errorf("the map began with %s:%d, %v", epoch, version, err)
		}
		for _, p := range []string{freedPrefix, "journal/gone/vni/000007", "journal/key/vni/000007", "journal/set/vni/000007"} {
			for it := range tx.Scan(p, "") {
				t.Errorf("%s is left", it.Key)
			}
		}
		return nil
	})
	next = make([]uint32, draws)
	for i := range next {
		next[i] = 9
	}
	err := w.try(func(tx store.Tx) error {
		n := 0
		_, err := create(tx, api.FabricVLAN{Owner: bob, VLAN: 2, Name: "x"}, t0, func() uint32 { n++; return next[n-1] })
		return err
	})
	wantProblem(t, "no VNI left", err, api.CodeNoSpace)
}

func TestTransit(t *testing.T) {
	w := newWorld(t)
	transit := func(owner string) (vni uint32) {
		w.do(func(tx store.Tx) (err error) { vni, err = Transit(tx, owner, t0); return err })
		return vni
	}
	a, again, b := transit(alice), transit(alice), transit(bob)
	if a == 0 || a != again || a == b {
		t.Fatalf("transit VNIs %d, %d, %d", a, again, b)
	}
	w.do(func(tx store.Tx) error {
		_, err := Put(tx, a, api.MapEntry{IP: "100.64.0.1", MAC: "02:00:00:00:00:01", Underlay: "172.16.0.1"})
		return err
	})
	has := func(owner string) (vni uint32, found bool) {
		w.view(func(tx store.Tx) (err error) { vni, found, err = TransitOf(tx, owner); return err })
		return vni, found
	}
	if vni, found := has(alice); vni != a || !found {
		t.Errorf("transit VNI %d, %v; want %d", vni, found, a)
	}
	drop := func() error { return w.try(func(tx store.Tx) error { return DropTransit(tx, alice, t0) }) }
	wantProblem(t, "in use", drop(), api.CodeInUse)
	w.do(func(tx store.Tx) error { _, err := Delete(tx, a, netip.MustParseAddr("100.64.0.1")); return err })
	for range 2 {
		if err := drop(); err != nil {
			t.Fatal(err)
		}
	}
	if vni, found := has(alice); found {
		t.Errorf("transit VNI %d is left", vni)
	}
	w.view(func(tx store.Tx) error {
		_, err := ByVNI(tx, b)
		wantProblem(t, "transit VNI as a VLAN's", err, api.CodeNotFound)
		return nil
	})
}

// TestDraw: VNIs have 24 bits, are never 0, and are spread over the whole range.
func TestDraw(t *testing.T) {
	var quarters [4]int
	for range 4000 {
		v := drawVNI()
		if v == 0 || v > maxVNI {
			t.Fatalf("VNI %d", v)
		}
		quarters[v>>22]++
	}
	for q, n := range quarters {
		if n < 700 || n > 1300 {
			t.Errorf("quarter %d has %d of 4000", q, n)
		}
	}
}
