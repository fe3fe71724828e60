package storage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nereid/agent/agenttest"
	"nereid/api"

	"github.com/google/go-cmp/cmp"
)

const zpoolImportText = `   pool: zones
     id: 5220310000513396022
  state: ONLINE
 action: The pool can be imported using its name or numeric identifier.
 config:

	zones       ONLINE
	  mirror-0  ONLINE
	    vdb     ONLINE
	    vdc     ONLINE

   pool: tank
     id: 10501149329493263034
  state: ONLINE
status: The pool was last accessed by another system.
 action: The pool can be imported using its name or numeric identifier and
	the '-f' flag.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-EY
 config:

	tank        ONLINE
	  vdd       ONLINE

   pool: old: pool
     id: 7
  state: UNAVAIL
status: One or more devices contains corrupted data.
	It is worse than that.
 action: The pool cannot be imported due to damaged devices or data.
comment: a comment
 config:

	old: pool   UNAVAIL  insufficient replicas
	  vde       UNAVAIL
`

func TestParseImport(t *testing.T) {
	got, err := parseImport([]byte(zpoolImportText))
	if err != nil {
		t.Fatal(err)
	}
	want := []candidate{
		{"zones", "5220310000513396022", "ONLINE", ""},
		{"tank", "10501149329493263034", "ONLINE", "The pool was last accessed by another system."},
		{"old: pool", "7", "UNAVAIL", "One or more devices contains corrupted data. It is worse than that."},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(candidate{})); diff != "" {
		t.Error(diff)
	}
	if got[1].importable() || !got[0].importable() || got[2].importable() {
		t.Error("importable")
	}
}

func TestParsePools(t *testing.T) {
	const text = `{"output_version":{"command":"zpool list","vers_major":0,"vers_minor":1},"pools":{"zones":{"name":"zones","type":"POOL","state":"ONLINE",
"pool_guid":"5220310000513396022","txg":"9","spa_version":"5000","zpl_version":"5","properties":{
"size":{"value":"4160749568","source":{"type":"NONE","data":"-"}},"allocated":{"value":118784,"source":{"type":"NONE","data":"-"}},
"health":{"value":"DEGRADED","source":{"type":"NONE","data":"-"}},"guid":{"value":"5220310000513396022","source":{"type":"NONE","data":"-"}}}}}}`
	want := []api.Pool{{Name: "zones", GUID: "5220310000513396022", Health: "DEGRADED", SizeBytes: 4160749568, AllocatedBytes: 118784}}
	got, err := parsePools([]byte(text))
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, none := range []string{"", "no pools available\n", `{"pools":{}}`} {
		if got, err := parsePools([]byte(none)); err != nil || got != nil {
			t.Errorf("%q: %v %v", none, got, err)
		}
	}
	for _, bad := range []string{"x", `{"pools":{"a":{}}}`, `{"pools":[]}`} {
		if _, err := parsePools([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

// captured is what zfs 2.3.9 printed on Debian 13, of a mirror that Setup made.
func captured(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/zfs-2.3.9", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseCaptured(t *testing.T) {
	pools, err := parsePools(captured(t, "zpool-list.json"))
	want := []api.Pool{{Name: "zones", GUID: "8028592047248343527", Health: "ONLINE", SizeBytes: 2013265920, AllocatedBytes: 1036288}}
	if diff := cmp.Diff(want, pools); diff != "" || err != nil {
		t.Error(diff, err)
	}
	vdevs, err := parseVdevs(captured(t, "zpool-status.json"))
	if diff := cmp.Diff(map[string][]string{"zones": {"/dev/disk/by-id/virtio-disk1-part1", "/dev/vdd1"}}, vdevs); diff != "" || err != nil {
		t.Error(diff, err)
	}
	root, err := parseProperties(captured(t, "zfs-get-root.json"))
	if p := root["zones"]; err != nil || p[propSystem] != "on" || p[propComplete] != testSetup || p[propReset] != "" || p["mountpoint"] != "/zones" {
		t.Error(root, err)
	}
	sets, err := parseProperties(captured(t, "zfs-get-datasets.json"))
	if err != nil || len(sets) != 3 || sets["zones/config"]["mounted"] != "yes" || sets["zones/config"]["mountpoint"] != "/zones/config" {
		t.Error(sets, err)
	}
	found, err := parseImport(captured(t, "zpool-import.txt"))
	if err != nil || len(found) != 1 || found[0].name != "zones" || found[0].guid != "8028592047248343527" || !found[0].importable() {
		t.Error(found, err)
	}
}

func TestParseVdevs(t *testing.T) {
	const text = `{"pools":{"zones":{"name":"zones","vdevs":{"zones":{"vdev_type":"root","vdevs":{"mirror-0":{"vdev_type":"mirror","vdevs":{
"/dev/vdb1":{"vdev_type":"disk","path":"/dev/vdb1"},"/dev/disk/by-id/a-part1":{"vdev_type":"disk","path":"/dev/disk/by-id/a-part1","phys_path":"pci-0"}}}}}},
"logs":{"/dev/vdc1":{"vdev_type":"disk","path":"/dev/vdc1"}},"spares":{"/dev/nvme0n1p1":{"path":"/dev/nvme0n1p1","state":"AVAIL"}}}}}`
	got, err := parseVdevs([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	want := "/dev/disk/by-id/a-part1 /dev/nvme0n1p1 /dev/vdb1 /dev/vdc1"
	if s := strings.Join(got["zones"], " "); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
}

func TestDiskOf(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "dev/disk/by-id"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "dev/sdq1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../sdq1", filepath.Join(root, "dev/disk/by-id/wwn-0x5-part1")); err != nil {
		t.Fatal(err)
	}
	s := &Storage{Root: root}
	for path, want := range map[string]string{
		"/dev/vdb1": "vdb", "/dev/vdb": "vdb", "/dev/sdaa12": "sdaa", "/dev/nvme0n1p1": "nvme0n1", "/dev/nvme0n1": "nvme0n1",
		"/dev/mmcblk0p2": "mmcblk0", "/dev/mmcblk0": "mmcblk0", "/dev/loop3": "loop3", "/dev/disk/by-id/wwn-0x5-part1": "sdq", "/dev/sdp1": "sdp",
	} {
		if got, _ := s.diskOf(path); got != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
}

func TestParseLabel(t *testing.T) {
	for _, want := range []zfsLabel{{"zones", 42, 0}, {"a pool", 1 << 63, stateDestroyed}, {"", 0, stateSpare}, {"", 0, stateCache}} {
		b := append(agenttest.Label(want.Pool, want.GUID, want.State), make([]byte, 1000)...)
		if got, ok := parseLabel(b); !ok || got != want {
			t.Errorf("got %+v %v, want %+v", got, ok, want)
		}
	}
	if _, ok := parseLabel(make([]byte, labelListSize)); ok {
		t.Error("zeros are a label")
	}
}

func FuzzParsers(f *testing.F) {
	f.Add([]byte(zpoolImportText))
	f.Add([]byte(`{"pools":{"a":{"pool_guid":1,"properties":{"size":{"value":1}},"vdevs":{"a":{"path":"/dev/a"}}}}}`))
	f.Add([]byte(`{"datasets":{"a":{"properties":{"b":{"value":"-"}}}}}`))
	f.Add(agenttest.Label("zones", 1, 0))
	for _, name := range []string{"zpool-list.json", "zpool-status.json", "zfs-get-root.json", "zfs-get-datasets.json", "zpool-import.txt"} {
		f.Add(captured(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if found, err := parseImport(b); err == nil {
			for _, c := range found {
				if c.name == "" || c.guid == "" || c.state == "" {
					t.Fatalf("%+v", c)
				}
			}
		}
		if pools, err := parsePools(b); err == nil {
			for _, p := range pools {
				if p.GUID == "" || p.SizeBytes < 0 {
					t.Fatalf("%+v", p)
				}
			}
		}
		_, _ = parseProperties(b)
		_, _ = parseVdevs(b)
		parseLabel(b)
	})
}

// FuzzExamine looks into disks whose edges hold anything.
func FuzzExamine(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte("EFI PART"), uint16(512))
	f.Add([]byte("\x55\xaa"), uint16(510))
	f.Add([]byte(markMagic), uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		disk := make([]byte, 2<<20)
		copy(disk[at:], b)
		copy(disk[len(disk)-len(b)%4096-1:], b)
		got, err := examine(strings.NewReader(string(disk)), int64(len(disk)))
		if err != nil {
			t.Fatal(err)
		}
		blank := strings.Trim(string(disk), "\x00") == ""
		if blank != got.blank || (got.foreign(testUUID) == "") != blank {
			t.Fatalf("blank %v, found %+v", blank, got)
		}
	})
}

func TestExamineNames(t *testing.T) {
	for _, s := range signatures {
		disk := make([]byte, 4<<20)
		at := s.at
		if at < 0 {
			at += int64(len(disk))
		}
		copy(disk[at:], s.is)
		f, err := examine(strings.NewReader(string(disk)), int64(len(disk)))
		if err != nil || f.foreign("") != s.name {
			t.Errorf("%s: found %q %v", s.name, f.foreign(""), err)
		}
	}
	disk := make([]byte, 4<<20)
	disk[510], disk[511] = 0x55, 0xaa
	copy(disk[446:], "\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x08\x00\x00")
	f, err := examine(strings.NewReader(string(disk)), int64(len(disk)))
	if want := "a DOS partition table with 1 partition"; err != nil || f.foreign("") != want || len(f.parts) != 1 || f.parts[0].start != 1<<20 {
		t.Errorf("%+v %v", f, err)
	}
}
