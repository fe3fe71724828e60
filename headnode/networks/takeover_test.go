package networks

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode/journal"
	"nereid/headnode/store"
)

var errKilled = errors.New("killed")

// killed is a store whose head node is killed after some Updates.
type killed struct {
	store.Store
	left int
}

func (k *killed) Update(ctx context.Context, fn func(store.Tx) error) error {
	if k.left--; k.left < 0 {
		return errKilled
	}
	return k.Store.Update(ctx, fn)
}

// The NICs and tombstones that the last head node without sets of ports wrote (commit
// dfd0bf7) are in the sets of their servers, wherever the head node is killed meanwhile.
func TestTakeOverPorts(t *testing.T) {
	w := newWorld(t)
	b, err := os.ReadFile("testdata/ports-before-journal.keys")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.s.Update(t.Context(), func(tx store.Tx) error {
		for line := range strings.Lines(string(b)) {
			key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			if err := tx.Put(key, []byte(value)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		err := takeOverPorts(t.Context(), &killed{w.s, n}, 2)
		if err == nil {
			if n < 3 {
				t.Errorf("it took %d transactions: the interruption is not tested", n)
			}
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
	}
	if err := TakeOverPlaces(t.Context(), w.s); err != nil {
		t.Error(err)
	}
	for n := 1; ; n++ {
		err := takeOverFabrics(t.Context(), &killed{w.s, n}, 1)
		if err == nil {
			if n < 2 {
				t.Errorf("networks took %d transactions: the interruption is not tested", n)
			}
			break
		}
		if !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
	}
	w.must(func(tx store.Tx) error { // with Check
		for it, err := range tx.Scan(oldGonePrefix, "") {
			t.Errorf("%s is left: %v", it.Key, err)
		}
		return nil
	})
	sets := map[string][]string{
		server1: {"02:6e:72:71:b9:73/" + id(2), "02:6e:72:e4:ec:1a/" + id(1), "gone 02:6e:72:6f:a1:5e/" + id(1), "gone 02:6e:72:fb:a3:ec/" + id(3)},
		server2: {"02:6e:72:1e:8c:f3/" + id(4), "02:6e:72:fb:a3:ec/" + id(3)},
	}
	for server, want := range sets {
		var d journal.Delta
		if err := w.s.View(t.Context(), func(tx store.Tx) (err error) {
			d, err = journal.Changes(tx, PortSet(server), journal.Follow{}, 0)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range d.Entries {
			key := e.Key
			if e.Gone {
				key = "gone " + key
			}
			got = append(got, key)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("server %s has %v, want %v", server, got, want)
		}
	}
	// It is done once: a second start looks and writes nothing.
	if err := TakeOverPorts(t.Context(), w.s); err != nil {
		t.Error(err)
	}
	hosts := map[string][]uint32{}
	if err := w.s.View(t.Context(), func(tx store.Tx) (err error) { hosts, err = Hosts(tx, server2); return err }); err != nil || !slices.Equal(hosts[alice], []uint32{0x1234}) {
		t.Errorf("VNIs of server 2: %v, %v", hosts, err)
	}
	// What moves back is gone no more.
	mac := "02:6e:72:fb:a3:ec"
	w.must(func(tx store.Tx) error {
		_, err := UpdateNIC(tx, mac, api.NICUpdate{Server: &server1}, nil)
		return err
	})
	w.must(func(tx store.Tx) error {
		e, there, err := journal.Get(tx, api.PortSet(server1), api.PortKey(mac, id(3)))
		if !there || !strings.Contains(string(e.Value), `"10.0.0.3/24"`) {
			t.Errorf("moved back: %+v", e)
		}
		return err
	})
}

// The allowed_ips of NICs that a head node made before it had their index are in it,
// wherever the head node is killed meanwhile.
func TestTakeOverAllowed(t *testing.T) {
	w := rack(t)
	for _, ip := range []string{"10.0.0.100", "10.0.0.101", "10.0.0.102"} {
		n := on("external=" + ip)
		n.AllowedIPs = []string{"10.0.0.64/27"}
		w.nic(n)
	}
	if err := w.s.Update(t.Context(), func(tx store.Tx) error {
		for it, err := range tx.Scan(allowedPrefix, "") {
			if err != nil {
				return err
			}
			if err := tx.Delete(it.Key); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, updates := range []int{0, 1} {
		if err := TakeOverAllowed(t.Context(), &killed{w.s, updates}); (err == nil) != (updates == 1) {
			t.Errorf("killed after %d transactions: %v", updates, err)
		}
	}
	n := on("external=10.0.0.70")
	n.Owner = bob
	w.refused(api.CodeInUse, "allowed_ips of NIC", w.create(n)) // with Check
}
