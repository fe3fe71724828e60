package addresses

import (
	"net/netip"
	"time"

	"nereid/headnode/store"
)

func NewOffers(max int) *Offers { panic("x") }

type Offers struct{}

// Offer chooses the address a DISCOVER is answered with, in a read transaction:
// the one the MAC has, else the requested one when it is free, else a free one. The
// choice is remembered in memory until Done, or for OfferTTL.
func (o *Offers) Offer(tx store.Tx, n Network, mac string, requested netip.Addr, now time.Time) (Offer, error) {
	panic("x")
}

// Peek is Offer for explain: it remembers nothing.
func (o *Offers) Peek(tx store.Tx, n Network, mac string, requested netip.Addr, now time.Time) (Offer, error) {
	panic("x")
}

// Done forgets the offer made to a MAC: call it after the Update with Commit.
func (o *Offers) Done(mac string) { panic("x") }

// Commit makes a REQUEST's address the MAC's lease (or renews it); the ACK may be
// sent once the Update returned. server is the UUID of the inventory's server the
// MAC belongs to, which makes the lease a reservation; empty: it expires.
// Errors: *WrongAddressError (NAK: the MAC has another address), ErrTaken (NAK),
// ErrNotOnNetwork (NAK).
func Commit(tx store.Tx, n Network, mac string, addr netip.Addr, server string, now time.Time) (Lease, error) {
	panic("x")
}

// Reserve binds the MAC's address to a server of the inventory, for good; a MAC
// without one gets one.
func Reserve(tx store.Tx, n Network, mac, server string, now time.Time) (Lease, error) { panic("x") }

// Unreserve lets a reservation expire after the lease time (server forgotten).
func Unreserve(tx store.Tx, n Network, mac string, now time.Time) error { panic("x") }

// Release ends a lease at its holder's wish. A reservation stays.
func Release(tx store.Tx, mac string, addr netip.Addr, now time.Time) error { panic("x") }

// Decline marks an address bad for Quarantine: its holder found it in use.
func Decline(tx store.Tx, n Network, mac string, addr netip.Addr, now time.Time) error { panic("x") }

// ByMAC and ByIP find a lease; ErrNotFound of store when there is none.
func ByMAC(tx store.Tx, mac string) (Lease, error)                { panic("x") }
func ByIP(tx store.Tx, ip netip.Addr) (Lease, error)              { panic("x") }
func Usage(tx store.Tx, n Network, now time.Time) (Counts, error) { panic("x") }
