package stub

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/images"
)

func testKey() ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
}

func testConfig(server string) api.BootConfig {
	return api.BootConfig{
		BootID: "mfrggzdfmztwq2lknnwg23tpoa", Token: "very-secret-token", API: "https://10.99.99.7:8443", BootServer: server,
		Platform: "20261122T101500Z", PlatformKey: images.FormatPublicKey(images.PublicKey(testKey())), Hostname: "cn-1",
		Network: api.BootNetwork{MAC: "52:54:00:12:34:56", Address: netip.MustParsePrefix("10.99.99.100/24"), Gateway: netip.MustParseAddr("10.99.99.1")},
	}
}

func encodeJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseConfig(t *testing.T) {
	if _, err := parseConfig(encodeJSON(t, testConfig("http://10.99.99.7"))); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		want   string
		change func(*api.BootConfig)
	}{
		{"boot_id", func(c *api.BootConfig) { c.BootID = "../x" }},
		{"platform", func(c *api.BootConfig) { c.Platform = "latest" }},
		{"platform_key", func(c *api.BootConfig) { c.PlatformKey = "AAAA" }},
		{"boot_server", func(c *api.BootConfig) { c.BootServer = "https://10.99.99.7" }},
		{"boot_server", func(c *api.BootConfig) { c.BootServer = "http://headnode" }},
		{"mac", func(c *api.BootConfig) { c.Network.MAC = "eth0" }},
		{"network.address", func(c *api.BootConfig) { c.Network.Address = netip.Prefix{} }},
		{"hostname", func(c *api.BootConfig) { c.Hostname = "a\nb" }},
	} {
		c := testConfig("http://10.99.99.7")
		tt.change(&c)
		_, err := parseConfig(encodeJSON(t, c))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.want, err)
		} else if strings.Contains(err.Error(), c.Token) {
			t.Errorf("%s: the token is in %q", tt.want, err)
		}
	}
	for _, b := range []string{"", "{", "[]", `{"boot_id":1}`, strings.Repeat(" ", maxConfig+1)} {
		if _, err := parseConfig([]byte(b)); err == nil {
			t.Errorf("%.20q accepted", b)
		}
	}
	if _, _, err := readConfig(filepath.Join(t.TempDir(), "boot.json")); err == nil || !strings.Contains(err.Error(), "config.cpio") {
		t.Errorf("no file: %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add(encodeJSON(f, testConfig("http://10.99.99.7")))
	f.Add([]byte(`{"network":{"address":"10.0.0.1/33"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err == nil && (!c.Network.Address.IsValid() || strings.ContainsAny(c.BootID+c.Platform+c.Hostname, "/\n ")) {
			t.Errorf("accepted %+v", c)
		}
	})
}

func TestParseCmdline(t *testing.T) {
	c, err := parseCmdline("quiet nereid.root=disk:vdb modprobe.blacklist=a-b,c e1000e.debug=1 e1000e.flag BOOTIF=01-52")
	if err != nil || c.disk != "/dev/vdb" || !c.blacklist["a_b"] || !c.blacklist["c"] || c.params["e1000e"] != "debug=1 flag" {
		t.Errorf("%+v %v", c, err)
	}
	for _, bad := range []string{"nereid.root=vdb", "nereid.root=disk:../sda", "nereid.root=disk:", "nereid.root=nfs:x"} {
		if _, err := parseCmdline(bad); err == nil || !strings.Contains(err.Error(), "disk:vdb") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestHostID(t *testing.T) {
	a := hostID("4C4C4544-0042-3510-8056-B4C04F4D5332\n")
	if b := hostID("4c4c4544-0042-3510-8056-b4c04f4d5332"); a != b {
		t.Errorf("case matters: %x %x", a, b)
	}
	if b := hostID("4c4c4544-0042-3510-8056-b4c04f4d5333"); a == b || a == [4]byte{} {
		t.Errorf("host ids %x %x", a, b)
	}
	// Fixed for ever: a pool knows its host by it.
	if want := [4]byte{0x12, 0xb9, 0x37, 0x7c}; hostID("00000000-0000-0000-0000-000000000000") != want {
		t.Errorf("host id of zeros: %x", hostID("00000000-0000-0000-0000-000000000000"))
	}
}

// A lower layer's /etc/hostname may be a link out of the root: it is replaced, not followed.
func TestLeave(t *testing.T) {
	root, outside := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := errors.Join(os.WriteFile(outside, []byte("safe"), 0o600), os.Mkdir(filepath.Join(root, "etc"), 0o755),
		os.Symlink(outside, filepath.Join(root, "etc/hostname"))); err != nil {
		t.Fatal(err)
	}
	network := api.BootNetwork{Domain: "coal.example.com", DNS: []netip.Addr{netip.MustParseAddr("10.99.99.7"), netip.MustParseAddr("2001:db8::1")}}
	for range 2 {
		if err := leaveIdentity(root, "", "52:54:00:12:34:56", "cn-1"); err != nil {
			t.Fatal(err)
		}
		if err := leaveRun(filepath.Join(root, "run/nereid"), []byte("config"), []byte("manifest"), network, Timings{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
	}
	want := hostID("52:54:00:12:34:56")
	for name, text := range map[string]string{"etc/hostid": string(want[:]), "etc/hostname": "cn-1\n", "run/nereid/boot.json": "config",
		"run/nereid/resolv.conf":   "# by the boot's configuration\nsearch coal.example.com\nnameserver 10.99.99.7\nnameserver 2001:db8::1\n",
		"run/nereid/manifest.json": "manifest", "run/nereid/stub.json": `{"stub_s":1,"root_s":2,"switch_root_s":3}`} {
		if b, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(b) != text {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	if fi, err := os.Stat(filepath.Join(root, "run/nereid/boot.json")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("boot.json: %v %v", fi.Mode(), err)
	}
	if b, err := os.ReadFile(outside); err != nil || string(b) != "safe" {
		t.Errorf("file outside: %q %v", b, err)
	}
}

func TestMemory(t *testing.T) {
	m, err := parseMeminfo("MemTotal:         988284 kB\nMemFree:          842000 kB\nMemAvailable:     772312 kB\n")
	if err != nil || m.total != 988284<<10 || m.available != 772312<<10 {
		t.Fatalf("%+v %v", m, err)
	}
	if err := m.fits("20261122T101500Z", []api.File{{Size: 200 << 20}, {Size: 100 << 20}}); err != nil {
		t.Error(err)
	}
	err = m.fits("20261122T101500Z", []api.File{{Size: 600 << 20}, {Size: 100 << 20}})
	if err == nil || !strings.Contains(err.Error(), "735 MB") || !strings.Contains(err.Error(), "791 MB of 1013 MB") {
		t.Errorf("%v", err)
	}
	if u := m.upper(300 << 20); u != (m.total-300<<20)/2 {
		t.Errorf("upper %d", u)
	}
	for _, bad := range []string{"", "MemTotal: x kB"} {
		if _, err := parseMeminfo(bad); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

func TestSentence(t *testing.T) {
	for in, want := range map[string]string{
		"open disk:\n no such file": "Open disk: no such file.",
		"Ready.":                    "Ready.",
		"":                          "Something went wrong and gave no reason.",
	} {
		if got := sentence(errors.New(in)); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestConsole(t *testing.T) {
	var tty, file bytes.Buffer
	c := NewConsole(Screen{Writer: &tty, Width: 80}, Screen{Writer: &file}, Screen{Writer: brokenScreen{}, Width: 80})
	at := func(n int64) images.Progress {
		return images.Progress{Bytes: n, Total: 80_000_000, Rate: 10e6, Elapsed: time.Duration(n/10) * time.Microsecond}
	}
	for n := int64(0); n <= 80_000_000; n += 10_000_000 {
		c.Progress("base.squashfs", at(n))
		if n == 40_000_000 {
			c.Say("Cut.\x1b[2J")
		}
	}
	wantFile := "nereid: base.squashfs 25 % of 80 MB, 10.0 MB/s, 6 s left\nnereid: base.squashfs 50 % of 80 MB, 10.0 MB/s, 4 s left\nnereid: Cut. [2J\n" +
		"nereid: base.squashfs 75 % of 80 MB, 10.0 MB/s, 2 s left\nnereid: base.squashfs 80 MB in 8.0 s, 10.0 MB/s\n"
	if file.String() != wantFile {
		t.Errorf("not a terminal:\n%s\nwant\n%s", file.String(), wantFile)
	}
	lines := strings.Split(tty.String(), "\n")
	if len(lines) != 3 || strings.Count(lines[0], "\r") != 5 || !strings.HasPrefix(lines[0][strings.LastIndexByte(lines[0], '\r'):], "\rnereid: Cut. [2J    ") {
		t.Errorf("terminal: %q", lines)
	}
	if len(progressLine(strings.Repeat("x", 200), at(1), 79)) != 79 {
		t.Error("a progress line is wider than its console")
	}
}

type brokenScreen struct{}

func (brokenScreen) Write([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
