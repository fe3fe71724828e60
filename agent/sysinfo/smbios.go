package sysinfo

import (
	"encoding/binary"
	"fmt"
	"os"
	"regexp"
	"strings"
)

var uuidRE = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// dmi is a field of SMBIOS as the kernel presents it; what vendors write when
// they have nothing to say counts as nothing.
func (t tree) dmi(field string) string {
	s := t.text(t.sys("class", "dmi", "id", field))
	switch strings.ToLower(s) {
	case "to be filled by o.e.m.", "default string", "not specified", "system serial number", "none", "0123456789":
		return ""
	}
	return s
}

// uuid is the server's UUID, lower case, empty when firmware gives none. The
// kernel's text is preferred; the raw tables are read when it is unreadable.
func (t tree) uuid() string {
	if u := strings.ToLower(t.text(t.sys("class", "dmi", "id", "product_uuid"))); uuidRE.MatchString(u) {
		return u
	}
	dir := t.sys("firmware", "dmi", "tables")
	entry, err := os.ReadFile(dir + "/smbios_entry_point")
	if err != nil {
		return ""
	}
	table, err := os.ReadFile(dir + "/DMI")
	if err != nil {
		return ""
	}
	return smbiosUUID(entry, table)
}

// smbiosUUID finds the UUID of the System Information structure (type 1, SMBIOS
// 3.x, section 7.2). From version 2.6 on its first three fields are little
// endian. All zeros means not present, all ones not set: both give "".
func smbiosUUID(entry, table []byte) string {
	var major, minor byte
	switch {
	case len(entry) >= 9 && string(entry[:5]) == "_SM3_":
		major, minor = entry[7], entry[8]
	case len(entry) >= 8 && string(entry[:4]) == "_SM_":
		major, minor = entry[6], entry[7]
	default:
		return ""
	}
	for len(table) >= 4 {
		kind, n := table[0], int(table[1])
		if n < 4 || n > len(table) {
			return ""
		}
		if kind == 1 && n >= 0x19 {
			return formatUUID([16]byte(table[8:24]), major > 2 || major == 2 && minor >= 6)
		}
		// Strings follow the structure and end with two zero bytes.
		rest := table[n:]
		end := strings.Index(string(rest), "\x00\x00")
		if end < 0 {
			return ""
		}
		table = rest[end+2:]
	}
	return ""
}

func formatUUID(b [16]byte, little bool) string {
	if b == [16]byte{} || b == [16]byte([]byte(strings.Repeat("\xff", 16))) {
		return ""
	}
	var order binary.ByteOrder = binary.BigEndian
	if little {
		order = binary.LittleEndian
	}
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x",
		order.Uint32(b[0:]), order.Uint16(b[4:]), order.Uint16(b[6:]), b[8:10], b[10:16])
}
