package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// vxlanUDP is VXLAN's UDP port (RFC 7348, section 8).
const vxlanUDP = 4789

// Kernel is the real System: one network namespace.
type Kernel struct {
	ns    netns.NsHandle
	links *netlink.Handle
	conn  *conn
}

// Open opens a network namespace by its path, such as /run/netns/NAME; with "" the
// one of the calling thread. It needs CAP_NET_ADMIN there, and CAP_SYS_ADMIN to
// make instances' namespaces.
func Open(path string) (*Kernel, error) {
	if path == "" {
		path = fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	k := &Kernel{ns: ns}
	if k.links, err = netlink.NewHandleAt(ns, unix.NETLINK_ROUTE); err == nil {
		err = within(ns, func() (err error) { k.conn, err = newConn(); return err })
	}
	if err != nil {
		k.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return k, nil
}

// Close ends the use of the namespace; nothing in it changes.
func (k *Kernel) Close() error {
	var errs []error
	if k.links != nil {
		k.links.Close()
	}
	if k.conn != nil {
		errs = append(errs, k.conn.Close())
	}
	return errors.Join(append(errs, k.ns.Close())...)
}

// within runs f on a thread in a network namespace. The thread is not used for
// anything else after that.
func within(ns netns.NsHandle, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // without unlocking: the thread ends
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f()
	}()
	return <-done
}

// Read implements System.
func (k *Kernel) Read(ctx context.Context, names ...string) (*State, error) {
	if len(names) > 0 {
		return k.readLinks(ctx, names)
	}
	var byIndex map[int32]*dumped
	err := k.conn.dump(ctx, unix.RTM_GETLINK, make([]byte, unix.SizeofIfInfomsg), func() { byIndex = map[int32]*dumped{} }, func(kind uint16, b []byte) {
		if d, ok := parseLink(b); ok && kind == unix.RTM_NEWLINK {
			byIndex[d.Index] = &d
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	type on[T any] struct {
		link int32
		what T
	}
	var addrs []on[Addr]
	err = k.conn.dump(ctx, unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func() { addrs = nil }, func(kind uint16, b []byte) {
		if i, a, ok := parseAddress(b); ok && kind == unix.RTM_NEWADDR {
			addrs = append(addrs, on[Addr]{i, a})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var routes []on[Route]
	err = k.conn.dump(ctx, unix.RTM_GETROUTE, make([]byte, unix.SizeofRtMsg), func() { routes = nil }, func(kind uint16, b []byte) {
		if i, r, ok := parseRoute(b); ok && kind == unix.RTM_NEWROUTE {
			routes = append(routes, on[Route]{i, r})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, a := range addrs {
		if d := byIndex[a.link]; d != nil {
			d.Addrs = append(d.Addrs, a.what)
		}
	}
	for _, r := range routes {
		if d := byIndex[r.link]; d != nil {
			d.Routes = append(d.Routes, r.what)
		}
	}
	s := &State{Links: make(map[string]*Link, len(byIndex))}
	for _, d := range byIndex {
		s.Links[d.Name] = d.named(func(index int32) string {
			if d := byIndex[index]; d != nil {
				return d.Name
			}
			return ""
		})
	}
	return s, nil
}

// readLinks reads links by their names. Those that are not there are left out.
func (k *Kernel) readLinks(ctx context.Context, names []string) (*State, error) {
	s := &State{Links: make(map[string]*Link, len(names))}
	for _, name := range names {
		d, err := k.readLink(ctx, addAttribute(infoMessage(unix.AF_UNSPEC, 0), unix.IFLA_IFNAME, append([]byte(name), 0)))
		if notThere(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read link %s: %w", name, err)
		}
		s.Links[name] = d.named(func(index int32) string {
			other, oerr := k.readLink(ctx, infoMessage(unix.AF_UNSPEC, int(index)))
			if oerr != nil && !notThere(oerr) {
				err = fmt.Errorf("read link %d, which %s is on: %w", index, name, oerr)
			}
			return other.Name
		})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (k *Kernel) readLink(ctx context.Context, body []byte) (d dumped, err error) {
	err = k.conn.request(ctx, unix.RTM_GETLINK, 0, body, func(kind uint16, b []byte) {
		if kind == unix.RTM_NEWLINK {
			d, _ = parseLink(b)
		}
	})
	return d, err
}

// Table implements System.
func (k *Kernel) Table(ctx context.Context, bridge, vxlan int32) (Table, error) {
	t := Table{}
	var behind map[MAC]netip.Addr
	// Without strict checking the kernel reads a struct ifinfomsg here, and lists
	// the ports of one bridge (net/core/rtnetlink.c, valid_fdb_dump_legacy).
	body := make([]byte, unix.SizeofIfInfomsg)
	body[0] = unix.AF_BRIDGE
	body = add32(body, unix.IFLA_MASTER, uint32(bridge))
	reset := func() { t.Forward, behind = map[MAC]Place{}, map[MAC]netip.Addr{} }
	err := k.conn.dump(ctx, unix.RTM_GETNEIGH, body, reset, func(_ uint16, b []byte) {
		n, ok := parseNeighbour(b)
		switch {
		case !ok || !n.hasMAC || n.family != unix.AF_BRIDGE:
		case n.master && n.state&unix.NUD_PERMANENT == 0 && n.state&unix.NUD_NOARP != 0:
			t.Forward[n.mac] = Place{Port: n.dev}
		case !n.master && n.dev == vxlan:
			behind[n.mac] = n.ip
		}
	})
	if err != nil {
		return t, fmt.Errorf("list forwarding entries: %w", err)
	}
	for mac, ip := range behind {
		switch p, ok := t.Forward[mac]; {
		case !ok: // half an entry, which is none that can be wanted
			t.Forward[mac] = Place{Port: vxlan}
		case p.Port == vxlan:
			t.Forward[mac] = Place{Port: vxlan, Underlay: ip}
		}
	}
	body = make([]byte, 12) // struct ndmsg
	body = add32(body, unix.NDA_IFINDEX, uint32(bridge))
	err = k.conn.dump(ctx, unix.RTM_GETNEIGH, body, func() { t.Neighbours = map[netip.Addr]MAC{} }, func(_ uint16, b []byte) {
		n, ok := parseNeighbour(b)
		if !ok || n.dev != bridge || !n.ours || !n.ip.IsValid() {
			return
		}
		if n.state&unix.NUD_PERMANENT == 0 {
			n.mac = MAC{}
		}
		t.Neighbours[n.ip] = n.mac
	})
	if err != nil {
		return t, fmt.Errorf("list neighbours: %w", err)
	}
	return t, nil
}

// Watch implements System.
func (k *Kernel) Watch(ctx context.Context, ready func(), changed func(Event)) error {
	var c *conn
	err := within(k.ns, func() (err error) {
		c, err = newConn(unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("watch network: %w", err)
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.file.SetReadDeadline(time.Unix(1, 0)) })()
	ready()
	for {
		b, err := c.receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errLost):
			changed(Event{Kind: EventLost})
			continue
		case err != nil:
			return fmt.Errorf("watch network: %w", err)
		}
		err = messages(b, func(h header, body []byte) error {
			if e, ok := event(h.kind, body); ok {
				changed(e)
			}
			return nil
		})
		if err != nil {
			changed(Event{Kind: EventLost})
		}
	}
}

// event reads a notification.
func event(kind uint16, b []byte) (e Event, ok bool) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		if len(b) < unix.SizeofIfInfomsg {
			return e, false
		}
		down := binary.NativeEndian.Uint32(b[8:])&unix.IFF_UP == 0
		e = Event{Kind: EventLink, Dev: int32(binary.NativeEndian.Uint32(b[4:])), Gone: kind == unix.RTM_DELLINK && b[0] != unix.AF_BRIDGE || down}
		switch {
		case b[0] == unix.AF_BRIDGE:
			e.Port = parsePortFlags(b, kind == unix.RTM_NEWLINK)
		case kind == unix.RTM_DELLINK:
			e.Removed = true
		default:
			if d, ok := parseLink(b); ok {
				e.Link = &d
			}
		}
		return e, true
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		_, _, ok = parseAddress(b)
		return Event{Kind: EventLink}, ok
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		_, _, ok = parseRoute(b)
		return Event{Kind: EventLink}, ok
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
	default:
		return e, false
	}
	n, ok := parseNeighbour(b)
	if !ok {
		return e, false
	}
	e = Event{Dev: n.dev, MAC: n.mac, IP: n.ip, Gone: kind == unix.RTM_DELNEIGH}
	if n.family == unix.AF_BRIDGE {
		e.Kind, e.Self, e.Static = EventForward, !n.master, n.state&unix.NUD_NOARP != 0
		return e, n.hasMAC && (e.Gone || e.Static || e.Self)
	}
	e.Kind = EventNeighbour
	if n.state&unix.NUD_PERMANENT == 0 {
		e.MAC = MAC{} // an entry that was made here is permanent
	}
	return e, n.ip.IsValid()
}

// notThere reports whether an error says that something is not there.
func notThere(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist)
}
