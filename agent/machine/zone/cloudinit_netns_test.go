//go:build netns && linux

package zone

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/agent/machine/mdata"
	"nereid/api"
)

// python runs a program with cloud-init's modules, and reads what it prints as JSON.
// Debian's own interpreter has them (integration/lab/packages.sh test).
func python(t *testing.T, program string, args ...string) (out map[string]any) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/usr/bin/python3", append([]string{"-c", program}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	b, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		t.Fatalf("cloud-init: %v\n%s\n%s", err, b, stderr.String())
	}
	return out
}

// smartOS asks as cloud-init's data source SmartOS does in a virtual machine.
const smartOS = `
import json, sys, types
from cloudinit.sources import DataSourceSmartOS as D
c = D.jmc_client_factory(smartos_type="kvm", serial_device=sys.argv[1], serial_timeout=30)
out = {"exists": c.exists()}
c.open_transport()
for noun, (key, strip) in D.SMARTOS_ATTRIB_MAP.items():
    out[noun] = c.get(key, strip=strip)
for noun, key in D.SMARTOS_ATTRIB_JSON.items():
    out[noun] = c.get_json(key)
c.put("from", "cloud-init")
out["from"] = c.get("from")
c.delete("from")
out["gone"] = c.get("from", "nothing")
out["list"] = c.list()
c.close_transport()
out["network"] = D.convert_smartos_network_data(network_data=out["network-data"], dns_servers=out["dns_servers"], dns_domain=out["dns_domain"], routes=out["routes"])
print(json.dumps(out))
`

// TestNetNSCloudInitSmartOS: cloud-init's own client of the protocol gets all that it
// asks for over a zone's terminal, and makes the right network of it.
func TestNetNSCloudInitSmartOS(t *testing.T) {
	a := answerer(t)
	tty := metadataOf(t, a, "u", mdata.Guest{Server: "s", InstanceSpec: api.InstanceSpec{UUID: "6f1c2b9e-0000-4000-8000-000000000001", Hostname: "web0", DNSDomain: "example.com", Datacenter: "coal",
		Resolvers: []string{"10.0.0.53"}, Metadata: map[string]any{"root_authorized_keys": "ssh-ed25519 AAAA a@b\n", "user-script": "#!/bin/sh\necho hi\n", "user-data": "legacy",
			"cloud-init:user-data": "#cloud-config\n{}\n", "n": 3.0, "big": strings.Repeat("0123456789abcdef", 4096)},
		Internal: map[string]any{"operator-script": "#!/bin/sh\n"},
		NICs: []api.InstanceNIC{{Interface: "net0", MAC: "02:00:00:00:00:01", Network: "w", MTU: 1400, Primary: true,
			Addresses: []api.PortAddress{{Address: "10.0.0.9/20", Gateway: "10.0.0.1", Routes: map[string]string{"10.9.0.0/16": "10.0.0.2"}}}}}}})
	a.run(t)
	got := python(t, smartOS, tty)
	network := got["network"].(map[string]any)
	for _, k := range []string{"network-data", "network"} {
		delete(got, k)
	}
	want := map[string]any{"exists": true, "instance-id": "6f1c2b9e-0000-4000-8000-000000000001", "local-hostname": nil, "public-keys": "ssh-ed25519 AAAA a@b",
		"user-script": "#!/bin/sh\necho hi\n", "legacy-user-data": "legacy", "user-data": "#cloud-config\n{}\n", "iptables_disable": nil, "motd_sys_info": nil,
		"availability_zone": "coal", "vendor-data": nil, "operator-script": "#!/bin/sh\n", "hostname": "web0", "dns_domain": "example.com",
		"dns_servers": []any{"10.0.0.53"}, "routes": []any{map[string]any{"dst": "10.9.0.0/16", "gateway": "10.0.0.2", "linklocal": false}},
		"from": "cloud-init", "gone": "nothing", "list": []any{"big", "cloud-init:user-data", "n", "root_authorized_keys", "user-data", "user-script"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	b, err := json.Marshal(network)
	for _, s := range []string{`"address":"10.0.0.9/20"`, `"gateway":"10.0.0.1"`, `"mac_address":"02:00:00:00:00:01"`, `"10.9.0.0/16"`, `"10.0.0.53"`} {
		if err != nil || !strings.Contains(string(b), s) {
			t.Errorf("cloud-init's network lacks %s: %s %v", s, b, err)
		}
	}
}

// noCloud reads a seed as cloud-init's data source NoCloud does.
const noCloud = `
import json, os, sys
from cloudinit import helpers
from cloudinit.sources import DataSourceNoCloud as D
root = sys.argv[1]
paths = helpers.Paths({"cloud_dir": os.path.join(root, "var/lib/cloud"), "run_dir": os.path.join(root, "run")})
D.util.get_cmdline = lambda: ""
D.dmi.read_dmi_data = lambda key: None
s = D.DataSourceNoCloud(sys_cfg={"datasource": {"NoCloud": {"fs_label": None}}}, distro=None, paths=paths)
found = s._get_data()
from cloudinit.net import network_state
n = s.network_config
state = network_state.parse_net_config_data(n)
ifaces = {i["name"]: {"mac": i["mac_address"], "mtu": i.get("mtu"), "subnets": [
    {"address": x["address"], "prefix": x.get("prefix"), "gateway": x.get("gateway"), "routes": [[r["network"], r["prefix"], r["gateway"]] for r in x.get("routes", [])]}
    for x in i["subnets"]]} for i in state.iter_interfaces()}
text = lambda v: v if isinstance(v, str) else v.decode()
print(json.dumps({"found": found, "id": s.get_instance_id(), "keys": s.get_public_ssh_keys(), "user": text(s.get_userdata_raw()), "vendor": text(s.vendordata_raw)[:16], "hostname": s.metadata["local-hostname"], "ifaces": ifaces, "dns": state.dns_nameservers, "search": state.dns_searchdomains}))
`

// TestNetNSCloudInitNoCloud: cloud-init's own data source finds a zone's seed, and reads
// of it what the zone has.
func TestNetNSCloudInitNoCloud(t *testing.T) {
	root, in := seeded(t)
	got := python(t, noCloud, filepath.Clean(root))
	want := map[string]any{"found": true, "id": in.UUID, "keys": []any{"ssh-ed25519 AAAA a@b", "ssh-ed25519 BBBB <c>"}, "user": in.UserData,
		"vendor": "#cloud-boothook\n", "hostname": "web.example.com", "dns": []any{"10.0.0.53"}, "search": []any{"example.com"},
		"ifaces": map[string]any{
			"net0": map[string]any{"mac": "02:00:00:00:00:01", "mtu": 1400.0, "subnets": []any{
				map[string]any{"address": "10.0.0.9", "prefix": 20.0, "gateway": "10.0.0.1", "routes": []any{[]any{"10.9.0.0", 16.0, "10.0.0.2"}}},
				map[string]any{"address": "fd00::9", "prefix": 64.0, "gateway": "fd00::1", "routes": []any{}}}},
			"net1": map[string]any{"mac": "02:00:00:00:00:02", "mtu": nil, "subnets": []any{
				map[string]any{"address": "10.1.0.9", "prefix": 24.0, "gateway": nil, "routes": []any{}}}},
		}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
