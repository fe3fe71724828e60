package headnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/answers"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// adminNIC is a NIC of an instance on network admin.
func adminNIC(ip string) api.NetworkNIC {
	return api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, BelongsTo: "00000000-0000-4000-9000-000000000001",
		Addresses: []api.NICAddress{{Network: networks.AdminName, IP: ip}}}
}

// consistent compares everything derived with what it is derived from.
func (h *head) consistent() {
	h.t.Helper()
	if err := h.Server.store.View(context.Background(), networks.Check); err != nil {
		h.t.Error(err)
	}
}

// TestAdminNetwork: DHCP and NICs take addresses of one network, and nothing that has
// an address there loses it to another.
func TestAdminNetwork(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	n := must[api.Network](t)(h.client.Networks().Get(ctx, "admin"))
	if n.Subnet != "127.77.0.0/24" || n.ProvisionStart != "127.77.0.100" || n.ProvisionEnd != "127.77.0.250" || n.NICTag != "admin" {
		t.Fatalf("network admin: %+v", n)
	}
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	for tag, subnet := range map[string]string{"admin": "127.77.0.0/24", "external": "100.64.0.0/10"} {
		if _, err := h.client.Networks().Create(ctx, api.Network{Name: "twin", NICTag: tag, Subnet: subnet}); err == nil {
			t.Errorf("a network %s on NIC tag %s was made", subnet, tag)
		}
	}
	one := h.machine(1)
	one.dhcp("")
	if one.addr.String() != "127.77.0.100" {
		t.Fatalf("the first machine got %s", one.addr)
	}
	for ip, words := range map[string]string{"127.77.0.7": "head node", "127.77.0.3": "time server", "127.77.0.100": one.mac} {
		if _, err := h.client.NICs().Create(ctx, adminNIC(ip)); codeOf(err) != api.CodeInUse || !strings.Contains(err.Error(), words) {
			t.Errorf("a NIC with %s: %v, want %q in it", ip, err, words)
		}
	}
	nic := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, adminNIC("")))
	named := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, adminNIC("127.77.0.102")))
	if nic.Addresses[0].IP != "127.77.0.101" || named.Addresses[0].IP != "127.77.0.102" {
		t.Errorf("NICs got %+v and %+v", nic.Addresses, named.Addresses)
	}
	two := h.machine(2)
	if a := two.ask(api.KindRequest, "", netip.MustParseAddr("127.77.0.101")); a.Verdict != api.VerdictNAK || a.Rule != "taken" {
		t.Errorf("a request for a NIC's address: %+v", a)
	}
	reserve := true
	must[api.IPAddress](t)(h.client.IPs("admin").Update(ctx, "127.77.0.103", api.IPUpdate{Reserved: &reserve}, ""))
	two.dhcp("")
	if two.addr.String() != "127.77.0.104" {
		t.Errorf("the second machine got %s, want 127.77.0.104", two.addr)
	}
	h.consistent()
}

// TestAdminUpdate: what changes in network admin is in the next DHCP answer.
func TestAdminUpdate(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	first, last, gw, dns := "127.77.0.20", "127.77.0.21", "127.77.0.1", []string{"127.77.0.22", "2001:db8::1"}
	must[api.Network](t)(h.client.Networks().Update(ctx, "admin", api.NetworkUpdate{ProvisionStart: &first, ProvisionEnd: &last, Gateway: &gw, Resolvers: &dns}, ""))
	m := h.machine(1)
	a := m.dhcp("")
	if m.addr.String() != first || a.Gateway.String() != gw || len(a.DNS) != 1 || a.DNS[0].String() != dns[0] {
		t.Errorf("after the update a machine got %s, answer %+v", m.addr, a)
	}
	d := must[api.Datacenter](t)(h.client.Datacenter(ctx))
	if !slices.Equal(d.Admin.Range, []string{first, last}) || d.Admin.Gateway != gw || !slices.Equal(d.Admin.DNS, dns[:1]) || d.AddressCap != 2 || d.AddressUse != 1 {
		t.Errorf("datacenter: %+v", d)
	}
	other := "127.77.0.20"
	if _, err := h.client.Networks().Update(ctx, "admin", api.NetworkUpdate{Gateway: &other}, ""); codeOf(err) != api.CodeInUse || !strings.Contains(err.Error(), m.mac) {
		t.Errorf("a leased address as gateway: %v", err)
	}
	h.advance(13 * time.Hour) // the lease is over
	must[api.Network](t)(h.client.Networks().Update(ctx, "admin", api.NetworkUpdate{Gateway: &other}, ""))
	if a := m.ask(api.KindDiscover, "", netip.Addr{}); a.Address.Addr().String() != last || a.Gateway.String() != other {
		t.Errorf("after its former address became the gateway: %+v", a)
	}
	must[api.Network](t)(h.client.Networks().Update(ctx, "admin", api.NetworkUpdate{Gateway: &gw}, ""))
	if m.dhcp(""); m.addr.String() != last {
		t.Errorf("the former gateway was given out: %s", m.addr)
	}
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, adminNIC("")))
	full := h.machine(3).ask(api.KindDiscover, "", netip.Addr{})
	if full.Rule != "range-full" || !strings.Contains(full.Reason, "1 by NICs and reservations") ||
		!strings.Contains(full.Change, "nereid network update admin --start FIRST --end LAST") {
		t.Errorf("full range: %+v", full)
	}
	// A lease that is over makes room for a NIC, asked for or not.
	if _, err := h.client.NICs().Create(ctx, adminNIC("")); codeOf(err) != api.CodeConflict {
		t.Errorf("a NIC in a full network: %v", err)
	}
	h.advance(13 * time.Hour)
	if nic := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, adminNIC(""))); nic.Addresses[0].IP != last {
		t.Errorf("the NIC got %+v", nic.Addresses)
	}
	if a := m.ask(api.KindRequest, "", m.addr); a.Verdict != api.VerdictNAK {
		t.Errorf("a renewal of an address that went to a NIC: %+v", a)
	}
	h.consistent()
}

// oldLease writes a lease as head nodes did before network admin was.
func oldLease(tx store.Tx, ip, mac, state, server string, expires time.Time) error {
	a := netip.MustParseAddr(ip).As4()
	key := fmt.Sprintf("%02x%02x%02x%02x", a[0], a[1], a[2], a[3])
	l := map[string]any{"address": ip, "mac": mac, "state": state, "server": server, "since": expires, "renewed": expires, "expires": expires}
	b, err := json.Marshal(l)
	if err == nil {
		err = tx.Put("address/ip/"+key, b)
	}
	if err == nil {
		err = store.Put(tx, "address/mac/"+mac, ip)
	}
	if err == nil && state != "reserved" {
		err = tx.Put(fmt.Sprintf("address/expiry/%016x/%s", expires.Unix(), key), []byte(state))
	}
	return err
}

// TestAdminTakeOver: a store of before, with leases and without network admin. Two
// starts later every machine still has its address and no NIC can get it.
func TestAdminTakeOver(t *testing.T) {
	dir := initDir(t, 102)
	ctx := context.Background()
	now := time.Now()
	st := must[*store.Bolt](t)(store.OpenBolt(ctx, filepath.Join(dir, storeFile), store.BoltOptions{}))
	err := st.Update(ctx, func(tx store.Tx) error {
		for _, l := range []struct {
			ip, mac, state, server string
			expires                time.Time
		}{
			{"127.77.0.100", "52:54:00:00:00:01", "reserved", "00000000-0000-4000-8000-000000000001", time.Time{}},
			{"127.77.0.101", "52:54:00:00:00:02", "leased", "", now.Add(time.Hour)},
			{"127.77.0.102", "52:54:00:00:00:03", "leased", "", now.Add(-time.Hour)},
			{"127.77.0.50", "52:54:00:00:00:04", "reserved", "00000000-0000-4000-8000-000000000004", time.Time{}}, // of an earlier range
		} {
			if err := oldLease(tx, l.ip, l.mac, l.state, l.server, l.expires); err != nil {
				return err
			}
		}
		return tx.Put("address/cursor", []byte(`{}`))
	})
	if err = errors.Join(err, st.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		h := startIn(t, dir)
		h.consistent()
		for i, want := range []string{"127.77.0.100", "127.77.0.101"} {
			m := h.machine(i + 1)
			if m.dhcp(""); m.addr.String() != want {
				t.Errorf("machine %d has %s now, want %s", i+1, m.addr, want)
			}
		}
		for ip, words := range map[string]string{"127.77.0.100": "52:54:00:00:00:01", "127.77.0.101": "52:54:00:00:00:02", "127.77.0.50": "52:54:00:00:00:04"} {
			if _, err := h.client.NICs().Create(ctx, adminNIC(ip)); codeOf(err) != api.CodeInUse || !strings.Contains(err.Error(), words) {
				t.Errorf("a NIC with %s: %v, want %q in it", ip, err, words)
			}
		}
		h.stop()
	}
	h := startIn(t, dir)
	if nic := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, adminNIC("127.77.0.102"))); nic.Addresses[0].IP != "127.77.0.102" {
		t.Errorf("the address of a lease that is over: %+v", nic.Addresses)
	}
	h.consistent()
}

// TestInitAgain names the command that changes what another answers file says.
func TestInitAgain(t *testing.T) {
	dir := initDir(t, 250)
	for text, want := range map[string]string{
		fmt.Sprintf(sampleAnswers, 250):                            "",
		fmt.Sprintf(sampleAnswers, 251):                            "nereid network update admin --start 127.77.0.100 --end 127.77.0.251 --gateway '' --resolver ''",
		fmt.Sprintf(sampleAnswers, 250) + `gateway = "127.77.0.1"`: "--gateway '127.77.0.1'",
	} {
		a := must[answers.Answers](t)(answers.Parse(strings.NewReader(text), "test"))
		err := Init(context.Background(), dir, a)
		if err == nil || !strings.Contains(err.Error(), want) || want == "" && strings.Contains(err.Error(), "network update") {
			t.Errorf("init again: %v, want %q in it", err, want)
		}
	}
}

// TestBootNICProvidesAdmin: an instance's NIC can be on network admin of any server,
// and after an upgrade too.
func TestBootNICProvidesAdmin(t *testing.T) {
	h, ms := fabricRack(t, 1)
	ctx := context.Background()
	m := ms[0]
	check := func(h *head) {
		t.Helper()
		uses := must[[]api.NICTagUse](t)(h.client.ProvidedNICTags(ctx, m.uuid))
		if !slices.ContainsFunc(uses, func(u api.NICTagUse) bool { return u.MAC == m.mac && slices.Equal(u.NICTags, []string{"admin"}) }) {
			t.Errorf("NIC tags of the server: %+v", uses)
		}
	}
	check(h)
	n := adminNIC("")
	n.Server = m.uuid
	nic := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, n))
	ports := m.mustSync().Spec.Network.Ports
	if len(ports) != 1 || ports[0].Tag != "admin" || ports[0].Addresses[0].Address != nic.Addresses[0].IP+"/24" {
		t.Errorf("ports %+v", ports)
	}
	h.stop()
	// A store of before: no networks, and what DHCP and the inventory knew.
	st := must[*store.Bolt](t)(store.OpenBolt(ctx, filepath.Join(h.dir, storeFile), store.BoltOptions{}))
	err := st.Update(ctx, func(tx store.Tx) error {
		for it, err := range tx.Scan(networks.Prefix, "") {
			if err == nil {
				err = tx.Delete(it.Key)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err = errors.Join(err, st.Close()); err != nil {
		t.Fatal(err)
	}
	again := startIn(t, h.dir)
	check(again)
	again.consistent()
	if ip := must[api.IPAddress](t)(again.client.IPs("admin").Get(ctx, m.addr.String())); ip.MAC != m.mac || ip.BelongsTo != m.uuid {
		t.Errorf("the server's address: %+v", ip)
	}
}

// TestNICAsksDHCP: an instance on network admin that speaks DHCP, or boots, gets the
// address of its NIC, and no other machine does.
func TestNICAsksDHCP(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	h.platform("20261122T101500Z")
	nic := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, adminNIC("127.77.0.120")))
	m := h.machine(1)
	m.mac = nic.MAC
	m.nics = []string{m.mac}
	if a := m.dhcp(""); a.Address.String() != "127.77.0.120/24" || a.Rule != "nic-address" {
		t.Errorf("the instance's NIC: %+v", a)
	}
	if a := m.ask(api.KindRequest, "", netip.MustParseAddr("127.77.0.100")); a.Verdict != api.VerdictNAK || a.Rule != "wrong-address" {
		t.Errorf("another address for the NIC: %+v", a)
	}
	if a := m.ask(api.KindInform, "", netip.Addr{}); a.Address.String() != "127.77.0.120/24" {
		t.Errorf("inform: %+v", a)
	}
	m.ask(api.KindDecline, "", m.addr)
	m.ask(api.KindRelease, "", m.addr)
	m.powerOn() // from DHCP to its configuration
	if m.cfg.Network.Address.String() != "127.77.0.120/24" {
		t.Errorf("the configuration of its boot: %+v", m.cfg.Network)
	}
	if ip := must[api.IPAddress](t)(h.client.IPs("admin").Get(ctx, "127.77.0.120")); ip.BelongsToType != api.BelongsToOther || ip.MAC != nic.MAC {
		t.Errorf("the address: %+v", ip)
	}
	h.consistent()
}

// TestAdminConcurrent: machines, NICs and reservations at once never share an address.
func TestAdminConcurrent(t *testing.T) {
	h := startHead(t)
	ctx := context.Background()
	var mu sync.Mutex
	has := map[string]string{}
	got := func(ip, who string) {
		mu.Lock()
		defer mu.Unlock()
		if other, twice := has[ip]; twice && other != who {
			t.Errorf("%s went to %s and to %s", ip, other, who)
		}
		has[ip] = who
	}
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() { // a machine asks until it gets what it was offered
			r := api.BootRequest{MAC: fmt.Sprintf("00:16:3e:00:01:%02x", i), VendorClass: "PXEClient:Arch:00007"}
			for {
				r.Kind, r.Requested = api.KindDiscover, netip.Addr{}
				o, err := h.Boot(ctx, r)
				if err != nil || o.Verdict != api.VerdictAnswer {
					t.Errorf("discover: %+v %v", o, err)
					return
				}
				r.Kind, r.Requested = api.KindRequest, o.Address.Addr()
				if a, err := h.Boot(ctx, r); err != nil {
					t.Error(err)
					return
				} else if a.Verdict == api.VerdictAnswer {
					got(a.Address.Addr().String(), r.MAC)
					return
				}
			}
		})
		wg.Go(func() {
			nic, err := h.client.NICs().Create(ctx, adminNIC(""))
			if err != nil {
				t.Error(err)
				return
			}
			got(nic.Addresses[0].IP, nic.MAC)
		})
	}
	wg.Wait()
	if len(has) != 80 {
		t.Errorf("%d addresses for 80", len(has))
	}
	h.consistent()
}
