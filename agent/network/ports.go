package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"nereid/api"
)

// errNotApplied says that there is nothing yet that a port could stand on.
var errNotApplied = errors.New("the network of this server was not made yet; it is made first")

// SetPort makes one instance's NIC as it is wanted, whatever is there of it, and keeps
// in mind that it is wanted: Apply and Watch leave it alone from then on, and tell
// Disturbed. Calls for different ports go side by side, and the cost of one does not
// depend on how many ports there are. Setting a port twice changes nothing the second
// time, and asks the kernel nothing.
//
// The port has what it stands on made, which is infrastructure: the bridge of its NIC
// tag and VLAN, or of its VNI. That is an Apply of the last spec, for which the others
// wait; what a port has left behind, Watch removes.
//
// An error is of this port alone, of type Problems when it says why; calling again
// does what is left.
func (n *Network) SetPort(ctx context.Context, spec api.PortSpec) error {
	mac, err := parseMAC(spec.MAC)
	if err != nil {
		return Problems{fmt.Sprintf("A NIC of instance %s was not made: %v.", spec.Instance, err)}
	}
	spec.MAC = mac
	p, err := n.take(ctx, PortDevice(mac))
	if err != nil {
		return err
	}
	defer p.free()
	unlock, err := lockNIC(n.Dir, p.name)
	if err != nil {
		return fmt.Errorf("lock NIC %s: %w", mac, err)
	}
	defer unlock()
	before, unused := n.want(p, &spec)
	defer n.tidy(unused)
	if err := n.standOn(ctx, p, groundOf(spec)); err != nil {
		return err
	}
	defer n.change.RUnlock()
	link, err := n.seenOf(ctx, p)
	if err != nil {
		return err
	}
	bridge := n.bridge(groundOf(spec))
	if err := n.joining(p, spec, bridge); err != nil {
		return fmt.Errorf("keep NIC %s: %w", mac, err)
	}
	plan := planPort(spec, bridge, link)
	problems := plan.problems
	if plan.fault != nil {
		problems = append(problems, plan.fault.Error()+".")
	}
	failed, _ := n.run(ctx, plan.steps)
	problems = append(problems, failed...)
	if len(plan.steps) > 0 {
		if link, err = n.lookAt(ctx, p); err != nil {
			return err
		}
	}
	if before != nil && before.VNI != spec.VNI {
		err = n.setLocal(ctx, before.VNI, mac, nil, false)
	}
	if err == nil && spec.VNI != 0 && link != nil && link.Master == BridgeOfVNI(spec.VNI) {
		err = n.setLocal(ctx, spec.VNI, mac, localOf(spec, link), joins(plan.steps))
	}
	if err != nil {
		problems = append(problems, err.Error()+".")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(problems) > 0 {
		return Problems(problems)
	}
	if spec.Brand != api.BrandLX {
		return nil
	}
	if err := n.keepJoined(p, &Joined{spec, bridge}); err != nil {
		return fmt.Errorf("keep NIC %s: %w", mac, err)
	}
	return nil
}

// DropPort removes an instance's NIC, or with instance "" whosever it is, and what was
// begun of it. A NIC of another instance with the same MAC stays. When it is not there,
// nothing is done.
func (n *Network) DropPort(ctx context.Context, mac, instance string) error {
	mac, err := parseMAC(mac)
	if err != nil {
		return Problems{fmt.Sprintf("A NIC of instance %s was not removed: %v.", instance, err)}
	}
	p, err := n.take(ctx, PortDevice(mac))
	if err != nil {
		return err
	}
	defer p.free()
	unlock, err := lockNIC(n.Dir, p.name)
	if err != nil {
		return fmt.Errorf("lock NIC %s: %w", mac, err)
	}
	defer unlock()
	n.change.RLock()
	defer n.change.RUnlock()
	link, err := n.seenOf(ctx, p)
	if err != nil {
		return err
	}
	n.mu.Lock()
	want := p.want
	n.mu.Unlock()
	if want != nil && instance != "" && want.Instance != instance {
		return nil
	}
	if err := n.keepJoined(p, nil); err != nil { // so that no unit makes it anew
		return fmt.Errorf("forget NIC %s: %w", mac, err)
	}
	steps := planDrop(mac, instance, link)
	if len(steps) > 0 { // first, so that no entry is set for a link that is gone
		err = n.setLocal(ctx, vniOf(want, link), mac, nil, false)
	}
	if failed, _ := n.run(ctx, steps); len(failed) > 0 {
		n.doubt(p)
		return errors.Join(err, Problems(failed))
	}
	_, unused := n.want(p, nil)
	defer n.tidy(unused)
	n.mu.Lock()
	if len(steps) > 0 {
		n.known().see(p, nil)
	}
	delete(n.known().ports, p.name)
	n.mu.Unlock()
	if n.Dir != "" && err == nil {
		err = os.Remove(lockFile(n.Dir, p.name)) // which is ours
	}
	return err
}

// vniOf is the VNI that a port is on, as far as that is known.
func vniOf(want *api.PortSpec, link *Link) uint32 {
	if want != nil {
		return want.VNI
	}
	if link == nil {
		return 0
	}
	digits, _ := strings.CutPrefix(link.Master, vniPrefix)
	vni, err := strconv.ParseUint(digits, 10, 24)
	if err != nil {
		return 0 // it is in another bridge, or in none
	}
	return uint32(vni)
}

// take is a port that nobody else changes until it is free.
func (n *Network) take(ctx context.Context, name string) (*portState, error) {
	for {
		n.mu.Lock()
		m := n.known()
		p := m.ports[name]
		if p == nil {
			p = &portState{name: name, busy: make(chan struct{}, 1)}
			m.ports[name] = p
		}
		n.mu.Unlock()
		select {
		case p.busy <- struct{}{}:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		n.mu.Lock()
		is := m.ports[name] == p // or it was dropped meanwhile
		n.mu.Unlock()
		if is {
			return p, nil
		}
		p.free()
	}
}

func (p *portState) free() { <-p.busy }

// known is the memory. n.mu is held.
func (n *Network) known() *memory {
	if n.seen.ports == nil {
		n.seen = newMemory()
	}
	return &n.seen
}

func (n *Network) needs() []ground {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known().needs()
}

func (n *Network) bridge(g ground) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.known().made[g]
}

// want notes what a port is to be. It returns what it was to be, and whether it was the
// last where that stood.
func (n *Network) want(p *portState, spec *api.PortSpec) (before *api.PortSpec, unused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before = p.want
	return before, n.known().want(p, spec)
}

// tidy has Watch remove what no port stands on any more.
func (n *Network) tidy(unused bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if unused && n.watcher != nil {
		n.watcher.put(Event{Kind: EventLink})
	}
}

// wanted are the ports that SetPort was asked for.
func (n *Network) wanted() []api.PortSpec {
	n.mu.Lock()
	defer n.mu.Unlock()
	ports := make([]api.PortSpec, 0, len(n.seen.ports))
	for _, p := range n.seen.ports {
		if p.want != nil {
			ports = append(ports, *p.want)
		}
	}
	return ports
}

// withVNIs adds to a spec's VNIs those of ports that it does not have.
func (n *Network) withVNIs(vnis []api.VNISpec) []api.VNISpec {
	n.mu.Lock()
	defer n.mu.Unlock()
	have := map[uint32]bool{0: true}
	for _, v := range vnis {
		have[v.VNI] = true
	}
	var more []api.VNISpec
	for _, p := range n.seen.ports {
		if p.want != nil && !have[p.want.VNI] {
			have[p.want.VNI] = true
			more = append(more, api.VNISpec{VNI: p.want.VNI, Owner: p.want.Owner, MTU: p.want.MTU})
		}
	}
	slices.SortFunc(more, func(a, b api.VNISpec) int { return cmp.Compare(a.VNI, b.VNI) })
	return slices.Concat(vnis, more)
}

// standOn returns with n.change held for the port when there is a bridge for it. When
// there is none the last spec is applied, but not again for a port that another one's
// Apply has answered already.
func (n *Network) standOn(ctx context.Context, p *portState, g ground) error {
	for first := true; ; first = false {
		n.change.RLock()
		n.mu.Lock()
		m := n.known()
		bridge, tried := m.made[g]
		stale := tried && p.turn < m.turn || !first
		turn := m.turn
		p.turn = turn
		n.mu.Unlock()
		if bridge != "" {
			return nil
		}
		applied := n.spec != nil
		n.change.RUnlock()
		switch {
		case !applied:
			return errNotApplied
		case stale:
			return Problems{fmt.Sprintf("NIC %s was not made: %s.", macOf(p.name), g.missing())}
		}
		if err := n.applyFor(ctx, g, turn); err != nil && !errors.As(err, new(Problems)) {
			return fmt.Errorf("make what NIC %s stands on: %w", macOf(p.name), err)
		}
	}
}

// applyFor applies the last spec for a ground, unless somebody has done that since the
// turn.
func (n *Network) applyFor(ctx context.Context, g ground, turn int) error {
	n.change.Lock()
	defer n.change.Unlock()
	n.mu.Lock()
	bridge, tried := n.seen.made[g]
	since := n.seen.turn > turn
	n.mu.Unlock()
	if bridge != "" || tried && since {
		return nil
	}
	return n.applyAll(ctx)
}

// seenOf is what is there of a port's link: from memory, when that is good.
func (n *Network) seenOf(ctx context.Context, p *portState) (*Link, error) {
	n.mu.Lock()
	link, sure := p.link, p.sure && n.watcher != nil
	n.mu.Unlock()
	if sure {
		return link, nil
	}
	return n.lookAt(ctx, p)
}

// doubt has a port looked at before it is changed again.
func (n *Network) doubt(p *portState) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p.sure = false
}

// macOf is the MAC of a port's device.
func macOf(name string) string {
	hex := strings.TrimPrefix(name, PortPrefix)
	var b strings.Builder
	for i := 0; i+2 <= len(hex); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(hex[i : i+2])
	}
	return b.String()
}

// joins reports whether steps put a link into a bridge.
func joins(steps []Step) bool { return len(entering(steps)) > 0 }
