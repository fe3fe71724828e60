package lab

import (
	"context"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"time"

	"nereid/api"
)

// traces is what a server is asked for: everything that something made for a test
// would leave in it.
const traces = `ip -o link | sed -E 's/^[0-9]+: ([^:@]+).*/link \1/'
ip netns list | sed -E 's/^([^ ]+).*/namespace \1/'
zfs list -H -o name -t all | sed 's/^/dataset /'
nft list tables
systemctl list-units --plain --no-legend --failed | sed -E 's/^([^ ]+).*/failed \1/'
systemctl list-units --plain --no-legend --type=scope,service 'machine-*' 'nereid-*' | sed -E 's/^([^ ]+).*/unit \1/'`

// State is what tests can change on the rack and have to put back, sorted.
func (r *Rack) State(ctx context.Context) ([]string, error) {
	var all []string
	c := r.Client()
	settings, err := c.FabricSettings(ctx)
	if err != nil {
		return nil, err
	}
	all = append(all, fmt.Sprintf("fabric: underlay %q, NAT network %q, MTU %d", settings.UnderlayTag, settings.NATNetwork, settings.OverlayMTU))
	err = gather(&all, err, c.NICTags().All(ctx, nil), func(t api.NICTag) string { return "NIC tag " + t.Name })
	err = gather(&all, err, c.Networks().All(ctx, nil), func(n api.Network) string { return "network " + n.Name + " " + n.UUID })
	err = gather(&all, err, c.NetworkPools().All(ctx, nil), func(p api.NetworkPool) string { return "network pool " + p.Name })
	err = gather(&all, err, c.NICs().All(ctx, nil), func(n api.NetworkNIC) string { return "NIC " + n.MAC + " on " + n.Server })
	err = gather(&all, err, c.FirewallRules().All(ctx, url.Values{}), func(f api.FirewallRule) string { return "firewall rule " + f.Rule })
	err = gather(&all, err, c.Servers(ctx), func(s api.Server) string {
		return fmt.Sprintf("server %s: %s, platform %q, alerts %q", s.Hostname, s.State, s.Platform.Assigned, s.Alerts)
	})
	if err != nil {
		return nil, err
	}
	platforms, err := c.Platforms(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range platforms {
		all = append(all, fmt.Sprintf("platform %s, the default: %v", p.Manifest.Stamp, p.Default))
	}
	for _, m := range r.Machines() {
		err = gather(&all, err, c.Bonds(m.Spec.UUID).All(ctx, nil), func(b api.Bond) string { return m.Spec.Name + ": bond " + b.Name })
		provided, perr := c.ProvidedNICTags(ctx, m.Spec.UUID)
		if err == nil {
			err = perr
		}
		for _, p := range provided {
			if len(p.NICTags) > 0 {
				all = append(all, fmt.Sprintf("%s: %s provides %v", m.Spec.Name, p.MAC, p.NICTags))
			}
		}
		var out string
		if err == nil {
			out, err = m.Shell(ctx, traces)
		}
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			if line = strings.TrimSpace(line); !kept(line, out) {
				all = append(all, m.Spec.Name+": "+line)
			}
		}
	}
	slices.Sort(all)
	return all, nil
}

// kept says whether a server keeps what a line of its traces names for the instances to
// come, once it has had one: images, what keeps what zones print, and what answers them
// for their metadata.
func kept(line, traces string) bool {
	switch line {
	case "dataset zones/consoles", "unit nereid-consoles.service", "unit nereid-metadata.service":
		return true
	}
	image, isSet := strings.CutPrefix(strings.TrimSuffix(line, "@final"), "dataset ")
	return isSet && strings.Contains(traces, "dataset "+image+"@final\n")
}

// gather adds a line for each object, unless there was an error before.
func gather[T any](all *[]string, err error, objects iter.Seq2[T, error], line func(T) string) error {
	if err != nil {
		return err
	}
	for v, err := range objects {
		if err != nil {
			return err
		}
		*all = append(*all, line(v))
	}
	return nil
}

// Left says how the rack differs from what it was at Settle, a line each, after
// its servers had time to follow. Nothing: it is as it was.
func (r *Rack) Left(ctx context.Context, limit time.Duration) ([]string, error) {
	enough := time.After(limit)
	tick := time.NewTicker(time.Second) // a server's namespaces have no event that reaches here
	defer tick.Stop()
	for {
		now, err := r.State(ctx)
		left := differ(r.born, now)
		if err == nil && len(left) == 0 {
			return nil, nil
		}
		select {
		case <-enough:
			if err != nil {
				return nil, fmt.Errorf("look for what is left on the rack: %w", err)
			}
			return left, nil
		case <-tick.C:
		}
	}
}

// Settle waits until its servers have applied everything, and takes the rack's state
// then for the one to come back to.
func (r *Rack) Settle(ctx context.Context) error {
	for _, m := range r.Machines() {
		if _, err := WaitServer(ctx, r.Client(), m.Spec.UUID, "at the newest spec", ready, func(s api.Server) bool {
			return s.State == api.StateRunning && s.Report.AppliedNetwork == s.Revision
		}); err != nil {
			return err
		}
	}
	var err error
	r.born, err = r.State(ctx)
	return err
}

// differ is what is in one sorted list only.
func differ(before, now []string) []string {
	var out []string
	for _, l := range before {
		if !slices.Contains(now, l) {
			out = append(out, "gone: "+l)
		}
	}
	for _, l := range now {
		if !slices.Contains(before, l) {
			out = append(out, "left: "+l)
		}
	}
	return out
}
