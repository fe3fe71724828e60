package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"nereid/agent/firewall"
	"nereid/agent/identity"
	"nereid/agent/network"
	"nereid/agent/router"
	"nereid/api"
)

// Times of the networker.
const (
	networkLimit = 3 * time.Minute // one Apply; a guarded change alone may take network.GuardTime
	networkLook  = time.Minute     // rules that somebody changed are noticed
	confirmTry   = 4 * time.Second // one try to reach the head node over a changed network
)

// Links are the server's links, segments and ports; *network.Network is one.
type Links interface {
	Recover(ctx context.Context) error
	Apply(ctx context.Context, spec api.NetworkSpec) error
	ApplyMap(ctx context.Context, vni uint32, m api.FabricMap) error
	Watch(ctx context.Context, ready, changed func()) error
	Report(ctx context.Context) (api.NetworkReport, error)
}

// Ports are instances' NICs, one by one; *network.Network has them.
type Ports interface {
	SetPort(ctx context.Context, port api.PortSpec) error
	DropPort(ctx context.Context, mac, instance string) error
}

// Routers are the accounts' gateways; *router.Routers is one.
type Routers interface {
	Gateways() []api.GatewayReport
	Apply(ctx context.Context, specs []api.RouterSpec, env router.Env) error
	Drops(ctx context.Context) (map[string]uint64, error)
}

// Filter is anti-spoofing and the firewall; *firewall.Firewall is one.
type Filter interface {
	Apply(ctx context.Context, ports []firewall.Port, fw api.FirewallSpec, o firewall.Options) ([]firewall.Failure, error)
	SetPort(ctx context.Context, port firewall.Port, rules api.FirewallSpec) error
	DropPort(ctx context.Context, mac, instance string) error
	VerifyOrRepair(ctx context.Context) (repaired bool, err error)
	Counters(ctx context.Context) (map[string]uint64, error)
}

// Net is the server's network. Without Links the agent leaves the network alone.
type Net struct {
	Links   Links
	Ports   Ports // not nil where Links are not
	Routers Routers
	Filter  Filter
	Monitor func(ctx context.Context) error // of gateway servers; nil: none

	// PathMTU measures the largest IP packet, in bytes and up to want, that gets
	// from an address here to another and back; pathmtu.Measure does. Nil: it cannot.
	PathMTU func(ctx context.Context, from, to netip.Addr, want int) (int, error)
}

// networker is the one goroutine that changes the server's network, but for instances'
// NICs: each of them has a worker.
type networker struct {
	a     *Agent
	board *board
	seen  *observer
	nics  *nics
	box   mailbox
	spec  api.Spec // its Network is not nil, once there is one
	maps  *mapper
	retry backoff

	made   *api.NetworkSpec // the infrastructure that is there; nil: not known
	looked bool
	found  []api.UnexpectedNIC // that were there when this run began
}

func newNetworker(a *Agent, b *board) *networker {
	nics := newNICs(a, b)
	seen := newObserver(a, b, nics)
	return &networker{a: a, board: b, nics: nics, seen: seen, box: newMailbox(), maps: newMapper(a, b, func() { poke(seen.maps) }),
		retry: backoff{min: 2 * time.Second, max: 2 * time.Minute}}
}

// put hands over the newest spec. One without a network says nothing about it.
// There is one writer.
func (n *networker) put(s api.Spec) {
	switch {
	case s.Network == nil:
	case n.a.Net.Links != nil:
		n.box.put(s)
	case len(s.Network.Tags)+len(s.Network.Ports) > 0:
		n.board.problem("network", "This platform cannot manage a network, and left it as it is; assign one that can.")
	}
}

// run applies specs until ctx ends.
func (n *networker) run(ctx context.Context) error {
	if err := n.a.Net.Links.Recover(ctx); err != nil && ctx.Err() == nil {
		n.problem(fmt.Errorf("finish the change that was under way: %w", err))
	}
	look := time.NewTicker(networkLook)
	defer look.Stop()
	var again <-chan time.Time
	good := false // the infrastructure is as the spec says
	for ctx.Err() == nil {
		select {
		case <-n.nics.settled:
			n.applied(good)
			continue
		case n.spec = <-n.box:
			n.retry.reset()
		case <-again:
		case <-look.C:
			n.look(ctx)
			continue
		case <-ctx.Done():
			return nil
		}
		n.seen.tags.Store(&n.spec.Network.Tags)
		done := n.a.health.busy("network", networkLimit+stepLimit)
		actx, cancel := context.WithTimeout(ctx, networkLimit)
		more, err := n.apply(actx, *n.spec.Network)
		cancel()
		if n.seen.applied.Store(true); more || n.seen.unexpected() {
			n.seen.refresh(ctx)
		}
		done()
		if ctx.Err() != nil {
			return nil
		}
		n.problem(err)
		good = err == nil
		n.applied(good)
		again = nil
		var undone *network.RolledBack
		if err != nil && !errors.As(err, &undone) { // what cut the server off is not tried again by itself
			again = time.After(n.retry.next())
		}
	}
	return nil
}

// applied says that all of the spec's network is there, when it is.
func (n *networker) applied(good bool) {
	if !good || !n.nics.good() {
		return
	}
	revision := n.spec.Revision
	n.board.update(func(r *api.Report) bool { return put(&r.AppliedNetwork, revision) })
	if n.seen.has(versions{n.spec.Network.PortsAt, n.spec.Network.SetsAt}) {
		n.board.nudge()
	}
}

// apply makes the network as a spec says: the infrastructure, unless it is so already,
// and has the NICs' workers make the rest. The rules come first, so that no port is ever
// there without them, and when they cannot be made, nothing else is. It reports whether
// more than NICs may have changed.
func (n *networker) apply(ctx context.Context, s api.NetworkSpec) (more bool, err error) {
	if len(s.Ports)+len(s.Routers) > 0 {
		n.seen.used.Store(true)
	}
	changed := n.nics.changes(s.Ports)
	if err := n.rule(ctx, s, changed); err != nil {
		return true, err
	}
	next := infrastructure(s)
	var linksErr error
	if more = n.made == nil || !reflect.DeepEqual(*n.made, next); more {
		n.made = nil
		linksErr = n.a.Net.Links.Apply(ctx, next)
	}
	n.nics.wantChanged(s.Ports, changed, s.Gone)
	n.nics.gate.open(gateNetwork)
	if i := n.a.instances; i != nil {
		i.gate.open(gateNetwork)
	}
	n.follow(s)
	if !more {
		return false, nil
	}
	if linksErr != nil {
		linksErr = fmt.Errorf("apply network: %w", linksErr)
	}
	if n.a.Net.Routers != nil {
		if err = n.a.Net.Routers.Apply(ctx, s.Routers, n.routerEnv(s)); err != nil {
			err = fmt.Errorf("apply routers: %w", err)
		}
	}
	if err = errors.Join(linksErr, err); err == nil {
		n.made = &next
	}
	return true, err
}

// rule makes the rules of a spec: of all ports, or where those of NICs that come, change
// or go make the difference, it leaves these to their workers.
func (n *networker) rule(ctx context.Context, s api.NetworkSpec, changed []*api.PortSpec) error {
	if n.a.Net.Filter == nil {
		return nil
	}
	n.nics.rules.Lock()
	defer n.nics.rules.Unlock()
	x := n.nics.ruled.index(s)
	macs, accounts := n.nics.touched(changed, s.Gone)
	next := &ruled{spec: s, rules: x, failing: map[string]bool{}}
	if n.nics.ruled.byPorts(s, x, macs, accounts) {
		next.failing = n.nics.ruled.failing
		n.nics.ruled = next
		return nil
	}
	strays, err := n.strays(ctx, s)
	if err != nil {
		return fmt.Errorf("look for NICs that are there: %w; no port was changed", err)
	}
	failed, err := n.a.Net.Filter.Apply(ctx, append(filterPorts(s), strays...), s.Firewall, filterOptions(s))
	if err != nil {
		return fmt.Errorf("apply firewall: %w; no port was changed", err)
	}
	for _, f := range failed {
		next.failing[f.Owner] = true
	}
	n.nics.ruled = next
	n.nics.retryFailed()
	n.board.problem("firewall", rulesFailed(failed))
	return nil
}

// strays are NICs that are there and of which this agent knows nothing but what they
// are: it lost its last spec. As their rules would go with the next change of any, they
// are closed. They can only be of an earlier run of the agent.
func (n *networker) strays(ctx context.Context, s api.NetworkSpec) ([]firewall.Port, error) {
	if !n.looked {
		r, err := n.a.Net.Links.Report(ctx)
		if err != nil {
			return nil, err
		}
		n.looked, n.found = true, r.Unexpected
	}
	var ports []firewall.Port
	for _, u := range n.found {
		named := slices.ContainsFunc(s.Ports, func(p api.PortSpec) bool { return strings.EqualFold(p.MAC, u.MAC) }) ||
			slices.ContainsFunc(s.Gone, func(g api.GoneNIC) bool { return strings.EqualFold(g.MAC, u.MAC) })
		if !named && u.Bridge != "" {
			ports = append(ports, firewall.Port{Interface: u.Device, Bridge: u.Bridge,
				PortSpec: api.PortSpec{MAC: u.MAC, Instance: u.Instance, Firewall: true}})
		}
	}
	return ports, nil
}

// follow tells the mapper which VNIs there are.
func (n *networker) follow(s api.NetworkSpec) {
	var vnis []uint32
	for _, v := range s.VNIs {
		if s.Kept == nil || !slices.Contains(s.Kept.VNIs, v.VNI) { // of these the head node gives no map
			vnis = append(vnis, v.VNI)
		}
	}
	n.maps.want(vnis)
}

// look sees whether somebody changed the rules; links are watched by their events.
func (n *networker) look(ctx context.Context) {
	if !n.seen.used.Load() || n.a.Net.Filter == nil {
		return
	}
	repaired, err := n.a.Net.Filter.VerifyOrRepair(ctx)
	if err != nil && ctx.Err() == nil {
		n.problem(fmt.Errorf("look at the firewall: %w", err))
	}
	if repaired {
		n.a.Log.Warn("the firewall's rules had been changed, and were made again")
	}
}

// problem puts what is wrong into the report, or takes it out.
func (n *networker) problem(err error) {
	if err == nil {
		n.board.problem("network", "")
		return
	}
	n.a.Log.Error("network", "err", err)
	n.board.problem("network", "The network differs from what the head node wants: "+strings.ReplaceAll(err.Error(), "\n", "; ")+".")
}

// Confirm waits until the head node has answered something that was asked over a new
// connection. Any answer will do: what it proves is the way there.
func (a *Agent) Confirm(ctx context.Context) error {
	base, err := url.Parse(a.Boot.API)
	if err != nil {
		return fmt.Errorf("confirm network: %w", err)
	}
	for {
		h := newHead(base, identity.Trust{CASHA256: a.Boot.CASHA256, Host: base.Hostname(), Now: a.Clock.Now}, nil, false, a.Dial)
		cctx, cancel := context.WithTimeout(ctx, confirmTry)
		_, err := h.call(cctx, http.MethodGet, "/v1", nil, nil, nil)
		cancel()
		h.close()
		var p *api.Problem
		if err == nil || errors.As(err, &p) {
			return nil
		}
		if !pause(ctx, confirmTry/4) {
			return fmt.Errorf("confirm network: the head node did not answer: %w", err)
		}
	}
}

// routerEnv is what routers must know of the server.
func (n *networker) routerEnv(s api.NetworkSpec) router.Env {
	e := router.Env{Server: n.a.UUID, Bridge: func(tag string, vlan int) string {
		if !slices.ContainsFunc(s.Tags, func(t api.TagSpec) bool { return t.Name == tag }) {
			return ""
		}
		return network.BridgeOfTag(tag, vlan)
	}}
	if p := n.a.Boot.Network.Address; p.IsValid() {
		e.Deny = append(e.Deny, p.Masked())
	}
	if s.Underlay != nil {
		for _, text := range s.Underlay.Subnets {
			if p, err := netip.ParsePrefix(text); err == nil {
				e.Deny = append(e.Deny, p.Masked())
			}
		}
	}
	return e
}
