package network

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// built is a message body: a fixed part and attributes, as the kernel would send.
func built(fixed []byte, attrs ...[]byte) []byte {
	b := append([]byte(nil), fixed...)
	for _, a := range attrs {
		b = append(b, a...)
	}
	return b
}

func str(kind uint16, s string) []byte { return addAttribute(nil, kind, append([]byte(s), 0)) }
func u8(kind uint16, v byte) []byte    { return addAttribute(nil, kind, []byte{v}) }
func u32(kind uint16, v uint32) []byte { return add32(nil, kind, v) }
func nest(kind uint16, attrs ...[]byte) []byte {
	return addAttribute(nil, kind|nested, built(nil, attrs...))
}

func linkHead(index int32, flags uint32) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	return b
}

func conf(n int, values map[int]uint32) []byte {
	b := make([]byte, 4*n)
	for i, v := range values {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	return b
}

// sampleLinks are messages about links that this kernel may lack: bonds, their
// members, VLANs; with what is read from them.
func sampleLinks() (samples [][]byte, want []dumped) {
	closed := nest(unix.IFLA_AF_SPEC,
		nest(unix.AF_INET, addAttribute(nil, unix.IFLA_INET_CONF, conf(33, map[int]uint32{confARPIgnore - 1: 8, confRPFilter - 1: 1}))),
		nest(unix.AF_INET6, addAttribute(nil, inet6Conf, conf(60, map[int]uint32{conf6Disable: 0})), u8(unix.IFLA_INET6_ADDR_GEN_MODE, addrGenModeNone)))
	return [][]byte{
			built(linkHead(7, unix.IFF_UP), str(unix.IFLA_IFNAME, "bond0"), u32(unix.IFLA_MTU, 9000), u32(unix.IFLA_MAX_MTU, 65535),
				addAttribute(nil, unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 1}), u8(unix.IFLA_CARRIER, 1), str(unix.IFLA_IFALIAS, "nereid: bond bond0"),
				nest(unix.IFLA_LINKINFO, str(nl.IFLA_INFO_KIND, "bond"), nest(nl.IFLA_INFO_DATA, u8(nl.IFLA_BOND_MODE, 4), u8(nl.IFLA_BOND_AD_LACP_RATE, 1)))),
			built(linkHead(2, unix.IFF_UP), str(unix.IFLA_IFNAME, "eth0"), u32(unix.IFLA_MTU, 9000), u32(unix.IFLA_MASTER, 7),
				addAttribute(nil, unix.IFLA_ADDRESS, []byte{2, 0, 0, 0, 0, 1}),
				nest(unix.IFLA_LINKINFO, str(nl.IFLA_INFO_SLAVE_KIND, "bond"), nest(nl.IFLA_INFO_SLAVE_DATA,
					addAttribute(nil, nl.IFLA_BOND_SLAVE_PERM_HWADDR, []byte{2, 0, 0, 0, 0, 2}),
					u8(nl.IFLA_BOND_SLAVE_AD_ACTOR_OPER_PORT_STATE, 0x3d),
					addAttribute(nil, nl.IFLA_BOND_SLAVE_AD_PARTNER_OPER_PORT_STATE, []byte{0x3c, 0})))),
			built(linkHead(9, 0), str(unix.IFLA_IFNAME, "nv1"), u32(unix.IFLA_LINK, 7), closed,
				nest(unix.IFLA_PROP_LIST, str(unix.IFLA_ALT_IFNAME, "other"), str(unix.IFLA_ALT_IFNAME, "third")),
				nest(unix.IFLA_LINKINFO, str(nl.IFLA_INFO_KIND, "vlan"), nest(nl.IFLA_INFO_DATA, addAttribute(nil, nl.IFLA_VLAN_ID, []byte{10, 0})))),
			built(linkHead(10, 0), str(unix.IFLA_IFNAME, "vx5"), nest(unix.IFLA_LINKINFO, str(nl.IFLA_INFO_KIND, "vxlan"), nest(nl.IFLA_INFO_DATA,
				u32(nl.IFLA_VXLAN_ID, 5), addAttribute(nil, nl.IFLA_VXLAN_LOCAL, []byte{192, 0, 2, 1}), u8(nl.IFLA_VXLAN_LEARNING, 1), addAttribute(nil, nl.IFLA_VXLAN_PORT, []byte{0x12, 0xb5})),
				str(nl.IFLA_INFO_SLAVE_KIND, "bridge"), nest(nl.IFLA_INFO_SLAVE_DATA, u8(nl.IFLA_BRPORT_LEARNING, 1), u8(nl.IFLA_BRPORT_NEIGH_SUPPRESS, 1)))),
		}, []dumped{
			{Link: Link{Index: 7, Name: "bond0", Kind: "bond", Alias: "nereid: bond bond0", MAC: mac(1), MTU: 9000, MaxMTU: 65535, Up: true, Carrier: true, Mode: modeLACP, Rate: "fast"}, open4: true},
			{Link: Link{Index: 2, Name: "eth0", MAC: mac(1), PermMAC: mac(2), MTU: 9000, Up: true, Member: Member{0x3d, 0x3c}}, master: 7, open4: true},
			{Link: Link{Index: 9, Name: "nv1", Kind: "vlan", VLAN: 10, AltNames: []string{"other", "third"}, Closed: true}, parent: 7},
			{Link: Link{Index: 10, Name: "vx5", Kind: "vxlan", VNI: 5, Local: netip.MustParseAddr("192.0.2.1"), Flags: PortFlags{Learning: true, NeighSuppress: true}}, open4: true},
		}
}

func TestParseLink(t *testing.T) {
	samples, want := sampleLinks()
	for i, s := range samples {
		got, ok := parseLink(s)
		if !ok {
			t.Errorf("%s: not read", want[i].Name)
		}
		if d := cmp.Diff(want[i], got, cmp.AllowUnexported(dumped{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("%s: %s", want[i].Name, d)
		}
	}
}

// FuzzMessages reads any datagram as each of the messages.
func FuzzMessages(f *testing.F) {
	samples, _ := sampleLinks()
	for i, kind := range []uint16{unix.RTM_NEWLINK, unix.RTM_DELLINK, unix.RTM_NEWLINK, unix.NLMSG_ERROR} {
		b := beginMessage(nil, kind, unix.NLM_F_ACK_TLVS, 1)
		b = append(b, samples[i]...)
		endMessage(b, 0)
		f.Add(b)
	}
	for _, c := range []Change{
		{Dev: 3, IP: netip.MustParseAddr("10.0.0.1"), MAC: MAC{1, 2, 3, 4, 5, 6}},
		{Dev: 4, MAC: MAC{1, 2, 3, 4, 5, 6}, Underlay: netip.MustParseAddr("2001:db8::1"), VXLAN: true},
		{Dev: 4, MAC: MAC{1, 2, 3, 4, 5, 6}, VXLAN: true, Delete: true},
	} {
		f.Add(c.append(nil, unix.NTF_SELF, 9))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = messages(b, func(h header, body []byte) error {
			parseLink(body)
			if _, a, ok := parseAddress(body); ok && !a.Prefix.IsValid() {
				t.Errorf("address %v", a)
			}
			if _, r, ok := parseRoute(body); ok && !r.Dst.IsValid() {
				t.Errorf("route %v", r)
			}
			parseNeighbour(body)
			event(h.kind, body)
			_ = answer(h, body)
			return nil
		})
	})
}

// TestChangeMessages: what is written is read back.
func TestChangeMessages(t *testing.T) {
	for _, c := range []Change{
		{Dev: 3, IP: netip.MustParseAddr("10.0.0.1"), MAC: MAC{1, 2, 3, 4, 5, 6}},
		{Dev: 3, IP: netip.MustParseAddr("fd00::1"), MAC: MAC{1, 2, 3, 4, 5, 6}},
		{Dev: 4, MAC: MAC{1, 2, 3, 4, 5, 6}, Underlay: netip.MustParseAddr("2001:db8::1"), VXLAN: true},
		{Dev: 4, MAC: MAC{1, 2, 3, 4, 5, 6}},
	} {
		b := c.append(nil, 0, 9)
		n := 0
		err := messages(b, func(h header, body []byte) error {
			n++
			got, ok := parseNeighbour(body)
			want := c.IP
			if c.VXLAN {
				want = c.Underlay
			}
			if !ok || got.mac != c.MAC || got.dev != c.Dev || got.ip != want || got.ours != c.IP.IsValid() || h.seq != 9 {
				t.Errorf("%s is read as %+v", c, got)
			}
			return nil
		})
		if err != nil || n != 1 {
			t.Errorf("%s: %d messages, %v", c, n, err)
		}
	}
}
