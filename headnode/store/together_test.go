package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

func openTemp(t *testing.T) store.Store {
	t.Helper()
	s, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "headnode.db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// What calls ask for is read together: as often as the one that asks most, however many
// there are, and each gets what it asked for.
func TestTogether(t *testing.T) {
	s := openTemp(t)
	err := s.Update(t.Context(), func(tx store.Tx) error {
		for i := range 100 {
			if err := errors.Join(store.Put(tx, fmt.Sprintf("a/%d", i), fmt.Sprintf("b/%d", i)), store.Put(tx, fmt.Sprintf("b/%d", i), i)); err != nil {
				return err
			}
		}
		return store.Put(tx, "shared", "x")
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 2, 100} {
		sum := 0
		trips := storetest.Trips(t, s, func(tx store.Tx) error {
			sum = 0
			return store.Together(tx, n, func(i int, tx store.Tx) error {
				key, err := store.Get[string](tx, fmt.Sprintf("a/%d", i))
				if err != nil {
					return err
				}
				v, err := store.Get[int](tx, key)
				if err != nil || i%2 == 1 {
					sum += v
					return err
				}
				got, err := tx.GetAll("shared", "missing", key, "shared")
				if err != nil || got[1] != nil || string(got[0]) != `"x"` || string(got[2]) != fmt.Sprint(i) {
					return fmt.Errorf("got %q, %v", got, err)
				}
				if got[0][1] = 'y'; got[3][1] != 'x' {
					return errors.New("two values are one")
				}
				if _, err := tx.Get("missing"); !errors.Is(err, store.ErrNotFound) {
					return fmt.Errorf("what is not there: %v", err)
				}
				sum += v
				return nil
			})
		})
		if sum != n*(n-1)/2 || trips > 4 || n == 0 && trips > 0 {
			t.Errorf("%d calls: sum %d with %d requests", n, sum, trips)
		}
	}
}

// The first error by number is the one that is given; those who wait are ended, nothing
// is written, and a Tx is of no use behind its call.
func TestTogetherEnds(t *testing.T) {
	s := openTemp(t)
	var ended []int
	var kept store.Tx
	wrong := errors.New("wrong")
	err := s.Update(t.Context(), func(tx store.Tx) error {
		ended = nil
		if err := tx.Put("mine", []byte("1")); err != nil {
			return err
		}
		return store.Together(tx, 5, func(i int, tx store.Tx) error {
			got, err := tx.Get("mine")
			if errors.Is(err, store.ErrTxDone) {
				ended = append(ended, i)
				return err
			}
			if err != nil || string(got) != "1" {
				t.Errorf("a write of the transaction is read as %s, %v", got, err)
			}
			if err := tx.Put("x", nil); !errors.Is(err, store.ErrReadOnly) {
				t.Errorf("put: %v", err)
			}
			if err := tx.Delete("mine"); !errors.Is(err, store.ErrReadOnly) {
				t.Errorf("delete: %v", err)
			}
			switch i {
			case 1:
				kept = tx
				return nil
			case 2, 3:
				return wrong
			}
			if _, err := tx.GetAll("mine"); err != nil {
				ended = append(ended, i)
				return err
			}
			return nil
		})
	})
	if !errors.Is(err, wrong) || !slices.Equal(ended, []int{0, 3, 4}) {
		t.Errorf("%v; ended %v", err, ended)
	}
	if _, err := kept.Get("mine"); !errors.Is(err, store.ErrTxDone) {
		t.Errorf("a Tx behind its call: %v", err)
	}
	for _, err := range kept.Scan("", "") {
		if !errors.Is(err, store.ErrTxDone) {
			t.Errorf("a scan behind its call: %v", err)
		}
	}
}

// ScanOf gives what is below the names and nothing else, with one request.
func TestScanOf(t *testing.T) {
	s := openTemp(t)
	keys := []string{"p/", "p/a", "p/a/1", "p/a/2", "p/a0/1", "p/aa/1", "p/b", "p/b/1", "p/ba/1", "p/c/1", "q/a/1"}
	err := s.Update(t.Context(), func(tx store.Tx) error {
		for _, k := range keys {
			if err := tx.Put(k, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{nil, {"a"}, {"b"}, {"x"}, {"a", "b"}, {"a", "c"}, {"b", "c"}, {"0", "zz"}, {"a", "aa", "b", "ba", "c"}} {
		var want, got []string
		for _, k := range keys {
			for _, n := range names {
				if strings.HasPrefix(k, "p/"+n+"/") {
					want = append(want, k)
				}
			}
		}
		trips := storetest.Trips(t, s, func(tx store.Tx) error {
			got = nil
			for it, err := range store.ScanOf(tx, "p/", names) {
				if err != nil {
					return err
				}
				got = append(got, it.Key)
			}
			return nil
		})
		if !slices.Equal(got, want) || trips > 1 {
			t.Errorf("of %q: %q with %d requests, want %q", names, got, trips, want)
		}
	}
}
