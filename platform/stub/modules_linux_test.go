package stub

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const fixtureModules = "../../fixtures/modules/debian-6.12"

func TestGlob(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"*", "", true},
		{"a", "", false},
		{"virtio:d00000001v*", "virtio:d00000001v00001AF4", true},
		{"virtio:d00000001v*", "virtio:d00000002v00001AF4", false},
		{"pci:v00008086d000010D3sv*sd*bc*sc*i*", "pci:v00008086d000010D3sv00001AF4sd00001100bc02sc00i00", true},
		{"pci:v00008086d000010D3sv*sd*bc*sc*i*", "pci:v00008086d000010D4sv00001AF4sd00001100bc02sc00i00", false},
		{"pci:v*d*sv*sd*bc01sc08i02*", "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02", true},
		{"scsi:t-0x00*", "scsi:t-0x00", true},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"usb:v0[0-3]*", "usb:v02A", true},
		{"usb:v0[!0-3]*", "usb:v02A", false},
		{"x[]]y", "x]y", true},
		{"x[ab", "x[ab", true},
		{`a\*b`, "a*b", true},
		{`a\*b`, "aab", false},
		{"*a*b*c", "xxaxxbxxc", true},
		{"*a*b*c", "xxaxxcxxb", false},
		{"dmi*:svn*QEMU*:", "dmi:x:svnQEMU/1:y:", true},
	} {
		if got := glob(tt.pattern, tt.s); got != tt.want {
			t.Errorf("glob(%q, %q) = %v", tt.pattern, tt.s, got)
		}
	}
}

// A made-up pattern must not take exponential time or crash.
func FuzzGlob(f *testing.F) {
	f.Add("pci:v00008086d*", "pci:v00008086d000010D3")
	f.Add("[a-[!]]*\\", "[a-")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 200 || len(s) > 200 {
			return
		}
		got := glob(pattern, s)
		if !strings.ContainsAny(pattern, `*?[\`) && got != (pattern == s) {
			t.Errorf("glob(%q, %q) = %v", pattern, s, got)
		}
		if glob("*"+pattern, s) != true && got {
			t.Errorf("%q matches %q, but not behind a star", pattern, s)
		}
	})
}

// Devices of real machines, matched with Debian's own index.
func TestAliases(t *testing.T) {
	m, err := readModules(fixtureModules)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ device, modalias, want string }{
		{"QEMU virtio NIC", "virtio:d00000001v00001AF4", "virtio_net"},
		{"QEMU virtio disk", "virtio:d00000002v00001AF4", "virtio_blk"},
		{"QEMU virtio SCSI", "virtio:d00000008v00001AF4", "virtio_scsi"},
		{"QEMU e1000", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00", "e1000"},
		{"QEMU e1000e", "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00", "e1000e"},
		{"Intel I350", "pci:v00008086d00001521sv000015D9sd00001521bc02sc00i00", "igb"},
		{"Broadcom BCM5720", "pci:v000014E4d0000165Fsv00001028sd0000063Bbc02sc00i00", "tg3"},
		{"Mellanox ConnectX-5", "pci:v000015B3d00001017sv000015B3sd00000020bc02sc00i00", "mlx5_core"},
		{"Realtek 8111", "pci:v000010ECd00008168sv00001043sd00008677bc02sc00i00", "r8169"},
		{"NVMe by class", "pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", "nvme"},
		{"AHCI by class", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", "ahci"},
		{"SCSI disk", "scsi:t-0x00", "sd_mod"},
		{"host bridge", "pci:v00008086d000029C0sv00001AF4sd00001100bc06sc00i00", ""},
		{"nothing", "", ""},
	} {
		if got := strings.Join(m.aliases.match(tt.modalias), " "); got != tt.want {
			t.Errorf("%s: %q; want %q", tt.device, got, tt.want)
		}
	}
	order := m.deps["r8169"]
	if len(order) == 0 || !strings.HasSuffix(order[len(order)-1], "r8169.ko.xz") || !strings.HasSuffix(order[0], "libphy.ko.xz") {
		t.Errorf("order of r8169: %q; want libphy first and itself last", order)
	}
	if !m.builtin["virtio_pci"] {
		t.Error("virtio_pci is not known as built in")
	}
}

// fakeSys is a tree of buses whose devices appear when drivers are loaded.
type fakeSys struct {
	t      *testing.T
	dir    string
	brings map[string]string // module -> bus/device=modalias it makes appear
	loaded []string
}

func (s *fakeSys) add(bus, device, modalias string) {
	dir := filepath.Join(s.dir, bus, "devices", device)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "modalias"), []byte(modalias+"\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *fakeSys) insert(path, params string) error {
	name := moduleName(path)
	s.loaded = append(s.loaded, strings.TrimSpace(name+" "+params))
	if b, ok := s.brings[name]; ok {
		bus, modalias, _ := strings.Cut(b, "=")
		s.add(bus, "new-"+name, modalias)
	}
	if name == "e1000e" {
		return os.ErrInvalid
	}
	return nil
}

func TestDriversWalk(t *testing.T) {
	m, err := readModules(fixtureModules)
	if err != nil {
		t.Fatal(err)
	}
	args, err := parseCmdline("BOOT_IMAGE=x modprobe.blacklist=e1000,usbhid virtio_net.napi_tx=0 virtio-net.gso=1 systemd.show_status=0 nereid.boot=x")
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeSys{t: t, dir: t.TempDir(), brings: map[string]string{"virtio_scsi": "scsi=scsi:t-0x00"}}
	s.add("pci", "0000:00:00.0", "pci:v00008086d000029C0sv00001AF4sd00001100bc06sc00i00")
	s.add("pci", "0000:00:01.0", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00") // blacklisted
	s.add("pci", "0000:00:02.0", "pci:v00008086d000010D3sv00008086sd00000000bc02sc00i00") // does not load
	s.add("virtio", "virtio0", "virtio:d00000001v00001AF4")
	s.add("virtio", "virtio1", "virtio:d00000008v00001AF4")
	var failed []string
	d := &drivers{modules: m, args: args, bus: s.dir, insert: s.insert, tried: map[string]bool{}, seen: map[string]bool{},
		failed: func(m string, _ error) { failed = append(failed, m) }}
	for range 2 {
		if err := d.walk(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"e1000e", "failover", "net_failover", "virtio_net napi_tx=0 gso=1", "scsi_common", "scsi_mod", "virtio_scsi", "sd_mod"}
	if !slices.Equal(s.loaded, want) {
		t.Errorf("loaded %q\nwant   %q", s.loaded, want)
	}
	if !slices.Equal(failed, []string{"e1000e"}) {
		t.Errorf("failed %q", failed)
	}
	if err := d.named("virtio_pci"); err != nil {
		t.Errorf("built in: %v", err)
	}
	if err := d.named("zfs"); err == nil || !strings.Contains(err.Error(), "zfs") {
		t.Errorf("missing module: %v", err)
	}
}

func TestParseUevent(t *testing.T) {
	for _, tt := range []struct {
		msg, want string
		ok        bool
	}{
		{"add@/devices/pci0000:00/0000:00:02.0/virtio0\x00ACTION=add\x00DEVPATH=/x\x00SUBSYSTEM=virtio\x00MODALIAS=virtio:d00000001v00001AF4\x00SEQNUM=9\x00", "virtio:d00000001v00001AF4", true},
		{"remove@/devices/x\x00ACTION=remove\x00MODALIAS=virtio:d1v1\x00", "", false},
		{"add@/devices/x/net/eth0\x00ACTION=add\x00SUBSYSTEM=net\x00", "", false},
		{"add@/x\x00MODALIAS=\x00", "", false},
		{"libudev\x00\xfe\xed", "", false},
		{"", "", false},
	} {
		if got, ok := parseUevent([]byte(tt.msg)); got != tt.want || ok != tt.ok {
			t.Errorf("%q: %q %v", tt.msg, got, ok)
		}
	}
}
