package fabric

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

// TestTakeOver: the maps of a store that the last head node without a journal wrote
// (commit f77b1e4) are the same maps in the journal: whoever asks gets the answer
// that head node gave, with its epochs and versions.
func TestTakeOver(t *testing.T) {
	w := newWorld(t)
	w.do(func(tx store.Tx) error {
		for _, f := range lines(t, "testdata/maps-before-journal.keys", 2) {
			if err := tx.Put(f[0], []byte(f[1])); err != nil {
				return err
			}
		}
		return nil
	})
	// A head node that is killed after any of the transactions goes on later.
	for n := 1; ; n++ {
		s := &failing{Store: w.s, left: n}
		err := TakeOver(t.Context(), s)
		if err == nil {
			if n < 2 {
				t.Errorf("it took %d transactions: the interruption is not tested", n)
			}
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
	}
	asked := lines(t, "testdata/maps-before-journal.answers", 4)
	answer := func(f []string) (m, want api.FabricMap) {
		t.Helper()
		if err := json.Unmarshal([]byte(f[3]), &want); err != nil {
			t.Fatal(err)
		}
		vni, err := strconv.ParseUint(f[0], 10, 32)
		since, err2 := strconv.ParseUint(f[2], 10, 64)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		return w.since(uint32(vni), f[1], since), want
	}
	for _, f := range asked {
		if got, want := answer(f); !cmp.Equal(want, got) {
			t.Errorf("VNI %s, epoch %q, since %s (-want +got):\n%s", f[0], f[1], f[2], cmp.Diff(want, got))
		}
	}
	w.view(func(tx store.Tx) error {
		for _, p := range append([]string{oldMapPrefix, oldEntryPrefix, oldGonePrefix, oldIPPrefix}, oldAlone...) {
			for it := range tx.Scan(p, "") {
				t.Errorf("%s is left", it.Key)
			}
		}
		return nil
	})
	// The next change begins a new epoch, and goes on with the versions.
	vni, _ := strconv.ParseUint(asked[0][0], 10, 32)
	before := w.since(uint32(vni), "", 0)
	w.do(journal.Begin)
	w.put(uint32(vni), entry("10.0.0.9", mac1, ul1))
	after := w.since(uint32(vni), before.Epoch, before.Version)
	if after.Full || after.Epoch == before.Epoch || after.Version != before.Version+1 || len(after.Entries) != 1 {
		t.Errorf("a change after it: %+v", after)
	}
}

// lines reads a file of lines with n fields each.
func lines(t *testing.T, path string, n int) (out [][]string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), "\t", n)
		if len(f) != n {
			t.Fatalf("%s: %q has %d fields, want %d", path, line, len(f), n)
		}
		out = append(out, f)
	}
	return out
}

var errKilled = errors.New("killed")

// failing is a store that takes some Updates and then no more.
type failing struct {
	store.Store
	left int
}

func (f *failing) Update(ctx context.Context, fn func(store.Tx) error) error {
	if f.left--; f.left < 0 {
		return errKilled
	}
	return f.Store.Update(ctx, fn)
}
