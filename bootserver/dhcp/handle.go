package dhcp

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"nereid/api"
)

// ClientPort and ServerPort are the ports of RFC 2131, section 4.1.
const (
	ServerPort      = 67
	ClientPort      = 68
	BootServicePort = 4011
)

// maxReply is the largest DHCP message every client accepts: 576 bytes of IP
// datagram (RFC 2131, section 2) less the IP and UDP headers.
const maxReply = 576 - 28

// defaultLease is used when an answer carries no lease time.
const defaultLease = time.Hour

// Decider decides who gets what; the boot server's Booter is one.
type Decider interface {
	Boot(ctx context.Context, r api.BootRequest) (api.BootAnswer, error)
}

// Outcome is what a message led to.
type Outcome struct {
	Request Request
	Answer  api.BootAnswer
	// Reply is the message to send to To, nil when there is none.
	Reply *dhcpv4.DHCPv4
	To    netip.AddrPort
	// BootFile is option 67 of Reply; NoBootFile says why it is empty.
	BootFile, NoBootFile string
	// Refused says why the client did not get what it asked for; empty when it did.
	Refused string
}

// Handle decides one message. from is where it came from; it is where answers on
// the boot service port go. The error wraps ErrDropped when the silence is
// deliberate, otherwise d could not decide.
func (s Settings) Handle(ctx context.Context, d Decider, packet []byte, from netip.AddrPort, bootService bool) (Outcome, error) {
	r, err := Parse(packet, bootService)
	if err != nil {
		return Outcome{}, err
	}
	out := Outcome{Request: r}
	if err := s.admit(r); err != nil {
		return out, err
	}
	if r.Type == dhcpv4.MessageTypeRequest && !bootService {
		if !r.Boot.Requested.IsValid() {
			return out, drop("REQUEST without an address")
		}
		if !s.Address.Contains(r.Boot.Requested) {
			return s.refuse(out, fmt.Sprintf("%s is not on the admin network %s", r.Boot.Requested, s.Address.Masked())), nil
		}
	}
	a, err := d.Boot(ctx, r.Boot)
	if err != nil {
		return out, fmt.Errorf("decide on %s from %s: %w", r.Type, r.Boot.MAC, err)
	}
	out.Answer = a
	switch {
	case r.Type == dhcpv4.MessageTypeRelease || r.Type == dhcpv4.MessageTypeDecline:
		return out, nil
	case a.Verdict == api.VerdictNAK && r.Type == dhcpv4.MessageTypeRequest && !bootService:
		return s.refuse(out, a.Reason), nil
	case a.Verdict != api.VerdictAnswer:
		out.Refused = a.Reason
		return out, drop("%s (rule %s)", a.Reason, a.Rule)
	case r.Boot.Kind != api.KindInform && !s.usable(a.Address):
		return out, fmt.Errorf("decide on %s from %s: address %s is not a host on %s", r.Type, r.Boot.MAC, a.Address, s.Address.Masked())
	case r.Type == dhcpv4.MessageTypeRequest && !bootService && r.Boot.Requested != a.Address.Addr():
		return s.refuse(out, fmt.Sprintf("%s is not the address of %s; that is %s", r.Boot.Requested, r.Boot.MAC, a.Address.Addr())), nil
	}
	out.BootFile, out.NoBootFile = s.BootFile(r.Boot, a)
	out.Reply = s.reply(r, a, out.BootFile)
	out.To = destination(out.Reply, r, from)
	return out, nil
}

// admit says which messages are looked at all.
func (s Settings) admit(r Request) error {
	own := s.Address.Addr()
	if r.Relay.IsValid() && (!s.Address.Contains(r.Relay) || r.Relay == own) {
		return drop("relayed by %s, which is not on the admin network %s; its clients need addresses of another network", r.Relay, s.Address.Masked())
	}
	switch r.Type {
	case dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeDecline:
		if !r.Server.IsValid() {
			return drop("%s without a server identifier", r.Type)
		}
		if r.Server != own {
			return drop("%s is meant for server %s", r.Type, r.Server)
		}
		if !r.Boot.Requested.IsValid() || !s.Address.Contains(r.Boot.Requested) {
			return drop("%s of %s, which is not on the admin network", r.Type, r.Boot.Requested)
		}
		return nil
	case dhcpv4.MessageTypeInform:
		if !r.Client.IsValid() {
			return drop("INFORM without an address")
		}
	}
	// On the boot service port some ROMs repeat the identifier of the server
	// that gave the address; the port itself says who is asked.
	if r.Server.IsValid() && r.Server != own && !r.BootService {
		return drop("%s is meant for server %s", r.Type, r.Server)
	}
	if ok, why := s.Served(r.Boot); !ok {
		return drop("%s", why)
	}
	return nil
}

// usable reports whether p can be handed out: a host address of the admin
// network that is not the server's own.
func (s Settings) usable(p netip.Prefix) bool {
	a := p.Addr()
	if !a.Is4() || !s.Address.Contains(a) || a == s.Address.Addr() {
		return false
	}
	if s.Address.Bits() >= 31 {
		return true
	}
	return a != s.Address.Masked().Addr() && a != broadcastOf(s.Address)
}

func broadcastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := range b {
		for bit := range 8 {
			if i*8+bit >= p.Bits() {
				b[i] |= 1 << (7 - bit)
			}
		}
	}
	return netip.AddrFrom4(b)
}

// refuse makes a DHCPNAK, which is broadcast so that it reaches a machine that
// believes in a wrong address (RFC 2131, section 4.3.2).
func (s Settings) refuse(out Outcome, why string) Outcome {
	r := out.Request
	m := s.blank(r)
	m.UpdateOption(dhcpv4.OptMessageType(dhcpv4.MessageTypeNak))
	m.UpdateOption(dhcpv4.OptMessage(printable(why)))
	m.SetBroadcast()
	out.Reply, out.Refused = m, why
	out.To = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), ClientPort)
	if r.Relay.IsValid() {
		out.To = netip.AddrPortFrom(r.Relay, ServerPort)
	}
	return out
}

// blank is what all answers have in common. Options 61 (RFC 6842), 82 (RFC 3046)
// and 97 (RFC 4578) are echoed.
func (s Settings) blank(r Request) *dhcpv4.DHCPv4 {
	q := r.Message
	zero := net.IPv4zero
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: q.HWType, TransactionID: q.TransactionID, Flags: q.Flags,
		ClientHWAddr: q.ClientHWAddr, ClientIPAddr: zero, YourIPAddr: zero, ServerIPAddr: zero,
		GatewayIPAddr: q.GatewayIPAddr, Options: dhcpv4.Options{},
	}
	m.UpdateOption(dhcpv4.OptServerIdentifier(s.Address.Addr().AsSlice()))
	for _, c := range []dhcpv4.OptionCode{dhcpv4.OptionClientIdentifier, dhcpv4.OptionRelayAgentInformation, dhcpv4.OptionClientMachineIdentifier} {
		if v := q.Options.Get(c); len(v) > 0 && len(v) <= 255 {
			m.UpdateOption(dhcpv4.OptGeneric(c, v))
		}
	}
	return m
}

// reply makes an OFFER or ACK.
func (s Settings) reply(r Request, a api.BootAnswer, file string) *dhcpv4.DHCPv4 {
	m := s.blank(r)
	own := s.Address.Addr()
	kind := dhcpv4.MessageTypeAck
	if r.Type == dhcpv4.MessageTypeDiscover {
		kind = dhcpv4.MessageTypeOffer
	}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	if r.Type != dhcpv4.MessageTypeDiscover {
		m.ClientIPAddr = r.Message.ClientIPAddr
	}
	if r.Boot.Kind != api.KindInform {
		m.YourIPAddr = a.Address.Addr().AsSlice()
		lease := a.Lease
		if lease <= 0 {
			lease = defaultLease
		}
		m.UpdateOption(dhcpv4.OptIPAddressLeaseTime(lease))
		m.UpdateOption(dhcpv4.OptRenewTimeValue(lease / 2))
		m.UpdateOption(dhcpv4.OptRebindingTimeValue(lease / 8 * 7))
	}
	m.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(s.Address.Bits(), 32)))
	if a.Gateway.Is4() {
		m.UpdateOption(dhcpv4.OptRouter(a.Gateway.AsSlice()))
	}
	if l := list4(a.DNS); len(l) > 0 {
		m.UpdateOption(dhcpv4.OptDNS(l...))
	}
	if l := list4(a.NTP); len(l) > 0 {
		m.UpdateOption(dhcpv4.OptNTPServers(l...))
	}
	if a.Hostname != "" {
		m.UpdateOption(dhcpv4.OptHostName(a.Hostname))
	}
	if a.Domain != "" {
		m.UpdateOption(dhcpv4.OptDomainName(a.Domain))
	}
	if file != "" {
		m.ServerIPAddr = own.AsSlice()
		m.ServerHostName = own.String()
		m.UpdateOption(dhcpv4.OptTFTPServerName(own.String()))
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionBootfileName, bootFileOption(r.Boot, file)))
		if len(file) < 128 { // the field holds a terminating zero
			m.BootFileName = file
		}
		s.vendorOptions(m, r)
	}
	for _, c := range []dhcpv4.OptionCode{
		dhcpv4.OptionNTPServers, dhcpv4.OptionDomainName, dhcpv4.OptionTFTPServerName,
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionHostName, dhcpv4.OptionClientIdentifier,
	} {
		if len(m.ToBytes()) <= maxReply {
			break
		}
		m.DeleteOption(c)
	}
	return m
}

// bootFileOption is option 67. PXE ROMs read it up to a zero byte, and ask TFTP for
// the code of the next option too where there is none. HTTP boot takes it whole.
func bootFileOption(r api.BootRequest, file string) []byte {
	if strings.HasPrefix(r.VendorClass, "PXEClient") && !r.IPXE() {
		file += "\x00"
	}
	return []byte(file)
}

// vendorOptions adds what particular firmware needs to take the boot file.
func (s Settings) vendorOptions(m *dhcpv4.DHCPv4, r Request) {
	switch {
	case r.Boot.IPXE():
		// iPXE's own option space: no-pxedhcp (176) = 1, so that it does not
		// wait for a ProxyDHCP answer.
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.GenericOptionCode(175), []byte{176, 1, 1}))
	case strings.HasPrefix(r.Boot.VendorClass, "HTTPClient"):
		m.UpdateOption(dhcpv4.OptClassIdentifier("HTTPClient"))
	case r.BootService:
		m.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
		if item := suboption(r.Message.Options.Get(dhcpv4.OptionVendorSpecificInformation), 71); len(item) == 4 {
			// PXE_BOOT_ITEM is repeated as it was asked for (PXE 2.1, section 2.2.5).
			v := append([]byte{71, 4}, item...)
			m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, append(v, 255)))
		}
	case r.Boot.Arch == ArchBIOS:
		m.UpdateOption(dhcpv4.OptClassIdentifier("PXEClient"))
		// PXE_DISCOVERY_CONTROL (6) = 8: load the file named here at once.
		m.UpdateOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{6, 1, 8, 255}))
	}
}

func suboption(b []byte, code byte) []byte {
	for len(b) >= 2 && b[0] != 255 {
		if b[0] == 0 {
			b = b[1:]
			continue
		}
		n := int(b[1])
		if len(b) < 2+n {
			return nil
		}
		if b[0] == code {
			return b[2 : 2+n]
		}
		b = b[2+n:]
	}
	return nil
}

// list4 keeps the first four IPv4 addresses: more only fills the packet.
func list4(in []netip.Addr) []net.IP {
	var out []net.IP
	for _, a := range in {
		if a.Is4() && len(out) < 4 {
			out = append(out, a.AsSlice())
		}
	}
	return out
}

// destination says where an OFFER or ACK goes (RFC 2131, section 4.1).
func destination(m *dhcpv4.DHCPv4, r Request, from netip.AddrPort) netip.AddrPort {
	switch {
	case r.BootService:
		return from
	case r.Relay.IsValid():
		return netip.AddrPortFrom(r.Relay, ServerPort)
	case r.Client.IsValid() && r.Type != dhcpv4.MessageTypeDiscover:
		return netip.AddrPortFrom(r.Client, ClientPort)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), ClientPort)
}
