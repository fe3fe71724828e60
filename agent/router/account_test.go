package router

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"nereid/api"
)

// TestRefusals: each spec that cannot be met is refused, and says what and why.
func TestRefusals(t *testing.T) {
	forwards := func(f ...api.PortForward) func(*api.RouterSpec) {
		return func(s *api.RouterSpec) { s.NAT.Forwards = f }
	}
	for name, tc := range map[string]struct {
		change func(*api.RouterSpec)
		want   string
	}{
		"owner":              {func(s *api.RouterSpec) { s.Owner = "../etc" }, `"../etc" is not a UUID`},
		"owner in capitals":  {func(s *api.RouterSpec) { s.Owner = strings.ToUpper(s.Owner) }, "not a UUID in lower case"},
		"gateway":            {func(s *api.RouterSpec) { s.Networks[0].Gateway = "10.0.1.1" }, "not an address with a prefix length"},
		"gateway multicast":  {func(s *api.RouterSpec) { s.Networks[0].Gateway = "224.0.0.1/24" }, "not an address that a router can have"},
		"gateway mapped":     {func(s *api.RouterSpec) { s.Networks[0].Gateway = "::ffff:10.0.1.1/120" }, "not an address"},
		"MAC":                {func(s *api.RouterSpec) { s.Networks[0].MAC = "1; drop" }, "not the MAC of an interface"},
		"MAC multicast":      {func(s *api.RouterSpec) { s.Networks[0].MAC = "01:00:5e:00:00:01" }, "not the MAC"},
		"VNI":                {func(s *api.RouterSpec) { s.Networks[0].VNI = 1 << 24 }, "want 1 to 16777215"},
		"overlap":            {func(s *api.RouterSpec) { s.Networks[2].Gateway = "10.0.1.129/25" }, "overlaps"},
		"two MACs, one name": {func(s *api.RouterSpec) { s.Networks[1].MAC = "90:b8:d0:ff:0a:01" }, "last four digits must differ"},
		"route":              {func(s *api.RouterSpec) { s.Networks[0].Routes = map[string]string{"10.9.0.1/16": "10.0.1.9"} }, "host bits zero"},
		"default route":      {func(s *api.RouterSpec) { s.Networks[0].Routes = map[string]string{"0.0.0.0/0": "10.0.1.9"} }, "not a default route"},
		"next hop":           {func(s *api.RouterSpec) { s.Networks[0].Routes = map[string]string{"10.9.0.0/16": "10.0.3.9"} }, "want an address of the subnet"},
		"tag":                {func(s *api.RouterSpec) { s.NAT.Tag = "a/b" }, "not a tag's name"},
		"external address":   {func(s *api.RouterSpec) { s.NAT.Address = "" }, "external address"},
		"external gateway":   {func(s *api.RouterSpec) { s.NAT.Gateway = "198.51.101.1" }, "want another address of 198.51.100.0/24"},
		"NAT of nothing":     {func(s *api.RouterSpec) { s.NAT = &api.NATSpec{} }, "neither an external NIC tag nor a transit VNI"},
		"via nobody":         {func(s *api.RouterSpec) { s.NAT = &api.NATSpec{VNI: 300, Transit: "100.64.0.1/24"} }, "(via)"},
		"via itself": {func(s *api.RouterSpec) {
			s.NAT = &api.NATSpec{VNI: 300, Transit: "100.64.0.1/24", Via: []string{"100.64.0.1"}}
		}, "(via)"},
		"via elsewhere": {func(s *api.RouterSpec) {
			s.NAT = &api.NATSpec{VNI: 300, Transit: "100.64.0.1/24", Via: []string{"100.65.0.1"}}
		}, "want addresses of 100.64.0.0/24"},
		"transit VNI of a network": {func(s *api.RouterSpec) {
			s.NAT = &api.NATSpec{VNI: 100, Transit: "100.64.0.1/24", Via: []string{"100.64.0.2"}}
		}, "is a network's too"},
		"families":         {func(s *api.RouterSpec) { s.NAT.VNI, s.NAT.Transit = 300, "fd00::1/64" }, "different families"},
		"forward protocol": {forwards(api.PortForward{Protocol: "gre", External: "198.51.100.10:80", Internal: "10.0.1.5:80"}), "want tcp or udp"},
		"forward to":       {forwards(api.PortForward{Protocol: "tcp", External: "198.51.100.10:80", Internal: "[fd00::1]:80"}), "same family"},
		"forward high":     {forwards(api.PortForward{Protocol: "tcp", External: "198.51.100.10:32768", Internal: "10.0.1.5:80"}), "only ports 1 to 32767"},
		"forward twice": {forwards(api.PortForward{Protocol: "tcp", External: "198.51.100.10:80", Internal: "10.0.1.5:80"},
			api.PortForward{Protocol: "tcp", External: "198.51.100.10:80", Internal: "10.0.1.6:80"}), "a second forward"},
	} {
		s := withUplink(specA())
		tc.change(&s)
		_, err := parse(s)
		if !errors.Is(err, ErrSpec) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
}

func TestTransitMAC(t *testing.T) {
	for a, want := range map[string]string{"100.64.0.9": "02:00:64:40:00:09", "fd00::a1b2:c3d4": "02:00:a1:b2:c3:d4"} {
		if got := TransitMAC(netip.MustParseAddr(a)).String(); got != want {
			t.Errorf("%s: %s, want %s", a, got, want)
		}
	}
}

// TestRules shows the rulesets, for those who read them. The netns tier loads them.
func TestRules(t *testing.T) {
	for name, specs := range map[string][]api.RouterSpec{
		"uplink.nft": {withUplink(specA(), api.PortForward{Protocol: "tcp", External: "198.51.100.10:8080", Internal: "10.0.1.5:80"}), withUplink(specB())},
		"via.nft":    {withVia(specA())},
	} {
		b := newBench(t)
		accounts, _, problems := read(specs)
		if problems != nil {
			t.Fatal(problems)
		}
		d := desire(accounts, nil, b.state, testEnv())
		var text strings.Builder
		for _, i := range sorted(d.items) {
			if i.Kind == kindRules && i.At != "nr-bbbbbbbb" {
				text.WriteString("# " + i.At + "\n" + d.rules[i.Value.(string)])
			}
		}
		golden(t, name, text.String())
	}
}

// TestForeignAlias: the pairs of instances' NICs, which agent/network makes and marks,
// are not the router's.
func TestForeignAlias(t *testing.T) {
	for _, s := range []string{"NIC 02:6e:72:34:75:ae of 11111111-1111-4111-8111-111111111111 (01234567)", "NIC a b c", "VNI 100 of x"} {
		if v, ok := parseVeth(s); ok {
			t.Errorf("%q is taken for %+v", s, v)
		}
	}
}

// FuzzAlias: what is read of an alias is what was written, and of any other text
// nothing that was not in it.
func FuzzAlias(f *testing.F) {
	f.Add("nr-aaaaaaaa ext 02:7f:59:5f:71:2d 02:8d:33:8f:fc:4d slot 1 ports 32768+1024 at 198.51.100.10/24")
	f.Add("nr-aaaaaaaa v100-0a01 90:b8:d0:00:0a:01 - leg aaaaaaaa-0000-4000-8000-000000000001")
	f.Add("a b c d slot 99999999999999999999 ports 0+0 at ::/0")
	f.Fuzz(func(t *testing.T, s string) {
		v, ok := parseVeth(s)
		if !ok {
			return
		}
		if again, ok := parseVeth(v.String()); v.Outer != "" && strings.TrimRight(v.Note, " ") == v.Note && v.Note != "" && (!ok || again != v) {
			t.Errorf("%q: %+v, then %+v", s, v, again)
		}
		if g, ok := parseGrant(v.Note); ok {
			if g.first < firstBlockPort || g.last() > 65535 || !g.address.IsValid() {
				t.Errorf("%q: %+v", s, g)
			}
			if again, ok := parseGrant(g.String()); !ok || again != g {
				t.Errorf("%q: %+v, then %+v", s, g, again)
			}
		}
	})
}
