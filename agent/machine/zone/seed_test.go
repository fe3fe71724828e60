package zone

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nereid/api"
)

// seeded is a zone's root with its seed.
func seeded(t *testing.T) (root string, in Inside) {
	t.Helper()
	in = Inside{UUID: "6f1c2b9e-0000-4000-8000-000000000001", Hostname: "web", Domain: "example.com", Resolvers: []string{"10.0.0.53"},
		Keys: "ssh-ed25519 AAAA a@b\n# none\n\nssh-ed25519 BBBB <c>\n", UserData: "#cloud-config\nruncmd: [\"echo <hi> & 'bye'\"]\n", Script: true,
		NICs: []api.InstanceNIC{
			{Interface: "net0", MAC: "02:00:00:00:00:01", MTU: 1400, Primary: true, Addresses: []api.PortAddress{
				{Address: "10.0.0.9/20", Gateway: "10.0.0.1", Routes: map[string]string{"10.9.0.0/16": "10.0.0.2"}}, {Address: "fd00::9/64", Gateway: "fd00::1"}}},
			{Interface: "net1", MAC: "02:00:00:00:00:02", Addresses: []api.PortAddress{{Address: "10.1.0.9/24", Gateway: "10.1.0.1"}}}}}
	root = t.TempDir()
	if err := in.write(root, true); err != nil {
		t.Fatal(err)
	}
	return root, in
}

// TestSeed: a seed is written again at each start, for root alone; its instance-id stays
// when the name is another.
func TestSeed(t *testing.T) {
	root, in := seeded(t)
	in.Hostname, in.UserData = "web2", ""
	if err := in.write(root, false); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		path := filepath.Join(root, seedDir, name)
		b, err := os.ReadFile(path)
		info, serr := os.Stat(path)
		if err != nil || serr != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, %v", name, err, serr, info)
		}
		return string(b)
	}
	if md := read("meta-data"); !strings.Contains(md, `"instance-id": "6f1c2b9e-0000-4000-8000-000000000001"`) || !strings.Contains(md, `"web2.example.com"`) {
		t.Error(md)
	}
	if ud := read("user-data"); ud != "" {
		t.Errorf("user-data that is no more: %q", ud)
	}
	if read("network-config") == "" || !strings.HasPrefix(read("vendor-data"), "#cloud-boothook\n") {
		t.Error("no network configuration, or nothing that runs the script")
	}
}
