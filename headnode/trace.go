package headnode

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/fabric"
	"nereid/headnode/firewall"
	"nereid/headnode/inventory"
	"nereid/headnode/networks"
	"nereid/headnode/store"
)

func (s *Server) routeTrace(h huma.API) {
	route(s, h, operators, http.MethodPost, "/v1/network-trace", "Say which way a packet would take, and what is in it", func(ctx context.Context, in *body[api.TraceRequest]) (*body[api.Trace], error) {
		var out api.Trace
		var way *way
		err := s.store.View(ctx, func(tx store.Tx) error {
			t := tracer{s: s, tx: tx}
			err := t.run(in.Body)
			out, way = t.trace, t.way
			return err
		})
		if err == nil && in.Body.Measure && way != nil {
			s.measure(ctx, &out, *way)
		}
		return answer(out), err
	}, lenient)
}

// way is between two servers, where a packet is in another.
type way struct {
	server, host string // that asks
	peer         string // hostname of the other one
	from, to     string // addresses on the underlay
	overhead     int    // bytes of what is put around a packet
	hop          int    // index in the trace
}

// measure has the first server measure how large a packet gets to the second one,
// and notes it at the hop. What is too small for the networks' MTU is in the way:
// small packets arrive and large ones do not, which looks like a connection that
// hangs once it is made.
func (s *Server) measure(ctx context.Context, t *api.Trace, w way) {
	hop := &t.Hops[w.hop]
	if last, _ := s.live.get(w.server); s.now().Sub(last) > api.SilentAfter {
		hop.Detail += "; not measured: " + w.host + " is not heard of"
		return
	}
	want := t.MTU + w.overhead
	r, err := s.probes.ask(ctx, w.server, api.Probe{From: w.from, To: w.to, Bytes: want})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		hop.Detail += "; not measured: " + w.host + " did not answer in time"
	case err != nil:
		hop.Detail += "; not measured: " + err.Error()
	case r.Error != "":
		hop.Detail += "; not measured: " + r.Error
	case r.Bytes >= want:
		t.Carried = t.MTU
		hop.Detail += fmt.Sprintf("; %d bytes get there and back, which is enough", r.Bytes)
	case r.Bytes == 0:
		hop.Detail += "; " + w.to + " does not answer"
		lost(t, w.hop, "%s and %s do not reach each other on the underlay", w.host, w.peer)
	default:
		t.Carried = max(0, r.Bytes-w.overhead)
		hop.Detail += fmt.Sprintf("; %d bytes get there and back, and %d are needed", r.Bytes, want)
		lost(t, w.hop, "between %s and %s packets of more than %d bytes are lost (an MTU black hole): the networks' MTU of %d needs %d bytes on the underlay", w.host, w.peer, t.Carried, t.MTU, want)
	}
}

// lost says that packets end at a hop where the head node would let them pass.
func lost(t *api.Trace, hop int, format string, args ...any) {
	why := fmt.Sprintf(format, args...)
	if !t.Arrives {
		why = t.Why + "; and " + why
	}
	t.Hops[hop].Blocked, t.Arrives, t.Why = true, false, why
}

// tracer follows a packet through what the head node knows, until something is in
// its way.
type tracer struct {
	s     *Server
	tx    store.Tx
	trace api.Trace
	proto string
	port  uint16
	way   *way // nil: the packet does not go from one server to another
}

// end is one end of a trace.
type end struct {
	nic  api.NetworkNIC
	ip   netip.Addr
	net  api.Network
	host string // of the NIC's server
}

func (t *tracer) hop(where, what, format string, args ...any) {
	t.trace.Hops = append(t.trace.Hops, api.TraceHop{Where: where, What: what, Detail: fmt.Sprintf(format, args...)})
}

// stop says that the packet ends at the last hop.
func (t *tracer) stop(format string, args ...any) error {
	t.trace.Why = fmt.Sprintf(format, args...)
	t.trace.Hops[len(t.trace.Hops)-1].Blocked = true
	return nil
}

func (t *tracer) run(r api.TraceRequest) error {
	t.trace = api.Trace{Hops: []api.TraceHop{}}
	t.proto, t.port = r.Protocol, r.Port
	src, err := t.find(r.Src, r.Owner, netip.Addr{})
	if err != nil {
		return err
	}
	if src == nil {
		return refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid nic list", "no NIC has %.64q", r.Src)
	}
	dst, err := t.find(r.Dst, cmp.Or(r.Owner, src.nic.Owner), src.ip)
	if err != nil {
		return err
	}
	to := netip.Addr{}
	if dst != nil {
		to = dst.ip
	} else if to, err = netip.ParseAddr(r.Dst); err != nil {
		return refuse(http.StatusNotFound, api.CodeNotFound, "give an address, or the MAC of a NIC; list them with: nereid nic list", "%.64q is neither an address nor the MAC of a NIC", r.Dst)
	}
	if to.Is4() != src.ip.Is4() {
		if *src, err = t.family(*src, to.Is4()); err != nil {
			return err
		}
	}
	if t.proto == "" {
		t.proto = "icmp"
		if to.Is6() {
			t.proto = "icmp6"
		}
	}
	t.trace.MTU = src.net.MTU
	return t.walk(*src, dst, to)
}

// find finds the NIC with a MAC or address; nil when none has it. Of a NIC's
// addresses the one of the family of like is meant.
func (t *tracer) find(id, owner string, like netip.Addr) (*end, error) {
	mac, err := net.ParseMAC(id)
	if err == nil && len(mac) == 6 {
		n, err := networks.GetNIC(t.tx, mac.String())
		if isProblem(err, api.CodeNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		e, err := t.end(n, n.Addresses[0])
		if err == nil && like.IsValid() && like.Is4() != e.ip.Is4() {
			e, err = t.family(e, like.Is4())
		}
		return &e, err
	}
	found, err := networks.SearchIPs(t.tx, id)
	if err != nil {
		return nil, err
	}
	var ends []*end
	for _, ip := range found {
		if ip.MAC == "" || owner != "" && ip.Owner != "" && ip.Owner != owner {
			continue
		}
		n, err := networks.GetNIC(t.tx, ip.MAC)
		if err != nil {
			return nil, err
		}
		e, err := t.end(n, api.NICAddress{Network: ip.Network, IP: ip.IP})
		if err != nil {
			return nil, err
		}
		ends = append(ends, &e)
	}
	switch len(ends) {
	case 0:
		return nil, nil
	case 1:
		return ends[0], nil
	}
	var macs []string
	for _, e := range ends {
		macs = append(macs, e.nic.MAC+" of "+e.nic.Owner)
	}
	return nil, refuse(http.StatusConflict, api.CodeConflict, "give a MAC, or the owner", "%s is the address of several NICs: %s", id, strings.Join(macs, ", "))
}

func (t *tracer) end(n api.NetworkNIC, a api.NICAddress) (end, error) {
	e := end{nic: n, host: "no server"}
	var err error
	if e.ip, err = netip.ParseAddr(a.IP); err != nil {
		return e, err
	}
	if e.net, err = networks.GetNetwork(t.tx, a.Network); err != nil || n.Server == "" {
		return e, err
	}
	r, err := inventory.Get(t.tx, n.Server)
	e.host = r.Hostname
	return e, err
}

// family is the same NIC with its address of the other family.
func (t *tracer) family(e end, four bool) (end, error) {
	for _, a := range e.nic.Addresses {
		if ip, err := netip.ParseAddr(a.IP); err == nil && ip.Is4() == four {
			return t.end(e.nic, a)
		}
	}
	return e, refuse(http.StatusConflict, api.CodeConflict, "give it one, or trace to an address of the other family", "NIC %s has no address of that family", e.nic.MAC)
}

// walk goes from a NIC to an address, which may be another NIC's.
func (t *tracer) walk(src end, dst *end, to netip.Addr) error {
	t.hop(src.host, "nic", "%s, %s, on %s", src.nic.MAC, src.ip, where(src.net))
	if src.nic.Server == "" {
		return t.stop("NIC %s is on no server", src.nic.MAC)
	}
	if allowed, err := t.judge(src, "out", to); err != nil || !allowed {
		return err
	}
	subnet, err := netip.ParsePrefix(src.net.Subnet)
	if err != nil {
		return err
	}
	if !subnet.Contains(to) {
		if done, err := t.routed(src, dst, to); err != nil || done {
			return err
		}
	}
	if dst == nil || dst.net.VNI == 0 && where(dst.net) != where(src.net) {
		t.hop(src.host, "network", "nobody there has %s", to)
		return t.stop("no NIC has the address %s", to)
	}
	if t.trace.MTU == 0 || dst.net.MTU < t.trace.MTU {
		t.trace.MTU = dst.net.MTU
	}
	if dst.net.VNI != 0 {
		if done, err := t.mapped(src, *dst); err != nil || done {
			return err
		}
	}
	t.hop(dst.host, "nic", "%s, %s, on %s", dst.nic.MAC, dst.ip, where(dst.net))
	if allowed, err := t.judge(*dst, "in", src.ip); err != nil || !allowed {
		return err
	}
	t.trace.Arrives, t.trace.Why = true, "nothing that the head node knows is in the way"
	return nil
}

func where(n api.Network) string {
	if n.VNI != 0 {
		return fmt.Sprintf("fabric network %s, VNI %d", n.Name, n.VNI)
	}
	return fmt.Sprintf("network %s, NIC tag %s, VLAN %d", n.Name, n.NICTag, n.VLAN)
}

// routed is the way through a gateway; done when the packet leaves what the head
// node knows, or ends.
func (t *tracer) routed(src end, dst *end, to netip.Addr) (done bool, err error) {
	if src.net.Gateway == "" {
		t.hop(src.host, "router", "network %s has no gateway", src.net.Name)
		return true, t.stop("%s is not on the network, and there is no gateway", to)
	}
	if !src.net.Fabric {
		t.hop("outside", "router", "gateway %s of network %s", src.net.Gateway, src.net.Name)
		t.trace.Arrives, t.trace.Why = true, "it leaves by a gateway that is not Nereid's"
		return true, nil
	}
	if dst != nil && dst.net.Fabric && dst.nic.Owner == src.nic.Owner && dst.net.Gateway != "" {
		t.hop(src.host, "router", "gateway %s, routed on this server to %s", src.net.Gateway, where(dst.net))
		return false, nil
	}
	t.hop(src.host, "router", "gateway %s", src.net.Gateway)
	if !src.net.InternetNAT {
		return true, t.stop("%s is on no network of the account, and network %s has no internet_nat", to, src.net.Name)
	}
	self, err := selfNAT(t.tx, src.nic.Server)
	if err != nil {
		return true, err
	}
	g, err := gatewaysOf(t.tx, src.nic.Owner)
	switch {
	case err != nil:
		return true, err
	case self.External == nil && len(g.Gateways) == 0, self.External != nil && self.External.Address == "":
		t.hop(src.host, "nat", "no server provides it")
		return true, t.stop("no server with an underlay address provides the NIC tag of the NAT network")
	case self.External != nil:
		t.hop(src.host, "nat", "from %s, by NIC tag %s of this server", self.External.Address, self.External.Tag)
	default:
		gateways, used, err := t.gateways(src.nic, g.Gateways)
		if err != nil {
			return true, err
		}
		t.hop(src.host, "nat", "by the gateway servers %s on transit VNI %d", gateways, g.VNI)
		there, err := underlay(t.tx, used.UUID)
		if err != nil {
			return true, err
		}
		if err := t.underlay(src, cmp.Or(used.Hostname, used.UUID), there.String()); err != nil {
			return true, err
		}
	}
	t.trace.Arrives, t.trace.Why = true, "it leaves by NAT"
	return true, nil
}

// gateways names an account's gateway servers, and says which of them the router on
// a NIC's server uses; the first one when it did not say.
func (t *tracer) gateways(nic api.NetworkNIC, via []api.Gateway) (names string, used inventory.Record, err error) {
	var now api.GatewayReport
	if _, usage := t.s.live.get(nic.Server); usage != nil && usage.Network != nil {
		for _, g := range usage.Network.Gateways {
			if g.Owner == nic.Owner {
				now = g
			}
		}
	}
	var out []string
	for i, g := range via {
		r, err := inventory.Get(t.tx, g.Server)
		if err != nil {
			return "", used, err
		}
		if i == 0 || now.Used == g.Address {
			used = r
		}
		name := cmp.Or(r.Hostname, g.Server)
		switch {
		case slices.Contains(now.Down, g.Address):
			name += " (does not answer)"
		case now.Used == g.Address:
			name += " (in use)"
		}
		out = append(out, name)
	}
	return strings.Join(out, " and "), used, nil
}

// mapped is the way to an address of a fabric: its entry, and whether both servers
// have it.
func (t *tracer) mapped(src, dst end) (done bool, err error) {
	e, found, err := fabric.ByIP(t.tx, dst.net.VNI, dst.ip)
	if err != nil {
		return true, err
	}
	if !found {
		t.hop(src.host, "map", "VNI %d has no entry for %s", dst.net.VNI, dst.ip)
		return true, t.stop("%s is on no server with an underlay address", dst.ip)
	}
	epoch, version, err := fabric.Version(t.tx, dst.net.VNI)
	if err != nil {
		return true, err
	}
	has := "has not reported its map"
	if _, usage := t.s.live.get(src.nic.Server); usage != nil && usage.Network != nil {
		switch m, known := usage.Network.Maps[dst.net.VNI]; {
		case !known:
			has = "does not follow this map yet"
		case m == fmt.Sprintf("%s:%d", epoch, version):
			has = "has this version"
		default:
			has = "last reported version " + m
		}
	}
	t.hop(src.host, "map", "%s is %s behind %s since version %d; the map is at %d, and %s %s", e.IP, e.MAC, e.Underlay, e.Version, version, src.host, has)
	if src.nic.Server == dst.nic.Server {
		return false, nil
	}
	return false, t.underlay(src, dst.host, e.Underlay)
}

// underlay is the way from a NIC's server to another one, which can be measured. Both
// have an address there: it stays while NICs of fabrics are on the server, and servers
// without one are nobody's gateway.
func (t *tracer) underlay(src end, host, to string) error {
	from, err := underlay(t.tx, src.nic.Server)
	if err != nil {
		return err
	}
	t.hop(host, "underlay", "VXLAN from %s to %s", from, to)
	t.way = &way{server: src.nic.Server, host: src.host, peer: host, from: from.String(), to: to,
		overhead: networks.Overhead(from), hop: len(t.trace.Hops) - 1}
	return nil
}

// judge asks the firewall of a NIC's server.
func (t *tracer) judge(e end, direction string, peer netip.Addr) (bool, error) {
	if e.nic.NoFirewall || e.nic.BelongsToType == api.BelongsToServer {
		t.hop(e.host, "firewall", "%s: off for this NIC", direction)
		return true, nil
	}
	spec, err := rulesOn(t.tx, e.nic)
	if err != nil {
		return false, err
	}
	p := firewall.Packet{MAC: e.nic.MAC, Direction: direction, Protocol: t.proto, Peer: peer, Port: t.port, Type: echoRequest(t.proto)}
	v := firewall.Decide(spec, p)
	rule := "the default"
	if v.Rule != "" {
		r, err := firewall.Get(t.tx, v.Rule)
		if err != nil {
			return false, err
		}
		rule = fmt.Sprintf("rule %s (%s)", r.UUID, r.Rule)
	}
	t.hop(e.host, "firewall", "%s: %s by %s", direction, v.Action, rule)
	if v.Action == "block" {
		return false, t.stop("the firewall of %s blocks it (%s), by %s", e.nic.MAC, direction, rule)
	}
	return true, nil
}

// echoRequest is the type of what ping sends (RFC 792, RFC 4443).
func echoRequest(proto string) uint8 {
	if proto == "icmp6" {
		return 128
	}
	return 8
}
