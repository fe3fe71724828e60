package storage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUsualLayouts: the data partition of a layout that an installer makes is found
// when the table is lost, with a boot partition that was cleared too.
func TestUsualLayouts(t *testing.T) {
	const sector = 512
	for _, c := range []struct {
		who string
		at  int64
	}{
		{"fdisk and parted, one partition", 2048 * sector},
		{"parted on 4096-byte sectors", 2048 * 4096},
		{"DOS, one partition", 63 * sector},
		{"Windows: 16 MiB reserved", 17 << 20},
		{"Windows 10: 100 MiB ESP and 16 MiB reserved", 117 << 20},
		{"Windows 7: 100 MiB system partition", 101 << 20},
		{"Windows 8: 350 MiB system partition", 351 << 20},
		{"Windows 10: 500 MiB system partition", 501 << 20},
		{"macOS: 200 MiB ESP from sector 40", 409640 * sector},
		{"FreeBSD: 260 MiB ESP from sector 40", 532520 * sector},
		{"SUSE: 8 MiB BIOS boot", 16 << 20},
		{"Arch: 300 MiB ESP", 301 << 20},
		{"Debian: 512 MiB ESP", 513 << 20},
		{"Debian, encrypted: 512 MiB ESP, 488 MiB /boot", 1001 << 20},
		{"Arch: 550 MiB ESP", 551 << 20},
		{"Proxmox VE: 1 MiB BIOS boot, 1 GiB ESP", 1025 << 20},
		{"Red Hat, BIOS: 1 GiB /boot", 1025 << 20},
		{"Ubuntu server, BIOS: 1 MiB BIOS boot, 2 GiB /boot", 2050 << 20},
		{"Ubuntu server, UEFI: ESP of 1,075 MiB, 2 GiB /boot", 3124 << 20},
		{"Fedora, Red Hat: 600 MiB ESP, 1 GiB /boot", 1625 << 20},
		{"512 MiB ESP, 1 GiB /boot", 1537 << 20},
		{"swap of 2, 4, 8 GiB first", 8193 << 20},
	} {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		const size = 20 << 30
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("LUKS\xba\xbe"), c.at); err != nil {
			t.Fatal(err)
		}
		found, err := examine(f, size)
		if err != nil || found.blank || !strings.Contains(strings.Join(found.text, ", "), "LUKS") {
			t.Errorf("%s: found %q, blank %v, %v", c.who, found.text, found.blank, err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
