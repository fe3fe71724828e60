package networks

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Rest is how long an address that was given back is not given to others while
// there are addresses that nobody used lately: neighbours' ARP and ND caches,
// name servers and firewall rules of others still know the old holder.
const Rest = time.Hour

// rejoined is how many rested addresses at most a transaction moves from the queue
// to the free spans. Each one that is given back brings one, so two are enough.
const rejoined = 4

// ipRecord is an address in use, reserved or given back. One of those holds.
type ipRecord struct {
	MAC      string `json:"mac,omitempty"`      // NIC that has it
	Use      Use    `json:"use,omitempty"`      // what has it, when that is no NIC
	Holder   string `json:"holder,omitempty"`   // MAC of a machine that leases it
	Server   string `json:"server,omitempty"`   // whose lease it is, when that is known
	Reserved bool   `json:"reserved,omitempty"` // given only to who names it
	Owner    string `json:"owner,omitempty"`    // reserved for that account; empty: for the first that names it
	Freed    int64  `json:"freed,omitempty"`    // given back, Unix nanoseconds; it is in the queue
}

// claimFree gives a NIC an address that nobody named: the lowest one not used
// lately, else the one that has been given back for the longest, and none that another
// may send from.
func claimFree(tx store.Tx, n network, nic api.NetworkNIC, now time.Time) (netip.Addr, error) {
	if err := rejoin(tx, n, now); err != nil {
		return netip.Addr{}, err
	}
	c, err := claimantOf(tx, n.UUID, nic.Owner, nic.MAC)
	if err != nil {
		return netip.Addr{}, err
	}
	var free freeAddr
	passed, err := c.eachFree(func(f freeAddr) (bool, error) {
		free = f
		return false, nil
	})
	if err == nil && !free.addr.IsValid() {
		err = full(n, passed)
	}
	if err == nil {
		err = free.take(tx, n.UUID)
	}
	if err != nil {
		return netip.Addr{}, err
	}
	return free.addr, store.Put(tx, ipKey(n.UUID, free.addr), ipRecord{MAC: nic.MAC})
}

// freedAddr is an entry of the queue of addresses given back.
type freedAddr struct {
	key   string
	nanos int64
	addr  netip.Addr
}

// freed ranges over that queue, the oldest first, until fn says false.
func freed(tx store.Tx, network string, fn func(freedAddr) (bool, error)) error {
	prefix := freedPrefix + network + "/"
	for it, err := range tx.Scan(prefix, "") {
		if err != nil {
			return err
		}
		f := freedAddr{key: it.Key}
		nanos, addr, _ := strings.Cut(it.Key[len(prefix):], "/")
		if f.nanos, err = strconv.ParseInt(nanos, 16, 64); err != nil {
			return fmt.Errorf("read %q: %w", it.Key, err)
		}
		if f.addr, err = addrOf(addr); err != nil {
			return err
		}
		if more, err := fn(f); err != nil || !more {
			return err
		}
	}
	return nil
}

// rejoin moves a few addresses that have rested to the free spans.
func rejoin(tx store.Tx, n network, now time.Time) error {
	moved := 0
	return freed(tx, n.UUID, func(f freedAddr) (bool, error) {
		if moved == rejoined || f.nanos > now.Add(-Rest).UnixNano() {
			return false, nil
		}
		moved++
		if err := tx.Delete(f.key); err != nil {
			return false, err
		}
		if err := tx.Delete(ipKey(n.UUID, f.addr)); err != nil {
			return false, err
		}
		return true, joinFree(tx, n.UUID, span{f.addr, f.addr})
	})
}

// takeOut makes an address that is free be in no span and no queue.
func takeOut(tx store.Tx, n network, a netip.Addr, rec ipRecord) error {
	if rec.Freed != 0 {
		return tx.Delete(freedKey(n.UUID, rec.Freed, a))
	}
	return cutFree(tx, n.UUID, a, a)
}

// giveBack frees an address that has no NIC any more: it joins the queue if it may
// be given to those who name none.
func giveBack(tx store.Tx, n network, a netip.Addr, now time.Time) error {
	if err := rejoin(tx, n, now); err != nil {
		return err
	}
	if !n.pooled(a) {
		return tx.Delete(ipKey(n.UUID, a))
	}
	nanos := max(1, now.UnixNano())
	if err := tx.Put(freedKey(n.UUID, nanos, a), nil); err != nil {
		return err
	}
	return store.Put(tx, ipKey(n.UUID, a), ipRecord{Freed: nanos})
}

// claimNamed gives a NIC the address it names.
func claimNamed(tx store.Tx, n network, a netip.Addr, nic api.NetworkNIC) error {
	switch {
	case !n.subnet.Contains(a):
		return conflict("take an address of the subnet", "%s is not in %s of network %s", a, n.Subnet, n.Name)
	case !isHost(n.subnet, a):
		return conflict("take an address a host can have", "%s is the network's or the broadcast address of network %s", a, n.Name)
	case a == n.gateway && nic.BelongsToType != api.BelongsToOther:
		return conflict("take another address", "%s is the gateway of network %s", a, n.Name)
	}
	rec, found, err := store.Lookup[ipRecord](tx, ipKey(n.UUID, a))
	switch {
	case err != nil:
		return err
	case rec.MAC != "":
		return refuse(409, api.CodeInUse, "take another address, or leave it out and one is chosen", "%s of network %s is the address of NIC %s", a, n.Name, rec.MAC)
	case rec.Use != "":
		return refuse(409, api.CodeInUse, "take another address, or leave it out and one is chosen",
			"%s of network %s %s", a, n.Name, rec.usedBy())
	case rec.Reserved && rec.Owner != "" && rec.Owner != nic.Owner:
		return forbidden("take another address", "%s of network %s is reserved for another account", a, n.Name)
	}
	if err := notAllowed(tx, n, a, nic); err != nil {
		return err
	}
	if !rec.Reserved && (found || n.pooled(a)) {
		if err := takeOut(tx, n, a, rec); err != nil {
			return err
		}
	}
	rec = ipRecord{MAC: nic.MAC, Reserved: rec.Reserved, Owner: rec.Owner}
	if rec.Reserved {
		rec.Owner = nic.Owner
	}
	return store.Put(tx, ipKey(n.UUID, a), rec)
}

// unclaim takes an address from a NIC that goes. A reserved one stays reserved, for
// the NIC's owner.
func unclaim(tx store.Tx, n network, a netip.Addr, now time.Time) error {
	rec, err := store.Get[ipRecord](tx, ipKey(n.UUID, a))
	if err != nil {
		return err
	}
	if rec.Reserved {
		rec.MAC = ""
		return store.Put(tx, ipKey(n.UUID, a), rec)
	}
	return giveBack(tx, n, a, now)
}

// room says why a NIC cannot be given as many addresses that it does not name, besides
// those that it names; nil: it can.
func room(tx store.Tx, n network, nic api.NetworkNIC, want int, named []netip.Addr) (reason, err error) {
	c, err := claimantOf(tx, n.UUID, nic.Owner, nic.MAC)
	if err != nil {
		return nil, err
	}
	count := 0
	passed, err := c.eachFree(func(f freeAddr) (bool, error) {
		if !slices.Contains(named, f.addr) {
			count++
		}
		return count < want, nil
	})
	if err == nil && count < want {
		reason = full(n, passed)
	}
	return reason, err
}

// full is the refusal when a network has no free address, but for what others may send
// from.
func full(n network, passed allowance) error {
	next := "delete NICs that are not needed, use another network, or widen its range with: nereid network update " +
		n.Name + " --start FIRST --end LAST"
	if n.Fabric {
		next = "delete NICs that are not needed, or use another network"
	}
	but := ""
	if passed.mac != "" {
		but = fmt.Sprintf(", but for %s of the allowed_ips of NIC %s", passed.prefix, passed.mac)
	}
	return conflict(next, "network %s has no free address left between %s and %s%s", n.Name, n.first, n.last, but)
}
