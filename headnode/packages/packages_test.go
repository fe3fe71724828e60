package packages

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

var t0 = time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)

const alice = "00000000-0000-4000-8000-00000000000a"

func open(t *testing.T) store.Store {
	b, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return storetest.Twice(b)
}

func small(name string) api.Package {
	return api.Package{Name: name, Limits: api.Limits{MemoryMiB: 128, VCPUs: 1, QuotaMiB: 1024}}
}

// refused wants a refusal with a code and with all words.
func refused(t *testing.T, err error, code api.Code, words ...string) {
	t.Helper()
	p := (*api.Problem)(nil)
	if !errors.As(err, &p) || p.Code != code || p.Next == "" {
		t.Fatalf("got %v, want a refusal %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(p.Error(), w) {
			t.Errorf("got %q, want %q in it", p, w)
		}
	}
}

// TestFaults: one refusal names every fault, with the units.
func TestFaults(t *testing.T) {
	s := open(t)
	err := s.Update(t.Context(), func(tx store.Tx) error {
		_, err := Create(tx, t0, api.Package{Name: "a b", Brand: "x", Owners: []string{"me"}, Traits: map[string]string{"A": ""},
			Limits: api.Limits{MemoryMiB: 1, SwapMiB: -1, VCPUs: 0, CPUCapPercent: -5, CPUWeight: 10001, QuotaMiB: 10, Processes: 1, IOWeight: -1}})
		return err
	})
	refused(t, err, api.CodeInvalid, `name "a b"`, `brand "x"`, `owner "me"`, `trait "A"`, "memory_mib is 1; want 16 to 16777216 MiB",
		"swap_mib is -1; want 1 to 16777216 MiB, or 0 for no swap", "vcpus is 0; want 1 to 512 processors", "cpu_cap_percent is -5; want 1 to 51200 percent of one processor, or 0",
		"cpu_weight is 10001", "quota_mib is 10; want 64", "processes is 1; want 32 to 4194304 tasks", "io_weight is -1")
}

// TestLife: a name is one active package's, by which it is found; a disabled one is
// found by its UUID, and takes no new instances.
func TestLife(t *testing.T) {
	s := open(t)
	must := func(fn func(store.Tx) error) {
		t.Helper()
		if err := s.Update(t.Context(), fn); err != nil {
			t.Fatal(err)
		}
	}
	var a api.Package
	must(func(tx store.Tx) (err error) { a, err = Create(tx, t0, small("a")); return err })
	refused(t, s.Update(t.Context(), func(tx store.Tx) error { _, err := Create(tx, t0, small("a")); return err }), api.CodeConflict, a.UUID, "nereid package disable a")
	off, on := false, true
	must(func(tx store.Tx) error { _, err := Update(tx, "a", api.PackageUpdate{Active: &off}); return err })
	must(func(tx store.Tx) error {
		p, err := Get(tx, a.UUID)
		if err == nil && (p.Active || p.Revision == a.Revision) {
			t.Errorf("disabled: %+v", p)
		}
		_, gone := Get(tx, "a")
		refused(t, gone, api.CodeNotFound, "nereid package list")
		_, disabled := ForNew(tx, a.UUID, alice)
		refused(t, disabled, api.CodeConflict, "is disabled")
		return err
	})
	b := small("a")
	b.Owners = []string{strings.ToUpper(alice)}
	must(func(tx store.Tx) (err error) { b, err = Create(tx, t0, b); return err })
	refused(t, s.Update(t.Context(), func(tx store.Tx) error {
		_, err := Update(tx, a.UUID, api.PackageUpdate{Active: &on})
		return err
	}), api.CodeConflict, b.UUID)
	must(func(tx store.Tx) error {
		if _, err := ForNew(tx, "a", alice); err != nil {
			t.Error(err)
		}
		_, err := ForNew(tx, "a", a.UUID)
		refused(t, err, api.CodeConflict, "is not for account")
		for _, c := range []struct {
			f    Filter
			want int
		}{{Filter{}, 2}, {Filter{Active: &on}, 1}, {Filter{Owner: a.UUID}, 1}, {Filter{Owner: alice}, 2}, {Filter{Name: "a", Active: &off}, 1}} {
			if got, _, err := List(tx, c.f, "", 0); err != nil || len(got) != c.want {
				t.Errorf("%+v: %d, %v; want %d", c.f, len(got), err, c.want)
			}
		}
		one, next, err := List(tx, Filter{}, "", 1)
		if err != nil || len(one) != 1 || next == "" {
			t.Errorf("a page: %v, next %q, %v", one, next, err)
		}
		two, last, err := List(tx, Filter{}, next, 1)
		if err != nil || len(two) != 1 || two[0].UUID == one[0].UUID || last != "" {
			t.Errorf("the page after: %v, next %q, %v", two, last, err)
		}
		return nil
	})
}

func TestSamples(t *testing.T) {
	s := open(t)
	if err := s.Update(t.Context(), func(tx store.Tx) error { return Samples(tx, t0) }); err != nil {
		t.Fatal(err)
	}
	err := s.View(t.Context(), func(tx store.Tx) error {
		all, _, err := List(tx, Filter{}, "", 0)
		if len(all) != 4 {
			t.Errorf("%d samples", len(all))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
