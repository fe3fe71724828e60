package networks

import (
	"maps"
	"net/netip"
	"slices"

	"nereid/api"
)

// Bounds of a network's lists.
const (
	maxResolvers = 8
	maxRoutes    = 64
	maxOwners    = 1000
	maxVLAN      = 4094
	maxVNI       = 1<<24 - 1
)

// normal checks a network by itself and gives it in canonical form, with what was
// left empty filled in; the error has all that is wrong with it. What depends on
// others is checked elsewhere.
func normal(a api.Network) (n network, err error) {
	n.Network = a
	var faults []error
	if n.UUID != "" {
		var ok bool
		if n.UUID, ok = parseUUID(n.UUID); !ok {
			faults = append(faults, invalid("leave it out, and one is made", "%.64q is not a UUID", a.UUID))
		}
	}
	faults = append(faults, checkName("network", n.Name), checkDescription(n.Description))
	if n.Owners, err = parseUUIDs("owners of network "+n.Name, n.Owners); err != nil {
		faults = append(faults, err)
	}
	if len(n.Owners) > maxOwners {
		faults = append(faults, invalid("name fewer, or none for all accounts", "network %s has %d owners; at most %d are allowed", n.Name, len(n.Owners), maxOwners))
	}
	faults = append(faults, checkVLAN(n.VLAN))
	checks := []func() error{n.readRange, n.readGateway, n.readResolvers, n.readRoutes, n.checkMTU, n.checkFabric}
	if err := n.readSubnet(); err != nil {
		faults = append(faults, err)
		checks = []func() error{n.readResolvers, n.checkPlace} // the others compare with it
	}
	for _, check := range checks {
		faults = append(faults, check())
	}
	return n, api.Faults(faults...)
}

// checkVLAN checks a VLAN id: 0 is untagged, 1 is what switches use untagged
// unasked, 4095 is reserved (IEEE 802.1Q, table 9-2).
func checkVLAN(id int) error {
	if id < 0 || id == 1 || id > maxVLAN {
		return invalid("choose one of those", "VLAN %d: want 0 (untagged) or 2 to %d", id, maxVLAN)
	}
	return nil
}

func (n *network) readSubnet() (err error) {
	if n.subnet, err = parseCIDR(n.Subnet); err != nil {
		return invalid("correct the subnet", "subnet of network %s: %v", n.Name, err)
	}
	shortest := 8
	if n.subnet.Addr().Is6() {
		shortest = 16
	}
	if n.subnet.Bits() < shortest {
		return invalid("take a smaller subnet", "subnet %s of network %s: its prefix is shorter than /%d", n.subnet, n.Name, shortest)
	}
	n.Subnet, n.Family = n.subnet.String(), family(n.subnet.Addr())
	return nil
}

// host reads an address of the subnet that a host can have.
func (n *network) host(what, s string) (netip.Addr, error) {
	a, err := parseAddr(s)
	if err != nil {
		return a, invalid("correct it", "%s of network %s: %v", what, n.Name, err)
	}
	if !n.subnet.Contains(a) {
		return a, invalid("take an address of the subnet", "%s %s of network %s is not in %s", what, a, n.Name, n.subnet)
	}
	if !isHost(n.subnet, a) {
		return a, invalid("take an address a host can have", "%s %s of network %s is the network's or the broadcast address of %s", what, a, n.Name, n.subnet)
	}
	return a, nil
}

func (n *network) readRange() (err error) {
	n.first, n.last = hosts(n.subnet)
	var first, last error
	if n.ProvisionStart != "" {
		n.first, first = n.host("provision start", n.ProvisionStart)
	}
	if n.ProvisionEnd != "" {
		n.last, last = n.host("provision end", n.ProvisionEnd)
	}
	if err := api.Faults(first, last); err != nil {
		return err
	}
	if n.last.Less(n.first) {
		return invalid("give the lower address first", "provision range %s to %s of network %s is the wrong way round", n.first, n.last, n.Name)
	}
	n.ProvisionStart, n.ProvisionEnd = n.first.String(), n.last.String()
	return nil
}

func (n *network) readGateway() (err error) {
	n.held = nil
	if n.Gateway == "" {
		return nil
	}
	if n.gateway, err = n.host("gateway", n.Gateway); err != nil {
		return err
	}
	n.Gateway = n.gateway.String()
	n.hold(n.gateway)
	return nil
}

// hold keeps an address of the subnet from those who do not name it.
func (n *network) hold(a netip.Addr) {
	if n.subnet.Contains(a) && !slices.Contains(n.held, a) {
		n.held = append(n.held, a)
	}
}

// readResolvers reads name servers: of either family, anywhere.
func (n *network) readResolvers() error {
	if len(n.Resolvers) > maxResolvers {
		return invalid("name fewer", "network %s has %d resolvers; at most %d are allowed", n.Name, len(n.Resolvers), maxResolvers)
	}
	var out []string
	var faults []error
	for _, s := range n.Resolvers {
		a, err := parseAddr(s)
		switch {
		case err != nil:
			faults = append(faults, invalid("correct it", "resolver of network %s: %v", n.Name, err))
			continue
		case a.IsUnspecified(), a.IsMulticast(), a == netip.AddrFrom4([4]byte{255, 255, 255, 255}), n.subnet.Contains(a) && !isHost(n.subnet, a):
			faults = append(faults, invalid("give a host's address", "resolver %s of network %s is no host's address", a, n.Name))
		case slices.Contains(out, a.String()):
			faults = append(faults, invalid("name each once", "resolver %s of network %s is there twice", a, n.Name))
		}
		out = append(out, a.String())
		n.hold(a)
	}
	n.Resolvers = out
	return api.Faults(faults...)
}

func (n *network) readRoutes() error {
	if len(n.Routes) > maxRoutes {
		return invalid("name fewer", "network %s has %d routes; at most %d are allowed", n.Name, len(n.Routes), maxRoutes)
	}
	if len(n.Routes) == 0 {
		n.Routes = nil
		return nil
	}
	out := make(map[string]string, len(n.Routes))
	hops := make([]netip.Addr, 0, len(n.Routes))
	var faults []error
	for _, dst := range slices.Sorted(maps.Keys(n.Routes)) {
		via := n.Routes[dst]
		p, err := parseCIDR(dst)
		switch {
		case err != nil:
			err = invalid("correct it", "route of network %s: %v", n.Name, err)
		case p.Addr().BitLen() != n.subnet.Addr().BitLen():
			err = invalid("give it to a network of that family", "route to %s of network %s is of another family than %s", p, n.Name, n.subnet)
		case p == n.subnet:
			err = invalid("leave it out", "route to %s of network %s is to the network itself", p, n.Name)
		case p.Bits() == 0 && n.Gateway != "":
			err = invalid("leave it out, or the gateway", "network %s has a gateway and a route to %s", n.Name, p)
		case out[p.String()] != "":
			err = invalid("name each once", "route to %s of network %s is there twice", p, n.Name)
		}
		var hop netip.Addr
		if err == nil {
			hop, err = n.host("next hop of the route to "+p.String()+",", via)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		out[p.String()] = hop.String()
		hops = append(hops, hop)
	}
	slices.SortFunc(hops, netip.Addr.Compare)
	for _, hop := range hops {
		n.hold(hop)
	}
	n.Routes = out
	return api.Faults(faults...)
}

func (n *network) checkMTU() error {
	least := minMTU4
	if n.subnet.Addr().Is6() {
		least = minMTU6
	}
	if n.MTU < least || n.MTU > MaxMTU {
		return invalid("choose one in that range, or 0 for the greatest possible", "MTU %d of network %s: want %d to %d", n.MTU, n.Name, least, MaxMTU)
	}
	return nil
}

// checkPlace checks what only one of the two kinds of networks has.
func (n *network) checkPlace() error {
	if n.Fabric {
		return nil
	}
	var faults []error
	if n.InternetNAT {
		faults = append(faults, invalid("leave internet_nat out", "network %s is no fabric network; only those have internet_nat", n.Name))
	}
	if n.VNI != 0 {
		faults = append(faults, invalid("leave the VNI out", "network %s is no fabric network; only those have a VNI", n.Name))
	}
	switch {
	case n.NICTag == "":
		faults = append(faults, invalid("name the NIC tag it is on", "network %s has no NIC tag", n.Name))
	case !tagRE.MatchString(n.NICTag):
		faults = append(faults, invalid("name the NIC tag it is on", "network %s is on NIC tag %.64q", n.Name, n.NICTag))
	}
	return api.Faults(faults...)
}

func (n *network) checkFabric() error {
	if !n.Fabric {
		return n.checkPlace()
	}
	switch {
	case len(n.Owners) != 1:
		return invalid("name its one owner", "fabric network %s has %d owners; want 1", n.Name, len(n.Owners))
	case n.NICTag != "":
		return invalid("leave the NIC tag out", "fabric network %s has a NIC tag; the underlay carries it", n.Name)
	case n.VNI == 0 || n.VNI > maxVNI:
		return invalid("choose one in that range", "VNI %d of fabric network %s: want 1 to %d", n.VNI, n.Name, maxVNI)
	case !slices.ContainsFunc(private(), func(p netip.Prefix) bool { return within(n.subnet, p) }):
		return invalid("take a subnet of those", "subnet %s of fabric network %s: want one in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 (RFC 1918) or fc00::/7 (RFC 4193)", n.subnet, n.Name)
	case n.InternetNAT && n.Gateway == "":
		return invalid("give it a gateway", "fabric network %s has internet_nat and no gateway", n.Name)
	}
	return nil
}
