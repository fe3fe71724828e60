package headnode

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"nereid/api"
	"nereid/headnode/addresses"
	"nereid/headnode/answers"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// admin is the network that servers boot from, as it is now. Range, gateway and
// name servers are those of network admin; the rest is what the answers say.
func (s *Server) admin(tx store.Tx) (addresses.Network, error) {
	a, err := s.registry(tx)
	if err != nil {
		return addresses.Network{}, err
	}
	ad := s.answers.Admin
	n := addresses.Network{Registry: a, Static: a, Own: ad.Address, Gateway: a.Gateway(), DNS: a.Resolvers(), Lease: ad.Lease, Exclude: ad.NTP}
	n.First, n.Last = a.Range()
	return n, nil
}

// registry knows who has the addresses of network admin.
func (s *Server) registry(tx store.Tx) (networks.Admin, error) {
	a, found, err := s.adminNet.Get(tx)
	if err == nil && !found {
		err = errors.New("there is no network admin")
	}
	return a, err
}

// takeOverAdmin makes network admin of the answers and of the leases there are, at
// the first start; later it does nothing. told is what an operator has to know.
func (s *Server) takeOverAdmin(tx store.Tx) (told []string, err error) {
	if _, found, err := networks.GetAdmin(tx); err != nil || found {
		return nil, err
	}
	leases, err := addresses.Held(tx)
	if err != nil {
		return nil, err
	}
	ad := s.answers.Admin
	held := []networks.Held{{Address: ad.Address.Addr(), Use: networks.UseHeadNode}}
	for _, a := range ad.NTP {
		if a != ad.Address.Addr() {
			held = append(held, networks.Held{Address: a, Use: networks.UseTimeServer})
		}
	}
	for _, l := range leases {
		held = append(held, networks.Held{Address: l.Address, Use: networks.UseLease, MAC: l.MAC, Server: l.Server})
	}
	clashes, told, err := networks.TakeOverAdmin(tx, s.now(), adminNetwork(ad), held)
	if err != nil {
		return nil, err
	}
	n, err := s.admin(tx)
	for _, c := range clashes {
		if err == nil && c.Use == networks.UseLease {
			err = addresses.Drop(tx, n, c.Address, s.now())
		}
	}
	if err != nil {
		return nil, err
	}
	return told, s.bootNICsProvide(tx)
}

// bootNICsProvide lets the NIC that each known server booted from last provide NIC
// tag admin.
func (s *Server) bootNICsProvide(tx store.Tx) error {
	var changed []string
	for e, err := range inventory.All(tx) {
		if err != nil {
			return err
		}
		bs, err := s.bootsOf(tx, e.Value, 1)
		if err != nil {
			return err
		}
		if len(bs) == 0 {
			continue
		}
		news, err := networks.BootedFrom(tx, e.Value.UUID, bs[0].MAC)
		if err != nil {
			return err
		}
		if news {
			changed = append(changed, e.Value.UUID)
		}
	}
	return touch(tx, changed...)
}

// adminNetwork is network admin as the answers describe it.
func adminNetwork(ad answers.Admin) api.Network {
	n := api.Network{Subnet: ad.Address.Masked().String(), ProvisionStart: ad.First.String(), ProvisionEnd: ad.Last.String(),
		Description: "servers boot from it"}
	if ad.Gateway.IsValid() {
		n.Gateway = ad.Gateway.String()
	}
	for _, a := range ad.DNS {
		n.Resolvers = append(n.Resolvers, a.String())
	}
	return n
}

// createNIC makes a NIC. An address of network admin whose lease is over is given up
// for it, when the NIC names it or nothing else is left. Its MAC is no machine's.
func (s *Server) createNIC(tx store.Tx, nic api.NetworkNIC, provided []string) (networks.Change, error) {
	for _, a := range nic.Addresses {
		if err := s.makeRoom(tx, a.Network, a.IP); err != nil {
			return networks.Change{}, err
		}
	}
	var err error
	if nic.MAC == "" {
		nic.MAC, err = s.freshMAC(tx)
	} else {
		err = s.macTaken(tx, nic)
	}
	if err != nil {
		return networks.Change{}, err
	}
	return networks.CreateNIC(tx, s.now(), nic, provided)
}

// namedAddresses are those that a network is to hold: gateway, resolvers, next hops.
func namedAddresses(u api.NetworkUpdate) (out []string) {
	if u.Gateway != nil && *u.Gateway != "" {
		out = append(out, *u.Gateway)
	}
	if u.Resolvers != nil {
		out = append(out, *u.Resolvers...)
	}
	if u.Routes != nil {
		for _, hop := range *u.Routes {
			out = append(out, hop)
		}
	}
	return out
}

// makeRoom ends a lease that is over, for somebody else who wants its address, or
// any address, of a network or pool.
func (s *Server) makeRoom(tx store.Tx, network, ip string) error {
	reg, err := s.registry(tx)
	if err != nil {
		return err
	}
	if is, err := reg.Has(tx, network); err != nil || !is {
		return err
	}
	n, err := s.admin(tx)
	if err != nil {
		return err
	}
	if ip == "" {
		return addresses.YieldOldest(tx, n, s.now())
	}
	a, err := netip.ParseAddr(ip)
	if err != nil {
		return nil // whoever takes it says what is wrong with it
	}
	return addresses.Yield(tx, n, a, s.now())
}

// differs says how answers that a head node is to be initialised with again differ
// from those it has, in what network admin decides by now.
func differs(have, want answers.Admin) error {
	a, b := adminNetwork(have), adminNetwork(want)
	if a.ProvisionStart == b.ProvisionStart && a.ProvisionEnd == b.ProvisionEnd && a.Gateway == b.Gateway && slices.Equal(a.Resolvers, b.Resolvers) {
		return nil
	}
	cmd := fmt.Sprintf("nereid network update admin --start %s --end %s --gateway '%s'", b.ProvisionStart, b.ProvisionEnd, b.Gateway)
	for _, r := range b.Resolvers {
		cmd += " --resolver " + r
	}
	if len(b.Resolvers) == 0 {
		cmd += " --resolver ''"
	}
	return fmt.Errorf("its range, gateway and name servers are changed with: %s", cmd)
}
