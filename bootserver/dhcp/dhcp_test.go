package dhcp

import (
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"nereid/api"
)

var update = flag.Bool("update", false, "write golden files")

var settings = Settings{Address: netip.MustParsePrefix("10.99.99.7/24"), Clients: "pxe", URL: "http://10.99.99.7"}

const testMAC = "52:54:00:12:34:56"

// deciderFunc is a Decider that also keeps what it was asked.
type deciderFunc struct {
	asked  []api.BootRequest
	answer api.BootAnswer
	err    error
}

func (d *deciderFunc) Boot(_ context.Context, r api.BootRequest) (api.BootAnswer, error) {
	d.asked = append(d.asked, r)
	return d.answer, d.err
}

func full() api.BootAnswer {
	return api.BootAnswer{
		Verdict: api.VerdictAnswer, Rule: "newcomer", Reason: "the MAC is new", BootID: "abcdefghijklmnopqrstuvwxyz",
		Address: netip.MustParsePrefix("10.99.99.100/24"), Gateway: netip.MustParseAddr("10.99.99.1"),
		DNS: []netip.Addr{netip.MustParseAddr("10.99.99.2"), netip.MustParseAddr("10.99.99.3")},
		NTP: []netip.Addr{netip.MustParseAddr("10.99.99.4")}, Domain: "coal.example.com", Hostname: "cn-1",
		Lease: 12 * time.Hour, Boot: true,
	}
}

// message makes a client's message.
func message(kind dhcpv4.MessageType, opts ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	m := &dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, HWType: iana.HWTypeEthernet,
		TransactionID: dhcpv4.TransactionID{1, 2, 3, 4}, ClientHWAddr: []byte{0x52, 0x54, 0, 0x12, 0x34, 0x56}, Options: dhcpv4.Options{}}
	m.UpdateOption(dhcpv4.OptMessageType(kind))
	for _, o := range opts {
		o(m)
	}
	return m
}

func class(s string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptClassIdentifier(s)) }
func arch(n uint16) dhcpv4.Modifier  { return dhcpv4.WithOption(dhcpv4.OptClientArch(iana.Arch(n))) }
func ipxe() dhcpv4.Modifier          { return dhcpv4.WithOption(dhcpv4.OptUserClass("iPXE")) }
func requested(s string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(netip.MustParseAddr(s).AsSlice()))
}
func server(s string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(netip.MustParseAddr(s).AsSlice()))
}
func ciaddr(s string) dhcpv4.Modifier { return dhcpv4.WithClientIP(netip.MustParseAddr(s).AsSlice()) }
func giaddr(s string) dhcpv4.Modifier {
	return func(d *dhcpv4.DHCPv4) { d.GatewayIPAddr = netip.MustParseAddr(s).AsSlice() }
}

const pxe = "PXEClient:Arch:00000:UNDI:002001"

var guid = append([]byte{0}, 0x2e, 0x1c, 0x1b, 0x6f, 0x55, 0x0c, 0x7e, 0x4c, 0x9d, 0x0a, 1, 0x23, 0x45, 0x67, 0x89, 0xab)

// TestAnswers compares whole answers with golden texts.
func TestAnswers(t *testing.T) {
	for _, tc := range []struct {
		name string
		m    *dhcpv4.DHCPv4
		to   string
		boot bool // port 4011
	}{
		{name: "bios-discover", m: message(dhcpv4.MessageTypeDiscover, class(pxe), arch(0), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, guid)))},
		{name: "uefi-discover", m: message(dhcpv4.MessageTypeDiscover, class("PXEClient:Arch:00007:UNDI:003016"), arch(7))},
		{name: "uefi-http-discover", m: message(dhcpv4.MessageTypeDiscover, class("HTTPClient:Arch:00016:UNDI:003001"), arch(16))},
		{name: "arm64-discover", m: message(dhcpv4.MessageTypeDiscover, class("PXEClient:Arch:00011:UNDI:003016"), arch(11))},
		{name: "ipxe-discover", m: message(dhcpv4.MessageTypeDiscover, class(pxe), ipxe(), arch(0))},
		{name: "ipxe-request", m: message(dhcpv4.MessageTypeRequest, class(pxe), ipxe(), arch(0), requested("10.99.99.100"), server("10.99.99.7"))},
		{name: "platform-renew", m: message(dhcpv4.MessageTypeRequest, class("nereid"), ciaddr("10.99.99.100")), to: "10.99.99.100:68"},
		{name: "request-other-address", m: message(dhcpv4.MessageTypeRequest, class(pxe), requested("10.99.99.123"))},
		{name: "reboot-wrong-network", m: message(dhcpv4.MessageTypeRequest, class(pxe), requested("192.168.1.5"))},
		{name: "inform", m: message(dhcpv4.MessageTypeInform, class(pxe), arch(0), ciaddr("10.99.99.100")), to: "10.99.99.100:68"},
		{name: "relayed", m: message(dhcpv4.MessageTypeDiscover, class(pxe), giaddr("10.99.99.5"),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, []byte{1, 4, 'e', 't', 'h', '0'}))), to: "10.99.99.5:67"},
		{name: "boot-service-bios", boot: true, to: "10.99.99.100:4011", m: message(dhcpv4.MessageTypeRequest, class(pxe), arch(0), ciaddr("10.99.99.100"),
			dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionVendorSpecificInformation, []byte{71, 4, 0, 0, 0, 0, 255})))},
		{name: "boot-service-uefi", boot: true, to: "10.99.99.100:4011", m: message(dhcpv4.MessageTypeRequest, class("PXEClient:Arch:00007:UNDI:003016"), arch(7), ciaddr("10.99.99.100"), server("10.99.99.7"))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &deciderFunc{answer: full()}
			out, err := settings.Handle(t.Context(), d, tc.m.ToBytes(), netip.MustParseAddrPort("10.99.99.100:4011"), tc.boot)
			if err != nil {
				t.Fatal(err)
			}
			to := tc.to
			if to == "" {
				to = "255.255.255.255:68"
			}
			if out.To.String() != to {
				t.Errorf("sent to %s, want %s", out.To, to)
			}
			back, err := dhcpv4.FromBytes(out.Reply.ToBytes())
			if err != nil {
				t.Fatalf("the answer does not parse: %v", err)
			}
			got := strings.Join(Lines(back), "\n") + "\n"
			if out.NoBootFile != "" {
				got += "(no boot file: " + out.NoBootFile + ")\n"
			}
			golden(t, filepath.Join("../../fixtures/dhcp", tc.name+".txt"), got)
			seed := filepath.Join("../../fixtures/dhcp", tc.name+".bin")
			if *update {
				if err := os.WriteFile(seed, tc.m.ToBytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if n := len(out.Reply.ToBytes()); n > maxReply {
				t.Errorf("%d bytes, more than the %d every client accepts", n, maxReply)
			}
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("differs from %s (-want +got):\n%s", path, d)
	}
}

// TestSilence says which messages get no answer, why, and whether the Booter is
// asked at all.
func TestSilence(t *testing.T) {
	reply := message(dhcpv4.MessageTypeDiscover, class(pxe))
	reply.OpCode = dhcpv4.OpcodeBootReply
	multicast := message(dhcpv4.MessageTypeDiscover, class(pxe))
	multicast.ClientHWAddr = []byte{1, 0, 0x5e, 0, 0, 1}
	infiniband := message(dhcpv4.MessageTypeDiscover, class(pxe))
	infiniband.HWType = iana.HWTypeInfiniband
	for _, tc := range []struct {
		name, want string
		m          *dhcpv4.DHCPv4
		boot       bool
		asked      bool
		answer     *api.BootAnswer
	}{
		{name: "other server's request", m: message(dhcpv4.MessageTypeRequest, class(pxe), requested("10.99.99.100"), server("10.99.99.8")), want: "meant for server 10.99.99.8"},
		{name: "other server's release", m: message(dhcpv4.MessageTypeRelease, ciaddr("10.99.99.100"), server("10.99.99.8")), want: "meant for server 10.99.99.8"},
		{name: "release of another network", m: message(dhcpv4.MessageTypeRelease, ciaddr("10.1.1.1"), server("10.99.99.7")), want: "not on the admin network"},
		{name: "decline without server", m: message(dhcpv4.MessageTypeDecline, requested("10.99.99.100")), want: "without a server identifier"},
		{name: "other class", m: message(dhcpv4.MessageTypeDiscover, class("MSFT 5.0")), want: `vendor class "MSFT 5.0"`},
		{name: "no class", m: message(dhcpv4.MessageTypeDiscover), want: "no vendor class"},
		{name: "a reply", m: reply, want: "not a request"},
		{name: "multicast hardware address", m: multicast, want: "not the address of a machine"},
		{name: "InfiniBand", m: infiniband, want: "not Ethernet"},
		{name: "server's message type", m: message(dhcpv4.MessageTypeOffer, class(pxe)), want: "not a client's"},
		{name: "no message type", m: message(0, class(pxe)), want: "not a client's"},
		{name: "relay elsewhere", m: message(dhcpv4.MessageTypeDiscover, class(pxe), giaddr("172.16.0.1")), want: "relayed by 172.16.0.1"},
		{name: "request without address", m: message(dhcpv4.MessageTypeRequest, class(pxe)), want: "without an address"},
		{name: "inform without address", m: message(dhcpv4.MessageTypeInform, class(pxe)), want: "INFORM without an address"},
		{name: "discover on 4011", m: message(dhcpv4.MessageTypeDiscover, class(pxe)), boot: true, want: "on the boot service port"},
		{name: "Booter says silent", m: message(dhcpv4.MessageTypeDiscover, class(pxe)), asked: true,
			answer: &api.BootAnswer{Verdict: api.VerdictSilent, Rule: "full", Reason: "the address range is full"}, want: "the address range is full (rule full)"},
		{name: "NAK to a DISCOVER", m: message(dhcpv4.MessageTypeDiscover, class(pxe)), asked: true,
			answer: &api.BootAnswer{Verdict: api.VerdictNAK, Rule: "x", Reason: "no"}, want: "no (rule x)"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := &deciderFunc{answer: full()}
			if tc.answer != nil {
				d.answer = *tc.answer
			}
			out, err := settings.Handle(t.Context(), d, tc.m.ToBytes(), netip.AddrPort{}, tc.boot)
			if !errors.Is(err, ErrDropped) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want ErrDropped with %q", err, tc.want)
			}
			if out.Reply != nil {
				t.Errorf("answered: %s", out.Reply.Summary())
			}
			if asked := len(d.asked) > 0; asked != tc.asked {
				t.Errorf("Booter asked: %v, want %v", asked, tc.asked)
			}
		})
	}
}

func TestAllClients(t *testing.T) {
	s := settings
	s.Clients = "all"
	d := &deciderFunc{answer: full()}
	out, err := s.Handle(t.Context(), d, message(dhcpv4.MessageTypeDiscover, class("udhcp 1.35")).ToBytes(), netip.AddrPort{}, false)
	if err != nil || out.Reply == nil {
		t.Fatalf("not answered: %v", err)
	}
	if out.BootFile != "" || out.Reply.BootFileName != "" {
		t.Errorf("boot file %q for an operating system", out.BootFile)
	}
}

// TestBooterErrors: an answer that cannot be right is not passed on.
func TestBooterErrors(t *testing.T) {
	m := message(dhcpv4.MessageTypeDiscover, class(pxe)).ToBytes()
	for name, addr := range map[string]string{"own": "10.99.99.7/24", "network": "10.99.99.0/24", "broadcast": "10.99.99.255/24", "elsewhere": "10.1.1.1/24"} {
		a := full()
		a.Address = netip.MustParsePrefix(addr)
		if out, err := settings.Handle(t.Context(), &deciderFunc{answer: a}, m, netip.AddrPort{}, false); err == nil || errors.Is(err, ErrDropped) || out.Reply != nil {
			t.Errorf("%s address %s: error %v, reply %v", name, addr, err, out.Reply)
		}
	}
	boom := errors.New("store is closed")
	if _, err := settings.Handle(t.Context(), &deciderFunc{err: boom}, m, netip.AddrPort{}, false); !errors.Is(err, boom) {
		t.Errorf("error %v does not wrap the Booter's", err)
	}
}

func TestReleaseAndDecline(t *testing.T) {
	for kind, m := range map[api.BootKind]*dhcpv4.DHCPv4{
		api.KindRelease: message(dhcpv4.MessageTypeRelease, ciaddr("10.99.99.100"), server("10.99.99.7")),
		api.KindDecline: message(dhcpv4.MessageTypeDecline, requested("10.99.99.100"), server("10.99.99.7")),
	} {
		d := &deciderFunc{}
		out, err := settings.Handle(t.Context(), d, m.ToBytes(), netip.AddrPort{}, false)
		if err != nil || out.Reply != nil {
			t.Errorf("%s: error %v, reply %v", kind, err, out.Reply)
		}
		want := []api.BootRequest{{Kind: kind, MAC: testMAC, Requested: netip.MustParseAddr("10.99.99.100")}}
		if d := cmp.Diff(want, d.asked, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("%s (-want +got):\n%s", kind, d)
		}
	}
}

func TestParse(t *testing.T) {
	m := message(dhcpv4.MessageTypeDiscover, class("PXEClient:Arch:00007:UNDI:003016\x00"),
		dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionClientMachineIdentifier, guid)),
		dhcpv4.WithOption(dhcpv4.OptRFC3004UserClass([]string{"iPXE", "x"})))
	r, err := Parse(m.ToBytes(), false)
	if err != nil {
		t.Fatal(err)
	}
	want := api.BootRequest{Kind: api.KindDiscover, MAC: testMAC, UUID: "6f1b1c2e-0c55-4c7e-9d0a-0123456789ab", Arch: 7,
		UserClass: "iPXE,x", VendorClass: "PXEClient:Arch:00007:UNDI:003016"}
	if d := cmp.Diff(want, r.Boot, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if !r.Boot.IPXE() {
		t.Error("iPXE in a list of user classes is not seen")
	}
	for name, b := range map[string][]byte{"zero": make([]byte, 17), "short": guid[:16], "other type": append([]byte{1}, guid[1:]...), "none": nil} {
		if u := clientUUID(b); u != "" {
			t.Errorf("%s GUID gives UUID %q", name, u)
		}
	}
}

// TestUserClass: iPXE is seen in every form its user class comes in, and nothing
// else is taken for it.
func TestUserClass(t *testing.T) {
	for in, want := range map[string]bool{
		"iPXE": true, "iPXE\x00": true, "iPXE\x00\x00\xff": true, "\x04iPXE": true, "\x04iPXE\x00": true, "\x05iPXE\x00": true,
		"\x05iPXE": true, "\x01x\x04iPXE": true, "\x04iPXE\x01x\x00\x00": true,
		"": false, "\x00": false, "gPXE": false, "iPX": false, "\x04gPXE\x00": false, "not iPXE": false, "\x08not iPXE": false,
	} {
		m := message(dhcpv4.MessageTypeDiscover, class(pxe), arch(0), dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionUserClassInformation, []byte(in))))
		d := &deciderFunc{answer: full()}
		out, err := settings.Handle(t.Context(), d, m.ToBytes(), netip.AddrPort{}, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.HasSuffix(out.BootFile, "/script.ipxe"); got != want || d.asked[0].IPXE() != want {
			t.Errorf("user class %q: boot file %q, IPXE() %v; want iPXE %v", in, out.BootFile, d.asked[0].IPXE(), want)
		}
	}
}

// TestBootFileEnds: a PXE ROM reads option 67 up to a zero byte, and asks TFTP for
// what follows it too where there is none; HTTP boot and iPXE go by its length.
func TestBootFileEnds(t *testing.T) {
	for want, m := range map[string]*dhcpv4.DHCPv4{
		FileBIOS + "\x00":                        message(dhcpv4.MessageTypeDiscover, class(pxe), arch(0)),
		FileUEFI + "\x00":                        message(dhcpv4.MessageTypeRequest, class("PXEClient:Arch:00007:UNDI:003016"), arch(7), requested("10.99.99.100")),
		"http://10.99.99.7/ipxe/" + FileUEFIHTTP: message(dhcpv4.MessageTypeDiscover, class("HTTPClient:Arch:00016:UNDI:003001"), arch(16)),
		"http://10.99.99.7/boot/abcdefghijklmnopqrstuvwxyz/script.ipxe": message(dhcpv4.MessageTypeDiscover, class(pxe), ipxe(), arch(0)),
	} {
		out, err := settings.Handle(t.Context(), &deciderFunc{answer: full()}, m.ToBytes(), netip.AddrPort{}, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(out.Reply.Options.Get(dhcpv4.OptionBootfileName)); got != want {
			t.Errorf("option 67 %q, want %q", got, want)
		}
		if strings.Contains(out.BootFile, "\x00") {
			t.Errorf("the boot file %q in logs holds the zero", out.BootFile)
		}
	}
}

// TestReplyFits: long names never make an answer clients may not accept.
func TestReplyFits(t *testing.T) {
	a := full()
	a.Hostname, a.Domain = strings.Repeat("h", 63), strings.Repeat("d", 253)
	for range 8 {
		a.DNS, a.NTP = append(a.DNS, a.DNS[0]), append(a.NTP, a.NTP[0])
	}
	m := message(dhcpv4.MessageTypeDiscover, class(pxe), ipxe(), dhcpv4.WithOption(dhcpv4.OptClientIdentifier(make([]byte, 255))))
	out, err := settings.Handle(t.Context(), &deciderFunc{answer: a}, m.ToBytes(), netip.AddrPort{}, false)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(out.Reply.ToBytes()); n > maxReply {
		t.Errorf("%d bytes, want at most %d", n, maxReply)
	}
	if out.Reply.BootFileNameOption() == "" || out.Reply.ServerIdentifier() == nil {
		t.Error("an essential option went")
	}
}

func TestExplain(t *testing.T) {
	d := &deciderFunc{answer: full()}
	ex, err := settings.Explain(t.Context(), d, api.BootRequest{MAC: testMAC, Arch: 7, UUID: "u"})
	if err != nil {
		t.Fatal(err)
	}
	if len(d.asked) != 1 || !d.asked[0].Explain || d.asked[0].UUID != "u" || d.asked[0].Kind != api.KindDiscover {
		t.Errorf("asked %+v", d.asked)
	}
	if ex.BootFile != FileUEFI || len(ex.Options) == 0 {
		t.Errorf("explanation %+v", ex)
	}
	ex, err = settings.Explain(t.Context(), d, api.BootRequest{MAC: testMAC, Arch: 11})
	if err != nil || !strings.Contains(ex.Answer.Reason, "no iPXE for client architecture 11") {
		t.Errorf("reason %q, error %v", ex.Answer.Reason, err)
	}
	ex, err = settings.Explain(t.Context(), d, api.BootRequest{MAC: testMAC, VendorClass: "MSFT"})
	if err != nil || ex.Answer.Verdict != api.VerdictSilent || !strings.Contains(ex.Answer.Reason, "clients = ") {
		t.Errorf("answer %+v, error %v", ex.Answer, err)
	}
	var p *api.Problem
	if _, err = settings.Explain(t.Context(), d, api.BootRequest{MAC: "nonsense"}); !errors.As(err, &p) || p.Status != 400 {
		t.Errorf("error %v", err)
	}
}
