package headnode

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/networks"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

// natOps are changes of a natRack, each a transaction.
type natOps struct {
	t   *testing.T
	s   *Server
	ms  []*machine
	net api.Network
}

func (o *natOps) nic(on *machine, n int) error {
	return o.s.store.Update(o.t.Context(), func(tx store.Tx) error {
		provided, err := provides(tx, on.uuid)
		if err != nil {
			return err
		}
		c, err := o.s.createNIC(tx, api.NetworkNIC{MAC: natMAC(n), Owner: alice, BelongsToType: api.BelongsToZone, Server: on.uuid,
			BelongsTo: fmt.Sprintf("00000000-0000-4000-9000-%012d", n), Addresses: []api.NICAddress{{Network: o.net.UUID, IP: natIP(o.net, n)}}}, provided)
		_, err = o.s.nicChanged(tx, c, err)
		return err
	})
}

func natMAC(n int) string { return fmt.Sprintf("02:4e:52:00:00:%02x", n) }

func natIP(net api.Network, n int) string {
	return strings.TrimSuffix(net.Subnet, "0/24") + fmt.Sprint(100+n)
}

func (o *natOps) move(n int, to *machine) error {
	return o.s.store.Update(o.t.Context(), func(tx store.Tx) error {
		c, err := networks.UpdateNIC(tx, natMAC(n), api.NICUpdate{Server: &to.uuid}, nil)
		_, err = o.s.nicChanged(tx, c, err)
		return err
	})
}

func (o *natOps) remove(n int) error {
	return o.s.store.Update(o.t.Context(), func(tx store.Tx) error {
		c, err := networks.DeleteNIC(tx, time.Now(), natMAC(n))
		_, err = o.s.nicChanged(tx, c, err)
		return err
	})
}

func (o *natOps) forward(n int) error {
	return o.s.store.Update(o.t.Context(), func(tx store.Tx) error {
		_, err := o.s.createForward(tx, args{"owner": alice}, api.FabricForward{Protocol: "tcp", IP: natIP(o.net, n)})
		return err
	})
}

func (o *natOps) unforward() error {
	return o.s.store.Update(o.t.Context(), func(tx store.Tx) error {
		all, err := forwardsOf(tx, alice)
		if err != nil || len(all) == 0 {
			return err
		}
		return o.s.removeForwards(tx, alice, all[0])
	})
}

func (o *natOps) link(of *machine, down ...string) error {
	return o.s.store.Update(o.t.Context(), func(tx store.Tx) error { return o.s.noteLinks(tx, of.uuid, down) })
}

// settled says that all that is kept of ways outside is what would be computed anew.
func (o *natOps) settled(what string) {
	o.t.Helper()
	before := dumpStore(o.t, o.s.store)
	err := o.s.store.Update(o.t.Context(), func(tx store.Tx) error {
		if err := o.s.rerouteAll(tx); err != nil {
			return err
		}
		return networks.Check(tx)
	})
	if err != nil {
		o.t.Fatalf("%s: %v", what, err)
	}
	if got := changedKeys(before, dumpStore(o.t, o.s.store)); len(got) > 0 {
		o.t.Fatalf("%s: computed anew, these are others:\n%s", what, strings.Join(got, "\n"))
	}
}

// changedKeys are the keys that differ between two dumps, but for boots and usage of
// servers that run meanwhile.
func changedKeys(a, b string) (out []string) {
	of := func(dump string) map[string]string {
		m := map[string]string{}
		for line := range strings.Lines(dump) {
			k, v, _ := strings.Cut(line, "=")
			m[k] = v
		}
		return m
	}
	was, is := of(a), of(b)
	maps.DeleteFunc(is, func(k, v string) bool {
		same := was[k] == v
		delete(was, k)
		return same && v != ""
	})
	out = slices.AppendSeq(slices.Collect(maps.Keys(is)), maps.Keys(was))
	slices.Sort(out)
	return out
}

// TestWaysStayRight: whatever comes, moves and goes, what a change makes of gateways, of
// transit maps and of what servers follow is what all of it comes to when it is computed
// anew.
func TestWaysStayRight(t *testing.T) {
	h, ms, net := natRack(t)
	for _, seed := range []uint64{1, 2, 3} {
		r := rand.New(rand.NewPCG(seed, 0))
		o := &natOps{t, h.Server, ms, net}
		on := map[int]bool{}
		for step := range 60 {
			n, m := r.IntN(5), ms[r.IntN(len(ms))]
			what, err := "", error(nil)
			switch k := r.IntN(9); {
			case k < 3 && !on[n]:
				what, err, on[n] = fmt.Sprint("NIC ", n, " on ", m.uuid), o.nic(m, n), true
			case k < 3:
				what, err = fmt.Sprint("NIC ", n, " moves to ", m.uuid), o.move(n, m)
			case k < 5 && on[n]:
				if what, err = fmt.Sprint("NIC ", n, " goes"), o.remove(n); isProblem(err, api.CodeInUse) {
					err = nil // a port forward goes there
				} else {
					delete(on, n)
				}
			case k == 5 && on[n]:
				what, err = fmt.Sprint("forward to NIC ", n), o.forward(n)
			case k == 6:
				what, err = "a forward goes", o.unforward()
			case k == 7:
				what, err = "link of "+m.uuid+" goes", o.link(m, "external")
			case k == 8:
				what, err = "link of "+m.uuid+" comes", o.link(m)
			}
			if err != nil {
				t.Fatalf("seed %d, step %d, %s: %v", seed, step, what, err)
			}
			o.settled(fmt.Sprintf("seed %d, step %d, %s", seed, step, what))
		}
		for err := error(nil); err == nil; {
			all := 0
			err = h.store.View(t.Context(), func(tx store.Tx) error {
				fs, err := forwardsOf(tx, alice)
				all = len(fs)
				return err
			})
			if err != nil || all == 0 {
				break
			}
			err = o.unforward()
		}
		for n := range on {
			if err := o.remove(n); err != nil {
				t.Fatal(err)
			}
		}
		o.settled("nothing is left")
	}
}

// TestNATFailsAtEveryWrite: what changes ways outside and fails at any of its writes leaves
// nothing behind, and succeeds when it is asked again.
func TestNATFailsAtEveryWrite(t *testing.T) {
	h, ms, net := natRack(t)
	o := &natOps{t, h.Server, ms, net}
	real := h.Server.store
	for _, op := range []struct {
		name string
		do   func() error
	}{
		{"a NIC that needs gateways", func() error { return o.nic(ms[3], 1) }},
		{"one where NAT is", func() error { return o.nic(ms[0], 2) }},
		{"the first port forward", func() error { return o.forward(1) }},
		{"a link goes", func() error { return o.link(ms[0], "external") }},
		{"it comes again", func() error { return o.link(ms[0]) }},
		{"the last port forward goes", o.unforward},
		{"the NIC moves", func() error { return o.move(1, ms[0]) }},
		{"and goes", func() error { return o.remove(1) }},
	} {
		before := dumpStore(t, real)
		for left := range 60 {
			h.Server.store = storetest.Failing(real, func() int { return left })
			if err := op.do(); !errors.Is(err, storetest.ErrInjected) {
				t.Fatalf("%s, failing at write %d: %v", op.name, left, err)
			}
			if got := dumpStore(t, real); got != before {
				t.Fatalf("%s, failing at write %d, left something", op.name, left)
			}
		}
		h.Server.store = real
		if err := op.do(); err != nil {
			t.Fatalf("%s: %v", op.name, err)
		}
		o.settled(op.name)
	}
}

// TestNICWakesFewServers: a NIC writes no server's record, and of the sets that servers
// follow only those that say something else with it.
func TestNICWakesFewServers(t *testing.T) {
	h, ms, net := natRack(t)
	o := &natOps{t, h.Server, ms, net}
	changed := func(do func() error) (sets, records []string) {
		t.Helper()
		before := dumpStore(t, h.store)
		if err := do(); err != nil {
			t.Fatal(err)
		}
		for _, key := range changedKeys(before, dumpStore(t, h.store)) {
			if set, is := strings.CutPrefix(key, "journal/set/"); is {
				sets = append(sets, set)
			}
			if strings.HasPrefix(key, "server/") || strings.HasPrefix(key, "inventory/") {
				records = append(records, key)
			}
		}
		return sets, records
	}
	transit := func() string {
		var vni uint32
		if err := h.store.View(t.Context(), func(tx store.Tx) error {
			g, err := gatewaysOf(tx, alice)
			vni = g.VNI
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return api.MapSet(vni)
	}
	ports, far := api.PortSet(ms[3].uuid), ms[3].uuid
	first, records := changed(func() error { return o.nic(ms[3], 1) })
	want := []string{api.NATSet(alice), ports, api.ServerNATSet(far), api.MapSet(net.VNI), transit()}
	rest := slices.DeleteFunc(slices.Clone(first), func(set string) bool { return slices.Contains(want, set) })
	if len(rest) != 2 || !strings.HasSuffix(rest[0], "/nat") || !strings.HasSuffix(rest[1], "/nat") || len(first) != len(want)+2 || len(records) > 0 {
		t.Errorf("the first NIC that needs gateways changed %v and records %v", first, records)
	}
	second, records := changed(func() error { return o.nic(ms[3], 2) })
	slices.Sort(second)
	if !slices.Equal(second, []string{ports, api.MapSet(net.VNI)}) || len(records) > 0 {
		t.Errorf("another one changed %v and records %v", second, records)
	}
	if last, records := changed(func() error { return o.remove(1) }); len(last) != 2 || len(records) > 0 {
		t.Errorf("the end of one changed %v and records %v", last, records)
	}
}
