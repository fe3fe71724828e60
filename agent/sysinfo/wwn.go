package sysinfo

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
)

// wwn is the name that the disk in dir carries by whatever path it is reached:
// the kernel's choice (wwid), and where an older kernel makes none, the one in
// VPD page 0x83.
func (t tree) wwn(dir string) string {
	if id := cmp.Or(t.text(filepath.Join(dir, "wwid")), t.text(filepath.Join(dir, "device", "wwid"))); id != "" {
		return strings.Join(strings.Fields(id), " ")
	}
	page, err := os.ReadFile(filepath.Join(dir, "device", "vpd_pg83"))
	if err != nil {
		return ""
	}
	return parsePage83(page)
}

// parsePage83 reads the name of the logical unit from VPD page 0x83 (SPC-4,
// 7.8.6): NAA before EUI-64 before T10 vendor id. Designators of the port and of
// the target device are left out: they differ by path, or are common to several
// disks.
func parsePage83(page []byte) string {
	if len(page) < 4 || page[1] != 0x83 {
		return ""
	}
	rest := page[4:min(len(page), 4+int(binary.BigEndian.Uint16(page[2:])))]
	name, best := "", byte(0)
	for len(rest) >= 4 && len(rest) >= 4+int(rest[3]) {
		kind, value := rest[1]&0xf, rest[4:4+int(rest[3])]
		unit := rest[1]>>4&3 == 0
		rest = rest[4+int(rest[3]):]
		if !unit || kind <= best || kind > 3 || len(value) == 0 {
			continue
		}
		switch kind {
		case 3:
			name = "naa." + hex.EncodeToString(value)
		case 2:
			name = "eui." + hex.EncodeToString(value)
		case 1:
			name = "t10." + strings.Join(strings.Fields(strings.Trim(string(value), "\x00")), " ")
		default:
			continue
		}
		best = kind
	}
	return name
}
