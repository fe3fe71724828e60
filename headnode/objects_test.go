package headnode

import (
	"context"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"nereid/api"
)

// objectRack is a head node with one object of every kind, by the path where it is.
func objectRack(t *testing.T) (*head, map[string]map[string]string) {
	t.Helper()
	h, ms := fabricRackIn(startIn(t, initDir(t, 250), withImages), 1)
	ctx := context.Background()
	m := ms[0]
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	if err := h.client.ProvideNICTags(ctx, m.uuid, api.NICTagUse{MAC: m.nics[1], NICTags: []string{"external", "underlay"}}); err != nil {
		t.Fatal(err)
	}
	net := must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "external", NICTag: "external", Subnet: "10.88.88.0/24", Gateway: "10.88.88.1"}))
	settings := must[api.FabricSettings](t)(h.client.FabricSettings(ctx))
	settings.NATNetwork = "external"
	must[api.FabricSettings](t)(h.client.SetFabricSettings(ctx, settings))
	pool := must[api.NetworkPool](t)(h.client.NetworkPools().Create(ctx, api.NetworkPool{Name: "pool", Networks: []string{"external"}}))
	nic := must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: alice, BelongsToType: api.BelongsToOther,
		Addresses: []api.NICAddress{{Network: "external"}}}))
	must[api.Bond](t)(h.client.Bonds(m.uuid).Create(ctx, api.Bond{Name: "bond0", Mode: "active-backup", MACs: []string{m.nics[1]}, NICTags: []string{"external", "underlay"}}))
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	web := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web", Subnet: "10.0.1.0/24", Gateway: "10.0.1.1", InternetNAT: true}))
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: alice, BelongsToType: api.BelongsToOther, Server: m.uuid,
		Addresses: []api.NICAddress{{Network: web.UUID, IP: "10.0.1.5"}}}))
	forward := must[api.FabricForward](t)(h.client.FabricForwards(alice).Create(ctx, api.FabricForward{Protocol: "tcp", IP: "10.0.1.5", ToPort: 22}))
	rule := must[api.FirewallRule](t)(h.client.FirewallRules().Create(ctx, api.FirewallRule{Rule: "FROM any TO all vms ALLOW tcp PORT 80", Owner: alice}))
	size := must[api.Package](t)(h.client.Packages().Create(ctx, api.Package{Name: "small", Limits: api.Limits{MemoryMiB: 128, VCPUs: 1, QuotaMiB: 1024}}))
	runner(m)
	instance := must[api.Instance](t)(h.client.CreateInstance(ctx, api.InstanceCreate{Owner: alice, Name: "web0", Image: "debian", Package: "small"}))
	image := must[api.Image](t)(h.client.Images().Create(ctx, sampleImage([]byte("x"))))
	return h, map[string]map[string]string{
		"/v1/instances/{id}":                     {"id": instance.UUID},
		"/v1/images/{id}":                        {"id": image.UUID},
		"/v1/packages/{id}":                      {"id": size.UUID},
		"/v1/servers/{id}":                       {"id": m.uuid},
		"/v1/nic-tags/{id}":                      {"id": "external"},
		"/v1/networks/{id}":                      {"id": net.UUID},
		"/v1/network-pools/{id}":                 {"id": pool.UUID},
		"/v1/networks/{network}/ips/{id}":        {"network": net.UUID, "id": nic.Addresses[0].IP},
		"/v1/nics/{id}":                          {"id": nic.MAC},
		"/v1/servers/{server}/bonds/{id}":        {"server": m.uuid, "id": "bond0"},
		"/v1/firewall/rules/{id}":                {"id": rule.UUID},
		"/v1/fabric-settings":                    {},
		"/v1/accounts/{owner}/fabric/vlans/{id}": {"owner": alice, "id": "2"},
		"/v1/accounts/{owner}/fabric/vlans/{vlan}/networks/{id}": {"owner": alice, "vlan": "2", "id": web.UUID},
		"/v1/accounts/{owner}/fabric/forwards/{id}":              {"owner": alice, "id": forward.UUID},
	}
}

func at(path string, args map[string]string) string {
	for n, v := range args {
		path = strings.ReplaceAll(path, "{"+n+"}", v)
	}
	return path
}

// Every object that can be changed has its revision in ETag, and every change of it
// compares If-Match as RFC 9110 says: lists, *, strongly.
func TestRevisions(t *testing.T) {
	h, rack := objectRack(t)
	seen := map[string]bool{}
	for _, op := range h.operations("token") {
		args, known := rack[op.Path]
		if op.Method == http.MethodPatch && !known {
			t.Errorf("%s: no object to try it with", op.Path)
		}
		if !known || op.Method == http.MethodGet {
			continue
		}
		seen[op.Path] = true
		path, body := at(op.Path, args), ""
		now := h.ask("GET", path, "")
		if !strings.HasPrefix(now.etag, `"`) || len(now.etag) < 3 {
			t.Errorf("GET %s: ETag %s", path, now.etag)
		}
		var object struct{ Revision string }
		if err := json.Unmarshal(now.body, &object); err != nil || object.Revision != "" && now.etag != `"`+object.Revision+`"` {
			t.Errorf("GET %s: ETag %s of %s", path, now.etag, now.body)
		}
		if op.Method != http.MethodDelete {
			body = `{"description":"` + op.Method + `"}`
			switch op.Path {
			case "/v1/servers/{id}":
				body = `{"hostname":"renamed"}`
			case "/v1/networks/{network}/ips/{id}":
				body = `{"reserved":true}`
			case "/v1/fabric-settings":
				body = `{"underlay_nic_tag":"underlay","nat_network":"external"}`
			case "/v1/instances/{id}":
				body = `{"deletion_protection":true}`
			case "/v1/nics/{id}":
				body = `{"state":"stopped"}`
			}
		}
		for _, stale := range []string{`"stale"`, `"stale", "older"`, "W/" + now.etag} {
			if a := h.ask(op.Method, path, body, "If-Match", stale); a.status != http.StatusPreconditionFailed || a.problem.Code != api.CodeStale || a.problem.Next == "" {
				t.Errorf("%s %s, If-Match %s: %d %s", op.Method, path, stale, a.status, a.body)
			}
		}
		for _, bad := range []string{`stale`, `"stale`, ``, `"a" "b"`} {
			if a := h.ask(op.Method, path, body, "If-Match", bad); !a.names("If-Match") {
				t.Errorf("%s %s, If-Match %s: %d %s", op.Method, path, bad, a.status, a.body)
			}
		}
		if again := h.ask("GET", path, ""); again.etag != now.etag {
			t.Errorf("%s %s changed what it refused to: %s, before %s", op.Method, path, again.body, now.body)
		}
		if op.Method == http.MethodDelete {
			continue // what is in use stays, whatever is said
		}
		for _, match := range []string{`"stale", ` + now.etag, "*"} {
			a := h.ask(op.Method, path, body, "If-Match", match)
			if a.status != http.StatusOK {
				t.Errorf("%s %s, If-Match %s: %d %s", op.Method, path, match, a.status, a.body)
			}
			if shown := h.ask("GET", path, ""); a.etag != shown.etag || a.etag == now.etag && match != "*" {
				t.Errorf("%s %s: ETag %s, then GET's is %s; before %s", op.Method, path, a.etag, shown.etag, now.etag)
			}
		}
	}
	if len(seen) != len(rack) {
		t.Errorf("of %d kinds only these were tried: %v", len(rack), seen)
	}
}

// What an object has, and a change of it cannot set, is named with the reason.
func TestImmutableIsNamed(t *testing.T) {
	h, rack := objectRack(t)
	objects := map[string][2]reflect.Type{
		"/v1/instances/{id}":                     {reflect.TypeFor[api.Instance](), reflect.TypeFor[api.InstanceUpdate]()},
		"/v1/images/{id}":                        {reflect.TypeFor[api.Image](), reflect.TypeFor[api.ImageUpdate]()},
		"/v1/packages/{id}":                      {reflect.TypeFor[api.Package](), reflect.TypeFor[api.PackageUpdate]()},
		"/v1/servers/{id}":                       {reflect.TypeFor[api.Server](), reflect.TypeFor[api.ServerUpdate]()},
		"/v1/nic-tags/{id}":                      {reflect.TypeFor[api.NICTag](), reflect.TypeFor[api.NICTagUpdate]()},
		"/v1/networks/{id}":                      {reflect.TypeFor[api.Network](), reflect.TypeFor[api.NetworkUpdate]()},
		"/v1/network-pools/{id}":                 {reflect.TypeFor[api.NetworkPool](), reflect.TypeFor[api.NetworkPoolUpdate]()},
		"/v1/networks/{network}/ips/{id}":        {reflect.TypeFor[api.IPAddress](), reflect.TypeFor[api.IPUpdate]()},
		"/v1/nics/{id}":                          {reflect.TypeFor[api.NetworkNIC](), reflect.TypeFor[api.NICUpdate]()},
		"/v1/firewall/rules/{id}":                {reflect.TypeFor[api.FirewallRule](), reflect.TypeFor[api.FirewallRuleUpdate]()},
		"/v1/accounts/{owner}/fabric/vlans/{id}": {reflect.TypeFor[api.FabricVLAN](), reflect.TypeFor[api.FabricVLANUpdate]()},
		"/v1/accounts/{owner}/fabric/vlans/{vlan}/networks/{id}": {reflect.TypeFor[api.Network](), reflect.TypeFor[api.NetworkUpdate]()},
		"/v1/accounts/{owner}/fabric/forwards/{id}":              {reflect.TypeFor[api.FabricForward](), reflect.TypeFor[api.FabricForwardUpdate]()},
	}
	for _, op := range h.operations("token") {
		if op.Method != http.MethodPatch {
			continue
		}
		types, known := objects[op.Path]
		if !known {
			t.Errorf("%s: of what type is it?", op.Path)
			continue
		}
		path := at(op.Path, rack[op.Path])
		before := h.ask("GET", path, "")
		var shown map[string]json.RawMessage
		if err := json.Unmarshal(before.body, &shown); err != nil {
			t.Fatal(err)
		}
		all, can := properties(types[0]), properties(types[1])
		sent, fixed := map[string]json.RawMessage{}, []string{}
		for name := range all {
			if _, can := can[name]; can {
				continue
			}
			if sent[name] = shown[name]; sent[name] == nil {
				sent[name] = json.RawMessage(`"x"`)
			}
			fixed = append(fixed, name+": it cannot be set: ")
		}
		body, err := json.Marshal(sent)
		if err != nil {
			t.Fatal(err)
		}
		if a := h.ask("PATCH", path, string(body)); !a.names(fixed...) {
			t.Errorf("PATCH %s %s: %d %s", path, body, a.status, a.body)
		}
	}
}

// What the head node alone decides of a new object is refused unless it is empty, as
// our own client sends it.
func TestMadeIsNamed(t *testing.T) {
	h, rack := objectRack(t)
	external := rack["/v1/networks/{id}"]["id"]
	for _, tt := range []struct{ path, body string }{
		{"/v1/networks", `{"name":"n2","nic_tag":"external","subnet":"10.9.0.0/24","family":"ipv6","revision":"x"}`},
		{"/v1/packages", `{"name":"p2","created":"2026-11-30T00:00:00Z","revision":"x"}`},
		{"/v1/images", `{"name":"i2","state":"active","error":"x","created":"2026-11-30T00:00:00Z","revision":"x"}`},
		{"/v1/nic-tags", `{"name":"t2","revision":"x"}`},
		{"/v1/network-pools", `{"name":"p2","networks":["external"],"family":"ipv6","nic_tags_present":["x"],"revision":"x"}`},
		{"/v1/nics", `{"owner_uuid":"` + alice + `","belongs_to_uuid":"` + alice + `","belongs_to_type":"other","addresses":[{"network_uuid":"` + external + `"}],
			"nic_tag":"admin","vlan_id":7,"vni":9,"mtu":9000,"created":"2026-11-30T00:00:00Z","revision":"x"}`},
		{"/v1/firewall/rules", `{"rule":"FROM any TO all vms ALLOW tcp PORT 80","owner_uuid":"` + alice + `","created":"2026-11-30T00:00:00Z","revision":"x"}`},
		{"/v1/accounts/" + alice + "/fabric/vlans", `{"vlan_id":3,"name":"v","vni":5,"revision":"x","owner_uuid":"` + bob + `"}`},
		{"/v1/accounts/" + alice + "/fabric/vlans/2/networks", `{"name":"n","fabric":true,"vni":5,"revision":"x","nic_tag":"external","vlan_id":4,"owner_uuids":["` + bob + `"]}`},
		{"/v1/accounts/" + alice + "/fabric/forwards", `{"protocol":"udp","ip":"10.0.1.5","uuid":"x","mac":"x","addresses":["10.0.0.1"],"revision":"x","owner_uuid":"` + bob + `"}`},
		{"/v1/servers/" + rack["/v1/servers/{id}"]["id"] + "/bonds", `{"name":"bond0","mode":"active-backup","macs":["52:54:00:00:01:01"],"nic_tags_provided":["external","underlay"],"server":"` + alice + `"}`},
	} {
		var sent map[string]json.RawMessage
		if err := json.Unmarshal([]byte(tt.body), &sent); err != nil {
			t.Fatal(err)
		}
		var made []string
		for name := range sent {
			switch name {
			case "name", "rule", "protocol", "ip", "networks", "addresses", "subnet", "belongs_to_uuid", "belongs_to_type", "mode", "macs", "nic_tags_provided":
			case "owner_uuid":
				if strings.Contains(string(sent[name]), bob) {
					made = append(made, name+": ")
				}
			case "nic_tag", "vlan_id":
				if !strings.Contains(tt.path, "/v1/networks") && !strings.HasSuffix(tt.path, "/vlans") {
					made = append(made, name+": ")
				}
			default:
				made = append(made, name+": ")
			}
		}
		if a := h.ask("POST", tt.path, tt.body); !a.names(made...) || len(made) == 0 {
			t.Errorf("POST %s %s: %d %s; want %q named", tt.path, tt.body, a.status, a.body, made)
		}
	}
}
