package addresses

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"nereid/headnode/store"
)

// Registry knows who has the addresses of the admin network, be it a lease, a NIC
// or an operator who reserved it. It is asked before an address is leased, in the
// same transaction.
type Registry interface {
	// Next gives a free address: the lowest that nobody used lately, else the one
	// that was given back the longest ago, at since. It writes nothing.
	Next(tx store.Tx, skip func(netip.Addr) bool) (a netip.Addr, since time.Time, found bool, err error)
	// Free says whether nobody has the address.
	Free(tx store.Tx, a netip.Addr) (bool, error)
	// Take notes that a MAC, of a server if that is known, has the address. Without a
	// MAC the address is kept back.
	Take(tx store.Tx, a netip.Addr, mac, server string) error
	// Give frees what was taken.
	Give(tx store.Tx, a netip.Addr, now time.Time) error
	// Others counts what of the range NICs have and operators reserved.
	Others(tx store.Tx) (int, error)
}

// Static knows the NICs that have an address of the network without a lease.
type Static interface {
	NIC(tx store.Tx, mac string) (netip.Addr, bool, error)
}

// Network is the admin network.
type Network struct {
	Registry
	Static
	Own     netip.Prefix  // the head node's address, with the network's prefix length
	First   netip.Addr    // first address for servers
	Last    netip.Addr    // last address for servers
	Gateway netip.Addr    // optional
	DNS     []netip.Addr  // never given out, as Exclude
	Exclude []netip.Addr  // further addresses never given out
	Lease   time.Duration // how long a newcomer's address stays its own
}

// State is what a Lease record stands for.
type State string

// The states of an address that has a record.
const (
	Leased   State = "leased"   // until Expires; kept for its MAC behind that while nobody needs it
	Reserved State = "reserved" // belongs to a server of the inventory, for good
	Bad      State = "bad"      // declined: somebody else answers there; until Expires
	Freed    State = "freed"    // has no holder
	Fixed    State = "fixed"    // a NIC's; there is no record
)

// Lease is the record of an address.
type Lease struct {
	Address netip.Addr `json:"address"`
	MAC     string     `json:"mac,omitempty"`
	State   State      `json:"state"`
	Server  string     `json:"server,omitempty"` // UUID, when reserved
	Since   time.Time  `json:"since"`            // first given to this MAC
	Renewed time.Time  `json:"renewed"`          // last ACK
	Expires time.Time  `json:"expires,omitzero"`

	DeclinedBy string `json:"declined_by,omitempty"` // MAC, when bad
	Declines   int    `json:"declines,omitempty"`    // since somebody last went on using the address
}

// Active says whether the MAC may use the address now.
func (l Lease) Active(now time.Time) bool {
	return l.State == Reserved || l.State == Fixed || l.State == Leased && now.Before(l.Expires)
}

// Offer is the address chosen for a DISCOVER.
type Offer struct {
	Address  netip.Prefix // with the network's prefix length
	Known    bool         // the MAC had it before
	Reserved bool         // it belongs to a server of the inventory
	Fixed    bool         // it is a NIC's
	Reason   string       // the rule that chose it, one sentence
}

// Errors of this package, beside store.ErrNotFound.
var (
	ErrRangeFull    = errors.New("address range is full") // errors.As gives *RangeFullError
	ErrTaken        = errors.New("address belongs to another machine")
	ErrNotOnNetwork = errors.New("address is not on the admin network")
	ErrNotServers   = errors.New("address is not one for servers") // the head node's, the gateway's, or outside the range
	ErrNotHolder    = errors.New("machine does not hold the address")
	ErrBadMAC       = errors.New("not an Ethernet MAC address")
)

// Counts says what the addresses of the range are used for.
type Counts struct {
	Total    int `json:"total"`    // addresses that can be given to servers
	Reserved int `json:"reserved"` // held by servers of the inventory
	Leased   int `json:"leased"`   // held by machines not in the inventory
	Others   int `json:"others"`   // NICs' and reserved ones
	Expired  int `json:"expired"`  // kept for machines that need not come back
	Bad      int `json:"bad"`      // declined
	Free     int `json:"free"`     // nobody's
}

// Used is the number of addresses a newcomer cannot get.
func (c Counts) Used() int { return c.Reserved + c.Leased + c.Bad + c.Others }

// Widen is the command that makes the range larger.
const Widen = "nereid network update admin --start FIRST --end LAST"

// RangeFullError says that every address is in use. It is ErrRangeFull.
type RangeFullError struct {
	First, Last netip.Addr
	Counts      Counts
}

// Error says what is full, by what, and what to do.
func (e *RangeFullError) Error() string {
	return fmt.Sprintf("all %d addresses of the admin range %s-%s are in use (%d by servers, %d by machines not enrolled, "+
		"%d by NICs and reservations, %d marked bad); forget servers that are gone, or widen the range with: %s",
		e.Counts.Total, e.First, e.Last, e.Counts.Reserved, e.Counts.Leased, e.Counts.Others, e.Counts.Bad, Widen)
}

// Is makes errors.Is(err, ErrRangeFull) true.
func (e *RangeFullError) Is(target error) bool { return target == ErrRangeFull }

// WrongAddressError says that a machine asked for an address while it has another.
type WrongAddressError struct {
	MAC        string
	Asked, Has netip.Addr
}

// Error names both addresses.
func (e *WrongAddressError) Error() string {
	return fmt.Sprintf("%s asks for %s, but its address is %s", e.MAC, e.Asked, e.Has)
}
