package headnode

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

// TestLastMegabyte: of many creates at once exactly as many are made as fit, and each
// other one hears why. What is given out is what the instances have, also after some are
// deleted.
func TestLastMegabyte(t *testing.T) {
	h, zs := zoneRack(t, 2) // 1024 MiB each, of which 410 are given out
	ctx := context.Background()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var made []api.Instance
	refused := 0
	for i := range 20 {
		wg.Go(func() {
			in, err := h.client.CreateInstance(ctx, web(fmt.Sprintf("web%d", i)))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made = append(made, in)
				return
			}
			refused++
			wantCode(t, "a create too many", err, api.CodeNoCapacity)
			if n := strings.Count(err.Error(), "memory: 128 MiB are wanted, 26 of 410 MiB are left"); n != 2 {
				t.Errorf("the reasons of two servers are wanted: %v", err)
			}
		})
	}
	wg.Wait()
	if len(made) != 6 || refused != 14 {
		t.Fatalf("%d made, %d refused; want 6 and 14", len(made), refused)
	}
	counted := func() {
		t.Helper()
		for _, z := range zs {
			err := h.Server.store.View(ctx, func(tx store.Tx) error {
				use, err := instances.Use(tx, z.uuid)
				if err != nil {
					return err
				}
				want, err := instances.Recount(tx, z.uuid)
				if !reflect.DeepEqual(use, want) {
					t.Errorf("server %s: %+v is noted, %+v is there", z.uuid, use, want)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	counted()
	if p := must[api.Placement](t)(h.client.InstancePlacement(ctx, made[0].UUID)); p.Chosen != made[0].Server || len(p.Servers) != 2 || p.Servers[0].Score <= 0 {
		t.Errorf("placement: %+v", p)
	}
	z := zs[0]
	gone := ""
	for _, i := range made {
		if i.Server == z.uuid {
			must[api.Instance](t)(h.client.DeleteInstance(ctx, i.UUID, false))
			gone = i.UUID
			break
		}
	}
	_, err := h.client.CreateInstance(ctx, web("more"))
	wantCode(t, "a create before the deleted one is gone", err, api.CodeNoCapacity)
	z.report(nil)
	z.says("r1", nil, gone)
	counted()
	if i := must[api.Instance](t)(h.client.CreateInstance(ctx, web("more"))); i.Server != z.uuid {
		t.Errorf("%+v", i)
	}
	counted()

	// Servers with instances are not reset or forgotten, and a reboot names them.
	name := h.server(z.uuid).Hostname
	wantCode(t, "forget", h.client.ForgetServer(ctx, z.uuid), api.CodeInUse)
	wantCode(t, "reset", h.client.ResetServer(ctx, z.uuid, api.ServerReset{Hostname: name}), api.CodeInUse)
	err = h.client.RebootServer(ctx, z.uuid)
	wantCode(t, "reboot", err, api.CodeSideEffects)
	if n := strings.Count(err.Error(), "stops, and starts again"); n != 3 {
		t.Errorf("a reboot names %d instances of 3: %v", n, err)
	}
	if err := h.client.RebootServer(api.WithConfirm(ctx, api.ConfirmAll), z.uuid); err != nil {
		t.Error(err)
	}
	// A lost server: what it had is free at once, but only when it is silent.
	_, err = h.client.DeleteInstance(ctx, "more", true)
	wantCode(t, "server_lost of one that syncs", err, api.CodeConflict)
	h.advance(2 * api.SilentAfter)
	_, err = h.client.DeleteInstance(ctx, "more", true)
	wantCode(t, "server_lost that is not agreed to", err, api.CodeSideEffects)
	if i := must[api.Instance](t)(h.client.DeleteInstance(api.WithConfirm(ctx, api.ConfirmAll), "more", true)); i.State != api.InstanceDeleted {
		t.Errorf("%+v", i)
	}
	counted()
}

// TestOneName: of 100 creates of one name at once exactly one makes an instance, and the
// others leave nothing: no address, no NIC, nothing given out of a server. Of 20 changes
// that are meant for one revision exactly one is made.
func TestOneName(t *testing.T) {
	h, zs := zoneRack(t, 2)
	ctx := context.Background()
	free := func() int {
		t.Helper()
		n := 0
		for _, err := range h.client.IPs("ext").All(ctx, nil) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		return n
	}
	before := free()
	race := func(n int, do func() error, lost api.Code) (won int) {
		t.Helper()
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				err := do()
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
					return
				}
				wantCode(t, "one that lost", err, lost)
			})
		}
		wg.Wait()
		return won
	}
	if won := race(100, func() error {
		_, err := h.client.CreateInstance(ctx, web("web0"))
		return err
	}, api.CodeConflict); won != 1 {
		t.Fatalf("%d of 100 creates of one name were made", won)
	}
	if now := free(); now != before+1 {
		t.Errorf("%d addresses more than before are in use: want 1", now-before)
	}
	instances := 0
	for _, z := range zs {
		s := must[api.Server](t)(h.client.Server(ctx, z.uuid))
		if s.Use != nil {
			instances += s.Use.Instances
		}
	}
	if instances != 1 {
		t.Errorf("the servers have given out what %d instances use: want 1", instances)
	}
	revision := h.instance("web0").Revision
	n := 0
	var mu sync.Mutex
	if won := race(20, func() error {
		mu.Lock()
		n++
		tags := map[string]any{"n": n}
		mu.Unlock()
		_, err := h.client.Instances().Update(ctx, "web0", api.InstanceUpdate{Tags: &tags}, revision)
		return err
	}, api.CodeStale); won != 1 {
		t.Errorf("%d of 20 changes of one revision were made", won)
	}
}

// TestUnexpectedInstance: a status of another server's instance changes nothing, and what
// the head node does not know is shown, until it is gone.
func TestUnexpectedInstance(t *testing.T) {
	h, zs := zoneRack(t, 2)
	ctx := context.Background()
	in := web("web0")
	in.Server = zs[0].uuid
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, in))
	const other = "0000abcd-0000-4000-8000-000000000001"
	zs[1].says("r1", []api.InstanceStatus{{UUID: made.UUID, State: "failed", Reason: "not mine"}, {UUID: "x/../y", State: "running"}, {UUID: other, State: "running", Spec: &api.InstanceSpec{UUID: other, Name: "old"}}})
	if i := h.instance("web0"); i.State != "provisioning" {
		t.Errorf("%+v", i)
	}
	all := must[[]api.UnexpectedInstance](t)(h.client.UnexpectedInstances(ctx, zs[1].uuid))
	if len(all) != 2 || !slices.ContainsFunc(all, func(u api.UnexpectedInstance) bool { return u.Instance.Spec != nil && u.Instance.Spec.Name == "old" }) {
		t.Errorf("unexpected: %+v", all)
	}
	if text := strings.Join(h.server(zs[1].uuid).Alerts, "\n"); !strings.Contains(text, "Instance old ("+other+") is here and running: the head node does not know it") {
		t.Errorf("alerts: %s", text)
	}
	zs[1].report(&api.InstanceReport{Now: "r2", Full: true})
	if all := must[[]api.UnexpectedInstance](t)(h.client.UnexpectedInstances(ctx, "")); len(all) != 0 {
		t.Errorf("unexpected: %+v", all)
	}
	// The port of an instance's NIC says its brand, and the NIC goes the instance's way.
	mac := made.NICs[0].MAC
	_, err := h.client.NICs().Update(ctx, mac, api.NICUpdate{Server: &zs[1].uuid, Tags: &map[string]string{"a": "b"}}, "")
	wantCode(t, "move of an instance's NIC", err, api.CodeConflict)
	added := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: made.UUID, BelongsToType: api.BelongsToZone, Addresses: []api.NICAddress{{Network: "web"}}}))
	if i := h.instance("web0"); len(i.NICs) != 2 || i.NICs[1].MAC != added.MAC || i.NICs[1].Interface != "net1" || added.Server != made.Server {
		t.Errorf("%+v, NIC %+v", i, added)
	}
	if err := h.client.NICs().Delete(api.WithConfirm(ctx, api.ConfirmAll), mac); err != nil {
		t.Fatal(err)
	}
	if i := h.instance("web0"); len(i.NICs) != 1 || i.NICs[0].MAC != added.MAC || i.NICs[0].Interface != "net1" {
		t.Errorf("%+v", i)
	}
	i := must[api.Instance](t)(h.client.AddInstanceNIC(ctx, "web0", api.InstanceNetwork{Addresses: []api.NICAddress{{Network: "ext"}}}))
	if len(i.NICs) != 2 || i.NICs[0].Interface != "net0" {
		t.Errorf("%+v", i)
	}
	// One that is said to be of something else, and names an instance, is the instance's; one
	// that names none that is there is refused, and so is a change to that.
	third := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: made.UUID, BelongsToType: api.BelongsToOther, Addresses: []api.NICAddress{{Network: "web"}}}))
	if i := h.instance("web0"); len(i.NICs) != 3 || third.BelongsToType != api.BelongsToZone || third.Brand != made.Brand {
		t.Errorf("%+v, NIC %+v", i, third)
	}
	_, err = h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: other, BelongsToType: api.BelongsToZone, Server: zs[1].uuid, Addresses: []api.NICAddress{{Network: "web"}}})
	wantCode(t, "a NIC of an instance that does not exist", err, api.CodeNotFound)
	if err == nil || !strings.Contains(err.Error(), "no instance "+other) || !strings.Contains(err.Error(), "--belongs-to-type other") {
		t.Errorf("%v", err)
	}
	for range h.client.NICs().All(ctx, map[string][]string{"belongs_to": {other}}) {
		t.Error("a NIC that was refused is there")
	}
	of := other
	_, err = h.client.NICs().Update(ctx, third.MAC, api.NICUpdate{BelongsTo: &of}, "")
	wantCode(t, "an instance's NIC for one that does not exist", err, api.CodeConflict)
	router := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: other, BelongsToType: api.BelongsToOther, Addresses: []api.NICAddress{{Network: "web"}}}))
	_, err = h.client.NICs().Update(ctx, router.MAC, api.NICUpdate{BelongsTo: &made.UUID}, "")
	wantCode(t, "something else's NIC for an instance", err, api.CodeConflict)
	// Its tags are what rules see, on each NIC.
	must[api.Instance](t)(h.client.Instances().Update(ctx, "web0", api.InstanceUpdate{SetTags: map[string]any{"role": "db", "n": 2}}, ""))
	for n, err := range h.client.NICs().All(ctx, map[string][]string{"belongs_to": {made.UUID}}) {
		if err != nil || n.Tags["role"] != "db" || n.Tags["n"] != "2" {
			t.Errorf("%+v %v", n, err)
		}
	}
}

// TestInstanceFailsAtEveryWrite: a create, a change, a deletion and an end that fail at
// any of their writes leave nothing behind, and succeed when they are asked again.
func TestInstanceFailsAtEveryWrite(t *testing.T) {
	h, zs := zoneRack(t, 1)
	ctx := t.Context()
	z, s := zs[0], h.Server
	real := s.store
	asked := instances.Asked{By: "root", Now: s.now()}
	in := web("web0")
	in.UUID, in.Tags = "0000abcd-0000-4000-8000-000000000002", map[string]any{"role": "web"}
	on := func(fn func(tx store.Tx, r instances.Record) error) func() error {
		return func() error {
			return s.store.Update(ctx, func(tx store.Tx) error {
				r, err := instances.Find(tx, "", in.UUID)
				if err == nil {
					err = fn(tx, r)
				}
				return err
			})
		}
	}
	for _, op := range []struct {
		name string
		do   func() error
	}{
		{"create", func() error { _, err := s.createInstance(ctx, in); return err }},
		{"report", on(func(tx store.Tx, _ instances.Record) error {
			_, err := instances.Take(tx, s.now(), z.uuid, []api.InstanceStatus{{UUID: in.UUID, State: "running", Made: true}})
			return err
		})},
		{"tags", on(func(tx store.Tx, r instances.Record) error {
			_, err := s.updateInstance(tx, asked, r, api.InstanceUpdate{SetTags: map[string]any{"role": "db"}})
			return err
		})},
		{"delete", on(func(tx store.Tx, r instances.Record) error {
			_, err := s.deleteInstance(tx, asked, r, false)
			return err
		})},
		{"end", on(func(tx store.Tx, r instances.Record) error { return s.endInstance(tx, r.UUID) })},
	} {
		before := dumpStore(t, real)
		for left := range 60 {
			s.store = storetest.Failing(real, func() int { return left })
			if err := op.do(); !errors.Is(err, storetest.ErrInjected) {
				t.Fatalf("%s, failing at write %d: %v", op.name, left, err)
			}
			if got := dumpStore(t, real); got != before {
				t.Fatalf("%s, failing at write %d, left something", op.name, left)
			}
		}
		s.store = real
		if err := op.do(); err != nil {
			t.Fatalf("%s: %v", op.name, err)
		}
	}
}

func dumpStore(t *testing.T, s store.Store) string {
	t.Helper()
	var b strings.Builder
	err := s.View(t.Context(), func(tx store.Tx) error {
		for it, err := range tx.Scan("", "") {
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%s=%s\n", it.Key, it.Value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
