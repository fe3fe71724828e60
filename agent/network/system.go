package network

import (
	"context"
	"net/netip"
)

// System is the kernel's side: one network namespace. Open makes the real one.
type System interface {
	// Read says what is there, by one dump each of links, addresses and routes. With
	// names it says what is there of these links, by a question about each, and
	// nothing of their addresses and routes.
	Read(ctx context.Context, names ...string) (*State, error)
	// Do does one step.
	Do(ctx context.Context, s Step) error
	// Table reads the entries of a VNI's bridge, by its index, with a VXLAN device.
	Table(ctx context.Context, bridge, vxlan int32) (Table, error)
	// Change changes entries. What could be changed is changed; the error is of
	// the others.
	Change(ctx context.Context, changes []Change) error
	// Watch calls changed for each event until ctx ends. An event of kind
	// EventLost says that others were lost.
	Watch(ctx context.Context, ready func(), changed func(Event)) error
}

// MAC is a 48 bit MAC address.
type MAC [6]byte

// Place is where a MAC of a VNI is: behind a port of the bridge and, when that is
// the VXLAN device, at an underlay address.
type Place struct {
	Port     int32 // index of a link
	Underlay netip.Addr
}

// Table is what a VNI's bridge knows.
type Table struct {
	Forward    map[MAC]Place      // without the MACs of the ports themselves
	Neighbours map[netip.Addr]MAC // those made here
}

// Change sets or deletes an entry: a neighbour when IP is valid, otherwise a
// forwarding entry.
type Change struct {
	Delete bool
	Dev    int32      // neighbour: the bridge. Forwarding entry: the port
	IP     netip.Addr // of a neighbour
	MAC    MAC
	// Underlay makes it an entry of a VXLAN device: in the bridge the MAC is
	// behind that device, in the device at this address.
	Underlay netip.Addr
	VXLAN    bool // Dev is a VXLAN device
	SelfOnly bool // delete only the VXLAN device's half; the bridge's was replaced
}

// EventKind says what an Event is about.
type EventKind int

// Kinds of events.
const (
	EventLink      EventKind = iota // a link, address or route
	EventForward                    // a forwarding entry
	EventNeighbour                  // a neighbour
	EventLost                       // the queue overflowed
)

// Event is something that changed.
type Event struct {
	Kind   EventKind
	Gone   bool
	Dev    int32 // link
	MAC    MAC
	IP     netip.Addr // neighbour, or of a VXLAN device's entry the underlay address
	Self   bool       // a VXLAN device's half of an entry
	Static bool       // not learnt

	// Of a link's event: what it is now, what it is as a port of a bridge, or that it
	// was removed. None of these: it has to be looked at.
	Link    *dumped
	Port    *PortFlags
	Removed bool
}
