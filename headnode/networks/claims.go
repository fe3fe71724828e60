package networks

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"nereid/api"
	"nereid/headnode/store"
)

// allowedKeys find a NIC by the prefixes from which it may send beside its own
// addresses, on each of its networks. Those of another family are of no network's.
func allowedKeys(n api.NetworkNIC) []string {
	var out []string
	for _, text := range n.AllowedIPs {
		p, err := prefixOf(text)
		if err != nil {
			continue // flags are checked before they are stored
		}
		for _, a := range n.Addresses {
			if ip, err := parseAddr(a.IP); err == nil && ip.BitLen() == p.Addr().BitLen() {
				out = append(out, allowedAt(a.Network, p)+ownerPart(n.Owner)+"/"+n.MAC)
			}
		}
	}
	return out
}

// allowedAt is what the keys begin with of the NICs that may send from a prefix.
func allowedAt(network string, p netip.Prefix) string {
	return fmt.Sprintf("%s%s/%03d/%s/", allowedPrefix, network, p.Bits(), hexOf(p.Masked().Addr()))
}

// ownerPart is an owner in a key. What has none is for nobody else.
func ownerPart(owner string) string {
	if owner == "" {
		return "-"
	}
	return owner
}

// allowance is a prefix from which a NIC may send beside its own addresses.
type allowance struct {
	prefix netip.Prefix
	mac    string
}

// claimant is who is to have addresses of a network, as those see it that may send
// from some of them already. An account's own NICs may stand in for each other.
type claimant struct {
	tx      store.Tx
	network string
	owner   string
	mac     string // its own allowed_ips do not matter; empty: it has none
	bits    []int  // lengths of the prefixes that are allowed on the network
}

// claimantOf reads which prefixes there are. Where NICs of a network have no
// allowed_ips, that is one look.
func claimantOf(tx store.Tx, network, owner, mac string) (claimant, error) {
	c := claimant{tx: tx, network: network, owner: owner, mac: mac}
	for head, err := range heads(tx, allowedPrefix+network+"/", 1) {
		if err != nil {
			return c, err
		}
		bits, err := strconv.Atoi(head[0])
		if err != nil {
			return c, fmt.Errorf("length %q of a prefix in the store: %w", head[0], err)
		}
		c.bits = append(c.bits, bits)
	}
	return c, nil
}

// other gives one of those who may send from an address though they are another's. It
// costs a few looks for each length of prefix, however many NICs there are.
func (c claimant) other(a netip.Addr) (allowance, bool, error) {
	for _, bits := range c.bits {
		p, err := a.Prefix(bits)
		if err != nil {
			return allowance{}, false, fmt.Errorf("prefix of %s: %w", a, err)
		}
		at := allowedAt(c.network, p)
		for owner, err := range heads(c.tx, at, 1) {
			if err != nil {
				return allowance{}, false, err
			}
			if c.owner != "" && owner[0] == c.owner {
				continue
			}
			for mac, err := range below(c.tx, at+owner[0]+"/") {
				if err != nil || mac != c.mac {
					return allowance{p, mac}, err == nil, err
				}
			}
		}
	}
	return allowance{}, false, nil
}

// notAllowed refuses an address from which another's NIC may send: see notAnothers.
func notAllowed(tx store.Tx, n network, a netip.Addr, nic api.NetworkNIC) error {
	c, err := claimantOf(tx, n.UUID, nic.Owner, nic.MAC)
	if err != nil {
		return err
	}
	by, found, err := c.other(a)
	if err == nil && found {
		err = refuse(409, api.CodeInUse, "take another address, or take it out of the allowed_ips of that NIC",
			"%s of network %s is in %s of the allowed_ips of NIC %s", a, n.Name, by.prefix, by.mac)
	}
	return err
}

// notAllowedToOthers is notAllowed for all addresses of a NIC.
func notAllowedToOthers(tx store.Tx, nic api.NetworkNIC) error {
	var faults []error
	for _, a := range nic.Addresses {
		n, err := load(tx, a.Network)
		if err != nil {
			return err
		}
		ip, err := parseAddr(a.IP)
		if err != nil {
			return fmt.Errorf("address of NIC %s: %w", nic.MAC, err)
		}
		faults = append(faults, notAllowed(tx, n, ip, nic))
	}
	return api.Faults(faults...)
}

// gatewayNotAllowed refuses a gateway from which a server's or an instance's NIC may
// send. It looks at so many NICs at most.
func gatewayNotAllowed(tx store.Tx, n network) error {
	c, err := claimantOf(tx, n.UUID, "", "")
	if err != nil {
		return err
	}
	for _, bits := range c.bits {
		p, err := n.gateway.Prefix(bits)
		if err != nil {
			return fmt.Errorf("prefix of %s: %w", n.gateway, err)
		}
		seen := 0
		for key, err := range below(tx, allowedAt(n.UUID, p)) {
			if err != nil {
				return err
			}
			if seen++; seen > maxOwnAllowed {
				break
			}
			nic, err := getNIC(tx, key[strings.LastIndexByte(key, '/')+1:])
			if err != nil {
				return err
			}
			if nic.BelongsToType != api.BelongsToOther {
				return refuse(409, api.CodeInUse, "take another address for the gateway, or take it out of the allowed_ips of that NIC",
					"%s cannot be the gateway of network %s: it is in %s of the allowed_ips of NIC %s", n.gateway, n.Name, p, nic.MAC)
			}
		}
	}
	return nil
}

// maxPassed bounds how many prefixes are passed over that others may send from, in
// search of an address that nobody may.
const maxPassed = 1000

// freeAddr is an address that may be given to a claimant who names none.
type freeAddr struct {
	addr  netip.Addr
	nanos int64  // when it was given back; 0: it is in a free span
	key   string // in the queue of those given back
}

// take takes it out of the span or the queue.
func (f freeAddr) take(tx store.Tx, network string) error {
	if f.key != "" {
		return tx.Delete(f.key)
	}
	return cutFree(tx, network, f.addr, f.addr)
}

// eachFree ranges over the addresses that the claimant may be given, in the order in
// which they are: those that nobody used lately, then those that were given back, the
// oldest first. passed is one of those that it passed over, as another may send from
// them; it has no prefix when there was none.
func (c claimant) eachFree(fn func(freeAddr) (bool, error)) (passed allowance, err error) {
	count := 0
	// look is false for an address that is another's, of which next is the last.
	look := func(f freeAddr) (more bool, last netip.Addr, err error) {
		by, found, err := c.other(f.addr)
		if err != nil {
			return false, f.addr, err
		}
		if found {
			passed, count = by, count+1
			return count < maxPassed, lastOf(by.prefix), nil
		}
		more, err = fn(f)
		return more, f.addr, err
	}
	ended := false
	err = spans(c.tx, c.network, netip.Addr{}, func(s span) (bool, error) {
		for a := s.first; between(s.first, a, s.last); a = a.Next() {
			more, last, err := look(freeAddr{addr: a})
			if ended = !more; err != nil || ended {
				return false, err
			}
			a = last
		}
		return true, nil
	})
	if err != nil || ended {
		return passed, err
	}
	return passed, freed(c.tx, c.network, func(f freedAddr) (bool, error) {
		more, _, err := look(freeAddr{addr: f.addr, nanos: f.nanos, key: f.key})
		return more, err
	})
}
