package headnode

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// fabricServers is a head node with servers on an underlay, and a NIC of one account on
// each. It gives the account's network and a NIC on it.
func fabricServers(b *testing.B, servers int) (*Server, api.Network, api.NetworkNIC) {
	b.Helper()
	s := benchServer(b)
	var (
		net api.Network
		nic api.NetworkNIC
	)
	do := func(fn func(tx store.Tx) error) {
		b.Helper()
		if err := s.store.Update(context.Background(), fn); err != nil {
			b.Fatal(err)
		}
	}
	do(func(tx store.Tx) error {
		if _, err := networks.CreateNICTag(tx, api.NICTag{Name: "underlay", MTU: 9000}); err != nil {
			return err
		}
		if _, err := networks.CreateNetwork(tx, api.Network{Name: "underlay", NICTag: "underlay", Subnet: "10.77.0.0/16"}); err != nil {
			return err
		}
		if _, err := networks.UpdateSettings(tx, api.FabricSettings{UnderlayTag: "underlay"}); err != nil {
			return err
		}
		v, err := fabric.CreateVLAN(tx, api.FabricVLAN{Owner: alice, VLAN: 2, Name: "web"}, s.now())
		if err != nil {
			return err
		}
		net, err = networks.CreateNetwork(tx, api.Network{Name: "web", Fabric: true, VNI: v.VNI, VLAN: 2, Owners: []string{alice}, Subnet: "10.0.0.0/16", Gateway: "10.0.0.1"})
		return err
	})
	for i := range servers {
		do(func(tx store.Tx) error {
			boot := fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)
			e := inventory.Enrolment{BootMAC: boot, Key: benchUUID(i), Sysinfo: api.Sysinfo{UUID: benchUUID(i), NICs: []api.NIC{{MAC: boot}}}}
			out, err := inventory.Enrol(tx, s.now(), e)
			if err == nil {
				_, err = inventory.Approve(tx, s.now(), &out.Record, "", false)
			}
			if err == nil {
				_, err = inventory.Enrol(tx, s.now(), e)
			}
			if err == nil && out.Record.UUID != benchUUID(i) {
				err = fmt.Errorf("server %d is %s", i, out.Record.UUID)
			}
			if err == nil {
				_, err = networks.SetNICTagUse(tx, benchUUID(i), api.NICTagUse{MAC: boot, NICTags: []string{"underlay"}}, []string{boot}, false)
			}
			for _, n := range []api.NetworkNIC{
				{Underlay: true, Server: benchUUID(i), BelongsTo: benchUUID(i), BelongsToType: api.BelongsToServer, Owner: alice, Addresses: []api.NICAddress{{Network: "underlay"}}},
				{Owner: alice, BelongsToType: api.BelongsToZone, Server: benchUUID(i), Addresses: []api.NICAddress{{Network: net.UUID}}, BelongsTo: fmt.Sprintf("00000000-0000-4000-9000-%012d", i)},
			} {
				if err != nil {
					break
				}
				var c networks.Change
				c, err = s.createNIC(tx, n, nil)
				nic, err = s.nicChanged(tx, c, err)
			}
			return err
		})
	}
	return s, net, nic
}

func benchUUID(i int) string {
	return fmt.Sprintf("%08x-5a3c-4d21-9e87-6b0f4c2d%04x", i*2654435761%(1<<32), i)
}

// followAll is what the agent of a server with NICs of alice on a VNI follows.
func followAll(server string, vni uint32) []api.Follow {
	return []api.Follow{{Set: api.PortSet(server)}, {Set: api.RuleSet("")}, {Set: api.RuleSet(alice)}, {Set: api.NetworkSet(alice)}, {Set: api.NATSet(alice)},
		{Set: api.ServerNATSet(server)}, {Set: api.MapSet(vni)}}
}

// BenchmarkIdleSync is a sync that brings nothing and hears nothing, of a server that
// follows all that one with NICs of an account follows.
func BenchmarkIdleSync(b *testing.B) {
	s, net, _ := fabricServers(b, 1)
	s.cfg.Hold = 1
	agent := context.WithValue(context.Background(), callerKey{}, caller{uuid: benchUUID(0), key: benchUUID(0)})
	in := &syncInput{UUID: benchUUID(0), Body: api.SyncRequest{Follow: followAll(benchUUID(0), net.VNI)}}
	poll := func() {
		out, err := s.sync(agent, in)
		if err != nil {
			b.Fatal(err)
		}
		if out.Body == nil {
			return
		}
		if out.Body.Spec != nil {
			in.Body.Seen = out.Body.Revision
		}
		for _, d := range deltasOf(b, out) {
			for j, f := range in.Body.Follow {
				if f.Set == d.Set {
					in.Body.Follow[j] = f.Take(d)
				}
			}
		}
	}
	poll()
	poll()
	b.ReportAllocs()
	for b.Loop() {
		poll()
	}
}

// BenchmarkFabricNIC is what the write of a NIC on a fabric with NAT costs where 1,000
// servers do NAT: one more on a server that has some of the account, and the first there,
// which is made and deleted.
func BenchmarkFabricNIC(b *testing.B) {
	const servers = 1000
	s, _, _ := fabricServers(b, servers)
	ctx := context.Background()
	err := s.store.Update(ctx, func(tx store.Tx) error {
		if _, err := networks.CreateNICTag(tx, api.NICTag{Name: "external"}); err != nil {
			return err
		}
		if _, err := networks.CreateNetwork(tx, api.Network{Name: "external", NICTag: "external", Subnet: "203.0.0.0/16", Gateway: "203.0.0.1"}); err != nil {
			return err
		}
		for i := range servers {
			mac := fmt.Sprintf("52:54:00:01:%02x:%02x", i>>8, i&255)
			if _, err := networks.SetNICTagUse(tx, benchUUID(i), api.NICTagUse{MAC: mac, NICTags: []string{"external"}}, []string{mac}, false); err != nil {
				return err
			}
		}
		settings, err := networks.GetSettings(tx)
		if err != nil {
			return err
		}
		settings.NATNetwork = "external"
		_, err = networks.UpdateSettings(tx, settings)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	var net api.Network
	n := 0
	nic := func(tx store.Tx, server int) (api.NetworkNIC, error) {
		n++
		c, err := s.createNIC(tx, api.NetworkNIC{Owner: bob, BelongsToType: api.BelongsToZone, Server: benchUUID(server), Addresses: []api.NICAddress{{Network: net.UUID}},
			BelongsTo: fmt.Sprintf("00000000-0000-4000-9000-%012d", n)}, nil)
		return s.nicChanged(tx, c, err)
	}
	err = s.store.Update(ctx, func(tx store.Tx) error {
		v, err := fabric.CreateVLAN(tx, api.FabricVLAN{Owner: bob, VLAN: 2, Name: "web"}, s.now())
		if err == nil {
			net, err = s.createFabricNetwork(tx, args{"owner": bob, "vlan": fmt.Sprint(v.VLAN)}, api.Network{Name: "web", Subnet: "10.0.0.0/16", Gateway: "10.0.0.1", InternetNAT: true})
		}
		for i := range 3 {
			if err == nil {
				_, err = nic(tx, i)
			}
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	undo := errors.New("undo")
	for _, c := range []struct {
		what   string
		server int
	}{{"one more there", 1}, {"the first there", 500}} {
		b.Run(c.what, func(b *testing.B) {
			for b.Loop() { // without the commit, whose disk is another matter
				err := s.store.Update(ctx, func(tx store.Tx) error {
					_, err := nic(tx, c.server)
					return errors.Join(err, undo)
				})
				if err != undo && err.Error() != undo.Error() {
					b.Fatal(err)
				}
			}
		})
	}
}
