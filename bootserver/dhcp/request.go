package dhcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"nereid/api"
)

// ErrDropped is wrapped by every error that says why a message gets no answer.
var ErrDropped = errors.New("no answer")

func drop(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDropped, fmt.Sprintf(format, args...))
}

// Request is a message of a client, checked and taken apart.
type Request struct {
	Message *dhcpv4.DHCPv4
	Type    dhcpv4.MessageType
	Boot    api.BootRequest
	// Server is option 54, invalid when absent.
	Server netip.Addr
	// Client is ciaddr and Relay giaddr, invalid when zero.
	Client, Relay netip.Addr
	// BootService says that the message came to port 4011, where a machine that
	// already has an address asks for its boot file only.
	BootService bool
}

// Parse reads one UDP payload from a client. bootService says that it came to
// port 4011. The error wraps ErrDropped and says why there is no answer.
func Parse(packet []byte, bootService bool) (Request, error) {
	m, err := dhcpv4.FromBytes(packet)
	if err != nil {
		return Request{}, drop("malformed: %v", err)
	}
	if m.OpCode != dhcpv4.OpcodeBootRequest {
		return Request{}, drop("not a request (op %d)", m.OpCode)
	}
	if m.HWType != iana.HWTypeEthernet || len(m.ClientHWAddr) != 6 {
		return Request{}, drop("hardware type %d with %d address bytes, not Ethernet", m.HWType, len(m.ClientHWAddr))
	}
	mac := m.ClientHWAddr
	if mac[0]&1 != 0 || mac.String() == "00:00:00:00:00:00" {
		return Request{}, drop("%s is not the address of a machine", mac)
	}
	r := Request{Message: m, Type: m.MessageType(), BootService: bootService}
	r.Client = addr4(m.ClientIPAddr)
	r.Relay = addr4(m.GatewayIPAddr)
	r.Server = addr4(m.Options.Get(dhcpv4.OptionServerIdentifier))
	r.Boot = api.BootRequest{
		MAC:         mac.String(),
		UUID:        clientUUID(m.Options.Get(dhcpv4.OptionClientMachineIdentifier)),
		UserClass:   userClass(m.Options.Get(dhcpv4.OptionUserClassInformation)),
		VendorClass: printable(string(m.Options.Get(dhcpv4.OptionClassIdentifier))),
		Requested:   addr4(m.Options.Get(dhcpv4.OptionRequestedIPAddress)),
	}
	if !r.Boot.Requested.IsValid() {
		r.Boot.Requested = r.Client
	}
	r.Boot.Arch = clientArch(m.Options.Get(dhcpv4.OptionClientSystemArchitectureType), r.Boot.VendorClass)
	switch r.Type {
	case dhcpv4.MessageTypeDiscover:
		r.Boot.Kind = api.KindDiscover
	case dhcpv4.MessageTypeRequest:
		r.Boot.Kind = api.KindRequest
	case dhcpv4.MessageTypeInform:
		r.Boot.Kind = api.KindInform
	case dhcpv4.MessageTypeRelease:
		r.Boot.Kind = api.KindRelease
		r.Boot.Requested = r.Client
	case dhcpv4.MessageTypeDecline:
		r.Boot.Kind = api.KindDecline
	default:
		return Request{}, drop("message type %d is not a client's", r.Type)
	}
	if bootService {
		if r.Type != dhcpv4.MessageTypeRequest && r.Type != dhcpv4.MessageTypeInform {
			return Request{}, drop("%s on the boot service port", r.Type)
		}
		r.Boot.Kind = api.KindInform
	}
	return r, nil
}

// key identifies retransmissions of one message.
type key struct {
	mac  [6]byte
	xid  dhcpv4.TransactionID
	kind byte
	boot bool
}

// finishes reports whether the message finishes what an earlier one began; such a
// message writes. The others only ask.
func (k key) finishes() bool {
	switch dhcpv4.MessageType(k.kind) {
	case dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		return !k.boot
	}
	return false
}

// retransmissionKey reads a message's key without parsing it; ok is false when
// the packet is too short to have one. The type is found by walking the options.
func retransmissionKey(p []byte, bootService bool) (k key, ok bool) {
	const fixed = 240 // BOOTP header and magic cookie
	if len(p) < fixed {
		return key{}, false
	}
	copy(k.xid[:], p[4:8])
	copy(k.mac[:], p[28:34])
	k.boot = bootService
	for o := p[fixed:]; len(o) >= 3; {
		switch o[0] {
		case 0:
			o = o[1:]
			continue
		case 53:
			k.kind = o[2]
			return k, true
		case 255:
			return k, true
		}
		n := 2 + int(o[1])
		if n > len(o) {
			return k, true
		}
		o = o[n:]
	}
	return k, true
}

func addr4(b []byte) netip.Addr {
	if len(b) == 16 {
		a, _ := netip.AddrFromSlice(b)
		if a = a.Unmap(); a.Is4() && !a.IsUnspecified() {
			return a
		}
		return netip.Addr{}
	}
	if len(b) != 4 || [4]byte(b) == [4]byte{} {
		return netip.Addr{}
	}
	return netip.AddrFrom4([4]byte(b))
}

// clientUUID decodes option 97 (RFC 4578, section 2.3). The GUID travels as in
// SMBIOS: the first three fields little endian, so that the text is what Linux
// shows in /sys/class/dmi/id/product_uuid. Values that identify nobody are empty.
func clientUUID(b []byte) string {
	if len(b) != 17 || b[0] != 0 {
		return ""
	}
	b = b[1:]
	same := true
	for _, c := range b {
		same = same && c == b[0]
	}
	if same && (b[0] == 0 || b[0] == 0xff) {
		return ""
	}
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b),
		binary.LittleEndian.Uint16(b[4:]), binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

// userClass reads option 77, which iPXE sends as bare text and RFC 3004 as a list of
// strings with their lengths in front. Zeros that end a string, or fill the option,
// are no part of it; a length that does not fit is none of the text either.
func userClass(b []byte) string {
	var list []string
	rest := b
	for len(rest) > 0 && rest[0] > 0 && len(rest) > int(rest[0]) {
		n := int(rest[0])
		list = append(list, printable(string(rest[1:1+n])))
		rest = rest[1+n:]
	}
	if len(bytes.Trim(rest, "\x00")) == 0 && len(list) > 0 {
		return printable(strings.Join(list, ","))
	}
	return printable(strings.TrimFunc(string(b), func(r rune) bool { return r < ' ' || r > '~' }))
}

// clientArch reads option 93, or the vendor class of ROMs that leave it out
// ("PXEClient:Arch:00007:UNDI:003016").
func clientArch(b []byte, vendor string) uint16 {
	if len(b) >= 2 {
		return binary.BigEndian.Uint16(b)
	}
	f := strings.Split(vendor, ":")
	if len(f) >= 3 && f[1] == "Arch" {
		if n, err := strconv.ParseUint(f[2], 10, 16); err == nil {
			return uint16(n)
		}
	}
	return 0
}

// printable keeps what may go to logs and records: visible ASCII, at most 128 bytes.
func printable(s string) string {
	s = strings.TrimRight(s, "\x00")
	if len(s) > 128 {
		s = s[:128]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
}
