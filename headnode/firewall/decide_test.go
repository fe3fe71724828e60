package firewall

import (
	"net/netip"
	"testing"

	"nereid/api"
)

// TestDecide is the semantics by hand, on a spec by hand.
func TestDecide(t *testing.T) {
	code := uint8(0)
	const mac = "02:00:00:00:00:01"
	spec := api.FirewallSpec{
		Sets: []api.AddressSet{{Name: "a", Members: []string{"10.0.0.1", "10.1.0.0/16", "fd00::/64", "nonsense"}}},
		Rules: []api.FirewallEntry{
			{Rule: "3", Direction: "in", Ports: []string{mac}, Peers: []string{"a"}, Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: 80, Last: 90}}},
			{Rule: "2", Direction: "in", Ports: []string{mac}, Action: "block", Protocol: "tcp", Dst: []api.PortRange{{First: 85, Last: 85}}},
			{Rule: "1", Direction: "in", Ports: []string{mac}, Action: "block", Protocol: "tcp", Dst: []api.PortRange{{First: 86, Last: 86}}, Priority: 1, Log: true},
			{Rule: "4", Direction: "out", Ports: []string{mac}, Action: "block", Protocol: "tcp", Dst: allPorts()},
			{Rule: "5", Direction: "out", Ports: []string{mac}, Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: 1, Last: 1}}},
			{Rule: "6", Direction: "out", Ports: []string{mac}, Action: "allow", Protocol: "tcp", Dst: []api.PortRange{{First: 2, Last: 2}}, Priority: 1},
			{Rule: "7", Direction: "in", Ports: []string{mac}, Action: "allow", Protocol: "icmp", Types: []api.ICMPType{{Type: 8, Code: &code}, {Type: 3}}},
			{Rule: "9", Direction: "in", Ports: []string{mac}, Action: "allow", Protocol: "ah", Log: true},
			{Rule: "8", Direction: "in", Ports: []string{mac}, Action: "allow", Protocol: "ah"},
			{Rule: "A", Direction: "in", Ports: []string{mac}, Peers: []string{"missing"}, Action: "allow", Protocol: "esp"},
		},
	}
	tests := []struct {
		mac, direction, protocol, peer string
		port                           uint16
		typ, code                      uint8
		want                           Verdict
	}{
		{mac, "in", "tcp", "10.0.0.1", 80, 0, 0, Verdict{"allow", "3", false}},
		{mac, "in", "tcp", "::ffff:10.0.0.1", 90, 0, 0, Verdict{"allow", "3", false}},
		{mac, "in", "tcp", "10.1.2.3", 80, 0, 0, Verdict{"allow", "3", false}},
		{mac, "in", "tcp", "fd00::9", 80, 0, 0, Verdict{"allow", "3", false}},
		{mac, "in", "tcp", "10.0.0.2", 80, 0, 0, Verdict{"block", "", false}},
		{mac, "in", "tcp", "10.0.0.1", 79, 0, 0, Verdict{"block", "", false}},
		{mac, "in", "tcp", "10.0.0.1", 85, 0, 0, Verdict{"allow", "3", false}},
		{mac, "in", "tcp", "10.0.0.1", 86, 0, 0, Verdict{"block", "1", true}},
		{mac, "in", "udp", "10.0.0.1", 80, 0, 0, Verdict{"block", "", false}},
		{"02:00:00:00:00:02", "in", "tcp", "10.0.0.1", 80, 0, 0, Verdict{"block", "", false}},
		{"02:00:00:00:00:02", "out", "tcp", "10.0.0.1", 80, 0, 0, Verdict{"allow", "", false}},
		{mac, "out", "tcp", "10.0.0.1", 80, 0, 0, Verdict{"block", "4", false}},
		{mac, "out", "tcp", "10.0.0.1", 1, 0, 0, Verdict{"block", "4", false}},
		{mac, "out", "tcp", "10.0.0.1", 2, 0, 0, Verdict{"allow", "6", false}},
		{mac, "in", "icmp", "10.0.0.1", 0, 8, 0, Verdict{"allow", "7", false}},
		{mac, "in", "icmp", "10.0.0.1", 0, 8, 1, Verdict{"block", "", false}},
		{mac, "in", "icmp", "10.0.0.1", 0, 3, 9, Verdict{"allow", "7", false}},
		{mac, "in", "ah", "10.0.0.1", 0, 0, 0, Verdict{"allow", "8", false}},
		{mac, "in", "esp", "10.0.0.1", 0, 0, 0, Verdict{"block", "", false}},
		{mac, "in", "gre", "10.0.0.1", 0, 0, 0, Verdict{"block", "", false}},
	}
	for _, tt := range tests {
		p := Packet{MAC: tt.mac, Direction: tt.direction, Protocol: tt.protocol, Peer: netip.MustParseAddr(tt.peer), Port: tt.port, Type: tt.typ, Code: tt.code}
		if got := Decide(spec, p); got != tt.want {
			t.Errorf("%+v: got %+v, want %+v", p, got, tt.want)
		}
	}
}
