package networks

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

// TestConcurrent: 64 writers fill a /24 and more, while a third of their
// transactions fails at any write. Nobody shares an address, none is lost.
func TestConcurrent(t *testing.T) {
	b := openBolt(t)
	w := &world{t, b, t0}
	w.must(func(tx store.Tx) error { _, err := CreateNICTag(tx, api.NICTag{Name: external}); return err })
	w.network(api.Network{Name: "n", NICTag: external, Subnet: "10.9.0.0/24", Gateway: "10.9.0.1"})
	w.network(api.Network{Name: "n6", NICTag: external, Subnet: "fd09::/64", Gateway: "fd09::1"})
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(1, 2))
	s := storetest.Failing(b, func() int {
		mu.Lock()
		defer mu.Unlock()
		if r.IntN(3) > 0 {
			return -1
		}
		return r.IntN(14)
	})
	held := map[string]string{}
	injected, refused, given := 0, 0, 0
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 3))
			var own []string
			for range 40 {
				var c Change
				var err error
				deleting := len(own) > 0 && (len(own) == 8 || r.IntN(6) == 0)
				if deleting {
					err = s.Update(t.Context(), func(tx store.Tx) (err error) { c, err = DeleteNIC(tx, t0, own[0]); return err })
				} else {
					err = s.Update(t.Context(), func(tx store.Tx) (err error) { c, err = CreateNIC(tx, t0, on("n", "n6"), nil); return err })
				}
				mu.Lock()
				p := (*api.Problem)(nil)
				switch {
				case errors.Is(err, storetest.ErrInjected):
					injected++
				case errors.As(err, &p):
					refused++
				case err != nil:
					t.Error(err)
				case deleting:
					own = own[1:]
				default:
					own = append(own, c.After.MAC)
					given++
				}
				mu.Unlock()
			}
			mu.Lock()
			defer mu.Unlock()
			for _, mac := range own {
				held[mac] = ""
			}
		})
	}
	wg.Wait()
	t.Logf("%d NICs made, %d failures injected, %d refused for want of addresses", given, injected, refused)
	if injected == 0 || given < 300 || refused == 0 {
		t.Errorf("too little happened")
	}
	if err := b.View(t.Context(), Check); err != nil {
		t.Fatal(err)
	}
	// Those whose creation was acknowledged are there with different addresses, and no others.
	seen := map[string]bool{}
	nics := do(w, func(tx store.Tx) ([]api.NetworkNIC, error) {
		ns, _, err := ListNICs(tx, NICFilter{}, "", 0)
		return ns, err
	})
	for _, n := range nics {
		if _, ok := held[n.MAC]; !ok {
			t.Errorf("NIC %s was not acknowledged", n.MAC)
		}
		for _, a := range n.Addresses {
			if seen[a.IP] {
				t.Errorf("%s is there twice", a.IP)
			}
			seen[a.IP] = true
		}
	}
	if len(nics) != len(held) {
		t.Errorf("%d NICs are there, %d were acknowledged", len(nics), len(held))
	}
	// No leak: exactly what is not held can still be given out.
	for range 253 - len(nics) {
		w.must(w.create(on("n")))
	}
	w.refused(api.CodeConflict, "network n has no free address", w.create(on("n")))
}

// TestFailAtEveryWrite: a NIC's creation or deletion that fails at any of its
// writes leaves nothing behind.
func TestFailAtEveryWrite(t *testing.T) {
	w := rack(t)
	real := w.s
	before := dump(w)
	for _, op := range []struct {
		name string
		fn   func(store.Tx) error
	}{
		{"create", w.create(on(external))},
		{"delete", func(tx store.Tx) error {
			n, _, err := ListNICs(tx, NICFilter{Server: server1}, "", 1)
			if err == nil {
				_, err = DeleteNIC(tx, t0, n[0].MAC)
			}
			return err
		}},
	} {
		for left := range 40 {
			err := storetest.Failing(real, func() int { return left }).Update(t.Context(), op.fn)
			if !errors.Is(err, storetest.ErrInjected) {
				t.Fatalf("%s, failing at write %d: %v", op.name, left, err)
			}
			if got := dump(w); got != before {
				t.Fatalf("%s, failing at write %d: the store is\n%s, was\n%s", op.name, left, got, before)
			}
		}
	}
}

// dump prints the store.
func dump(w *world) string {
	var b strings.Builder
	err := w.s.View(w.Context(), func(tx store.Tx) error {
		for it, err := range tx.Scan(Prefix, "") {
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s=%s\n", it.Key, it.Value)
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	return b.String()
}
