package sysinfo

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"nereid/api"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write golden files instead of comparing with them")

const fixtures = "../../fixtures/sys"

// expand writes a captured tree below a new folder.
func expand(t testing.TB, name string) Roots {
	t.Helper()
	a, err := txtar.ParseFile(filepath.Join(fixtures, name+".txtar"))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for _, f := range a.Files {
		path := filepath.Join(root, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		text := string(f.Data)
		if target, ok := strings.CutPrefix(text, "SYMLINK "); ok {
			if err := os.Symlink(strings.TrimSpace(target), path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if quoted, ok := strings.CutPrefix(text, "QUOTED "); ok {
			if text, err = strconv.Unquote(strings.TrimSpace(quoted)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Roots{Sys: root + "/sys", Proc: root + "/proc", Dev: root + "/dev", Root: root}
}

func TestRead(t *testing.T) {
	for _, name := range []string{"qemu-bios", "qemu-uefi", "server-2-sockets", "multipath"} {
		t.Run(name, func(t *testing.T) {
			r := &Reader{
				Roots: expand(t, name),
				Content: func(_ context.Context, disk string) (string, error) {
					switch disk {
					case "vda":
						return "a GPT partition table with 2 partitions", nil
					case "nvme1n1":
						return "", errors.New("input/output error")
					}
					return "", nil
				},
				InUse: func(context.Context) map[string]string { return map[string]string{"vdb": "pool zones"} },
			}
			s, err := r.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.MarshalIndent(s, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join(fixtures, name+".json")
			if *update {
				if err := os.WriteFile(golden, append(b, '\n'), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(b)+"\n"); diff != "" {
				t.Errorf("sysinfo (-want +got):\n%s", diff)
			}
			again, err := r.Read(t.Context())
			if err != nil || Digest(again) != Digest(s) {
				t.Errorf("the second reading differs: %v\n%s", err, cmp.Diff(s, again))
			}
		})
	}
}

// TestContentCost: a disk is looked into once, until it is another disk or Forget.
func TestContentCost(t *testing.T) {
	roots := expand(t, "qemu-bios")
	looks := map[string]int{}
	r := &Reader{Roots: roots, Content: func(_ context.Context, disk string) (string, error) {
		looks[disk]++
		return "", nil
	}}
	read := func() {
		t.Helper()
		if _, err := r.Read(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when string, a, b int) {
		t.Helper()
		if looks["vda"] != a || looks["vdb"] != b {
			t.Errorf("%s: looked %v, want vda %d vdb %d", when, looks, a, b)
		}
	}
	read()
	read()
	check("twice", 1, 1)
	if err := os.WriteFile(filepath.Join(roots.Sys, "block/vdb/diskseq"), []byte("77\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	read()
	check("disk changed", 1, 2)
	r.Forget()
	read()
	check("forgotten", 2, 3)
}

func TestReadErrors(t *testing.T) {
	if _, err := Read(t.Context(), Roots{Sys: t.TempDir()}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no /sys: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, expand(t, "qemu-bios")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestRunningSystem reads this machine, whatever it is.
func TestRunningSystem(t *testing.T) {
	s, err := Read(t.Context(), Roots{})
	if err != nil {
		t.Fatal(err)
	}
	if s.MemoryBytes == 0 || s.CPU.Threads == 0 || s.Kernel == "" {
		t.Errorf("%+v", s)
	}
}

func TestSMBIOSUUID(t *testing.T) {
	raw := "\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff"
	table := func(uuid string) []byte {
		return []byte("\x00\x18\x00\x00" + strings.Repeat("x", 20) + "vendor\x001.0\x00\x00" +
			"\x01\x1b\x01\x00\x01\x02\x03\x04" + uuid + "\x06\x00\x00" + "Dell\x00\x00" + "\x7f\x04\x02\x00\x00\x00")
	}
	tests := []struct{ name, entry, uuid, want string }{
		{"3.x", "_SM3_\x00\x18\x03\x02", raw, "00112233-4455-6677-8899-aabbccddeeff"},
		{"2.6", "_SM_\x00\x1f\x02\x06", raw, "00112233-4455-6677-8899-aabbccddeeff"},
		{"2.5", "_SM_\x00\x1f\x02\x05", raw, "33221100-5544-7766-8899-aabbccddeeff"},
		{"not present", "_SM_\x00\x1f\x02\x08", strings.Repeat("\x00", 16), ""},
		{"not set", "_SM_\x00\x1f\x02\x08", strings.Repeat("\xff", 16), ""},
		{"no entry point", "", raw, ""},
	}
	for _, tt := range tests {
		if got := smbiosUUID([]byte(tt.entry), table(tt.uuid)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
	// The raw tables are read when the kernel's file is not there.
	roots := expand(t, "qemu-uefi")
	dir := filepath.Join(roots.Sys, "firmware/dmi/tables")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(dir+"/smbios_entry_point", []byte(tests[0].entry), 0o600),
		os.WriteFile(dir+"/DMI", table(raw), 0o600)); err != nil {
		t.Fatal(err)
	}
	if s, err := Read(t.Context(), roots); err != nil || s.UUID != tests[0].want {
		t.Errorf("from tables: %q %v", s.UUID, err)
	}
}

func FuzzSMBIOS(f *testing.F) {
	f.Add([]byte("_SM3_\x00\x18\x03\x02"), []byte("\x01\x1b\x01\x00\x01\x02\x03\x040123456789abcdef\x06\x00\x00Dell\x00\x00"))
	f.Fuzz(func(t *testing.T, entry, table []byte) {
		if u := smbiosUUID(entry, table); u != "" && !uuidRE.MatchString(u) {
			t.Fatalf("uuid %q", u)
		}
	})
}

// TestDigest: what is observed of a disk is part of the digest.
func TestDigest(t *testing.T) {
	a := api.Sysinfo{Disks: []api.Disk{{Name: "sda"}}}
	b := api.Sysinfo{Disks: []api.Disk{{Name: "sda", InUseBy: "pool zones"}}}
	if len(Digest(a)) != 64 || Digest(a) == Digest(b) {
		t.Error("digests")
	}
}

// A NIC says what it is plugged into, so that one that may be in another machine
// tomorrow identifies nobody.
func TestNICBus(t *testing.T) {
	root := t.TempDir()
	for name, device := range map[string]string{
		"eno1": "pci0000:00/0000:00:1c.0/0000:04:00.0",
		"usb0": "pci0000:00/0000:00:14.0/usb1/1-3/1-3:1.0",
		"vio0": "pci0000:00/0000:00:02.0/virtio0",
	} {
		dir := filepath.Join(root, "sys/devices", device, "net", name)
		class := filepath.Join(root, "sys/class/net")
		for _, err := range []error{os.MkdirAll(dir, 0o755), os.MkdirAll(class, 0o755), os.Symlink(dir, filepath.Join(class, name)),
			os.Symlink(filepath.Join(root, "sys/devices", device), filepath.Join(dir, "device")), os.WriteFile(filepath.Join(dir, "type"), []byte("1\n"), 0o644)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	got := map[string]string{}
	for _, n := range (tree{Roots{Sys: filepath.Join(root, "sys")}}).nics() {
		got[n.Name] = n.Bus
	}
	if diff := cmp.Diff(map[string]string{"eno1": "pci", "usb0": api.BusUSB, "vio0": "virtio"}, got); diff != "" {
		t.Error(diff)
	}
}
