package headnode

import (
	"context"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"nereid/api"
)

// wantEffects runs a change that must be refused with just these side effects (parts
// of them, in order), does nothing, and is done with the answer's confirm.
func wantEffects(t *testing.T, what string, change func(ctx context.Context) error, want ...string) {
	t.Helper()
	err := change(context.Background())
	wantCode(t, what, err, api.CodeSideEffects)
	var p *api.Problem
	if !errors.As(err, &p) {
		return
	}
	if p.Status != 409 || p.Confirm == "" || len(p.Errors) != len(want) {
		t.Errorf("%s: %+v; want %d side effects", what, p, len(want))
	}
	for i, w := range want {
		if i < len(p.Errors) && !strings.Contains(p.Errors[i], w) {
			t.Errorf("%s: side effect %q; want %q in it", what, p.Errors[i], w)
		}
	}
	wantCode(t, what+", agreed to something else", change(api.WithConfirm(context.Background(), "0123456789ab")), api.CodeSideEffects)
	if err := change(api.WithConfirm(context.Background(), p.Confirm)); err != nil {
		t.Errorf("%s, agreed to: %v", what, err)
	}
}

// A change of a NIC that changes its instance's other NICs, or ends rules, says so and
// waits for an agreement.
func TestEffectsOfNICs(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "external", NICTag: "external", Subnet: "10.88.88.0/24"}))
	block := must[api.FirewallRule](t)(h.client.FirewallRules().Create(ctx, api.FirewallRule{Owner: alice, Enabled: true, Rule: "FROM any TO tag role = web BLOCK tcp PORT 22"}))
	allow := must[api.FirewallRule](t)(h.client.FirewallRules().Create(ctx, api.FirewallRule{Owner: alice, Enabled: true, Rule: "FROM any TO tag app = x ALLOW tcp PORT 80"}))
	const instance, other = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	nic := func(ctx context.Context, n api.NetworkNIC) (api.NetworkNIC, error) {
		n.Owner, n.BelongsToType, n.Addresses = alice, api.BelongsToOther, []api.NICAddress{{Network: "external"}}
		if n.BelongsTo == "" {
			n.BelongsTo = instance
		}
		return h.client.NICs().Create(ctx, n)
	}
	first := must[api.NetworkNIC](t)(nic(ctx, api.NetworkNIC{Primary: true, Tags: map[string]string{"role": "web"}}))
	same := must[api.NetworkNIC](t)(nic(ctx, api.NetworkNIC{Tags: map[string]string{"role": "web"}}))
	tagsOf := func(mac string) string {
		return tagsText(must[api.NetworkNIC](t)(h.client.NICs().Get(ctx, mac)).Tags)
	}

	_, err := nic(ctx, api.NetworkNIC{Tags: map[string]string{"app": "x"}})
	wantCode(t, "other tags", err, api.CodeSideEffects)
	if got := tagsOf(first.MAC); got != "role=web" {
		t.Errorf("a refused change left the tags %s", got)
	}
	macs := []string{first.MAC, same.MAC}
	slices.Sort(macs)
	rules := []string{"rule " + block.UUID + " is no longer about instance " + instance, "rule " + allow.UUID + " is about instance"}
	if allow.UUID < block.UUID {
		slices.Reverse(rules)
	}
	var third api.NetworkNIC
	wantEffects(t, "nic create --tag", func(ctx context.Context) (err error) {
		third, err = nic(ctx, api.NetworkNIC{Tags: map[string]string{"app": "x"}})
		return err
	}, "NIC "+macs[0]+" of the same instance has the firewall tags app=x, not role=web", "NIC "+macs[1], rules[0], rules[1])
	if got := tagsOf(first.MAC) + tagsOf(third.MAC); got != "app=xapp=x" {
		t.Errorf("tags %s", got)
	}

	back := map[string]string{"role": "web"}
	wantEffects(t, "nic update --tag", func(ctx context.Context) error {
		_, err := h.client.NICs().Update(ctx, third.MAC, api.NICUpdate{Tags: &back}, "")
		return err
	}, "has the firewall tags role=web, not app=x", "role=web", "rule ", "rule ")
	yes := true
	wantEffects(t, "nic update --primary", func(ctx context.Context) error {
		_, err := h.client.NICs().Update(ctx, third.MAC, api.NICUpdate{Primary: &yes}, "")
		return err
	}, "NIC "+first.MAC+" of the same instance is no longer primary")
	wantEffects(t, "nic delete of the primary", func(ctx context.Context) error { return h.client.NICs().Delete(ctx, third.MAC) },
		"instance "+instance+" keeps 2 NICs and no primary one")

	must[api.NetworkNIC](t)(nic(ctx, api.NetworkNIC{BelongsTo: other, Tags: map[string]string{"app": "x"}}))
	to := other
	wantEffects(t, "nic update --belongs-to", func(ctx context.Context) error {
		_, err := h.client.NICs().Update(ctx, same.MAC, api.NICUpdate{BelongsTo: &to}, "")
		return err
	}, "NIC "+same.MAC+" takes the firewall tags of its new instance: app=x, not role=web", "rule ", "rule ")

	// What changes nothing else asks nothing.
	if err := h.client.NICs().Delete(ctx, first.MAC); err != nil {
		t.Errorf("the last NIC of an instance: %v", err)
	}
}

// What provides a NIC tag on a server does not change without a word.
func TestEffectsOfNICTags(t *testing.T) {
	h, ms := fabricRack(t, 1)
	ctx := context.Background()
	m := ms[0]
	m.nics = append(m.nics, "52:54:00:00:02:01", "52:54:00:00:02:02")
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	info := m.sysinfo()
	if _, _, err := m.syncWith(api.SyncRequest{Seen: m.seen, InventoryDigest: "d2", Inventory: &info, Report: m.rep}); err != nil {
		t.Fatal(err)
	}
	provides := func(want string) {
		t.Helper()
		uses := must[[]api.NICTagUse](t)(h.client.ProvidedNICTags(ctx, m.uuid))
		bonds := ""
		for b, err := range h.client.Bonds(m.uuid).All(ctx, nil) {
			if err != nil {
				t.Fatal(err)
			}
			bonds += b.Name + ":" + strings.Join(b.NICTags, ",") + " "
		}
		for _, u := range uses {
			if u.MAC == m.mac {
				continue // it provides admin
			}
			bonds += u.MAC[12:] + ":" + strings.Join(u.NICTags, ",") + " "
		}
		if got := strings.TrimSpace(bonds); got != want {
			t.Errorf("provided: %s, want %s", got, want)
		}
	}
	provides("01:01:underlay")
	put := func(mac string, tags ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			return h.client.ProvideNICTags(ctx, m.uuid, api.NICTagUse{MAC: mac, NICTags: tags})
		}
	}
	if err := put(m.nics[2], "external")(ctx); err != nil {
		t.Errorf("a tag that nothing provides: %v", err)
	}
	wantEffects(t, "nictag provide", put(m.nics[2], "external", "underlay"),
		"NIC tag underlay of server "+h.server(m.uuid).Hostname+" moves from NIC "+m.nics[1]+" to NIC "+m.nics[2]+", and with it the underlay address 10.77.0.11")
	provides("02:01:external,underlay")
	wantEffects(t, "bond set", func(ctx context.Context) error {
		_, err := h.client.Bonds(m.uuid).Create(ctx, api.Bond{Name: "bond0", Mode: "active-backup", MACs: []string{m.nics[3]}, NICTags: []string{"underlay"}})
		return err
	}, "NIC tag underlay of server "+h.server(m.uuid).Hostname+" moves from NIC "+m.nics[2]+" to bond bond0")
	provides("bond0:underlay 02:01:external")
	if _, err := h.client.Bonds(m.uuid).Create(ctx, api.Bond{Name: "bond1", Mode: "active-backup", MACs: []string{m.nics[2]}, NICTags: []string{"external"}}); err != nil {
		t.Errorf("a member's tags go into its bond as named: %v", err)
	}
	wantEffects(t, "nictag provide from a bond", put(m.nics[1], "underlay"), "moves from bond bond0 to NIC "+m.nics[1])
}

// What runs on a network, a NIC tag or by a server's NAT is told before it changes.
func TestEffectsOfNetworks(t *testing.T) {
	h, rack := objectRack(t)
	ctx := context.Background()
	server, web := rack["/v1/servers/{id}"]["id"], rack["/v1/accounts/{owner}/fabric/vlans/{vlan}/networks/{id}"]["id"]
	off, mtu, gateway := false, 8000, "10.0.1.9"
	wantEffects(t, "network update", func(ctx context.Context) error {
		_, err := h.client.Networks().Update(ctx, web, api.NetworkUpdate{MTU: &mtu, Gateway: &gateway}, "")
		return err
	}, "1 NIC on network web: MTU 8000, not 8950; the gateway 10.0.1.9, not 10.0.1.1")
	name, what := "front", "of shops"
	if _, err := h.client.Networks().Update(ctx, web, api.NetworkUpdate{Name: &name, Description: &what}, ""); err != nil {
		t.Errorf("what NICs do not have: %v", err)
	}
	wantEffects(t, "nictag update", func(ctx context.Context) error {
		_, err := h.client.NICTags().Update(ctx, "external", api.NICTagUpdate{MTU: &mtu}, "")
		return err
	}, "what provides it on 1 server gets MTU 8000, not 1500")
	for n, err := range h.client.NICs().All(ctx, url.Values{"belongs_to": {server}}) {
		if err != nil {
			t.Fatal(err)
		}
		if n.Underlay {
			continue
		}
		wantEffects(t, "nic delete of a server's address for NAT", func(ctx context.Context) error { return h.client.NICs().Delete(ctx, n.MAC) },
			"has no address for NAT: connections of its own instances and of 1 account")
	}
	wantEffects(t, "network update --internet-nat=false", func(ctx context.Context) error {
		_, err := h.client.Networks().Update(ctx, web, api.NetworkUpdate{InternetNAT: &off}, "")
		return err
	}, "no way outside by NAT")
}
