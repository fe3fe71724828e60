package platform

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plant makes files (and, with a slash at the end, directories) below root.
func plant(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFurnishLeavesNoSecretsAndIsRepeatable(t *testing.T) {
	root := t.TempDir()
	plant(t, root, map[string]string{
		"etc/shadow":                        "root:*:20000:0:99999:7:::\nsshd:!:20000::::::\n",
		"etc/ssh/ssh_host_rsa_key":          "secret",
		"etc/ssh/sshd_config":               "keep",
		"etc/machine-id":                    "0123456789abcdef0123456789abcdef\n",
		"etc/resolv.conf":                   "nameserver 192.0.2.1\n",
		"var/log/apt/history.log":           "today",
		"var/cache/ldconfig/aux-cache":      "x",
		"usr/lib/udev/hwdb.bin":             "x",
		"usr/lib/python3/a/__pycache__/b.c": "x",
		"usr/lib/python3/a/b.py":            "keep",
	})
	for range 2 { // the second time changes nothing
		if err := furnish(root); err != nil {
			t.Fatal(err)
		}
		for _, gone := range []string{"etc/ssh/ssh_host_rsa_key", "var/log/apt", "var/cache/ldconfig", "usr/lib/udev/hwdb.bin", "usr/lib/python3/a/__pycache__"} {
			if _, err := os.Lstat(filepath.Join(root, gone)); err == nil {
				t.Errorf("%s is still there", gone)
			}
		}
		for _, kept := range []string{"etc/ssh/sshd_config", "usr/lib/python3/a/b.py"} {
			if _, err := os.Lstat(filepath.Join(root, kept)); err != nil {
				t.Errorf("%s is gone: %v", kept, err)
			}
		}
		if b, err := os.ReadFile(filepath.Join(root, "etc/machine-id")); err != nil || len(b) != 0 {
			t.Errorf("machine-id %q, %v; want it there and empty", b, err)
		}
		for link, want := range map[string]string{
			"etc/resolv.conf": "../run/nereid/resolv.conf",
			"etc/systemd/system/systemd-udev-settle.service":                     "/dev/null",
			"etc/systemd/system-generators/systemd-gpt-auto-generator":           "/dev/null",
			"etc/systemd/system/multi-user.target.wants/nereid-hostkeys.service": "/etc/systemd/system/nereid-hostkeys.service",
		} {
			if got, err := os.Readlink(filepath.Join(root, link)); err != nil || got != want {
				t.Errorf("%s -> %q, %v; want %q", link, got, err, want)
			}
		}
	}
}

func TestFurnishRefusesAPassword(t *testing.T) {
	for _, shadow := range []string{"root:$6$abc$def:20000:0:99999:7:::\n", "root::20000:0:99999:7:::\n"} {
		root := t.TempDir()
		plant(t, root, map[string]string{"etc/shadow": shadow, "usr/x": ""})
		if err := furnish(root); err == nil || !strings.Contains(err.Error(), "root") {
			t.Errorf("shadow %q: error %v; want a refusal that names the account", shadow, err)
		}
	}
}

func TestRootRecipeIsWhole(t *testing.T) {
	seen := map[string]bool{}
	for _, u := range append(append([]string{}, maskedUnits...), maskedGenerators...) {
		if seen[u] {
			t.Errorf("%s is masked twice", u)
		}
		seen[u] = true
	}
	for _, keep := range []string{"systemd-debug-generator", "systemd-run-generator", "systemd-journald.service", "systemd-udevd.service", "systemd-logind.service", "ssh.service"} {
		if seen[keep] {
			t.Errorf("%s is masked; a node needs it", keep)
		}
	}
}

func TestExchangeKeepsOneWhole(t *testing.T) {
	dir := t.TempDir()
	out, tmp := filepath.Join(dir, "p"), filepath.Join(dir, ".p-new")
	for range 2 { // without and with an old one
		plant(t, tmp, map[string]string{"manifest.json": "new"})
		if err := exchange(tmp, out); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || entries[0].Name() != "p" {
			t.Fatalf("directory holds %v, %v; want the platform alone", entries, err)
		}
	}
}
