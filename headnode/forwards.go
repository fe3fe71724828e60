package headnode

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

// Port forwards are done by an account's gateway servers, which it has as soon as it
// has a forward. Their external addresses serve all accounts, so that a port belongs
// to one of them.
//
//	nat/forward/<owner>/<uuid>          the forward
//	nat/forward-port/<protocol>/<port>  its owner
const (
	forwardPrefix     = "nat/forward/"
	forwardPortPrefix = "nat/forward-port/"
)

// Ports that can be forwarded: those above are for outgoing connections (agent/router).
// Where none is asked for, one is chosen that no service is known by.
const (
	lastForwardPort  = 32767
	firstChosenPort  = 10000
	maxForwardsOwner = 1000
)

func forwardPortKey(protocol string, port uint16) string {
	return fmt.Sprintf("%s%s/%05d", forwardPortPrefix, protocol, port)
}

func (s *Server) routeForwards(h huma.API) {
	routeObjects(s, h, objects[api.FabricForward, api.FabricForwardUpdate]{
		path: "/v1/accounts/{owner}/fabric/forwards", thing: "port forward", made: forwardMade(), fixed: forwardFixed(),
		about: func(f api.FabricForward) []api.Event { return ownedBy(f.UUID, f.Owner) },
		list: func(tx store.Tx, q listing) ([]api.FabricForward, string, error) {
			all, next, err := store.Scan[api.FabricForward](tx, forwardPrefix+q.args["owner"]+"/", q.after, q.limit)
			if err != nil {
				return nil, "", err
			}
			return all, next, store.Together(tx, len(all), func(i int, tx store.Tx) error { return showForward(tx, &all[i]) })
		},
		get: func(tx store.Tx, a args) (api.FabricForward, error) {
			f, err := getForward(tx, a["owner"], a["id"])
			if err == nil {
				err = showForward(tx, &f)
			}
			return f, err
		},
		create: s.createForward,
		update: s.updateForward,
		delete: func(tx store.Tx, a args) error {
			f, err := getForward(tx, a["owner"], a["id"])
			if err != nil {
				return err
			}
			return s.removeForwards(tx, f.Owner, f)
		},
	})
}

// dropForwards ends the forwards that go to a NIC which is gone.
func (s *Server) dropForwards(tx store.Tx, n api.NetworkNIC) error {
	if n.VNI == 0 {
		return nil
	}
	all, err := forwardsOf(tx, n.Owner)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(f api.FabricForward) bool { return f.MAC != n.MAC })
	return s.removeForwards(tx, n.Owner, all...)
}

// removeForwards removes forwards of an account. With the last one it may need no gateways.
func (s *Server) removeForwards(tx store.Tx, owner string, some ...api.FabricForward) error {
	if len(some) == 0 {
		return nil
	}
	for _, f := range some {
		if err := tx.Delete(forwardPrefix + owner + "/" + f.UUID); err != nil {
			return err
		}
		if err := tx.Delete(forwardPortKey(f.Protocol, f.Port)); err != nil {
			return err
		}
		if err := putSet(tx, api.NATSet(owner), f.UUID, nil); err != nil {
			return err
		}
	}
	has, err := store.HasBelow(tx, forwardPrefix+owner+"/")
	if err != nil || has {
		return err
	}
	return s.leadOutOf(tx, owner)
}

func getForward(tx store.Tx, owner, id string) (api.FabricForward, error) {
	f, found, err := store.Lookup[api.FabricForward](tx, forwardPrefix+owner+"/"+id)
	if err == nil && !found {
		err = refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid fabric forward list "+owner, "account %.64s has no port forward %.64q", owner, id)
	}
	return f, err
}

// forwardsOf are an account's.
func forwardsOf(tx store.Tx, owner string) ([]api.FabricForward, error) {
	all, _, err := store.Scan[api.FabricForward](tx, forwardPrefix+owner+"/", "", 0)
	return all, err
}

// showForward fills in what is not stored.
func showForward(tx store.Tx, f *api.FabricForward) error {
	g, err := gatewaysOf(tx, f.Owner)
	f.Addresses = []string{}
	for _, g := range g.Gateways {
		self, serr := selfNAT(tx, g.Server)
		if serr != nil {
			return serr
		}
		if e := self.External; e != nil && e.Address != "" {
			address, _, _ := strings.Cut(e.Address, "/")
			f.Addresses = append(f.Addresses, address)
		}
	}
	return err
}

func (s *Server) createForward(tx store.Tx, a args, f api.FabricForward) (api.FabricForward, error) {
	faults := []error{agrees("owner_uuid", f.Owner, a["owner"])}
	f.Owner = a["owner"]
	if f.Protocol != "tcp" && f.Protocol != "udp" {
		faults = append(faults, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "choose one of those", "protocol %.20q of a port forward: want tcp or udp", f.Protocol))
	}
	if f.Port > lastForwardPort {
		faults = append(faults, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "choose a lower one", "port %d cannot be forwarded: those above %d are for outgoing connections", f.Port, lastForwardPort))
	}
	if err := api.Faults(append(faults, checkForward(&f))...); err != nil {
		return f, err
	}
	all, err := forwardsOf(tx, f.Owner)
	if err == nil && len(all) >= maxForwardsOwner {
		err = refuse(http.StatusConflict, api.CodeConflict, "delete some", "account %s has %s, and may have no more", f.Owner, api.Plural(len(all), "port forward"))
	}
	if err == nil && f.Port == 0 {
		f.Port, err = freePort(tx, f.Protocol)
	}
	if err != nil {
		return f, err
	}
	owner, taken, err := store.Lookup[string](tx, forwardPortKey(f.Protocol, f.Port))
	if err == nil && taken {
		err = refuse(http.StatusConflict, api.CodeConflict, "choose another, or none to get a free one", "%s port %d is forwarded for account %s already", f.Protocol, f.Port, owner)
	}
	if err == nil {
		err = store.Put(tx, forwardPortKey(f.Protocol, f.Port), f.Owner)
	}
	if err != nil {
		return f, err
	}
	f.UUID = newForwardUUID()
	return s.putForward(tx, f)
}

// newForwardUUID is a random UUID (RFC 9562, section 5.4).
func newForwardUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// freePort is the lowest port that can be chosen for somebody.
func freePort(tx store.Tx, protocol string) (uint16, error) {
	for port := uint16(firstChosenPort); port <= lastForwardPort; port++ {
		taken, err := store.Has(tx, forwardPortKey(protocol, port))
		if err != nil || !taken {
			return port, err
		}
	}
	return 0, refuse(http.StatusConflict, api.CodeConflict, "name one below", "all %s ports from %d to %d are forwarded", protocol, firstChosenPort, lastForwardPort)
}

func (s *Server) updateForward(tx store.Tx, a args, u api.FabricForwardUpdate) (api.FabricForward, error) {
	f, err := getForward(tx, a["owner"], a["id"])
	if err != nil {
		return f, err
	}
	if u.IP != nil {
		f.IP = *u.IP
	}
	if u.ToPort != nil {
		f.ToPort = *u.ToPort
	}
	if u.Description != nil {
		f.Description = *u.Description
	}
	return s.putForward(tx, f)
}

// checkForward checks of a forward what can be judged by itself, and puts its address
// in canonical form.
func checkForward(f *api.FabricForward) error {
	var faults []error
	if len(f.Description) > 1024 {
		faults = append(faults, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "shorten it", "the description has %d bytes, at most 1024 are allowed", len(f.Description)))
	}
	ip, err := netip.ParseAddr(f.IP)
	if err != nil {
		faults = append(faults, refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "give an address of a NIC; list them with: nereid nic list", "%.64q is not an IP address", f.IP))
	}
	f.IP = ip.Unmap().String()
	return api.Faults(faults...)
}

// putForward checks where a forward goes to and writes it.
func (s *Server) putForward(tx store.Tx, f api.FabricForward) (api.FabricForward, error) {
	if err := checkForward(&f); err != nil {
		return f, err
	}
	if f.ToPort == 0 {
		f.ToPort = f.Port
	}
	ip, err := netip.ParseAddr(f.IP)
	if err != nil {
		return f, err
	}
	if err := natFamily(tx, ip); err != nil {
		return f, err
	}
	if f.MAC, err = forwardTarget(tx, f.Owner, f.IP); err != nil {
		return f, err
	}
	f.Revision, f.Addresses = inventory.NewRevision(), nil
	had, err := store.HasBelow(tx, forwardPrefix+f.Owner+"/")
	if err == nil {
		err = store.Put(tx, forwardPrefix+f.Owner+"/"+f.UUID, f)
	}
	if err == nil {
		err = publishForward(tx, f)
	}
	if err == nil && !had { // with the first one the account has gateways
		err = s.leadOutOf(tx, f.Owner)
	}
	if err != nil {
		return f, err
	}
	return f, showForward(tx, &f)
}

// natFamily says why an address cannot be behind the NAT network.
func natFamily(tx store.Tx, ip netip.Addr) error {
	settings, err := networks.GetSettings(tx)
	if err != nil {
		return err
	}
	if settings.NATNetwork == "" {
		return refuse(http.StatusConflict, api.CodeConflict, "set one with: nereid fabric settings --nat-network NETWORK", "there is no NAT network, whose addresses port forwards have")
	}
	id := settings.NATNetwork
	if p, err := networks.GetPool(tx, id); err == nil && len(p.Networks) > 0 {
		id = p.Networks[0]
	} else if err != nil && !isProblem(err, api.CodeNotFound) {
		return err
	}
	n, err := networks.GetNetwork(tx, id)
	if err != nil {
		return err
	}
	if p, err := netip.ParsePrefix(n.Subnet); err == nil && p.Addr().Is4() != ip.Unmap().Is4() {
		return refuse(http.StatusConflict, api.CodeConflict, "give the instance's address of the other family", "the NAT network %s is %s, and %s is not", n.Name, n.Subnet, ip)
	}
	return nil
}

// forwardTarget is the MAC of the NIC that a forward goes to.
func forwardTarget(tx store.Tx, owner, ip string) (string, error) {
	found, err := networks.SearchIPs(tx, ip)
	if err != nil {
		return "", err
	}
	for _, a := range found {
		if a.MAC == "" {
			continue
		}
		nic, err := networks.GetNIC(tx, a.MAC)
		if err != nil {
			return "", err
		}
		if nic.Owner != owner || nic.VNI == 0 || nic.BelongsToType == api.BelongsToServer {
			continue
		}
		n, err := networks.GetNetwork(tx, a.Network)
		if err != nil {
			return "", err
		}
		if n.Gateway == "" || !n.InternetNAT {
			return "", refuse(http.StatusConflict, api.CodeConflict, "let it have internet_nat", "network %s of %s has no internet_nat, by which answers would leave", n.Name, ip)
		}
		return nic.MAC, nil
	}
	return "", refuse(http.StatusConflict, api.CodeConflict, "list the account's with: nereid nic list --owner "+owner, "no NIC of account %s has %s on its fabric", owner, ip)
}

// publishForward writes a forward as servers follow it.
func publishForward(tx store.Tx, f api.FabricForward) error {
	to, err := netip.ParseAddr(f.IP)
	if err != nil {
		return fmt.Errorf("port forward %s: %w", f.UUID, err)
	}
	return putSet(tx, api.NATSet(f.Owner), f.UUID, api.AccountNAT{UUID: f.UUID,
		Forward: &api.ForwardSpec{Protocol: f.Protocol, Port: f.Port, Internal: netip.AddrPortFrom(to, f.ToPort).String()}})
}

// keepsForwards refuses a change of a NIC that would leave forwards without an end:
// the address might be somebody else's the next day.
func keepsForwards(tx store.Tx, c networks.Change) error {
	if c.Before == nil || c.Before.VNI == 0 {
		return nil
	}
	all, err := forwardsOf(tx, c.Before.Owner)
	if err != nil {
		return err
	}
	var lost []string
	for _, f := range all {
		stays := c.After != nil && c.After.Owner == f.Owner && slices.ContainsFunc(c.After.Addresses, func(a api.NICAddress) bool { return a.IP == f.IP })
		if f.MAC == c.Before.MAC && !stays {
			lost = append(lost, fmt.Sprintf("port forward %s, %s port %d", f.UUID, f.Protocol, f.Port))
		}
	}
	if len(lost) == 0 {
		return nil
	}
	return &api.Problem{Title: http.StatusText(http.StatusConflict), Status: http.StatusConflict, Code: api.CodeInUse, Errors: lost,
		Detail: fmt.Sprintf("NIC %s is where port forwards go to", c.Before.MAC), Next: "delete them, or let them go elsewhere, with: nereid fabric forward"}
}
