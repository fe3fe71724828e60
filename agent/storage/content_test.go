package storage

import (
	"errors"
	"strings"
	"testing"

	"nereid/agent/agenttest"
	"nereid/api"
)

// lost is data whose partition table is gone: nothing but it is on the disk.
var lost = []struct {
	name string
	at   int64
	data string
	text string // what Content says, in part
}{
	{"ZFS label 0 in a partition at 1 MiB", 1<<20 + labelListOffset, string(agenttest.Label("tank", 7, 0)), `the ZFS pool "tank"`},
	{"ZFS label 1 in a partition at 1 MiB", 1<<20 + labelSize + labelListOffset, string(agenttest.Label("tank", 7, 0)), `the ZFS pool "tank"`},
	{"ZFS label in a partition of illumos at sector 256", 256*512 + labelListOffset, string(agenttest.Label("tank", 7, 0)), `the ZFS pool "tank"`},
	{"ZFS label 2 of a whole disk's partition", 2*gib - 9<<20 - 2*labelSize + labelListOffset, string(agenttest.Label("tank", 7, 0)), `the ZFS pool "tank"`},
	{"ZFS label 3 of a whole disk's partition", 2*gib - 9<<20 - labelSize + labelListOffset, string(agenttest.Label("tank", 7, 0)), `the ZFS pool "tank"`},
	{"ZFS label 3 of a partition to the end", 2*gib - 1<<20 - labelSize + labelListOffset, string(agenttest.Label("tank", 7, 0)), `the ZFS pool "tank"`},
	{"LVM in a partition at 1 MiB", 1<<20 + 512 + 24, "LVM2 001", "LVM physical volume"},
	{"LVM in a partition at sector 63", 63*512 + 512 + 24, "LVM2 001", "LVM physical volume"},
	{"VMFS on the whole disk", 1 << 20, "\x0d\xd0\x01\xc0", "VMFS"},
	{"VMFS in a partition at 1 MiB", 2 << 20, "\x0d\xd0\x01\xc0", "VMFS"},
	{"VMFS in a partition at sector 63", 63*512 + 1<<20, "\x0d\xd0\x01\xc0", "VMFS"},
	{"VMFS in a partition at sector 128", 128*512 + 1<<20, "\x0d\xd0\x01\xc0", "VMFS"},
	{"ext4 at sector 63", 63*512 + 1080, "\x53\xef", "ext4"},
	{"ext4 at sector 2048", 1<<20 + 1080, "\x53\xef", "ext4"},
	{"ext4 at sector 63 of 4096 bytes", 63*4096 + 1080, "\x53\xef", "ext4"},
	{"ext4 at sector 2048 of 4096 bytes", 8<<20 + 1080, "\x53\xef", "ext4"},
	{"XFS behind a boot partition of 512 MiB", 513 << 20, "XFSB", "XFS"},
	{"btrfs behind a boot partition of 1 GiB", 1025<<20 + 0x10040, "_BHRfS_M", "Btrfs"},
	{"NTFS behind the reserved partition of Windows", 16<<20 + 3, "NTFS    ", "NTFS"},
	{"the second LUKS2 header, the first is gone", 16 << 10, "SKUL\xba\xbe", "LUKS"},
	{"the second LUKS2 header in a partition at 1 MiB", 1<<20 + 16<<10, "SKUL\xba\xbe", "LUKS"},
	{"bcache in a partition at 1 MiB", 1<<20 + 4120, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"},
	{"md 0.9 superblock", 2*gib - 65536, "\xfc\x4e\x2b\xa9", "md RAID"},
	{"md 1.0 superblock", 2*gib - 8192, "\xfc\x4e\x2b\xa9", "md RAID"},
	{"md 1.2 superblock in a partition at 1 MiB", 1<<20 + 4096, "\xfc\x4e\x2b\xa9", "md RAID"},
	{"the backup of a GPT", 2*gib - 512, "EFI PART", "backup of a GPT"},
	{"unknown bytes between 1 and 2 MiB", 3 << 19, "something", "unknown kind"},
	{"unknown bytes 1.5 MiB before the end", 2*gib - 3<<19, "something", "unknown kind"},
}

// TestLostPartition: a disk whose partition table is gone is not blank. Leave to
// wipe it makes it blank, all of it that is looked at, so that it is blank too
// after a later reset.
func TestLostPartition(t *testing.T) {
	for _, tt := range lost {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, "vdb", "vdc")
			l.write(t, "vdb", tt.at, tt.data)
			text, err := l.Content(t.Context(), "vdb")
			if err != nil || !strings.Contains(text, tt.text) {
				t.Fatalf("content %q %v, want %q", text, err, tt.text)
			}
			before := l.sum(t, "vdb")
			if err := l.setup(t, api.SetupSpec{ID: testSetup}); !errors.Is(err, ErrForeignData) {
				t.Fatalf("set up: %v", err)
			}
			// Nor does an inventory from before the data came help.
			if err := l.Setup(t.Context(), api.SetupSpec{ID: testSetup}, l.disks, nil); !errors.Is(err, ErrForeignData) {
				t.Fatalf("set up by an old inventory: %v", err)
			}
			if l.sum(t, "vdb") != before {
				t.Fatal("a refused setup changed the disk")
			}
			if err := l.setup(t, api.SetupSpec{ID: testSetup, Wipe: []string{"vdb"}}); err != nil {
				t.Fatal(err)
			}
			pools, err := l.Pools(t.Context())
			if err != nil || len(pools) != 1 {
				t.Fatal(pools, err)
			}
			if err := l.Destroy(t.Context(), pools[0].GUID); err != nil {
				t.Fatal(err)
			}
			if text, err := l.Content(t.Context(), "vdb"); err != nil || text != "" {
				t.Fatalf("after a reset the disk holds %q, %v", text, err)
			}
		})
	}
}

// TestResetLeavesBlank: what guests wrote on a pool's disk is no reason to
// refuse the disk after the server's own reset.
func TestResetLeavesBlank(t *testing.T) {
	l := newLab(t, "vdb", "vdc")
	if err := l.setup(t, api.SetupSpec{ID: testSetup}); err != nil {
		t.Fatal(err)
	}
	for _, from := range farStarts {
		if from+lostHead < 2*gib {
			l.write(t, "vdb", from, "XFSB")
		}
	}
	l.write(t, "vdb", 5<<20, "a block of a file")
	pools, err := l.Pools(t.Context())
	if err != nil || len(pools) != 1 {
		t.Fatal(pools, err)
	}
	if err := l.Destroy(t.Context(), pools[0].GUID); err != nil {
		t.Fatal(err)
	}
	for _, d := range l.observed(t) {
		if d.Content != "" {
			t.Errorf("disk %s holds %q", d.Name, d.Content)
		}
	}
}
