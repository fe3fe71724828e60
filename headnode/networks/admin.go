package networks

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// AdminName is the name of the network that servers boot from.
const AdminName = "admin"

// Use is what has an address of the admin network, when that is no NIC.
type Use string

// The uses of an address that is no NIC's.
const (
	UseLease      Use = "lease"       // of a machine, or kept back after a DECLINE
	UseHeadNode   Use = "head node"   // its own
	UseTimeServer Use = "time server" // named by the answers
)

// free says whether nobody has the address.
func (r ipRecord) free() bool { return r.MAC == "" && !r.Reserved && r.Use == "" }

// usedBy says, behind an address, what has it.
func (r ipRecord) usedBy() string {
	switch {
	case r.MAC != "":
		return "is the address of NIC " + r.MAC
	case r.Use == UseLease && r.Server != "":
		return "is leased to " + r.Holder + " of server " + r.Server
	case r.Use == UseLease && r.Holder != "":
		return "is leased to " + r.Holder
	case r.Use == UseLease:
		return "is kept back: a machine found another one answering there"
	case r.Use == UseUnexpected:
		return "is the address of " + r.Holder + " of an instance that server " + r.Server + " has and that is not known"
	case r.Use != "":
		return "is the address of the " + string(r.Use)
	}
	if r.Owner != "" {
		return "is reserved for account " + r.Owner
	}
	return "is reserved"
}

// Held is an address that something other than a NIC has.
type Held struct {
	Address netip.Addr
	Use     Use
	MAC     string // of a lease; empty: the address is kept back
	Server  string // UUID of the server that the lease is of, if it is one's
}

// Admin is the admin network as DHCP sees it: who is asked before an address is
// leased, and told of it. It is addresses.Registry.
type Admin struct{ n network }

// isAdmin says whether a network is the admin network.
func isAdmin(tx store.Tx, uuid string) (bool, error) {
	admin, _, err := store.Lookup[string](tx, adminKey)
	return admin == uuid && uuid != "", err
}

// GetAdmin reads the admin network. found is false before TakeOverAdmin.
func GetAdmin(tx store.Tx) (_ Admin, found bool, err error) {
	defer named(&err, "read the admin network")
	uuid, found, err := store.Lookup[string](tx, adminKey)
	if err != nil || !found {
		return Admin{}, false, err
	}
	n, err := load(tx, uuid)
	return Admin{n}, true, err
}

// AdminCache is GetAdmin without reading the same network again: each DHCP message
// asks for it. Safe for concurrent use; of one store.
type AdminCache struct{ last atomic.Pointer[cachedAdmin] }

type cachedAdmin struct {
	key   string
	value []byte
	admin Admin
}

// Get is GetAdmin. The admin network's UUID never changes once there is one.
func (c *AdminCache) Get(tx store.Tx) (_ Admin, found bool, err error) {
	last := c.last.Load()
	if last != nil {
		b, err := tx.Get(last.key)
		if err == nil && bytes.Equal(b, last.value) {
			return last.admin, true, nil
		}
	}
	a, found, err := GetAdmin(tx)
	if err != nil || !found {
		return a, found, err
	}
	key := netPrefix + a.n.UUID
	b, err := tx.Get(key)
	if err != nil {
		return a, false, fmt.Errorf("read the admin network: %w", err)
	}
	c.last.Store(&cachedAdmin{key, bytes.Clone(b), a})
	return a, true, nil
}

// Network is the admin network as the API has it.
func (a Admin) Network() api.Network { return a.n.Network }

// Range is the first and the last address that is given out.
func (a Admin) Range() (first, last netip.Addr) { return a.n.first, a.n.last }

// Gateway is the gateway; not valid when there is none.
func (a Admin) Gateway() netip.Addr { return a.n.gateway }

// Resolvers are the IPv4 name servers, which is what DHCP can name.
func (a Admin) Resolvers() []netip.Addr {
	var out []netip.Addr
	for _, s := range a.n.Resolvers {
		if ip, err := parseAddr(s); err == nil && ip.Is4() {
			out = append(out, ip)
		}
	}
	return out
}

// Free says whether nobody has an address of the range, and no NIC may send from it.
func (a Admin) Free(tx store.Tx, ip netip.Addr) (bool, error) {
	if !a.n.pooled(ip) {
		return false, nil
	}
	rec, _, err := store.Lookup[ipRecord](tx, ipKey(a.n.UUID, ip))
	if err != nil || !rec.free() {
		return false, err
	}
	c, err := claimantOf(tx, a.n.UUID, "", "")
	if err != nil {
		return false, err
	}
	_, others, err := c.other(ip)
	return !others, err
}

// Next gives the lowest free address that nobody used lately, else the one that was
// given back the longest ago, at since; none of those that skip names. It writes
// nothing.
func (a Admin) Next(tx store.Tx, skip func(netip.Addr) bool) (ip netip.Addr, since time.Time, found bool, err error) {
	c, err := claimantOf(tx, a.n.UUID, "", "")
	if err != nil {
		return ip, since, false, err
	}
	_, err = c.eachFree(func(f freeAddr) (bool, error) {
		if found = !skip(f.addr); found {
			ip = f.addr
			if f.nanos != 0 {
				since = time.Unix(0, f.nanos)
			}
		}
		return !found, nil
	})
	return ip, since, found, err
}

// Take notes that a MAC has the address; no MAC: that it is kept back. The address
// is free, or has been taken before.
func (a Admin) Take(tx store.Tx, ip netip.Addr, mac, server string) error {
	_, err := a.take(tx, Held{Address: ip, Use: UseLease, MAC: mac, Server: server})
	return err
}

// Give frees an address that was taken. It rests before it counts as not used
// lately.
func (a Admin) Give(tx store.Tx, ip netip.Addr, now time.Time) error {
	rec, found, err := store.Lookup[ipRecord](tx, ipKey(a.n.UUID, ip))
	if err != nil || !found || rec.Use != UseLease {
		return err
	}
	return giveBack(tx, a.n, ip, now)
}

// NIC is the IPv4 address there of an instance's NIC with that MAC. A server's own
// MAC has what it leases.
func (a Admin) NIC(tx store.Tx, mac string) (netip.Addr, bool, error) {
	n, found, err := store.Lookup[api.NetworkNIC](tx, nicPrefix+mac)
	if err != nil || !found || n.BelongsToType == api.BelongsToServer {
		return netip.Addr{}, false, err
	}
	for _, at := range n.Addresses {
		if ip, err := parseAddr(at.IP); err == nil && ip.Is4() && at.Network == a.n.UUID {
			return ip, true, nil
		}
	}
	return netip.Addr{}, false, nil
}

// Holder is the MAC that has an address, as a NIC or by a lease; empty: none.
func (a Admin) Holder(tx store.Tx, ip netip.Addr) (string, error) {
	rec, _, err := store.Lookup[ipRecord](tx, ipKey(a.n.UUID, ip))
	return cmp.Or(rec.MAC, rec.Holder), err
}

// Others counts the addresses of the range that NICs have or that are reserved.
func (a Admin) Others(tx store.Tx) (int, error) {
	count, prefix := 0, ipPrefix+a.n.UUID+"/"
	for e, err := range store.Each[ipRecord](tx, prefix) {
		if err != nil {
			return 0, err
		}
		ip, err := addrOf(e.Key[len(prefix):])
		if err != nil {
			return 0, err
		}
		if e.Value.Use == "" && !e.Value.free() && a.n.pooled(ip) {
			count++
		}
	}
	return count, nil
}

// take makes an address somebody's that is free, or of the same use already; was is
// who else has it, and then nothing is changed.
func (a Admin) take(tx store.Tx, h Held) (was ipRecord, err error) {
	key := ipKey(a.n.UUID, h.Address)
	rec, found, err := store.Lookup[ipRecord](tx, key)
	if err != nil {
		return rec, err
	}
	if !rec.free() && rec.Use != h.Use {
		return rec, nil
	}
	if rec.free() && (found || a.n.pooled(h.Address)) {
		if err := takeOut(tx, a.n, h.Address, rec); err != nil {
			return rec, err
		}
	}
	return ipRecord{}, store.Put(tx, key, ipRecord{Use: h.Use, Holder: h.MAC, Server: h.Server})
}

// TakeOverAdmin makes the admin network, with the addresses that are held there, at
// the first start; later it does nothing. A network that an operator made of the
// same subnet on the same segment becomes the admin network and keeps its NICs.
// clashes are those of held that a NIC has already, or an account: they are not
// taken, and told says so, and what else an operator has to know.
func TakeOverAdmin(tx store.Tx, now time.Time, in api.Network, held []Held) (clashes []Held, told []string, err error) {
	defer named(&err, "take over the admin network")
	if has, err := store.Has(tx, adminKey); err != nil || has {
		return nil, nil, err
	}
	in.Name, in.NICTag, in.MTU = AdminName, AdminTag, DefaultMTU
	resolvers := in.Resolvers
	in.Resolvers = nil
	n, err := normal(in)
	if err != nil {
		return nil, nil, err
	}
	old, told, err := adopted(tx, &n)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range resolvers {
		was := n
		n.Resolvers = append(slices.Clone(n.Resolvers), r)
		if err := n.readResolvers(); err != nil {
			n = was
			told = append(told, fmt.Sprintf("name server %s is left out of network %s: %v", r, n.Name, err))
		}
	}
	if n.UUID == "" {
		n.UUID = newUUID()
		if err = placeNetwork(tx, n); err == nil {
			err = addFree(tx, n, n.first, n.last)
		}
	} else {
		if err = dropNetworkName(tx, old); err == nil {
			err = moveFree(tx, old, n, now)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	if told, err = freeName(tx, n, told); err != nil {
		return nil, nil, err
	}
	n.Revision = newRevision()
	if err := store.Put(tx, netPrefix+n.UUID, n.Network); err != nil {
		return nil, nil, err
	}
	for _, h := range held {
		if !n.subnet.Contains(h.Address) {
			continue
		}
		was, err := (Admin{n}).take(tx, h)
		if err != nil {
			return nil, nil, err
		}
		if !was.free() {
			clashes = append(clashes, h)
			told = append(told, fmt.Sprintf("%s %s, and %s", h.Address, ipRecord{Use: h.Use, Holder: h.MAC, Server: h.Server}.usedBy(), was.usedBy()))
		}
	}
	return clashes, told, store.Put(tx, adminKey, n.UUID)
}

// adopted finds a network that is where the admin network is to be, and gives its
// UUID, owners and description to it.
func adopted(tx store.Tx, n *network) (old network, told []string, err error) {
	var same []network
	err = eachOnTag(tx, AdminTag, func(o network) bool {
		if o.VLAN == 0 && o.subnet == n.subnet {
			same = append(same, o)
		}
		return true
	})
	if err != nil {
		return old, nil, err
	}
	if len(same) > 0 {
		old = same[0]
		n.UUID, n.Owners, n.Description, n.Routes = old.UUID, old.Owners, old.Description, old.Routes
		if err := n.readRoutes(); err != nil {
			return old, nil, err
		}
		told = append(told, fmt.Sprintf("network %s was made over the admin network and is the network %s now", old.Name, n.Name))
	}
	return old, told, nil
}

// Overlapping says which networks overlap the admin network or the transit VNIs, one
// sentence each: they were made before that was refused.
func Overlapping(tx store.Tx) (_ []string, err error) {
	defer named(&err, "compare networks with the admin network")
	a, found, err := GetAdmin(tx)
	if err != nil || !found {
		return nil, err
	}
	var out []string
	prefix := segmentPrefix + "tag/"
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return nil, err
		}
		p, err := netip.ParsePrefix(string(it.Value))
		if err != nil {
			return nil, fmt.Errorf("read %q: %w", it.Key, err)
		}
		uuid := it.Key[strings.LastIndexByte(it.Key, '/')+1:]
		what := ""
		switch {
		case uuid == a.n.UUID:
			continue
		case p.Overlaps(a.n.subnet):
			what = fmt.Sprintf("%s of network %s, which servers boot from", a.n.Subnet, a.n.Name)
		case p.Overlaps(Transit):
			what = fmt.Sprintf("%s, which the routers of accounts use among themselves", Transit)
		default:
			continue
		}
		n, err := load(tx, uuid)
		if err != nil {
			return nil, err
		}
		out = append(out, fmt.Sprintf("Network %s (%s) overlaps %s; make a network elsewhere and move its NICs there.", n.Name, p, what))
	}
	return out, nil
}

// freeName makes the admin network's name its own. A network or pool that had it is
// renamed.
func freeName(tx store.Tx, n network, told []string) ([]string, error) {
	uuid, found, err := store.Lookup[string](tx, namePrefix+n.Name)
	if err != nil {
		return told, err
	}
	if found && uuid != n.UUID {
		name := ""
		for i := 1; ; i++ {
			name = fmt.Sprintf("%s-%d", n.Name, i)
			if taken, err := store.Has(tx, namePrefix+name); err != nil {
				return told, err
			} else if !taken {
				break
			}
		}
		if err := renameHolder(tx, uuid, name); err != nil {
			return told, err
		}
		told = append(told, fmt.Sprintf("the network or pool %s is named %s now: %s is the network that servers boot from", n.Name, name, n.Name))
	}
	return told, store.Put(tx, namePrefix+n.Name, n.UUID)
}

// renameHolder gives a network or pool another name, whose old one is somebody
// else's from now on.
func renameHolder(tx store.Tx, uuid, name string) error {
	if err := store.Put(tx, namePrefix+name, uuid); err != nil {
		return err
	}
	a, found, err := store.Lookup[api.Network](tx, netPrefix+uuid)
	if err != nil {
		return err
	}
	if found {
		a.Name, a.Revision = name, newRevision()
		return store.Put(tx, netPrefix+uuid, a)
	}
	p, err := store.Get[api.NetworkPool](tx, poolPrefix+uuid)
	if err != nil {
		return err
	}
	p.Name, p.Revision = name, newRevision()
	return store.Put(tx, poolPrefix+uuid, p)
}

// apartFromAdmin refuses a network, on whatever segment, over the admin network:
// each server has an address of that, and reaches its head node by it.
func apartFromAdmin(tx store.Tx, n network) error {
	a, found, err := GetAdmin(tx)
	if err != nil || !found || n.Fabric || n.UUID == a.n.UUID || !a.n.subnet.Overlaps(n.subnet) {
		return err
	}
	return conflict("use network "+a.n.Name+", or take another subnet",
		"subnet %s overlaps %s of network %s (%s), which servers boot from", n.Subnet, a.n.Subnet, a.n.Name, a.n.UUID)
}

// Has says whether a network, or pool with it, is the admin network. One that there
// is not is not; whoever uses it says so.
func (a Admin) Has(tx store.Tx, id string) (bool, error) {
	t, err := resolve(tx, "", id)
	if p := (*api.Problem)(nil); errors.As(err, &p) {
		return false, nil
	}
	return slices.ContainsFunc(t.nets, func(n network) bool { return n.UUID == a.n.UUID }), err
}
