package network

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Protocol marks routes and addresses as made here (rtm_protocol, IFA_PROTO). The
// kernel leaves the meaning of numbers above 4 (RTPROT_STATIC) to user space;
// iproute2's table of them has no 110.
const Protocol = 110

// prefix begins the ifalias of everything that was made here.
const prefix = "nereid: "

// What the names of bridges begin with: of VNIs, and of NIC tags and VLANs.
const (
	vniPrefix = "vb"
	tagPrefix = "nb"
)

// BridgePrefixes are what the names of all bridges that are made here begin with, and
// of no other link that has an address of the server.
func BridgePrefixes() []string { return []string{vniPrefix, tagPrefix} }

// BridgeOfVNI is the name of a VNI's bridge.
func BridgeOfVNI(vni uint32) string { return vniPrefix + strconv.FormatUint(uint64(vni), 10) }

// VXLANDevice is the name of a VNI's VXLAN device, a port of its bridge.
func VXLANDevice(vni uint32) string { return "vx" + strconv.FormatUint(uint64(vni), 10) }

// BridgeOfTag is a name of the bridge of a NIC tag and VLAN, 0 meaning untagged.
// Where two tags of a server are on one interface, the bridge has both names, one
// of them as an alternative name.
func BridgeOfTag(tag string, vlan int) string {
	return tagPrefix + digest(fmt.Sprintf("%s/%d", tag, vlan))
}

// VLANDevice is the name of a tag's VLAN device. Where two tags are on one
// interface, the first of them by name gives it its name.
func VLANDevice(tag string, vlan int) string { return "nv" + digest(fmt.Sprintf("%s/%d", tag, vlan)) }

// PortPrefix begins the names of the host's ends of instances' NICs, and of nothing
// else that is made here.
const PortPrefix = "np"

// PortDevice is the name of the host's end of an instance's NIC.
func PortDevice(mac string) string { return PortPrefix + plainMAC(mac) }

// PortNamespace is the name of the network namespace that stands in for the
// instance behind a NIC.
func PortNamespace(mac string) string { return "nic-" + plainMAC(mac) }

// ZoneEnd is the name of the end of a NIC that goes into its zone, for as long as it is
// on the server; inside, and after that, others name it.
func ZoneEnd(mac string) string { return "nz" + plainMAC(mac) }

// guestLink is the instance's end.
const guestLink = "eth0"

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

func plainMAC(mac string) string {
	return strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(mac, ":", ""), "-", ""))
}

// class is what a link made here is.
type class string

const (
	classBond   class = "bond"
	classVLAN   class = "VLAN"
	classTag    class = "tag" // bridge of a tag and VLAN
	classBridge class = "VNI" // bridge of a VNI
	classVXLAN  class = "VXLAN"
	classPort   class = "NIC"
	classLeft   class = "left" // tap that goes when its QEMU lets go of it
)

// kindTap is the kernel's name of what a virtual machine's NIC is on its server.
const kindTap = "tun"

// kinds are the kernel's names of the classes' devices.
var kinds = map[class]string{
	classBond: "bond", classVLAN: "vlan", classTag: "bridge", classBridge: "bridge", classVXLAN: "vxlan", classPort: "veth", classLeft: kindTap,
}

// class says what a link is that was made here; empty when it was not. Other
// packages' links also begin with the prefix, and have other words after it.
func (l *Link) class() class {
	rest, ok := strings.CutPrefix(l.Alias, prefix)
	if !ok {
		return ""
	}
	word, _, _ := strings.Cut(rest, " ")
	if c := class(word); l.Kind != "" && (kinds[c] == l.Kind || c == classPort && l.Kind == kindTap) {
		return c
	}
	return ""
}
