package headnode

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/networks"
	"nereid/headnode/store"
	"nereid/headnode/svp"
)

// vxlanPort is VXLAN's UDP port (RFC 7348, section 8).
const vxlanPort = 4789

// expireEvery is how often SmartOS nodes that fell silent are looked for.
const expireEvery = time.Hour

// RunSVP answers SmartOS compute nodes at an address until ctx ends, from the same
// maps that agents follow. Only nodes on the admin network and the underlay are
// heard.
func (s *Server) RunSVP(ctx context.Context, at netip.AddrPort) error {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return fmt.Errorf("listen for SVP: %w", err)
	}
	server := &svp.Server{Lookup: svpLookup{s}, Log: s.log, Allow: func(a netip.Addr) bool { return s.heardBySVP(ctx, a.Unmap()) },
		Shed: func(beyond string, who netip.Addr) { s.Shed("SVP connections "+beyond, who.String()) }}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.expireSVP(ctx); return nil })
	g.Go(func() error { return server.Serve(ctx, l) })
	return g.Wait()
}

// ForgetSVP forgets all SmartOS nodes: a head node that does not answer them keeps
// nothing for them when a map changes.
func (s *Server) ForgetSVP(ctx context.Context) error {
	known := false
	err := s.store.View(ctx, func(tx store.Tx) error {
		clients, err := fabric.SVPClients(tx)
		known = len(clients) > 0
		return err
	})
	for err == nil && known {
		err = s.store.Update(ctx, func(tx store.Tx) (err error) {
			known, err = fabric.SVPForget(tx)
			return err
		})
	}
	if err != nil {
		return fmt.Errorf("forget SmartOS nodes: %w", err)
	}
	return nil
}

// heardBySVP is mayAskSVP, and tells an operator whom it turns away: in the log once a
// minute, and among the alerts.
func (s *Server) heardBySVP(ctx context.Context, a netip.Addr) bool {
	if s.mayAskSVP(ctx, a) {
		return true
	}
	if s.shed.add("SVP connections from outside the admin network and the underlay were turned away", a.String(), s.now()) {
		s.log.Info("SVP connection turned away: its address is neither on the admin network nor on the underlay", "client", a.String())
	}
	return false
}

// expireSVP forgets nodes that have been silent for a day.
func (s *Server) expireSVP(ctx context.Context) {
	t := time.NewTicker(expireEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		for more := true; more && ctx.Err() == nil; {
			err := s.store.Update(ctx, func(tx store.Tx) (err error) {
				more, err = fabric.SVPExpire(tx, s.now())
				return err
			})
			if err != nil {
				s.log.Warn("forget silent SmartOS nodes", "err", err)
				break
			}
		}
	}
}

// mayAskSVP says whether an address is on the admin network or the underlay.
func (s *Server) mayAskSVP(ctx context.Context, a netip.Addr) bool {
	if s.answers.Admin.Address.Contains(a) {
		return true
	}
	allowed := false
	err := s.store.View(ctx, func(tx store.Tx) error {
		nets, err := networks.UnderlayNetworks(tx)
		for _, n := range nets {
			if p, perr := netip.ParsePrefix(n.Subnet); perr == nil && p.Contains(a) {
				allowed = true
			}
		}
		return err
	})
	return err == nil && allowed
}

// svpLookup answers from the maps.
type svpLookup struct{ s *Server }

func (l svpLookup) VL2(ctx context.Context, vni uint32, mac svp.MAC) (under netip.AddrPort, found bool, err error) {
	err = l.s.store.View(ctx, func(tx store.Tx) error {
		entries, err := fabric.ByMAC(tx, vni, net.HardwareAddr(mac[:]).String())
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			if net.HardwareAddr(mac[:]).String() == networks.GatewayMAC(vni) {
				under, found, err = gatewayUnder(tx, vni)
			}
			return err
		}
		under, err = underlayOf(entries[0])
		found = err == nil
		return err
	})
	return under, found, err
}

func (l svpLookup) VL3(ctx context.Context, vni uint32, ip netip.Addr) (mac svp.MAC, under netip.AddrPort, found bool, err error) {
	err = l.s.store.View(ctx, func(tx store.Tx) error {
		e, ok, err := fabric.ByIP(tx, vni, ip)
		if err == nil && !ok {
			e, ok, err = gatewayEntry(tx, vni, ip)
		}
		if err != nil || !ok {
			return err
		}
		m, err := net.ParseMAC(e.MAC)
		if err != nil {
			return err
		}
		copy(mac[:], m)
		under, err = underlayOf(e)
		found = err == nil
		return err
	})
	return mac, under, found, err
}

func (l svpLookup) Log(ctx context.Context, underlay netip.Addr, limit int) ([]svp.Record, error) {
	var hints []fabric.SVPHint
	read := func(tx store.Tx) (due bool, err error) {
		hints, due, err = fabric.SVPHints(tx, underlay, limit, l.s.now())
		return due, err
	}
	var due bool
	err := l.s.store.View(ctx, func(tx store.Tx) (err error) {
		due, err = read(tx)
		return err
	})
	if err == nil && due {
		err = l.s.store.Update(ctx, func(tx store.Tx) error {
			if err := fabric.SVPSeen(tx, underlay, l.s.now()); err != nil {
				return err
			}
			_, err := read(tx)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	out := make([]svp.Record, len(hints))
	for i, h := range hints {
		out[i] = svp.Record{ID: h.ID, VNI: h.VNI, IP: h.IP}
		if m, err := net.ParseMAC(h.MAC); err == nil {
			copy(out[i].MAC[:], m)
		}
	}
	return out, nil
}

func (l svpLookup) LogRemove(ctx context.Context, ids [][16]byte) error {
	return l.s.store.Update(ctx, func(tx store.Tx) error { return fabric.SVPRemove(tx, ids...) })
}

// gatewayEntry is where a SmartOS node finds an address that is the gateway of one of a
// VNI's networks. Every agent has a router of the account; such a node has none, and uses
// that of the account's first gateway server.
func gatewayEntry(tx store.Tx, vni uint32, ip netip.Addr) (e api.MapEntry, found bool, err error) {
	nets, err := networks.NetworksOfVNI(tx, vni)
	if err != nil || !slices.ContainsFunc(nets, func(n api.Network) bool { return n.Gateway == ip.Unmap().String() }) {
		return e, false, err
	}
	under, found, err := gatewayUnder(tx, vni)
	return api.MapEntry{IP: ip.String(), MAC: networks.GatewayMAC(vni), Underlay: under.Addr().String()}, found, err
}

// gatewayUnder is where the first gateway server of a VNI's account is; found is false when
// the account has none.
func gatewayUnder(tx store.Tx, vni uint32) (under netip.AddrPort, found bool, err error) {
	owner, transit, used, err := fabric.OwnerOf(tx, vni)
	if err != nil || transit || !used {
		return under, false, err
	}
	g, err := gatewaysOf(tx, owner)
	if err != nil || len(g.Gateways) == 0 {
		return under, false, err
	}
	a, err := underlay(tx, g.Gateways[0].Server)
	return netip.AddrPortFrom(a, vxlanPort), a.IsValid(), err
}

// hintGateways has SmartOS nodes look up anew where the gateways of an account's networks
// are. It costs a look where there are no such nodes.
func hintGateways(tx store.Tx, owner string) error {
	if some, err := fabric.HasSVPClients(tx); err != nil || !some {
		return err
	}
	nets, err := networks.FabricNetworks(tx, owner)
	if err != nil {
		return err
	}
	for _, n := range nets {
		if n.Gateway == "" {
			continue
		}
		if err := fabric.HintMAC(tx, n.VNI, networks.GatewayMAC(n.VNI)); err != nil {
			return err
		}
	}
	return nil
}

// underlayOf is where VXLAN packets for an entry go.
func underlayOf(e api.MapEntry) (netip.AddrPort, error) {
	a, err := netip.ParseAddr(e.Underlay)
	return netip.AddrPortFrom(a, vxlanPort), err
}
