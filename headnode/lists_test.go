package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/instances"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

// lists are the paths of the operations that list things for operators.
func (h *head) lists() (paths []string) {
	h.t.Helper()
	type ref struct {
		Ref string `json:"$ref"`
	}
	var doc struct {
		Components struct {
			Schemas map[string]struct {
				Properties map[string]json.RawMessage
			}
		}
		Paths map[string]map[string]struct {
			Responses map[string]struct {
				Content map[string]struct{ Schema ref }
			}
		}
	}
	if err := json.Unmarshal(request(h.t, h, "GET", "/openapi.json"), &doc); err != nil {
		h.t.Fatal(err)
	}
	for path, methods := range doc.Paths {
		name := strings.TrimPrefix(methods["get"].Responses["200"].Content["application/json"].Schema.Ref, "#/components/schemas/")
		if doc.Components.Schemas[name].Properties["items"] != nil {
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths
}

// listed is a head node with some of everything that is listed.
type listed struct {
	*head
	m     *machine // each NIC more is a bond, or provides a NIC tag of its own
	b     *machine // it boots again and again
	trips int
	mu    sync.Mutex
}

const listedNICs = 32 // of m

func newListed(t *testing.T) *listed {
	l := &listed{}
	h := startIn(t, initDir(t, 250), withImages, func(s *Server) {
		s.cfg.Hold = time.Millisecond
		s.store = storetest.Recording(s.store, func(ctx context.Context, tr storetest.Trace) {
			if ctx.Value(opKey{}) != nil {
				l.mu.Lock()
				defer l.mu.Unlock()
				l.trips += tr.Trips
			}
		})
	})
	l.head = h
	ctx := t.Context()
	h.platform("20261122T101500Z")
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "underlay", MTU: 9000}))
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "underlay", NICTag: "underlay", Subnet: "10.77.0.0/24", ProvisionStart: "10.77.0.11"}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "external", NICTag: "external", Subnet: "10.88.88.0/24", Gateway: "10.88.88.1"}))
	must[api.FabricSettings](t)(h.client.SetFabricSettings(ctx, api.FabricSettings{UnderlayTag: "underlay", NATNetwork: "external"}))
	l.m = h.machine(1)
	for i := range listedNICs {
		l.m.nics = append(l.m.nics, fmt.Sprintf("52:54:00:00:01:%02x", i))
	}
	runningAs(h, l.m)
	if err := h.client.ProvideNICTags(ctx, l.m.uuid, api.NICTagUse{MAC: l.m.nics[1], NICTags: []string{"external", "underlay"}}); err != nil {
		t.Fatal(err)
	}
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Underlay: true, Server: l.m.uuid, BelongsTo: l.m.uuid, BelongsToType: api.BelongsToServer,
		Owner: alice, Addresses: []api.NICAddress{{Network: "underlay"}}}))
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	web := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web", Subnet: "10.0.1.0/24", Gateway: "10.0.1.1", InternetNAT: true}))
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: alice, BelongsToType: api.BelongsToOther, Server: l.m.uuid,
		Addresses: []api.NICAddress{{Network: web.UUID, IP: "10.0.1.5"}}}))
	l.b = runningServer(h, 2)
	return l
}

// more adds one of everything, the i-th.
func (l *listed) more(i int) {
	h, t, ctx := l.head, l.t, l.t.Context()
	t.Helper()
	name := func(of string) string { return fmt.Sprintf("%s%d", of, i) }
	uuid := func(kind int) string { return fmt.Sprintf("00000000-0000-4000-a%03d-%012d", kind, i) }
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: name("tag")}))
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: name("other")}))
	if err := h.client.ProvideNICTags(ctx, l.m.uuid, api.NICTagUse{MAC: l.m.nics[2+2*i], NICTags: []string{name("tag")}}); err != nil {
		t.Fatal(err)
	}
	must[api.Bond](t)(h.client.Bonds(l.m.uuid).Create(ctx, api.Bond{Name: name("bond"), Mode: "active-backup", MACs: []string{l.m.nics[3+2*i]}, NICTags: []string{name("other")}}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: name("net"), NICTag: "external", VLAN: 10 + i, Subnet: fmt.Sprintf("10.9.%d.0/24", i)}))
	must[api.NetworkPool](t)(h.client.NetworkPools().Create(ctx, api.NetworkPool{Name: name("pool"), Networks: []string{"external", name("net")}}))
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: uuid(1), BelongsToType: api.BelongsToOther,
		Addresses: []api.NICAddress{{Network: "external"}}}))
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: uuid(2), BelongsToType: api.BelongsToOther,
		Addresses: []api.NICAddress{{Network: name("net")}}}))
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 3 + i, Name: name("vlan")}))
	must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: name("web"), Subnet: fmt.Sprintf("10.1.%d.0/24", i)}))
	must[api.FabricForward](t)(h.client.FabricForwards(alice).Create(ctx, api.FabricForward{Protocol: "tcp", IP: "10.0.1.5", ToPort: uint16(22 + i)}))
	must[api.FabricVLAN](t)(h.client.FabricVLANs(uuid(3)).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	theirs := must[api.Network](t)(h.client.FabricNetworks(uuid(3), 2).Create(ctx, api.Network{Name: "web", Subnet: "10.0.1.0/24"}))
	must[api.IPAddress](t)(h.client.IPs(theirs.UUID).Update(ctx, "10.0.1.5", api.IPUpdate{Reserved: ptr(true)}, ""))
	must[api.FirewallRule](t)(h.client.FirewallRules().Create(ctx, api.FirewallRule{Rule: fmt.Sprintf("FROM any TO all vms ALLOW tcp PORT %d", 80+i), Owner: alice}))
	must[api.Package](t)(h.client.Packages().Create(ctx, api.Package{Name: name("small"), Limits: api.Limits{MemoryMiB: 128, VCPUs: 1, QuotaMiB: 1024}}))
	image := sampleImage([]byte(name("image")))
	image.UUID, image.Name = uuid(4), name("image")
	must[api.Image](t)(h.client.Images().Create(ctx, image))
	if _, err := h.client.CreateToken(ctx, api.TokenCreate{Name: name("token")}); err != nil {
		t.Fatal(err)
	}
	h.platform(fmt.Sprintf("20261123T1015%02dZ", i))
	err := h.store.Update(ctx, func(tx store.Tx) error {
		for _, one := range []string{uuid(5), "00000000-0000-4000-9000-000000000001"} {
			_, err := instances.Create(tx, h.now(), instances.New{Image: api.ImageSpec{UUID: debian.UUID}, By: "root", Instance: api.Instance{UUID: one, Owner: alice, Name: "i" + one,
				Brand: api.BrandLX, Image: debian.UUID, Package: alice, Server: l.m.uuid, Wanted: "running", Limits: api.Limits{MemoryMiB: 1, VCPUs: 1, QuotaMiB: 1}}})
			if err != nil && i == 0 {
				return err
			}
		}
		_, err := instances.TakeSnapshots(tx, h.now(), l.m.uuid, []api.SnapshotReport{{Instance: "00000000-0000-4000-9000-000000000001",
			Put: []api.SnapshotStatus{{ID: fmt.Sprintf("%016x", i), Name: name("snapshot"), State: api.SnapshotCreated, Created: h.clock()}}}})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if a := h.ask("PATCH", "/v1/instances/00000000-0000-4000-9000-000000000001", fmt.Sprintf(`{"deletion_protection":%v}`, i%2 == 0)); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	l.b.bootUp()
	l.b.mustSync()

	// A server of an older platform, which has what it was not told of, and whose UUID
	// another machine claims.
	z := runner(runningServer(h, 100+i))
	z.rep.UnexpectedNICs = []api.UnexpectedNIC{{MAC: fmt.Sprintf("02:00:00:00:00:%02x", i), Instance: uuid(6), Owner: alice, Tag: "external", Addresses: []string{"10.88.88.200/24"}}}
	z.says("second", []api.InstanceStatus{{UUID: uuid(6), State: api.InstanceRunning}})
	z.machine.old = true
	z.mustSync()
	other := h.machine(200 + i)
	other.uuid = z.uuid
	other.powerOn()
	if st, _, err := other.enrol(); st != http.StatusConflict {
		t.Fatalf("enrol of another machine with that UUID: %d %v", st, err)
	}
}

// ask gives how many things a list has, and how often it asks the store.
func (l *listed) ask(path string) (rows, trips int) {
	l.t.Helper()
	l.mu.Lock()
	l.trips = 0
	l.mu.Unlock()
	ctx := context.WithValue(context.WithValue(l.t.Context(), opKey{}, true), peerKey{}, peer{})
	w := httptest.NewRecorder()
	l.handler().ServeHTTP(w, httptest.NewRequestWithContext(ctx, "GET", path, nil))
	var out struct{ Items []json.RawMessage }
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != http.StatusOK {
		l.t.Fatalf("GET %s: %d %s, %v", path, w.Code, w.Body, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(out.Items), l.trips
}

// TestListsReadTogether: no list asks the store more often because it has more to show. One
// request more is for what is read in batches.
func TestListsReadTogether(t *testing.T) {
	l := newListed(t)
	query := map[string]string{ // what is put for {names}, and behind the path
		"/v1/accounts/{owner}/fabric/forwards":              alice,
		"/v1/accounts/{owner}/fabric/vlans":                 alice,
		"/v1/accounts/{owner}/fabric/vlans/{vlan}/networks": alice + " 2",
		"/v1/boots":                    "?mac=" + l.b.mac,
		"/v1/instances/{id}/audit":     "00000000-0000-4000-9000-000000000001",
		"/v1/instances/{id}/snapshots": "00000000-0000-4000-9000-000000000001",
		"/v1/networks/{network}/ips":   "external",
		"/v1/search/ips":               "?ip=10.0.1.5",
		"/v1/search/nics":              "?mac=02",
		"/v1/servers/{id}/boots":       l.b.uuid,
		"/v1/servers/{id}/nic-tags":    l.m.uuid,
		"/v1/servers/{server}/bonds":   l.m.uuid,
	}
	type count struct{ rows, trips int }
	was := map[string]count{}
	measure := func(then func(path string, now count)) {
		for _, path := range l.lists() {
			full := path
			for _, part := range strings.Fields(query[path]) {
				if before, name, named := strings.Cut(full, "{"); named {
					_, behind, _ := strings.Cut(name, "}")
					part = before + part + behind
				} else {
					part = full + part
				}
				full = part
			}
			rows, trips := l.ask(full)
			then(path, count{rows, trips})
		}
	}
	for i := range 2 {
		l.more(i)
	}
	measure(func(path string, now count) { was[path] = now })
	for i := range 12 {
		l.more(2 + i)
	}
	measure(func(path string, now count) {
		t.Logf("%s: %d with %d requests, %d with %d", path, was[path].rows, was[path].trips, now.rows, now.trips)
		if now.rows < was[path].rows+10 {
			t.Errorf("GET %s gives %d, and gave %d: have listed.more add some, so that its reads are counted", path, now.rows, was[path].rows)
		}
		if now.trips > was[path].trips+1 {
			t.Errorf("GET %s asks the store %d times for %d, and %d times for %d", path, now.trips, now.rows, was[path].trips, was[path].rows)
		}
	})
}
