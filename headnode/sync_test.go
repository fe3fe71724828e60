package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/store"
)

// portRack is a head node with a server that runs, and a network external there.
func portRack(t *testing.T) (*head, *machine) {
	t.Helper()
	h, ms := fabricRack(t, 1)
	ctx := context.Background()
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "external", NICTag: "external", Subnet: "10.9.0.0/16", Gateway: "10.9.0.1", ProvisionStart: "10.9.1.0"}))
	if err := h.client.ProvideNICTags(ctx, ms[0].uuid, api.NICTagUse{MAC: ms[0].nics[0], NICTags: []string{"admin", "external"}}); err != nil {
		t.Fatal(err)
	}
	return h, ms[0]
}

// zoneNIC makes an instance's NIC.
func (m *machine) zoneNIC(instance int) api.NetworkNIC {
	m.h.t.Helper()
	return must[api.NetworkNIC](m.h.t)(m.h.client.NICs().Create(context.Background(), api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToOther, Server: m.uuid,
		BelongsTo: fmt.Sprintf("00000000-0000-4000-9000-%012d", instance), Addresses: []api.NICAddress{{Network: "external"}}}))
}

// A change of a NIC comes as a delta of the set of ports, at once, and is nothing in the
// server's record.
func TestPortsFollowed(t *testing.T) {
	h, m := portRack(t)
	ctx := context.Background()
	first := m.zoneNIC(1)
	if out := m.mustSync(); len(m.ports) != 1 || out.Spec == nil {
		t.Fatalf("ports %+v", m.ports)
	}
	m.mustDrain()

	// A held poll is answered with the change and nothing else.
	h.cfg.Hold = time.Minute
	type answer struct {
		out api.SyncResponse
		err error
	}
	polled := make(chan answer)
	poll := func() {
		_, out, err := m.sync()
		polled <- answer{out, err}
	}
	for _, c := range []struct {
		what   string
		change func()
	}{
		{"made", func() { m.zoneNIC(2) }},
		{"changed", func() {
			primary := true
			must[api.NetworkNIC](t)(h.client.NICs().Update(ctx, first.MAC, api.NICUpdate{Primary: &primary}, ""))
		}},
		{"network", func() {
			routes := map[string]string{"10.20.0.0/16": "10.9.0.7"}
			must[api.Network](t)(h.client.Networks().Update(api.WithConfirm(ctx, api.ConfirmAll), "external", api.NetworkUpdate{Routes: &routes}, ""))
		}},
	} {
		before := h.server(m.uuid).Revision
		go poll()
		c.change()
		a := <-polled
		if a.err != nil || len(a.out.Deltas) != 1 || a.out.Deltas[0].Full || len(a.out.Deltas[0].Put) == 0 {
			t.Errorf("%s: %v, answer %+v", c.what, a.err, a.out)
		}
		m.mustDrain()
		// That of a network is also of what servers have themselves on it.
		if now := h.server(m.uuid).Revision; now != before && c.what != "network" {
			t.Errorf("%s: the server's revision is %s, and was %s", c.what, now, before)
		}
	}
}

// mustDrain syncs until there is no news.
func (m *machine) mustDrain() {
	m.h.t.Helper()
	hold := m.h.cfg.Hold
	m.h.cfg.Hold = 10 * time.Millisecond
	defer func() { m.h.cfg.Hold = hold }()
	for range 100 {
		st, _, err := m.sync()
		if err != nil {
			m.h.t.Fatal(err)
		}
		if st == http.StatusNoContent {
			return
		}
	}
	m.h.t.Fatal("there is always news")
}

// A server follows its own sets and no others.
func TestFollowRefused(t *testing.T) {
	_, m := portRack(t)
	other := "00000000-0000-4000-8000-000000000099"
	for _, follow := range [][]api.Follow{
		{{Set: api.PortSet(other)}},
		{{Set: api.PortSet(m.uuid)}, {Set: api.PortSet(other)}},
		{{Set: "vni/7"}},
		{{Set: "server/" + m.uuid}},
		{{Set: api.ServerNATSet(m.uuid)}, {Set: api.ServerNATSet(other)}},
	} {
		set := follow[len(follow)-1].Set
		_, err := m.post(m.h.ca.Pool(), "/v1/servers/"+m.uuid+"/sync", api.SyncRequest{Report: m.rep, Follow: follow}, &api.SyncResponse{})
		wantCode(t, set, err, api.CodeForbidden)
		if err == nil || !strings.Contains(err.Error(), set) {
			t.Errorf("the refusal of set %s does not name it: %v", set, err)
		}
	}
	_, err := m.post(m.h.ca.Pool(), "/v1/servers/"+m.uuid+"/sync", api.SyncRequest{Report: m.rep, Follow: []api.Follow{{Set: api.PortSet(m.uuid)}, {Set: api.PortSet(m.uuid)}}}, &api.SyncResponse{})
	wantCode(t, "twice", err, api.CodeInvalid)

	// A map is refused by itself: what is on a server may have changed since it asked.
	// The rest of the sync is as good as ever.
	m.zoneNIC(1)
	theirs := api.RuleSet(bob)
	follow := []api.Follow{{Set: "vni/000007"}, {Set: api.PortSet(m.uuid)}, {Set: api.RuleSet("")}, {Set: theirs}, {Set: api.RuleSet(alice)}, {Set: api.ServerNATSet(m.uuid)},
		{Set: api.NetworkSet(bob)}, {Set: api.NATSet(bob)}, {Set: api.NetworkSet(alice)}} // of alice there is a NIC here, on no fabric
	var out api.SyncResponse
	if _, err := m.post(m.h.ca.Pool(), "/v1/servers/"+m.uuid+"/sync", api.SyncRequest{Report: m.rep, Follow: follow}, &out); err != nil {
		t.Fatal(err)
	}
	if len(out.Deltas) != 4 || out.Deltas[0].Set != api.PortSet(m.uuid) || len(out.Refused) != 5 || out.Refused[2].Set != api.NetworkSet(bob) || out.Refused[3].Set != api.NATSet(bob) || out.Refused[4].Set != api.NetworkSet(alice) || out.Refused[0].Set != "vni/000007" || out.Refused[1].Set != theirs {
		t.Fatalf("answer %+v", out)
	}
	if why := out.Refused[1].Why; why.Code != api.CodeForbidden || !strings.Contains(why.Detail, bob) || !strings.Contains(why.Detail, m.uuid) {
		t.Errorf("the refusal of another account's rules: %+v", why)
	}
	if why := out.Refused[0].Why; why.Code != api.CodeForbidden || !strings.Contains(why.Detail, "VNI 7") || !strings.Contains(why.Detail, m.uuid) {
		t.Errorf("the refusal of a map: %+v", why)
	}
}

// An agent that follows nothing is told nothing of its network, which it keeps, and the
// server says which platform to boot.
func TestOldAgent(t *testing.T) {
	h, m := portRack(t)
	m.zoneNIC(1)
	m.old, m.seen = true, ""
	if n := m.mustSync().Spec.Network; n != nil {
		t.Errorf("it is told %+v", n)
	}
	alerts := func() string { return strings.Join(h.server(m.uuid).Alerts, "\n") }
	if got := alerts(); !strings.Contains(got, "platform 20261122T101500Z is older than this head node") || !strings.Contains(got, "build and import a newer platform") {
		t.Errorf("alerts %q", got)
	}
	h.platform("20261201T101500Z")
	if got, want := alerts(), "boot platform 20261201T101500Z: nereid platform assign 20261201T101500Z "+h.server(m.uuid).Hostname; !strings.Contains(got, want) {
		t.Errorf("alerts %q, want %q", got, want)
	}
	// One that follows its ports, and has its rules from its spec, or its routers, as those of
	// the last platforms: it keeps its NICs with these, and what else it follows.
	m.zoneNIC(2)
	for what, more := range map[string][]api.Follow{"rules": nil, "NAT": {{Set: api.RuleSet("")}}} {
		var out api.SyncResponse
		follow := append([]api.Follow{{Set: api.PortSet(m.uuid)}, {Set: api.ImageSet(m.uuid)}}, more...)
		if _, err := m.post(m.h.ca.Pool(), "/v1/servers/"+m.uuid+"/sync", api.SyncRequest{Report: m.rep, Follow: follow}, &out); err != nil {
			t.Fatal(err)
		}
		if out.Spec == nil || out.Spec.Network != nil || len(out.Deltas) != 1+len(more) || out.Deltas[0].Set != api.ImageSet(m.uuid) {
			t.Errorf("an agent that follows no %s is told %+v", what, out)
		}
		if got := alerts(); !strings.Contains(got, "the network stays as it is") {
			t.Errorf("alerts %q", got)
		}
	}
	m.old, m.seen = false, ""
	if n := m.mustSync().Spec.Network; n == nil || len(n.Ports) != 2 {
		t.Errorf("a new one is told %+v", n)
	}
	if got := alerts(); got != "" {
		t.Errorf("alerts %q", got)
	}
}

// A snapshot is cut by size; the agent has all of it after its last part.
func TestPortsInParts(t *testing.T) {
	h, m := portRack(t)
	ctx := context.Background()
	// Routes make a port large: a few are more than an answer.
	routes := map[string]string{}
	for i := range 60 {
		routes[fmt.Sprintf("10.%d.0.0/16", 100+i)] = "10.9.0.7"
	}
	must[api.Network](t)(h.client.Networks().Update(ctx, "external", api.NetworkUpdate{Routes: &routes}, ""))
	const nics = 600
	for i := range nics {
		m.zoneNIC(i)
	}
	m.follow, m.ports = api.Follow{}, nil
	answers := 0
	for {
		st, out, err := m.syncWith(api.SyncRequest{Seen: m.seen, InventoryDigest: "d1", Report: m.rep})
		if err != nil {
			t.Fatal(err)
		}
		if st == http.StatusNoContent {
			break
		}
		answers++
		b, err := json.Marshal(out.Deltas)
		if err != nil || len(b) > maxDeltas*3/2 {
			t.Errorf("an answer of %d bytes: %v", len(b), err)
		}
	}
	if answers < 2 || len(m.ports) != nics {
		t.Errorf("%d ports after %d answers", len(m.ports), answers)
	}
}

// A head node that is restored from a backup names as gone only what was gone then. A
// server that saw more is sent a snapshot.
func TestPortsRestored(t *testing.T) {
	h, m := portRack(t)
	ctx := context.Background()
	a, b := m.zoneNIC(1), m.zoneNIC(2)
	m.mustDrain()
	backup := filepath.Join(t.TempDir(), "backup")
	h.stop()
	copyFile(t, filepath.Join(h.dir, storeFile), backup)
	old := m.follow

	h = startIn(t, h.dir)
	m.h = h
	c := m.zoneNIC(3)
	if err := h.client.NICs().Delete(ctx, a.MAC); err != nil {
		t.Fatal(err)
	}
	m.mustDrain()
	if m.follow.Epoch == old.Epoch || len(m.ports) != 2 {
		t.Fatalf("after a new start: %+v, ports %v", m.follow, m.ports)
	}
	h.stop()
	copyFile(t, backup, filepath.Join(h.dir, storeFile))

	h = startIn(t, h.dir)
	m.h = h
	_, out, err := m.sync()
	if err != nil || len(out.Deltas) != 1 {
		t.Fatalf("answer %+v: %v", out, err)
	}
	if d := out.Deltas[0]; !d.Full || len(d.Put) != 2 || len(d.Gone) != 0 {
		t.Errorf("restored: %+v", d)
	}
	for _, n := range []api.NetworkNIC{a, b} {
		if _, there := m.ports[api.PortKey(n.MAC, n.BelongsTo)]; !there {
			t.Errorf("NIC %s of the backup is not told of", n.MAC)
		}
	}
	// What the server has besides is reported, and can be made known again.
	m.rep.UnexpectedNICs = []api.UnexpectedNIC{{MAC: c.MAC, Instance: c.BelongsTo, Owner: alice, Tag: "external", Addresses: []string{c.Addresses[0].IP + "/16"}}}
	m.mustSync()
	if all := strings.Join(h.server(m.uuid).Alerts, "\n"); !strings.Contains(all, "nereid nic create --mac "+c.MAC) {
		t.Errorf("alerts %q", all)
	}
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{MAC: c.MAC, Server: m.uuid, Owner: alice, BelongsTo: c.BelongsTo, BelongsToType: api.BelongsToOther,
		Addresses: []api.NICAddress{{Network: "external", IP: c.Addresses[0].IP}}}))
	m.mustDrain()
	if _, there := m.ports[api.PortKey(c.MAC, c.BelongsTo)]; !there || len(m.ports) != 3 {
		t.Errorf("adopted: ports %v", m.ports)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// networkApplied is true once the server has said so of the ports, and of accounts' sets,
// as they are.
func TestNetworkApplied(t *testing.T) {
	h, m := portRack(t)
	say := func() bool {
		t.Helper()
		m.rep.AppliedNetwork = m.seen
		use := api.Usage{Network: &api.NetworkReport{Ports: fmt.Sprintf("%s:%d", m.follow.Epoch, m.follow.Since),
			Sets: api.Versions(m.sets.follow(t, m.uuid, m.ports, m.unknown()))}}
		if _, _, err := m.syncWith(api.SyncRequest{Seen: m.seen, InventoryDigest: "d1", Report: m.rep, Usage: use}); err != nil {
			t.Fatal(err)
		}
		return h.server(m.uuid).NetworkApplied
	}
	m.mustDrain()
	if h.server(m.uuid).NetworkApplied {
		t.Error("applied, before it said so")
	}
	if !say() {
		t.Error("not applied without ports")
	}
	m.zoneNIC(1)
	if h.server(m.uuid).NetworkApplied {
		t.Error("applied, and it has not heard of a NIC")
	}
	m.mustDrain()
	if !say() {
		t.Error("not applied with a port")
	}
	must[api.FirewallRule](t)(h.client.FirewallRules().Create(t.Context(), api.FirewallRule{Owner: alice, Enabled: true, Rule: "FROM any TO all vms ALLOW tcp PORT 22"}))
	if h.server(m.uuid).NetworkApplied {
		t.Error("applied, and it has not heard of a rule")
	}
	m.mustDrain()
	if h.server(m.uuid).NetworkApplied {
		t.Error("applied, and it has only heard of a rule")
	}
	if !say() {
		t.Error("not applied with a rule")
	}
}

// spy is a transaction that notes the keys that are read and written.
type spy struct {
	store.Tx
	read, wrote []string
}

func (s *spy) Get(key string) ([]byte, error) {
	s.read = append(s.read, key)
	return s.Tx.Get(key)
}

func (s *spy) GetAll(keys ...string) ([][]byte, error) {
	s.read = append(s.read, keys...)
	return s.Tx.GetAll(keys...)
}

func (s *spy) Scan(prefix, after string) iter.Seq2[store.Item, error] {
	s.read = append(s.read, prefix)
	return s.Tx.Scan(prefix, after)
}

func (s *spy) Put(key string, value []byte) error {
	s.wrote = append(s.wrote, key)
	return s.Tx.Put(key, value)
}

// A NIC that is made reads no rule, its account's or global, and writes no server's
// record; it is put into the sets of addresses that rules name so.
func TestNICReadsNoRule(t *testing.T) {
	h, m := portRack(t)
	ctx := context.Background()
	for _, r := range []api.FirewallRule{{Owner: alice, Rule: "FROM tag app TO all vms ALLOW tcp PORT 5432"}, {Global: true, Rule: "FROM all vms TO tag mon ALLOW tcp PORT 9100"}} {
		r.Enabled = true
		must[api.FirewallRule](t)(h.client.FirewallRules().Create(ctx, r))
	}
	for i, tags := range []map[string]string{nil, {"app": "1", "mon": "2"}} {
		var s *spy
		err := h.Server.store.Update(ctx, func(tx store.Tx) error {
			s = &spy{Tx: tx}
			c, err := h.Server.createNIC(s, api.NetworkNIC{Owner: alice, BelongsToType: api.BelongsToZone, Server: m.uuid, Tags: tags,
				BelongsTo: fmt.Sprintf("00000000-0000-4000-9000-%012d", i), Addresses: []api.NICAddress{{Network: "external"}}}, nil)
			_, err = h.Server.nicChanged(s, c, err)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		named := 0
		for _, key := range s.read {
			for _, rules := range []string{"firewall/rule/", "firewall/owner/", "firewall/global/", "journal/entry/" + api.RuleSet("")} {
				if strings.HasPrefix(key, rules) {
					t.Errorf("tags %v: reads %s", tags, key)
				}
			}
		}
		for _, key := range s.wrote {
			if strings.HasPrefix(key, inventory.ServerPrefix) {
				t.Errorf("tags %v: writes %s", tags, key)
			}
			if strings.HasPrefix(key, "journal/set/account/") {
				named++
			}
		}
		if want := 2 + 2*i; named != want { // all of its account and of everybody; its tags of both
			t.Errorf("tags %v: is put into %d sets, want %d", tags, named, want)
		}
	}
}

// A NIC tells the servers whose rules it changes, and no others.
func TestRulesTellWhomTheyConcern(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "external", NICTag: "external", Subnet: "10.9.0.0/16", ProvisionStart: "10.9.1.0"}))
	for _, m := range ms {
		if err := h.client.ProvideNICTags(ctx, m.uuid, api.NICTagUse{MAC: m.nics[0], NICTags: []string{"admin", "external"}}); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	nic := func(on *machine, owner, tag string) api.NetworkNIC {
		t.Helper()
		n++
		in := api.NetworkNIC{Owner: owner, BelongsToType: api.BelongsToOther, Server: on.uuid, Addresses: []api.NICAddress{{Network: "external"}},
			BelongsTo: fmt.Sprintf("00000000-0000-4000-9000-%012d", n)}
		if tag != "" {
			in.Tags = map[string]string{tag: "yes"}
		}
		return must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, in))
	}
	nic(ms[0], alice, "")
	nic(ms[1], alice, "")
	nic(ms[1], bob, "")
	// told says which servers hear of a change, and that it writes no server's record.
	told := func(change func()) string {
		t.Helper()
		before := []string{h.server(ms[0].uuid).Revision, h.server(ms[1].uuid).Revision}
		for _, m := range ms {
			m.mustDrain()
		}
		change()
		out := ""
		for i, m := range ms {
			if h.server(m.uuid).Revision != before[i] {
				t.Errorf("the record of server %d was written", i)
			}
			if st, _, err := m.sync(); err != nil {
				t.Fatal(err)
			} else if st == http.StatusOK {
				out += fmt.Sprint(i)
			}
		}
		return out
	}
	h.cfg.Hold = 10 * time.Millisecond
	rule := func(owner, text string) {
		t.Helper()
		must[api.FirewallRule](t)(h.client.FirewallRules().Create(ctx, api.FirewallRule{Rule: text, Enabled: true, Owner: owner, Global: owner == ""}))
	}
	rule("", "FROM any TO tag www ALLOW tcp PORT 80")
	if got := told(func() { nic(ms[0], alice, "") }); got != "0" {
		t.Errorf("a global rule that does not name the NIC: servers %q are told", got)
	}
	if got := told(func() { nic(ms[0], alice, "www") }); got != "0" {
		t.Errorf("one that names it as its target: servers %q are told", got)
	}
	rule(alice, "FROM tag app TO tag db ALLOW tcp PORT 5432")
	nic(ms[1], alice, "db")
	if got := told(func() { nic(ms[0], bob, "app") }); got != "0" {
		t.Errorf("another account's rule: servers %q are told", got)
	}
	if got := told(func() { nic(ms[0], alice, "app") }); got != "01" {
		t.Errorf("a peer of its account's: servers %q are told", got)
	}
	rule("", "FROM tag mon TO all vms ALLOW tcp PORT 9100")
	if got := told(func() { nic(ms[0], bob, "mon") }); got != "01" {
		t.Errorf("a peer of all: servers %q are told", got)
	}
	if r := ms[1].rules(alice)[0]; ms[1].peers(r.FromPeers) == "" || ms[1].peers(r.FromPeers) == ms[0].peers(r.FromPeers) {
		t.Errorf("peers %q and %q: those of a rule are for servers with NICs that it is about", ms[0].peers(r.FromPeers), ms[1].peers(r.FromPeers))
	}
	nic(ms[1], alice, "app")
	var last api.NetworkNIC
	if got := told(func() { last = nic(ms[0], alice, "db") }); got != "01" {
		t.Errorf("one of both: servers %q are told", got)
	}
	if got := told(func() {
		if err := h.client.NICs().Delete(api.WithConfirm(ctx, api.ConfirmAll), last.MAC); err != nil {
			t.Fatal(err)
		}
	}); got != "01" {
		t.Errorf("it goes: servers %q are told", got)
	}
}
