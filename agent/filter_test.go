package agent

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"nereid/agent/firewall"
	"nereid/agent/network"
	"nereid/api"
)

// Tags on one NIC share a bridge, which has the name of one of them: rules name all.
func TestBridgeNames(t *testing.T) {
	s := api.NetworkSpec{
		Tags: []api.TagSpec{
			{Name: "admin", MAC: "52:54:00:00:00:01"}, {Name: "underlay", Bond: "bond0"}, {Name: "storage", Bond: "bond0"},
			{Name: "external", MAC: "52:54:00:00:00:02"}, {Name: "guests", MAC: "52:54:00:00:00:02"},
		},
		Underlay: &api.UnderlaySpec{Tag: "underlay", Subnets: []string{"10.77.0.0/24"}},
		VNIs:     []api.VNISpec{{VNI: 7}},
		Ports: []api.PortSpec{
			{MAC: "02:6e:72:00:00:01", VNI: 7}, {MAC: "02:6e:72:00:00:02", Tag: "external"}, {MAC: "02:6e:72:00:00:03", Tag: "guests"},
			{MAC: "02:6e:72:00:00:04", Tag: "guests", VLAN: 5}, {MAC: "02:6e:72:00:00:05", Tag: "storage"}, {MAC: "02:6e:72:00:00:06", Tag: "admin"},
		},
	}
	both := func(vlan int) []string {
		return slices.Sorted(slices.Values([]string{network.BridgeOfTag("external", vlan), network.BridgeOfTag("guests", vlan)}))
	}
	if o := filterOptions(s); !slices.Equal(o.Isolated, []string{"vb7"}) {
		t.Errorf("isolated %v", o.Isolated)
	}
	ports := filterPorts(s)
	// The server has addresses on the admin network and the underlay's segment.
	for i, isolated := range []bool{true, true, true, true, false, false} {
		if ports[i].Isolated != isolated {
			t.Errorf("isolated is %v of %+v", ports[i].Isolated, ports[i])
		}
	}
	if a, b := ports[1], ports[2]; a.Bridge != b.Bridge || !slices.Equal(append([]string{a.Bridge}, a.Names...), both(0)) {
		t.Errorf("ports of two tags on one NIC: %+v, %+v", a, b)
	}
	if p := ports[0]; p.Bridge != "vb7" || len(p.Names) != 0 {
		t.Errorf("port of a fabric: %+v", p)
	}
}

// An operator reads whose rules cannot be made, of many some, and what to do.
func TestRulesFailed(t *testing.T) {
	if got := rulesFailed(nil); got != "" {
		t.Errorf("nobody's: %q", got)
	}
	one := firewall.Failure{Owner: "a", Err: errors.New("rule 7: protocol")}
	want := "Firewall rules cannot be made, and the NICs of their accounts keep the rules of before: account a (rule 7: protocol); correct what is named, a rule with nereid firewall update RULE or nereid firewall disable RULE, a NIC with nereid nic update MAC."
	if got := rulesFailed([]firewall.Failure{one}); got != want {
		t.Errorf("one: %q, want %q", got, want)
	}
	many := slices.Repeat([]firewall.Failure{one}, 8)
	many[0].Closed = slices.Repeat([]string{"m"}, 7)
	got := rulesFailed(many)
	if strings.Count(got, "account a (") != 5 || !strings.Contains(got, ") and 3 more; correct") || !strings.Contains(got, "are closed: m, m, m, m, m and 2 more)") {
		t.Errorf("many: %q", got)
	}
}
