package tree

import (
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
)

// Attributes that an ACL is kept in on Linux (linux/xattr.h), and the records of a tar
// that have it as text (star(1), GNU tar --acls).
var aclRecords = map[string]string{
	"SCHILY.acl.access":  "system.posix_acl_access",
	"SCHILY.acl.default": "system.posix_acl_default",
}

// Tags of an ACL's entries (linux/posix_acl.h), in the order that the kernel wants.
const (
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20

	aclVersion   = 2
	aclUndefined = 1<<32 - 1
	maxACL       = 1000 // entries
)

type aclEntry struct {
	tag, perm uint16
	id        uint32
}

// parseACL reads an ACL as text (acl(5)), with owners by number, and gives what Linux
// keeps of it (linux/posix_acl_xattr.h), or what is wrong with it.
func parseACL(text string) (value, wrong string) {
	var entries []aclEntry
	have := map[uint16]bool{}
	for part := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		part, _, _ = strings.Cut(part, "#")
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		e, wrong := parseACLEntry(part)
		if wrong != "" {
			return "", wrong
		}
		have[e.tag] = true
		if entries = append(entries, e); len(entries) > maxACL {
			return "", "its ACL has more than 1000 entries"
		}
	}
	if !have[aclUserObj] || !have[aclGroupObj] || !have[aclOther] || (have[aclUser] || have[aclGroup]) && !have[aclMask] {
		return "", "its ACL lacks an entry: user::, group::, other::, or mask:: beside named ones"
	}
	slices.SortFunc(entries, func(a, b aclEntry) int {
		if a.tag != b.tag {
			return int(a.tag) - int(b.tag)
		}
		return int(int64(a.id) - int64(b.id))
	})
	out := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for i, e := range entries {
		if i > 0 && e.tag == entries[i-1].tag && e.id == entries[i-1].id {
			return "", "its ACL has an entry twice"
		}
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.perm)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return string(out), ""
}

// parseACLEntry reads tag:who:permissions, and star's fourth part, the number of who.
func parseACLEntry(text string) (e aclEntry, wrong string) {
	bad := "its ACL has the entry " + strconv.Quote(text[:min(len(text), 80)]) + ", which cannot be read"
	f := strings.Split(text, ":")
	if len(f) < 3 || len(f) > 4 {
		return e, bad
	}
	tags := map[string][2]uint16{
		"user": {aclUserObj, aclUser}, "u": {aclUserObj, aclUser}, "group": {aclGroupObj, aclGroup}, "g": {aclGroupObj, aclGroup},
		"mask": {aclMask, 0}, "m": {aclMask, 0}, "other": {aclOther, 0}, "o": {aclOther, 0},
	}
	tag, ok := tags[f[0]]
	who := f[1]
	if len(f) == 4 {
		who = f[3]
	}
	if !ok || who != "" && tag[1] == 0 {
		return e, bad
	}
	e.tag, e.id = tag[0], aclUndefined
	if who != "" {
		id, err := strconv.Atoi(who)
		if err != nil {
			return e, "its ACL names " + strconv.Quote(who[:min(len(who), 80)]) + " without its number, and who that is depends on the machine; pack it with bsdtar, or without ACLs"
		}
		if !validID(id) {
			return e, "its ACL names the owner " + who + "; an instance has 0 to 65535"
		}
		e.tag, e.id = tag[1], uint32(id)
	}
	if len(f[2]) != 3 {
		return e, bad
	}
	for i, bit := range []uint16{4, 2, 1} {
		switch f[2][i] {
		case "rwx"[i]:
			e.perm |= bit
		case '-':
		default:
			return e, bad
		}
	}
	return e, ""
}
