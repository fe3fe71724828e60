package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namespaces is where named network namespaces are, as for ip netns.
const namespaces = "/run/netns"

// connect makes an instance's NIC, or makes its inside right. The alias is last:
// without it the next plan connects again.
func (k *Kernel) connect(ctx context.Context, s Connect) error {
	if s.Guest.Tap {
		return k.connectTap(s)
	}
	if s.Guest.Peer != "" {
		return k.connectZone(s)
	}
	ns, err := ensureNamespace(s.Guest.Namespace)
	if err != nil {
		return fmt.Errorf("make network namespace %s: %w", s.Guest.Namespace, err)
	}
	defer ns.Close()
	guest, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("enter network namespace %s: %w", s.Guest.Namespace, err)
	}
	defer guest.Close()
	host, err := k.links.LinkByName(s.Link.Name)
	if notThere(err) {
		host, err = k.makePair(s, ns, guest)
	}
	if err != nil {
		return err
	}
	inside, err := guest.LinkByName(guestLink)
	if notThere(err) {
		// The pair's other end went elsewhere: a new one is made.
		if err := k.links.LinkDel(host); err != nil {
			return fmt.Errorf("delete %s: %w", s.Link.Name, err)
		}
		if host, err = k.makePair(s, ns, guest); err == nil {
			inside, err = guest.LinkByName(guestLink)
		}
	}
	if err != nil {
		return err
	}
	if err := s.Guest.settle(guest, inside); err != nil {
		return fmt.Errorf("in network namespace %s: %w", s.Guest.Namespace, err)
	}
	return k.links.LinkSetAlias(host, s.Link.Alias)
}

func (k *Kernel) makePair(s Connect, ns netns.NsHandle, guest *netlink.Handle) (netlink.Link, error) {
	if old, err := guest.LinkByName(guestLink); err == nil {
		if err := guest.LinkDel(old); err != nil {
			return nil, fmt.Errorf("delete %s in network namespace %s: %w", guestLink, s.Guest.Namespace, err)
		}
	}
	mac, err := net.ParseMAC(s.Guest.MAC)
	if err != nil {
		return nil, err
	}
	a := netlink.NewLinkAttrs()
	a.Name, a.MTU = s.Link.Name, s.Link.MTU
	v := netlink.NewVeth(a)
	v.PeerName, v.PeerHardwareAddr, v.PeerNamespace, v.PeerMTU = guestLink, mac, netlink.NsFd(ns), uint32(s.Guest.MTU)
	if err := k.links.LinkAdd(v); err != nil {
		return nil, err
	}
	return k.links.LinkByName(s.Link.Name)
}

// connectZone makes a zone's NIC. An end that is not here is in the zone: a pair's ends
// go together.
func (k *Kernel) connectZone(s Connect) error {
	host, err := k.links.LinkByName(s.Link.Name)
	if notThere(err) {
		mac, perr := net.ParseMAC(s.Guest.MAC)
		if perr != nil {
			return perr
		}
		a := netlink.NewLinkAttrs()
		a.Name, a.MTU = s.Link.Name, s.Link.MTU
		v := netlink.NewVeth(a)
		v.PeerName, v.PeerHardwareAddr, v.PeerMTU = s.Guest.Peer, mac, uint32(s.Guest.MTU)
		// Its unit makes a pair that it does not find, and may be first.
		if err = k.links.LinkAdd(v); err == nil || errors.Is(err, unix.EEXIST) {
			host, err = k.links.LinkByName(s.Link.Name)
		}
	}
	if err != nil {
		return err
	}
	end, err := k.links.LinkByName(s.Guest.Peer)
	if err == nil && end.Attrs().MTU != s.Guest.MTU {
		err = k.links.LinkSetMTU(end, s.Guest.MTU)
	}
	if err != nil && !notThere(err) {
		return fmt.Errorf("%s: %w", s.Guest.Peer, err)
	}
	return k.links.LinkSetAlias(host, s.Link.Alias)
}

// settle makes the instance's end what it should be.
func (g Guest) settle(h *netlink.Handle, l netlink.Link) error {
	lo, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	if l.Attrs().MTU != g.MTU {
		if err := h.LinkSetMTU(l, g.MTU); err != nil {
			return fmt.Errorf("set MTU %d: %w", g.MTU, err)
		}
	}
	if err := g.settleAddrs(h, l); err != nil {
		return err
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set %s up: %w", guestLink, err)
	}
	return g.settleRoutes(h, l)
}

func (g Guest) settleAddrs(h *netlink.Handle, l netlink.Link) error {
	have, err := h.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	there := map[netip.Prefix]bool{}
	for _, a := range have {
		ip, ok := netip.AddrFromSlice(a.IP)
		ones, _ := a.Mask.Size()
		p := netip.PrefixFrom(ip.Unmap(), ones)
		if !ok || ip.IsLinkLocalUnicast() {
			continue
		}
		if slices.ContainsFunc(g.Addrs, func(w Addr) bool { return w.Prefix == p }) {
			there[p] = true
		} else if err := h.AddrDel(l, &a); err != nil {
			return fmt.Errorf("remove address %s: %w", p, err)
		}
	}
	for _, a := range g.Addrs {
		if there[a.Prefix] {
			continue
		}
		add := &netlink.Addr{IPNet: netOf(a.Prefix)}
		if a.Prefix.Addr().Is6() {
			add.Flags = unix.IFA_F_NODAD
		}
		if err := h.AddrAdd(l, add); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	return nil
}

func (g Guest) settleRoutes(h *netlink.Handle, l netlink.Link) error {
	have, err := h.RouteList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for _, r := range have {
		if r.Protocol != unix.RTPROT_STATIC {
			continue // the kernel's, or the instance's own
		}
		var dst netip.Prefix
		if r.Dst != nil {
			ip, _ := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			dst = netip.PrefixFrom(ip, ones)
		}
		via, _ := netip.AddrFromSlice(r.Gw)
		if !slices.ContainsFunc(g.Routes, func(w Route) bool { return w.Dst == dst && w.Via == via.Unmap() }) {
			if err := h.RouteDel(&r); err != nil && !notThere(err) {
				return fmt.Errorf("remove route %s: %w", dst, err)
			}
		}
	}
	for _, r := range g.Routes {
		r.Proto = unix.RTPROT_STATIC
		if err := setRoute(h, l.Attrs().Index, r); err != nil {
			return fmt.Errorf("add route %s: %w", r, err)
		}
	}
	return nil
}

func (k *Kernel) disconnect(s Disconnect) error {
	if err := removeNamespace(s.Namespace); err != nil {
		return fmt.Errorf("remove network namespace %s: %w", s.Namespace, err)
	}
	// The kernel removes the pair some time after the namespace; we do not wait.
	l, err := k.links.LinkByName(s.Name)
	if err == nil {
		if l.Type() == "tuntap" {
			err = k.dropTap(l)
		} else {
			err = k.links.LinkDel(l)
		}
	}
	if notThere(err) {
		return nil
	}
	return err
}

// ensureNamespace opens a named network namespace, and makes it when it is not
// there. A file that no namespace is mounted on is left by a run that was cut
// short.
func ensureNamespace(name string) (netns.NsHandle, error) {
	path := filepath.Join(namespaces, name)
	var fs unix.Statfs_t
	switch err := unix.Statfs(path, &fs); {
	case err == nil && fs.Type == unix.NSFS_MAGIC:
		return netns.GetFromPath(path)
	case err == nil:
		if err := os.Remove(path); err != nil {
			return netns.None(), err
		}
	case !errors.Is(err, unix.ENOENT):
		return netns.None(), err
	}
	here, err := netns.Get()
	if err != nil {
		return netns.None(), err
	}
	defer here.Close()
	var ns netns.NsHandle
	err = within(here, func() (err error) { ns, err = netns.NewNamed(name); return err })
	return ns, err
}

func removeNamespace(name string) error {
	path := filepath.Join(namespaces, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
