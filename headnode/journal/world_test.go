package journal

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

func (w *world) do(fn func(store.Tx) error) {
	w.Helper()
	if err := w.s.Update(w.ctx, fn); err != nil {
		w.Fatal(err)
	}
}

func (w *world) view(fn func(store.Tx) error) {
	w.Helper()
	if err := w.s.View(w.ctx, fn); err != nil {
		w.Fatal(err)
	}
}

// put sets keys to the value v, which is made JSON.
func (w *world) put(set Set, v string, keys ...string) (version uint64) {
	w.Helper()
	w.do(func(tx store.Tx) (err error) {
		version, err = Edit(tx, set, func(e *Editor) error {
			for _, k := range keys {
				if err := e.Put(k, []byte(`"`+v+`"`)); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	})
	return version
}

func (w *world) delete(set Set, keys ...string) (version uint64) {
	w.Helper()
	w.do(func(tx store.Tx) (err error) {
		version, err = Edit(tx, set, func(e *Editor) error {
			for _, k := range keys {
				if err := e.Delete(k); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	})
	return version
}

func (w *world) changes(set Set, f Follow, limit int) (d Delta) {
	w.Helper()
	w.view(func(tx store.Tx) (err error) { d, err = Changes(tx, set, f, limit); return err })
	return d
}

// text is a Delta as lines.
func text(d Delta) []string {
	kind := "delta"
	if d.Full {
		kind = "full"
	}
	head := fmt.Sprintf("%s to %d", kind, d.Version)
	if d.Toward != 0 {
		head += fmt.Sprintf(" of %d", d.Toward)
	}
	out := []string{head}
	for _, e := range d.Entries {
		s := fmt.Sprintf("%d %s %s", e.Version, e.Key, e.Value)
		if e.Gone {
			s += " gone"
		}
		out = append(out, s)
	}
	return out
}
