package trust

import (
	"fmt"
	"iter"
	"strings"
	"testing"
	"time"

	"nereid/headnode/store"
)

// counted counts what is read of a transaction: a Get, or an item of a Scan.
type counted struct {
	store.Tx
	reads *int
}

func (c counted) Get(key string) ([]byte, error) {
	*c.reads++
	return c.Tx.Get(key)
}

func (c counted) Scan(prefix, after string) iter.Seq2[store.Item, error] {
	return func(yield func(store.Item, error) bool) {
		for it, err := range c.Tx.Scan(prefix, after) {
			if *c.reads++; !yield(it, err) {
				return
			}
		}
	}
}

// putOld writes tokens as a release before the index did: half of them used, the
// used ones of 10 MACs.
func putOld(tx store.Tx, n int, expires time.Time) error {
	for i := range n {
		t := bootToken{Binding: Binding{BootID: fmt.Sprint("old", i), MAC: fmt.Sprint("m", i%10)}, Hash: hash(fmt.Sprint(i)), Expires: expires}
		if i%2 == 0 {
			t.Key = "k"
		}
		if err := store.Put(tx, bootPrefix+t.BootID, t); err != nil {
			return err
		}
	}
	return nil
}

// keys are the keys with a prefix.
func keys(t *testing.T, st store.Store, prefix string) (out []string) {
	t.Helper()
	err := st.View(t.Context(), func(tx store.Tx) error {
		out = nil
		for it, err := range tx.Scan(prefix, "") {
			if err != nil {
				return err
			}
			out = append(out, it.Key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestMintCostsTheSame: a boot's token beside 2,000 others, whether they are of use
// still or go, and of whatever MAC it is.
func TestMintCostsTheSame(t *testing.T) {
	for what, expires := range map[string]time.Time{"fresh": t0.Add(time.Minute), "old": t0.Add(-30 * 24 * time.Hour)} {
		st := newStore(t)
		if err := update(t, st, func(tx store.Tx) error { return putOld(tx, 2000, expires) }); err != nil {
			t.Fatal(err)
		}
		if err := update(t, st, IndexBoots); err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			var reads int
			err := update(t, st, func(tx store.Tx) error {
				reads = 0
				_, err := MintBoot(counted{tx, &reads}, t0, Binding{BootID: fmt.Sprint("new", i), MAC: fmt.Sprint("m", i)})
				return err
			})
			if err != nil || reads > 10 {
				t.Errorf("%s: minting read %d entries, %v; want at most 10", what, reads, err)
			}
		}
	}
}

// TestOldTokensGo: every token that is of no more use goes in the end, with its index.
func TestOldTokensGo(t *testing.T) {
	st := newStore(t)
	if err := update(t, st, func(tx store.Tx) error { return putOld(tx, 40, t0.Add(-30*24*time.Hour)) }); err != nil {
		t.Fatal(err)
	}
	for range 2 { // once taken over, it is not done again
		if err := update(t, st, IndexBoots); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(keys(t, st, expiryPrefix)) + len(keys(t, st, usedPrefix)); got != 40 {
		t.Errorf("%d of 40 tokens of an earlier release are indexed", got)
	}
	for i := range 10 {
		if err := update(t, st, func(tx store.Tx) error {
			_, err := MintBoot(tx, t0, Binding{BootID: fmt.Sprint("new", i), MAC: "m2"})
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	// What stays: the used tokens of the other MACs, whose boots may go on.
	for _, k := range keys(t, st, bootPrefix+"old") {
		var i int
		if _, err := fmt.Sscanf(k, bootPrefix+"old%d", &i); err != nil || i%2 == 1 || i%10 == 2 {
			t.Errorf("%s is kept", k)
		}
	}
	if got := len(keys(t, st, bootPrefix+"old")); got != 16 {
		t.Errorf("%d used tokens of other MACs are kept, want 16", got)
	}
	if tokens, index := len(keys(t, st, bootPrefix)), len(keys(t, st, expiryPrefix))+len(keys(t, st, usedPrefix)); tokens != index {
		t.Errorf("%d tokens, %d in the index", tokens, index)
	}
}

// TestIndexFollowsTheToken: one index key for each token, whatever becomes of it.
func TestIndexFollowsTheToken(t *testing.T) {
	st := newStore(t)
	var secret string
	step := func(what, want string, fn func(store.Tx) error) {
		t.Helper()
		if err := update(t, st, fn); err != nil {
			t.Fatal(what, err)
		}
		got := strings.Join(append(keys(t, st, expiryPrefix), keys(t, st, usedPrefix)...), " ")
		if got != want {
			t.Errorf("%s: the index is %q, want %q", what, got, want)
		}
	}
	at := func(d time.Duration) string { return t0.Add(d + BootTokenLife + keepExpired).UTC().Format(indexTime) }
	mint := func(d time.Duration) func(store.Tx) error {
		return func(tx store.Tx) (err error) {
			secret, err = MintBoot(tx, t0.Add(d), Binding{BootID: "b", MAC: "m"})
			return err
		}
	}
	step("made", expiryPrefix+at(0)+"/b", mint(0))
	step("made again", expiryPrefix+at(time.Minute)+"/b", mint(time.Minute))
	step("used", usedPrefix+"m/"+at(time.Minute)+"/b", func(tx store.Tx) error {
		_, err := UseBoot(tx, t0, secret, "b", "k", func(string) bool { return true })
		return err
	})
	step("forgotten", "", func(tx store.Tx) error { return ForgetBoot(tx, "b") })
}
