package zone

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"nereid/api"
)

// TestSeedDisk: the seed of a machine has the four files by their names, its NICs by
// their MACs, and a script that a shell writes as it was given.
func TestSeedDisk(t *testing.T) {
	script := "#!/bin/sh\necho 'END' \"$HOME\" >/tmp/x\n" + strings.Repeat("# a line that is longer than those of base64 are\n", 20)
	in := Inside{UUID: "u", Hostname: "web", Domain: "example.com", Script: true, UserData: "#cloud-config\n",
		NICs: []api.InstanceNIC{{Interface: "net0", MAC: "90:b8:d0:00:00:01", Addresses: []api.PortAddress{{Address: "fd00::5/64"}}}}}
	s := in.Seed(script)
	if len(s) != 4 || s["user-data"] != "#cloud-config\n" || !strings.Contains(s["meta-data"], "web.example.com") ||
		!strings.Contains(s["network-config"], `"mac_address": "90:b8:d0:00:00:01"`) || !strings.Contains(s["network-config"], "static6") {
		t.Errorf("%q", s)
	}
	dir := t.TempDir()
	_, hook, _ := strings.Cut(s["vendor-data"], "\n") // what cloud-init executes
	cmd := exec.Command("sh", "-c", strings.ReplaceAll(hook, "/var/lib", dir))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(filepath.Join(dir, "cloud/scripts/per-boot/01-nereid-user-script"))
	if err != nil || string(got) != script {
		t.Errorf("the script is %q, %v", got, err)
	}
	if s := in.Seed(""); s["vendor-data"] != "" {
		t.Errorf("without a script: %q", s["vendor-data"])
	}
}
