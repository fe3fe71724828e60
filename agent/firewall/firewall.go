package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"nereid/api"
)

// Firewall keeps the anti-spoofing and firewall rules of one server's kernel. The
// zero value is ready to use. Its methods may be called from any goroutine.
type Firewall struct {
	Log *slog.Logger // nil: nothing is logged
	// Stateless judges every packet by itself, replies too: for kernels whose
	// bridges have no connection tracking (nf_conntrack_bridge).
	Stateless bool

	kernel kernel // nil: the system's
	room   int    // for elements; 0: maxElements

	mu      sync.Mutex
	applied *state // nil: nothing yet by this process
	options Options
	asked   wanted                  // by the last Apply
	inForce wanted                  // that the last Apply came to
	since   map[[6]byte]change      // of ports, by MAC; they are in neither
	failing map[string]error        // owners whose rules cannot be made
	refused map[[6]byte]refusedPort // because of that
	seen    uint32                  // the kernel's generation when the tables were last known to be right; 0: unknown
	program program                 // of the tables as they were made; nil: unknown
}

// kernel is nf_tables of the system.
type kernel interface {
	// commit does a transaction, or returns an error and has done nothing.
	commit(context.Context, *transaction) error
	// generation counts the transactions of all who use nf_tables; never 0.
	generation(context.Context) (uint32, error)
	// read lists chains of the tables, all of them when only is nil, and the elements of
	// sets.
	read(ctx context.Context, only []chain, sets []set) (*contents, error)
	// counted reads the counters of the tables.
	counted(context.Context) (map[string]counted, error)
	// separate keeps what bridges forward out of the tables of IP, and says whether it
	// was in.
	separate(context.Context) (changed bool, err error)
}

// program identifies each chain with its rules, as the kernel numbers them, by a digest.
// What is not there is not in it.
type program map[chainKey][32]byte

type chainKey struct {
	table table
	name  string
}

func (c chain) key() chainKey { return chainKey{c.table, c.name} }

// contents is what is in the tables.
type contents struct {
	program  program
	elements map[string]elements
}

type counted struct{ packets, bytes uint64 }

// Apply makes the kernel's rules those of ports and spec, in one transaction that
// changes no more than it must, and in none when nothing has to change. After an
// error the old rules are in force, all of them. What it is given must not be changed
// afterwards.
//
// One owner's rules that cannot be made, because they are malformed or together too
// large (the rule is named), stop nobody else: the owner is named in what is returned.
//
// The first Apply of a process replaces what a process before it left: atomically,
// the counters going on, connections being judged again.
//
// Errors: the options are malformed, or the kernel refuses; errors.ErrUnsupported where
// there is no nf_tables.
func (f *Firewall) Apply(ctx context.Context, ports []Port, fw api.FirewallSpec, o Options) ([]Failure, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.separate(ctx); err != nil {
		return nil, err
	}
	return f.apply(ctx, wanted{ports, fw}, o)
}

func (f *Firewall) apply(ctx context.Context, in wanted, o Options) ([]Failure, error) {
	start := time.Now()
	var n *numbers
	var err error
	if f.applied != nil {
		n = f.applied.numbers
	} else if n, err = f.begin(ctx); err != nil {
		return nil, err
	}
	c, err := f.compile(in, f.inForce.with(f.since), o, n)
	if err != nil {
		return nil, fmt.Errorf("compile the firewall: %w", err)
	}
	took := time.Since(start)
	t, small := (*transaction)(nil), false
	if f.applied != nil {
		t, small = difference(f.applied.ruleset, c.state.ruleset)
	}
	if small && !t.empty() {
		if err = f.commit(ctx, t); err != nil {
			// Somebody has changed our tables, so that they do not take the change.
			f.log().WarnContext(ctx, "firewall: replacing all rules", "because", err)
			small = false
		}
	}
	if !small {
		if t, err = f.replace(ctx, c.state.ruleset); err != nil {
			return nil, err
		}
	}
	f.applied, f.options, f.asked, f.inForce, f.since = c.state, o, in, c.in, nil
	f.failing, f.refused = make(map[string]error), make(map[[6]byte]refusedPort)
	for _, x := range c.failures {
		f.failing[x.Owner] = x.Err
	}
	if !t.empty() {
		f.log().InfoContext(ctx, "firewall applied", "ports", len(c.in.ports), "rules", len(c.in.fw.Rules), "owners failed", len(c.failures),
			"sent", t.size(), "replaced", t.replace, "compiled", took, "took", time.Since(start))
	}
	return c.failures, nil
}

// Protect puts anti-spoofing on interfaces of ports that have just been made, before
// any bridge has them: Apply does that only for those that are there. Whoever makes a
// port calls it each time. An interface that is not there is left out.
//
// Errors: one is of no port of the last Apply, or the kernel refuses.
func (f *Firewall) Protect(ctx context.Context, devices []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var chains []chain
	for _, d := range devices {
		var c chain
		if f.applied != nil {
			c = f.applied.ruleset.ports[d]
		}
		if c.name == "" {
			return fmt.Errorf("put anti-spoofing on %s: the rules that are applied have no such port", d)
		}
		chains = append(chains, c)
	}
	if err := f.commit(ctx, &transaction{addChains: chains}); err != nil {
		// Somebody has changed our tables, so that they do not take it.
		f.log().WarnContext(ctx, "firewall: replacing all rules", "because", err)
		if _, err := f.replace(ctx, f.applied.ruleset); err != nil {
			return fmt.Errorf("put anti-spoofing on %s: %w", strings.Join(devices, ", "), err)
		}
	}
	return nil
}

// Guard puts anti-spoofing on interfaces of ports, as Protect does, for those who have no
// Firewall: the agent is away. What a port may send is in tables that the last Apply or
// SetPort left, and that stay when its interface goes; one of which they say nothing
// sends nothing.
//
// Errors: there are no such tables, or an interface is not there (before Linux 6.16).
func Guard(ctx context.Context, devices []string) error {
	var chains []chain
	for _, d := range devices {
		chains = append(chains, guardChain(d))
	}
	if err := (system{}).whole(ctx, &transaction{addChains: chains}); err != nil {
		return fmt.Errorf("put anti-spoofing on %s: %w", strings.Join(devices, ", "), err)
	}
	return nil
}

// separate is needed where br_netfilter is loaded, which is on by default and may come
// with anybody's container engine: see "What must be so around it".
func (f *Firewall) separate(ctx context.Context) (changed bool, err error) {
	changed, err = f.system().separate(ctx)
	if err != nil {
		return false, fmt.Errorf("keep the bridges' frames out of the tables of IP: %w", err)
	}
	if changed {
		f.log().WarnContext(ctx, "firewall: br_netfilter handed the bridges' frames to the tables of IP, and is off now")
	}
	return changed, nil
}

// begin makes the numbers of a process. Zones are those of the process before:
// with another zone a bridge's connections would be unknown.
func (f *Firewall) begin(ctx context.Context) (*numbers, error) {
	n := newNumbers(rand.Uint32())
	zones, _ := (&ruleset{sets: trackSets()}).set(setZones)
	c, err := f.system().read(ctx, []chain{}, []set{zones})
	if err != nil {
		return nil, fmt.Errorf("read the firewall's tables: %w", err)
	}
	n.zones = make(map[string]uint16)
	for k, e := range c.elements[setZones] {
		if len(e.data) == zone.size() {
			n.zones[ifname.format([]byte(k))] = decodeZone(e.data)
		}
	}
	return n, nil
}

// replace makes the tables anew.
func (f *Firewall) replace(ctx context.Context, r *ruleset) (*transaction, error) {
	counted, err := f.system().counted(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the firewall's counters: %w", err)
	}
	t := replacement(r, counted)
	if err := f.commit(ctx, t); err != nil {
		return nil, fmt.Errorf("replace the firewall's tables: %w", err)
	}
	return t, nil
}

// commit does a transaction and remembers by what to know that nobody else did one
// to our tables.
func (f *Firewall) commit(ctx context.Context, t *transaction) error {
	k := f.system()
	before, err := k.generation(ctx)
	if err != nil {
		return fmt.Errorf("read the generation of nf_tables: %w", err)
	}
	if err := k.commit(ctx, t); err != nil {
		return err
	}
	// What fails from here on costs the next VerifyOrRepair more, and nothing else.
	trusted, made := t.replace || f.seen == before, f.program
	f.seen = 0
	if len(t.addChains)+len(t.delChains) > 0 {
		f.program = nil
		if made, err = f.programAfter(ctx, t, made); err != nil {
			f.log().WarnContext(ctx, "firewall: cannot read what was applied", "error", err)
			return nil
		}
	}
	after, err := k.generation(ctx)
	if err != nil {
		f.log().WarnContext(ctx, "firewall: cannot read the generation of nf_tables", "error", err)
		return nil
	}
	if after != before+1 {
		return nil // somebody else was active in between, perhaps in our tables
	}
	if f.program = made; trusted {
		f.seen = after
	}
	return nil
}

// programAfter is the program with what a transaction did, of which it reads no more
// than that. It changes what is given; nil stays nil.
func (f *Firewall) programAfter(ctx context.Context, t *transaction, p program) (program, error) {
	only := t.addChains
	switch {
	case t.replace:
		only = nil
	case p == nil:
		return nil, nil
	}
	for _, c := range slices.Concat(t.addChains, t.delChains) {
		delete(p, c.key())
	}
	if !t.replace && len(only) == 0 {
		return p, nil
	}
	c, err := f.system().read(ctx, only, nil)
	if err != nil || t.replace {
		return c.program, err
	}
	maps.Copy(p, c.program)
	return p, nil
}

// VerifyOrRepair sees whether our tables are as they were applied. Where nothing but
// chains at ports differs, it makes these chains anew; where more does, all tables. When
// nobody has used nf_tables since, it costs one small request, and where br_netfilter is
// loaded three files of /proc.
func (f *Firewall) VerifyOrRepair(ctx context.Context) (repaired bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.applied == nil {
		return false, nil
	}
	if repaired, err = f.separate(ctx); err != nil {
		return false, err
	}
	k := f.system()
	now, err := k.generation(ctx)
	if err != nil {
		return repaired, fmt.Errorf("read the generation of nf_tables: %w", err)
	}
	if now == f.seen {
		return repaired, nil
	}
	c, err := k.read(ctx, nil, f.applied.sets)
	if err != nil {
		return repaired, fmt.Errorf("read the firewall's tables: %w", err)
	}
	if f.program != nil && maps.Equal(c.program, f.program) && maps.EqualFunc(c.elements, f.applied.elements, maps.Equal[elements, elements]) {
		f.seen = now
		return repaired, nil
	}
	if lost, only := f.lost(c); only && f.commit(ctx, &transaction{addChains: lost}) == nil {
		f.log().WarnContext(ctx, "firewall: somebody else made ports anew, or changed their anti-spoofing, and it is repaired", "ports", len(lost))
		return true, nil
	}
	if _, err := f.replace(ctx, f.applied.ruleset); err != nil {
		return repaired, err
	}
	f.log().WarnContext(ctx, "firewall: the rules had been changed by somebody else and are repaired")
	return true, nil
}

// lost are the chains at ports that are not as they were applied, as those that Guard
// made; only is false when something else differs too.
func (f *Firewall) lost(c *contents) (lost []chain, only bool) {
	if f.program == nil || !maps.EqualFunc(c.elements, f.applied.elements, maps.Equal[elements, elements]) {
		return nil, false
	}
	differ := make(map[chainKey]bool)
	for k, is := range c.program {
		if was, there := f.program[k]; !there || was != is {
			differ[k] = true
		}
	}
	for k := range f.program {
		if _, there := c.program[k]; !there {
			differ[k] = true
		}
	}
	for _, p := range f.applied.ruleset.ports {
		if differ[p.key()] {
			lost = append(lost, p)
		}
	}
	return lost, len(lost) == len(differ)
}

// Counters are packets dropped since the tables were first made, by reason: mac,
// ipv4, arp, ipv6, nd, dhcp, ra and ethertype of anti-spoofing; closed, of what a
// closed port sent; vxlan from outside
// the underlay; isolated, from a bridge to the server; blocked_in, blocked_out and
// invalid of the firewall. It waits for no Apply.
func (f *Firewall) Counters(ctx context.Context) (map[string]uint64, error) {
	all, err := f.system().counted(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the firewall's counters: %w", err)
	}
	packets := make(map[string]uint64, len(all))
	for name, c := range all {
		packets[name] = c.packets
	}
	return packets, nil
}

// Remove deletes everything this package has in the kernel: nothing is judged then.
func (f *Firewall) Remove(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.system().commit(ctx, &transaction{replace: true}); err != nil {
		return fmt.Errorf("remove the firewall's tables: %w", err)
	}
	f.applied, f.since, f.failing, f.refused = nil, nil, nil, nil
	f.asked, f.inForce, f.seen, f.program = wanted{}, wanted{}, 0, nil
	return nil
}

func (f *Firewall) system() kernel {
	if f.kernel != nil {
		return f.kernel
	}
	return system{}
}

func (f *Firewall) log() *slog.Logger {
	if f.Log != nil {
		return f.Log
	}
	return slog.New(slog.DiscardHandler)
}

// ErrUnsupported is what all methods return where there is no nf_tables.
var ErrUnsupported = fmt.Errorf("the firewall needs Linux's nf_tables: %w", errors.ErrUnsupported)
