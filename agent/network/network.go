package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	"nereid/api"
)

var _ System = (*Kernel)(nil)

// Network is one server's network. Fields are set before the first call and not
// changed afterwards. Methods may be called from several goroutines.
type Network struct {
	System System
	// Admin is the server's address on the admin network. A change that touches
	// the links by which it is reached is guarded. Invalid: nothing is guarded.
	Admin netip.Addr
	// Dir is the run directory, where a guarded change is written down.
	Dir string
	// Confirm waits until the head node has answered something that was asked
	// after the call, and then returns nil. ctx ends after GuardTime. Nil:
	// changes are not guarded.
	Confirm func(ctx context.Context) error
	// Protect is called with instances' NICs (PortDevice) before they are put into
	// bridges, whenever that is; an error keeps them out. Nil: nothing is called.
	Protect func(ctx context.Context, devices []string) error
	// Disturbed is called when a port that SetPort was asked for may be no more as it
	// was made, or can be made now: SetPort makes it so, and costs little when it is.
	// It must not block. Nil: nobody is told.
	Disturbed func(mac string)
	// Sys is where sysfs is; empty: /sys.
	Sys string
	// Log gets what is done; nil discards.
	Log *slog.Logger

	change sync.RWMutex // held while links are changed: by one for all, or by each for its port
	spec   *api.NetworkSpec

	mu       sync.Mutex // guards what follows
	seen     memory
	watcher  *queue          // of Watch; nil: nobody watches
	told     api.NetworkSpec // of the last Apply
	problems []string
	applied  bool
	tags     map[string][]string // of the last Apply, by link
	byApply  map[string]bool     // ports of the last Apply's spec, by device
	inUse    map[uint32]string   // epoch:version of each VNI's map

	maps     sync.Mutex // guards segments, but not what is in them
	segments map[uint32]*segmentMap
}

// rounds is how often one Apply plans. The second finds what the kernel changed on
// its own, such as a bond0 that came with the module.
const rounds = 4

// Problems is an Apply that left something undone. The rest was done.
type Problems []string

func (p Problems) Error() string {
	if len(p) == 1 {
		return p[0]
	}
	return fmt.Sprintf("%s (and %d more)", p[0], len(p)-1)
}

func (n *Network) log() *slog.Logger {
	if n.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return n.Log
}

// Apply makes the network as the spec says, and stays at it: Watch repairs what
// is changed by others. What cannot be done is in the error, of type Problems;
// the rest is done nevertheless, but for bonds that make no sense: then nothing
// is changed. When a change had to be undone because it cut the server off, the
// error is a *RolledBack. Applying a spec twice changes nothing the second time.
//
// Ports that SetPort was asked for are not changed, but get what they stand on; of
// those that then are not as they should be, Disturbed is told.
func (n *Network) Apply(ctx context.Context, spec api.NetworkSpec) error {
	n.change.Lock()
	defer n.change.Unlock()
	n.spec = &spec
	return n.applyAll(ctx)
}

// applyAll applies the last spec. n.change is held.
func (n *Network) applyAll(ctx context.Context) error {
	spec := *n.spec
	needs := n.needs()
	disturbed, err := n.apply(ctx, spec, needs)
	n.disturbed(disturbed)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil && !errors.As(err, new(Problems)) { // it is not known what is there
		n.known().tried(needs, func(g ground) string { return n.seen.made[g] })
	}
	n.told, n.applied, n.problems = spec, err == nil, nil
	var p Problems
	switch {
	case errors.As(err, &p):
		n.problems = slices.Clone(p)
	case err != nil:
		n.problems = []string{err.Error()}
	}
	return err
}

// disturbed tells of ports that SetPort has to look at.
func (n *Network) disturbed(macs []string) {
	if n.Disturbed == nil {
		return
	}
	for _, mac := range macs {
		n.Disturbed(mac)
	}
}

func (n *Network) apply(ctx context.Context, spec api.NetworkSpec, needs []ground) (disturbed []string, err error) {
	state, err := n.System.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read network: %w", err)
	}
	if err := checkBonds(spec, state); err != nil {
		return nil, err
	}
	guard, err := n.openGuard(spec)
	if err != nil {
		return nil, err
	}
	spec, refused := guard.inForce(spec)
	spec.VNIs = n.withVNIs(spec.VNIs)
	var problems Problems
	var last *plan
	for range rounds {
		last = makePlan(spec, state, needs...)
		problems = append(slices.Clone(refused), last.problems...)
		if last.fault != nil {
			problems = append(problems, last.fault.Error()+".")
		}
		steps := last.steps
		if risky := touching(steps, adminPath(state, n.Admin)); len(risky) > 0 {
			withhold, err := guard.before(state, risky)
			if err != nil {
				return nil, err
			}
			if withhold {
				steps = without(steps, risky)
			}
		}
		if len(steps) == 0 {
			break
		}
		failed, done := n.run(guard.shield(ctx), steps)
		problems = append(problems, failed...)
		if state, err = n.System.Read(ctx); err != nil {
			return nil, fmt.Errorf("read network: %w", err)
		}
		if done == 0 {
			break
		}
	}
	if err := guard.after(ctx, spec); err != nil {
		return nil, err
	}
	disturbed = n.remember(last, state, needs)
	if err := n.settleMaps(ctx, spec, state); err != nil {
		problems = append(problems, err.Error()+".")
	}
	if ctx.Err() != nil {
		return disturbed, ctx.Err()
	}
	if len(problems) > 0 {
		return disturbed, problems
	}
	return disturbed, nil
}

// run does steps. One that fails takes with it those that are about the same
// link, as they would fail for the same reason. Instances' NICs are protected before
// the first of them is put into a bridge.
func (n *Network) run(ctx context.Context, steps []Step) (problems []string, done int) {
	failed := map[string]bool{}
	var ports []string // that go into bridges
	if n.Protect != nil {
		ports = entering(steps)
	}
	for _, s := range steps {
		if failed[s.on()] || failed[leansOn(s)] {
			continue
		}
		if ctx.Err() != nil {
			return append(problems, ctx.Err().Error()), done
		}
		if _, is := s.(SetMaster); is && slices.Contains(ports, s.on()) {
			if err := n.Protect(ctx, ports); err != nil {
				n.log().Warn("network step", "step", s.String(), "err", err)
				problems = append(problems, fmt.Sprintf("%v; %s not connected.", err, either(len(ports) == 1, "it is", "they are")))
				for _, name := range ports {
					failed[name] = true
				}
				continue
			}
			ports = nil
		}
		if err := n.System.Do(ctx, s); err != nil {
			n.log().Warn("network step", "step", s.String(), "err", err)
			problems = append(problems, fmt.Sprintf("%s: %v.", s, err))
			failed[s.on()] = true
			continue
		}
		n.log().Debug("network step", "step", s.String())
		done++
	}
	return problems, done
}

// entering are the instances' NICs that steps put into bridges.
func entering(steps []Step) (ports []string) {
	for _, s := range steps {
		if m, is := s.(SetMaster); is && m.Master != "" && strings.HasPrefix(m.Name, PortPrefix) {
			ports = append(ports, m.Name)
		}
	}
	return ports
}

// leansOn is another link that a step needs.
func leansOn(s Step) string {
	switch s := s.(type) {
	case CreateLink:
		return s.Link.Parent
	case SetMaster:
		return s.Master
	case Move:
		return s.To
	}
	return "\x00" // no link has that name
}

// remember keeps what the report says of the last plan, and what is there. It returns
// the ports of SetPort that are not as they should be.
func (n *Network) remember(p *plan, s *State, needs []ground) (disturbed []string) {
	tags := map[string][]string{}
	for _, t := range p.spec.Tags {
		if r, ok := p.tags[t.Name]; ok {
			tags[r.link] = append(tags[r.link], t.Name)
		}
	}
	for _, t := range tags {
		slices.Sort(t)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tags = tags
	n.byApply = make(map[string]bool, len(p.spec.Ports))
	for _, port := range p.spec.Ports {
		n.byApply[PortDevice(port.MAC)] = true
	}
	return n.known().all(s, append(p.grounds(), needs...), p.bridge)
}

// repair applies the last spec again.
func (n *Network) repair(ctx context.Context) error {
	n.change.Lock()
	defer n.change.Unlock()
	if n.spec == nil {
		return nil
	}
	return n.applyAll(ctx)
}

// touching are the steps that change one of these links. Further names and the
// like do not count.
func touching(steps []Step, links map[string]bool) []Step {
	var t []Step
	for _, s := range steps {
		switch s.(type) {
		case AltName, SetAlias:
			continue
		}
		if links[s.on()] {
			t = append(t, s)
		}
	}
	return t
}

func without(steps, not []Step) []Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s Step) bool {
		return slices.ContainsFunc(not, func(o Step) bool { return reflect.DeepEqual(s, o) })
	})
}

// adminPath are the links by which an address is reached: the one that has it,
// those that it is made of, and those that are made of it.
func adminPath(s *State, admin netip.Addr) map[string]bool {
	path := map[string]bool{}
	if !admin.IsValid() {
		return path
	}
	var add func(l *Link)
	add = func(l *Link) {
		if l == nil || path[l.Name] {
			return
		}
		path[l.Name] = true
		add(s.Links[l.Parent])
		if m := s.Links[l.Master]; m != nil {
			path[m.Name] = true
		}
		for _, port := range s.ports(l.Name) {
			if l.Kind == "bond" || l.Kind == "bridge" && uplink(port, l) {
				add(port)
			}
		}
	}
	for _, l := range s.Links {
		if slices.ContainsFunc(l.Addrs, func(a Addr) bool { return a.Prefix.Addr() == admin }) {
			add(l)
		}
	}
	return path
}
