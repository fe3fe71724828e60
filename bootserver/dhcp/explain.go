package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"nereid/api"
)

// Explain runs a request through the live path, as a client's message would,
// with Explain set so that nothing is recorded. Script stays empty.
func (s Settings) Explain(ctx context.Context, d Decider, r api.BootRequest) (api.Explanation, error) {
	r = assumed(r)
	ex := api.Explanation{Request: r}
	packet, err := s.message(r)
	if err != nil {
		return ex, err
	}
	out, err := s.Handle(ctx, explainer{d, r}, packet, netip.AddrPort{}, false)
	if errors.Is(err, ErrDropped) {
		ex.Answer = out.Answer
		if ex.Answer.Verdict == "" {
			why := strings.TrimPrefix(err.Error(), ErrDropped.Error()+": ")
			ex.Answer = api.BootAnswer{Verdict: api.VerdictSilent, Rule: "boot server", Reason: why}
		}
		return ex, nil
	}
	if err != nil {
		return ex, err
	}
	ex.Answer, ex.BootFile = out.Answer, out.BootFile
	if out.Refused != "" && ex.Answer.Verdict != api.VerdictNAK {
		ex.Answer.Verdict, ex.Answer.Rule, ex.Answer.Reason = api.VerdictNAK, "boot server", out.Refused
	}
	if out.NoBootFile != "" && out.Refused == "" && ex.Answer.Boot {
		ex.Answer.Reason = strings.TrimSuffix(ex.Answer.Reason, ".") + "; no boot file: " + out.NoBootFile
	}
	if out.Reply != nil {
		ex.Options = Lines(out.Reply)
	}
	return ex, nil
}

// assumed fills in what firmware sends of itself where the request says nothing.
func assumed(r api.BootRequest) api.BootRequest {
	if r.Kind == "" {
		r.Kind = api.KindDiscover
	}
	if r.VendorClass == "" {
		r.VendorClass = fmt.Sprintf("PXEClient:Arch:%05d:UNDI:003016", r.Arch)
		if r.Arch == ArchUEFIHTTP {
			r.VendorClass = fmt.Sprintf("HTTPClient:Arch:%05d:UNDI:003001", r.Arch)
		}
	}
	return r
}

// explainer hands a Decider the request as it was given, with Explain set.
type explainer struct {
	d Decider
	r api.BootRequest
}

func (e explainer) Boot(ctx context.Context, r api.BootRequest) (api.BootAnswer, error) {
	r.Explain = true
	r.UUID = e.r.UUID
	return e.d.Boot(ctx, r)
}

// message makes the packet a machine with these properties would send.
func (s Settings) message(r api.BootRequest) ([]byte, error) {
	mac, err := net.ParseMAC(r.MAC)
	if err != nil || len(mac) != 6 {
		return nil, &api.Problem{Title: "Invalid request", Status: 400, Code: api.CodeInvalid,
			Detail: fmt.Sprintf("MAC %q is not an Ethernet address", r.MAC), Next: "give six bytes as in 52:54:00:12:34:56"}
	}
	kinds := map[api.BootKind]dhcpv4.MessageType{
		"": dhcpv4.MessageTypeDiscover, api.KindDiscover: dhcpv4.MessageTypeDiscover, api.KindRequest: dhcpv4.MessageTypeRequest,
		api.KindInform: dhcpv4.MessageTypeInform, api.KindRelease: dhcpv4.MessageTypeRelease, api.KindDecline: dhcpv4.MessageTypeDecline,
	}
	kind, ok := kinds[r.Kind]
	if !ok {
		return nil, &api.Problem{Title: "Invalid request", Status: 400, Code: api.CodeInvalid,
			Detail: fmt.Sprintf("%q is no DHCP message", r.Kind), Next: "use discover, request, inform, release or decline"}
	}
	m := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet, ClientHWAddr: mac, Options: dhcpv4.Options{}}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	m.UpdateOption(dhcpv4.OptClientArch(iana.Arch(r.Arch)))
	if r.VendorClass != "" {
		m.UpdateOption(dhcpv4.OptClassIdentifier(r.VendorClass))
	}
	if r.UserClass != "" {
		m.UpdateOption(dhcpv4.OptUserClass(r.UserClass))
	}
	if r.Requested.Is4() {
		if kind == dhcpv4.MessageTypeInform || kind == dhcpv4.MessageTypeRelease {
			m.ClientIPAddr = r.Requested.AsSlice()
		} else {
			m.UpdateOption(dhcpv4.OptRequestedIPAddress(r.Requested.AsSlice()))
		}
	}
	if kind == dhcpv4.MessageTypeRelease || kind == dhcpv4.MessageTypeDecline {
		m.UpdateOption(dhcpv4.OptServerIdentifier(s.Address.Addr().AsSlice()))
	}
	return m.ToBytes(), nil
}

// Lines prints a message as "number name: value", fields first, for people. A zero
// byte is printed as \0.
func Lines(m *dhcpv4.DHCPv4) []string {
	lines := []string{"message: " + m.MessageType().String()}
	for _, f := range []struct{ name, value string }{
		{"ciaddr", ipText(m.ClientIPAddr)}, {"yiaddr", ipText(m.YourIPAddr)}, {"siaddr", ipText(m.ServerIPAddr)},
		{"giaddr", ipText(m.GatewayIPAddr)}, {"sname", m.ServerHostName}, {"file", m.BootFileName},
	} {
		if f.value != "" {
			lines = append(lines, f.name+": "+f.value)
		}
	}
	for code := range 255 {
		v, ok := m.Options[uint8(code)]
		if !ok || code == 53 {
			continue
		}
		one := dhcpv4.Options{uint8(code): v}
		text := strings.ReplaceAll(strings.TrimSpace(one.Summary(nil)), "\x00", `\0`)
		lines = append(lines, fmt.Sprintf("%d %s", code, strings.Join(strings.Fields(text), " ")))
	}
	return lines
}

func ipText(ip net.IP) string {
	if ip == nil || ip.IsUnspecified() {
		return ""
	}
	return ip.String()
}
