package networks

import (
	"slices"
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// provided says what provides NIC tags on server1: "MAC or bond: tags", sorted.
func (w *world) provided() (out []string) {
	w.Helper()
	w.must(func(tx store.Tx) error {
		out = nil
		for e, err := range store.Each[phys](tx, physPrefix+server1+"/") {
			if err != nil {
				return err
			}
			for _, tag := range e.Value.NICTags {
				out = append(out, e.Value.MAC[15:]+" "+tag)
			}
		}
		for e, err := range store.Each[api.Bond](tx, bondPrefix+server1+"/") {
			if err != nil {
				return err
			}
			for _, tag := range e.Value.NICTags {
				out = append(out, e.Value.Name+" "+tag)
			}
		}
		return nil
	})
	return out
}

// TestBootedFrom: the NIC a server booted from provides NIC tag admin, or its bond
// does, until an operator lets another do so.
func TestBootedFrom(t *testing.T) {
	const m1, m2, m3 = "00:16:3e:00:00:01", "00:16:3e:00:00:02", "00:16:3e:00:00:03"
	boot := func(mac string) func(*world) error {
		return func(w *world) error {
			return w.try(func(tx store.Tx) error { _, err := BootedFrom(tx, server1, mac); return err })
		}
	}
	use := func(mac string, tags ...string) func(*world) error {
		return func(w *world) error {
			return w.try(func(tx store.Tx) error {
				_, err := SetNICTagUse(tx, server1, api.NICTagUse{MAC: mac, NICTags: tags}, []string{m1, m2, m3}, true)
				return err
			})
		}
	}
	bond := func(tags []string, macs ...string) func(*world) error {
		return func(w *world) error {
			return w.try(func(tx store.Tx) error {
				b := api.Bond{Server: server1, Name: "bond0", Mode: modeActiveBackup, MACs: macs, NICTags: tags}
				if has, err := store.Has(tx, bondPrefix+server1+"/bond0"); err != nil || has {
					if err == nil {
						_, err = UpdateBond(tx, b, nil, true)
					}
					return err
				}
				_, err := CreateBond(tx, b, nil, true)
				return err
			})
		}
	}
	apart := func(w *world) error {
		return w.try(func(tx store.Tx) error { return DeleteBond(tx, server1, "bond0") })
	}
	type step struct {
		do   func(*world) error
		want []string
	}
	for name, steps := range map[string][]step{
		"by itself, and moves with the boot": {{boot(m1), []string{"01 admin"}}, {boot(m1), []string{"01 admin"}}, {boot(m2), []string{"02 admin"}}},
		"beside other tags":                  {{use(m1, external), []string{"01 external"}}, {boot(m1), []string{"01 admin", "01 external"}}, {use(m1), []string{"01 admin"}}},
		"told to be another":                 {{boot(m1), []string{"01 admin"}}, {use(m3, AdminTag), []string{"03 admin"}}, {boot(m1), []string{"03 admin"}}, {boot(m2), []string{"03 admin"}}},
		"told to be this one":                {{boot(m1), []string{"01 admin"}}, {use(m1, AdminTag), []string{"01 admin"}}, {boot(m2), []string{"01 admin"}}},
		"a bond is made of it": {{boot(m1), []string{"01 admin"}}, {bond([]string{external}, m1, m2), []string{"bond0 admin", "bond0 external"}},
			{boot(m2), []string{"bond0 admin", "bond0 external"}}, {bond([]string{external}, m1), []string{"bond0 admin", "bond0 external"}},
			{bond(nil, m1), []string{"bond0 admin"}}, {apart, []string{"01 admin"}}, {boot(m2), []string{"02 admin"}}},
		"it is in a bond": {{bond([]string{external}, m1, m2), []string{"bond0 external"}}, {boot(m2), []string{"bond0 admin", "bond0 external"}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.tag(external, 0)
			for i, s := range steps {
				if err := s.do(w); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				if got := w.provided(); !slices.Equal(got, s.want) {
					t.Fatalf("step %d: %q, want %q", i, got, s.want)
				}
			}
			tags := do(w, func(tx store.Tx) ([]string, error) { return ProvidedTags(tx, server1) })
			servers := do(w, func(tx store.Tx) ([]string, error) { return ServersProviding(tx, AdminTag) })
			if !slices.Contains(tags, AdminTag) || !slices.Equal(servers, []string{server1}) {
				t.Errorf("the server provides %q, and admin is provided by %q", tags, servers)
			}
			w.must(func(tx store.Tx) error { _, err := ForgetServer(tx, w.now, server1); return err })
			if got := w.provided(); len(got) > 0 {
				t.Errorf("of a forgotten server: %q", got)
			}
		})
	}
	w := rack(t)
	nic := w.nic(on(external))
	if changed := do(w, func(tx store.Tx) (bool, error) { return BootedFrom(tx, server1, nic.MAC) }); changed {
		t.Error("an instance's NIC provides a tag")
	}
}
