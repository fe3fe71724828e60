package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// specs are states of one server with the NICs eth0 (admin), eth1, eth2, eth3,
// each of which can follow any other.
func specs() map[string]api.NetworkSpec {
	tags := []api.TagSpec{{Name: "admin", MTU: 1500, MAC: mac(1)}, {Name: "external", MTU: 1500, MAC: mac(2)}, {Name: "underlay", MTU: 1500, MAC: mac(3)}}
	bond := func(mode string) []api.BondSpec {
		return []api.BondSpec{{Name: "bond0", Mode: mode, MACs: []string{mac(1), mac(2)}}}
	}
	bonded := []api.TagSpec{{Name: "admin", MTU: 1500, Bond: "bond0"}, {Name: "external", MTU: 9000, Bond: "bond0"}, {Name: "underlay", MTU: 9000, Bond: "bond0"}}
	ports := []api.PortSpec{
		port(1, onTag("external", 10, "203.0.113.7/24", "203.0.113.1")),
		port(2, onTag("admin", 0, "10.99.99.77/24", "")),
		port(3, onVNI(100, "10.0.0.3/24", "fd00::3/64")),
	}
	vlanUnderlay := *underlaySpec
	vlanUnderlay.VLAN, vlanUnderlay.MTU = 30, 9000
	return map[string]api.NetworkSpec{
		"empty": {},
		"tags":  {Tags: tags},
		"plain": {Tags: tags, Underlay: underlaySpec, VNIs: []api.VNISpec{vni(100)}, Ports: ports},
		"shared": {Tags: []api.TagSpec{{Name: "admin", MTU: 1500, MAC: mac(1)}, {Name: "external", MTU: 1500, MAC: mac(1)}, {Name: "underlay", MTU: 1500, MAC: mac(1)}},
			Underlay: underlaySpec, VNIs: []api.VNISpec{vni(100), vni(101)}, Ports: append(ports[:3:3], port(4, onTag("external", 0, "198.51.100.4/24", "")))},
		"bond":      {Bonds: bond("active-backup"), Tags: bonded, Underlay: underlaySpec, VNIs: []api.VNISpec{vni(100)}, Ports: ports},
		"lacp":      {Bonds: []api.BondSpec{{Name: "bond0", Mode: "802.3ad", LACPRate: "fast", MACs: []string{mac(1), mac(2)}}}, Tags: bonded, Underlay: &vlanUnderlay, VNIs: []api.VNISpec{vni(100)}, Ports: ports},
		"other nic": {Bonds: []api.BondSpec{{Name: "bond0", Mode: "active-backup", MACs: []string{mac(2), mac(4)}}}, Tags: append(bonded[1:3:3], tags[0]), Underlay: &vlanUnderlay, VNIs: []api.VNISpec{vni(101)}, Ports: ports[:2]},
	}
}

func server() *fake {
	f := newFake("eth0", "eth1", "eth2", "eth3")
	f.admin("eth0")
	return f
}

func TestApply(t *testing.T) {
	f := server()
	f.mustApply(t, specs()["plain"])
	const want = `eth0 device 02:00:00:00:00:01 mtu 1500 master nbTAG-admin [learning flood mcast_flood bcast_flood] up
eth1 device 02:00:00:00:00:02 mtu 1500 up
eth2 device 02:00:00:00:00:03 mtu 1500 up
  192.0.2.1/24
  route 198.51.100.0/24 via 192.0.2.254
eth3 device 02:00:00:00:00:04 mtu 1500
nbTAG-admin bridge mtu 1500 up "nereid: tag admin"
  10.99.99.5/24
  fd99::5/64
  route 0.0.0.0/0 via 10.99.99.1
nbTAG-external-10 bridge mtu 1500 up closed "nereid: tag external vlan 10"
np020100000001 veth mtu 1500 master nbTAG-external-10 [learning flood mcast_flood bcast_flood] up closed "nereid: NIC 02:01:00:00:00:01 of i1 (DIGEST)"
np020100000002 veth mtu 1500 master nbTAG-admin [learning flood mcast_flood bcast_flood] up closed "nereid: NIC 02:01:00:00:00:02 of i2 (DIGEST)"
np020100000003 veth mtu 1400 master vb100 [mcast_flood proxy_arp_wifi] up closed "nereid: NIC 02:01:00:00:00:03 of i3 (DIGEST)"
nvTAG-external-10 vlan 10 on eth1 mtu 1500 master nbTAG-external-10 [learning flood mcast_flood bcast_flood] up "nereid: VLAN 10 on eth1"
vb100 bridge mtu 1400 up closed "nereid: VNI 100 of acc"
vx100 vxlan 100 local 192.0.2.1 mtu 1400 master vb100 [neigh_suppress] up closed "nereid: VXLAN 100"
vb100: 02:01:00:00:00:03 by np020100000003
vb100: 10.0.0.3 is 02:01:00:00:00:03
`
	if d := cmp.Diff(want, readable(f.String())); d != "" {
		t.Error(d)
	}
}

// readable replaces digests in names by what they are of.
func readable(s string) string {
	for tag, name := range map[string]string{"admin": "TAG-admin", "external": "TAG-external", "underlay": "TAG-underlay"} {
		for _, vlan := range []int{0, 10, 30} {
			to := name
			if vlan > 0 {
				to = fmt.Sprintf("%s-%d", name, vlan)
			}
			s = strings.ReplaceAll(s, BridgeOfTag(tag, vlan)[2:], to)
		}
	}
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if a, _, ok := strings.Cut(l, " ("); ok {
			lines[i] = a + ` (DIGEST)"`
		}
	}
	// The order of lines must not depend on digests either.
	var blocks []string
	for _, l := range lines {
		if strings.HasPrefix(l, "  ") {
			blocks[len(blocks)-1] += "\n" + l
		} else if l != "" {
			blocks = append(blocks, l)
		}
	}
	links := slices.IndexFunc(blocks, func(b string) bool {
		return strings.HasPrefix(b, "vb") && strings.Contains(b, ": ") && !strings.Contains(b, "mtu")
	})
	if links < 0 {
		links = len(blocks)
	}
	slices.Sort(blocks[:links])
	return strings.Join(blocks, "\n") + "\n"
}

// TestAnyToAny goes from each spec to each other: what is there at the end does
// not depend on the way, but for MTUs of NICs without tags, and the admin address
// is somewhere after every single step.
func TestAnyToAny(t *testing.T) {
	for from, a := range specs() {
		for to, b := range specs() {
			t.Run(from+" to "+to, func(t *testing.T) {
				f := server()
				f.mustApply(t, a)
				f.refuse = f.keepsAdmin(t)
				b.Gone = f.state.gone(b)
				f.mustApply(t, b)
				clean := server()
				clean.mustApply(t, b)
				if d := cmp.Diff(same(clean), same(f)); d != "" {
					t.Errorf("differs from a server that had nothing before:\n%s", d)
				}
			})
		}
	}
}

// same prints what must not depend on the way a server came.
func same(f *fake) string {
	s := f.state.clone()
	for _, l := range s.Links {
		if l.Kind == "" && !l.Loopback && l.Master == "" && (len(l.Addrs) == 0 || len(s.Links) == 5) {
			l.MTU, l.Up = 0, false // what a NIC that provides no tag was set to stays
		}
	}
	for name, l := range maps.Clone(s.Links) {
		switch l.class() {
		case classTag: // any of a shared bridge's names may be the first
			first := slices.Min(append(slices.Clone(l.AltNames), name))
			l.AltNames = nil
			if first != name {
				if err := s.rename(l, first); err != nil {
					panic(err)
				}
			}
		case classVLAN:
			if err := s.rename(l, fmt.Sprintf("nv-%s-%d", l.Parent, l.VLAN)); err != nil {
				panic(err)
			}
		}
	}
	return (&fake{state: s, tables: f.tables}).String()
}

// keepsAdmin checks before each step that the admin addresses are somewhere.
func (f *fake) keepsAdmin(t *testing.T) func(Step) error {
	return func(s Step) error {
		n := 0
		for _, l := range f.state.Links {
			for _, a := range l.Addrs {
				if a.Prefix.String() == "10.99.99.5/24" || a.Prefix.String() == "fd99::5/64" {
					n++
				}
			}
		}
		if n != 2 {
			t.Errorf("before %q: %d admin addresses are there, want 2:\n%s", s, n, f)
		}
		return nil
	}
}

// TestKilledAnywhere: an agent that is killed after any step, and started again,
// comes to the same end.
func TestKilledAnywhere(t *testing.T) {
	all := specs()
	for _, way := range [][2]string{{"empty", "plain"}, {"plain", "bond"}, {"bond", "lacp"}, {"lacp", "other nic"}, {"other nic", "shared"}, {"shared", "empty"}} {
		from, to := all[way[0]], all[way[1]]
		want := server()
		want.mustApply(t, from)
		want.mustApply(t, to)
		for k := 1; ; k++ {
			f := server()
			f.mustApply(t, from)
			f.left = k
			err := (&Network{System: f}).Apply(t.Context(), to)
			if f.left > 0 {
				if err != nil {
					t.Fatalf("%v: %v", way, err)
				}
				t.Logf("%v: killed at %d places", way, k-1)
				break
			}
			f.left = -1
			f.refuse = f.keepsAdmin(t)
			f.mustApply(t, to)
			if d := cmp.Diff(same(want), same(f)); d != "" {
				t.Fatalf("%v, killed after step %d:\n%s", way, k, d)
			}
		}
	}
}

// TestOneStepFails: the steps that have nothing to do with it are done, and the
// problem says what it was.
func TestOneStepFails(t *testing.T) {
	f := server()
	n := &Network{System: f}
	f.refuse = func(s Step) error {
		if s.on() == "vx100" {
			return errors.New("no memory")
		}
		return nil
	}
	err := n.Apply(t.Context(), specs()["plain"])
	if err == nil || !strings.Contains(err.Error(), "create vx100 vxlan 100 local 192.0.2.1 mtu 1400: no memory") {
		t.Fatalf("Apply: %v", err)
	}
	for _, name := range []string{"np020100000001", "np020100000003", "vb100"} {
		if l := f.state.Links[name]; l == nil || !l.Up {
			t.Errorf("%s was not made", name)
		}
	}
	f.refuse = nil
	f.mustApply(t, specs()["plain"])
	clean := server()
	clean.mustApply(t, specs()["plain"])
	if d := cmp.Diff(clean.String(), f.String()); d != "" {
		t.Error(d)
	}
}

func TestProblems(t *testing.T) {
	for _, tt := range []struct {
		name    string
		spec    api.NetworkSpec
		prepare func(*fake)
		want    []string
		there   []string // links that are made nevertheless
		absent  []string
	}{{
		name: "a MAC that is not there",
		spec: api.NetworkSpec{Tags: []api.TagSpec{{Name: "external", MTU: 1500, MAC: "02:00:00:00:00:77"}, {Name: "admin", MTU: 1500, MAC: mac(1)}},
			Ports: []api.PortSpec{port(1, onTag("external", 0, "203.0.113.7/24", "")), port(2, onTag("admin", 0, "10.99.99.77/24", ""))}},
		want: []string{"NIC tag external is not provided by NIC 02:00:00:00:00:77: no NIC of this server has it; let another NIC provide the tag or put this one back.",
			"NIC 02:01:00:00:00:01 of instance i1 was not made: NIC tag external, VLAN 0 is not there; let a NIC or bond of this server provide the tag."},
		there: []string{"np020100000002"}, absent: []string{"np020100000001"},
	}, {
		name: "a bond with a MAC that is not there",
		spec: api.NetworkSpec{Bonds: []api.BondSpec{{Name: "bond1", Mode: "active-backup", MACs: []string{mac(2), mac(77)}}},
			Tags: []api.TagSpec{{Name: "external", MTU: 1500, Bond: "bond1"}}, Ports: []api.PortSpec{port(1, onTag("external", 0, "203.0.113.7/24", ""))}},
		want:  []string{"Bond bond1 is without NIC 02:00:00:00:00:4d: no NIC of this server has it; take it out of the bond or put the NIC back."},
		there: []string{"np020100000001", "bond1"},
	}, {
		name:  "more than the NIC supports",
		spec:  api.NetworkSpec{Tags: []api.TagSpec{{Name: "external", MTU: 9500, MAC: mac(2)}}, Ports: []api.PortSpec{port(1, onTag("external", 0, "203.0.113.7/24", ""))}},
		want:  []string{"NIC tag external has MTU 9500, and eth1 supports at most 9000; large packets are lost: make the tag's MTU smaller or let another NIC provide it."},
		there: []string{"np020100000001"},
	}, {
		name: "no room for VXLAN",
		spec: api.NetworkSpec{Tags: []api.TagSpec{{Name: "underlay", MTU: 1500, MAC: mac(2)}}, Underlay: underlaySpec, VNIs: []api.VNISpec{{VNI: 7, MTU: 1500}}},
		want: []string{"VNI 7 has MTU 1500, and the underlay's MTU of 1500 leaves 1450: large packets are lost; make the network's MTU smaller or the underlay's larger."}, there: []string{"vx7"},
	}, {
		name:  "no underlay",
		spec:  api.NetworkSpec{VNIs: []api.VNISpec{vni(7)}},
		want:  []string{"No VNI was made: the spec has no underlay; give the server an underlay address."},
		there: []string{"eth0"}, absent: []string{"vb7"},
	}, {
		name: "a foreign link in the way",
		spec: api.NetworkSpec{Tags: []api.TagSpec{{Name: "underlay", MTU: 1500, MAC: mac(2)}}, Underlay: underlaySpec, VNIs: []api.VNISpec{vni(7), vni(8)}},
		prepare: func(f *fake) {
			f.state.Links["vb7"] = &Link{Name: "vb7", Kind: "bridge", MTU: 1500, Up: true, Index: 90}
		},
		want:  []string{"VNI 7 was not made: a link named vb7 is there that the agent did not make; rename or remove it."},
		there: []string{"vx8", "vb7"}, absent: []string{"vx7"},
	}, {
		name: "a NIC in a foreign bridge",
		spec: api.NetworkSpec{Tags: []api.TagSpec{{Name: "external", MTU: 1500, MAC: mac(2)}}, Ports: []api.PortSpec{port(1, onTag("external", 0, "203.0.113.7/24", ""))}},
		prepare: func(f *fake) {
			f.state.Links["br0"] = &Link{Name: "br0", Kind: "bridge", MTU: 1500, Up: true, Index: 90}
			f.state.Links["eth1"].Master = "br0"
		},
		want: []string{"The bridge of NIC tag external, VLAN 0 was not made: eth1 is in br0, which the agent did not make; take it out there.",
			"NIC 02:01:00:00:00:01 of instance i1 was not made: NIC tag external, VLAN 0 is not there; let a NIC or bond of this server provide the tag."},
		there: []string{"br0"}, absent: []string{"np020100000001"},
	}, {
		name: "a tag on a bond's member",
		spec: api.NetworkSpec{Bonds: []api.BondSpec{{Name: "bond1", Mode: "active-backup", MACs: []string{mac(2)}}}, Tags: []api.TagSpec{{Name: "external", MTU: 1500, MAC: mac(2)}}},
		want: []string{"NIC tag external is not provided by NIC 02:00:00:00:00:02: it is a member of bond bond1; let the bond provide the tag."}, there: []string{"bond1"},
	}} {
		t.Run(tt.name, func(t *testing.T) {
			f := server()
			if tt.prepare != nil {
				tt.prepare(f)
			}
			_, problems := f.apply(t, tt.spec)
			if d := cmp.Diff(Problems(tt.want), problems); d != "" {
				t.Errorf("problems: %s", d)
			}
			for _, name := range tt.there {
				if f.state.Links[name] == nil {
					t.Errorf("%s is not there", name)
				}
			}
			for _, name := range tt.absent {
				if f.state.Links[name] != nil {
					t.Errorf("%s is there", name)
				}
			}
		})
	}
}

// TestBondsRefused: nothing at all is done.
func TestBondsRefused(t *testing.T) {
	ab := func(name string, macs ...string) api.BondSpec {
		return api.BondSpec{Name: name, Mode: "active-backup", MACs: macs}
	}
	for _, tt := range []struct {
		name  string
		bonds []api.BondSpec
		want  string
	}{
		{"one NIC in two", []api.BondSpec{ab("bond0", mac(1), mac(2)), ab("bond1", mac(2), mac(3))}, "bond bond1: NIC 02:00:00:00:00:02 is also a member of bond bond0; take it from one of them; nothing was changed"},
		{"a bond of a bond", []api.BondSpec{ab("bond1", "02:00:00:00:00:99", mac(2))}, "bond bond1: 02:00:00:00:00:99 is the MAC of bond old, and a bond cannot be made of bonds; name the MACs of NICs; nothing was changed"},
		{"a mode", []api.BondSpec{{Name: "bond0", Mode: "balance-rr", MACs: []string{mac(1)}}}, `bond bond0: the mode "balance-rr" is not known; give it active-backup or 802.3ad; nothing was changed`},
		{"two of a name", []api.BondSpec{ab("bond0", mac(1)), ab("bond0", mac(2))}, "bond bond0: there are two of that name; nothing was changed"},
		{"a NIC's name", []api.BondSpec{ab("eth1", mac(1))}, "bond eth1: a link of that name is there that the agent did not make; choose another name; nothing was changed"},
		{"no NICs", []api.BondSpec{ab("bond0")}, "bond bond0: it has 0 NICs; give it 1 to 16; nothing was changed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := server()
			f.state.Links["old"] = &Link{Name: "old", Kind: "bond", Mode: "active-backup", MAC: "02:00:00:00:00:99", MTU: 1500, Up: true, Index: 90}
			before := f.String()
			spec := specs()["plain"]
			spec.Bonds = tt.bonds
			for range 2 {
				err := (&Network{System: f}).Apply(t.Context(), spec)
				if err == nil || err.Error() != tt.want {
					t.Errorf("Apply: %v\nwant %s", err, tt.want)
				}
			}
			if d := cmp.Diff(before, f.String()); d != "" {
				t.Errorf("changed:\n%s", d)
			}
		})
	}
}

// TestLeftAlone: what was not made here stays, whatever it is called.
func TestLeftAlone(t *testing.T) {
	f := server()
	for i, l := range []Link{
		{Name: "vb555", Kind: "bridge"},
		{Name: "np0123456789ab", Kind: "veth"},
		{Name: "br0", Kind: "bridge", Alias: "nereid: something else"},
		{Name: "vr00", Kind: "veth", Alias: "nereid: router of acc", Up: true},
		{Name: "vx9", Kind: "dummy", Alias: "nereid: VXLAN 9"},
	} {
		l.Index, l.MTU = int32(i+50), 1500
		f.state.Links[l.Name] = &l
	}
	f.state.Links["eth3"].Addrs = []Addr{{Prefix: underlayPrefix}}
	f.state.Links["eth3"].Routes = []Route{{Dst: underlayPrefix.Masked(), Proto: 4}}
	before := f.String()
	f.mustApply(t, specs()["plain"])
	f.state.Links["vr00"].Master = "vb100" // a router's leg
	f.mustApply(t, api.NetworkSpec{Gone: f.state.gone(api.NetworkSpec{})})
	after := f
	for name, l := range after.state.Links {
		if strings.HasPrefix(name, "eth") {
			l.Up = name == "eth0"
		}
	}
	if d := cmp.Diff(before, after.String()); d != "" {
		t.Errorf("changed:\n%s", d)
	}
}

var underlayPrefix = mustPrefix("172.16.0.1/12")

func TestUnderlayMoves(t *testing.T) {
	f := server()
	spec := specs()["plain"]
	f.mustApply(t, spec)
	old := f.state.Links["vx100"].Index
	u := *underlaySpec
	u.Address = "192.0.2.9/24"
	spec.Underlay = &u
	f.mustApply(t, spec)
	if l := f.state.Links["vx100"]; l.Index == old || l.Local.String() != "192.0.2.9" {
		t.Errorf("vx100 still sends from %s", l.Local)
	}
	if got := fmt.Sprint(f.state.Links["eth2"].Addrs); got != "[192.0.2.9/24]" {
		t.Errorf("eth2 has %s", got)
	}
	// IPv6 underlay.
	u.Address, u.Gateway, u.Subnets = "2001:db8::9/64", "", nil
	f.mustApply(t, spec)
	if l := f.state.Links["vx100"]; l.Local.String() != "2001:db8::9" {
		t.Errorf("vx100 still sends from %s", l.Local)
	}
}

func TestApplyEndsWithContext(t *testing.T) {
	f := server()
	ctx, cancel := context.WithCancel(t.Context())
	steps := 0
	f.refuse = func(Step) error {
		if steps++; steps == 3 {
			cancel()
		}
		return nil
	}
	if err := (&Network{System: f}).Apply(ctx, specs()["plain"]); !errors.Is(err, context.Canceled) {
		t.Errorf("Apply: %v", err)
	}
	if len(f.take()) != 3 {
		t.Error("steps were done after the end of the context")
	}
}

// TestRouterNeedsBridge: where a router does NAT, the external tag has a bridge,
// also without a port.
func TestRouterNeedsBridge(t *testing.T) {
	f := server()
	f.mustApply(t, api.NetworkSpec{Tags: specs()["tags"].Tags, Routers: []api.RouterSpec{{Owner: "acc", NAT: &api.NATSpec{Tag: "external", VLAN: 10, Address: "203.0.113.9/24"}}}})
	if l := f.state.Links[BridgeOfTag("external", 10)]; l == nil || !l.Up || !l.Closed || len(f.state.ports(l.Name)) != 1 {
		t.Errorf("bridge %v", l)
	}
}

// TestPortsAreProtected before a bridge has them, all together; and not put into one
// when that fails.
func TestPortsAreProtected(t *testing.T) {
	f := server()
	var calls [][]string
	refuse := errors.New("no rules")
	n := &Network{System: f}
	n.Protect = func(_ context.Context, devices []string) error {
		calls = append(calls, devices)
		for _, d := range devices {
			if l := f.state.Links[d]; l == nil || l.Master != "" {
				t.Errorf("protected is %s: %v", d, l)
			}
		}
		return refuse
	}
	spec := specs()["plain"]
	err := n.Apply(t.Context(), spec)
	if err == nil || strings.Count(err.Error(), refuse.Error()) != 1 || !strings.Contains(err.Error(), "they are not connected") {
		t.Errorf("Apply: %v", err)
	}
	outside := func() (names []string) {
		for name, l := range f.state.Links {
			if l.class() == classPort && l.Master == "" {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	all := outside()
	if len(all) != 3 {
		t.Errorf("not in bridges: %q", all)
	}
	calls, refuse = nil, nil
	if err := n.Apply(t.Context(), spec); err != nil || len(calls) != 1 || len(outside()) != 0 {
		t.Errorf("Apply: %v, calls %q, not in bridges %q", err, calls, outside())
	}
	if got := slices.Sorted(slices.Values(calls[0])); !slices.Equal(got, all) {
		t.Errorf("protected %q, want %q", got, all)
	}
	// One that was taken out, and one that is gone.
	calls = nil
	f.state.Links[all[0]].Master = ""
	delete(f.state.Links, all[1])
	if err := n.Apply(t.Context(), spec); err != nil || len(calls) != 1 || !slices.Equal(slices.Sorted(slices.Values(calls[0])), all[:2]) {
		t.Errorf("Apply: %v, protected %q, want %q", err, calls, all[:2])
	}
	calls = nil
	if err := n.Apply(t.Context(), spec); err != nil || calls != nil {
		t.Errorf("Apply again: %v, protected %q", err, calls)
	}
}
