package fleet

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"golang.org/x/sync/errgroup"

	"nereid/api"
)

// What the NICs of a fleet's instances are made on. The subnet is kept for
// benchmarks (RFC 2544).
const (
	TagName     = "fleet"
	NetworkName = "fleet"
	subnet      = "198.18.0.0/15"
	owner       = "f1ee7000-0000-4000-9000-000000000000"
)

// lateAfter is when a server that was not told of a NIC counts as a failure.
const lateAfter = time.Minute

// PrepareNICs makes a NIC tag and a network, and has each server provide the tag. It
// may be called again.
func (f *Fleet) PrepareNICs(ctx context.Context) error {
	err := f.insist(ctx, "NIC tag", func(c *api.Client) error {
		_, err := c.NICTags().Create(ctx, api.NICTag{Name: TagName})
		return err
	})
	if err != nil && codeOf(err) != api.CodeConflict {
		return fmt.Errorf("make NIC tag %s: %w", TagName, err)
	}
	err = f.insist(ctx, "network", func(c *api.Client) error {
		_, err := c.Networks().Create(ctx, api.Network{Name: NetworkName, NICTag: TagName, Subnet: subnet})
		return err
	})
	if err != nil && codeOf(err) != api.CodeConflict {
		return fmt.Errorf("make network %s: %w", NetworkName, err)
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(f.operators))
	for _, s := range f.servers {
		g.Go(func() error {
			use := api.NICTagUse{MAC: macOf(s.n, 1), NICTags: []string{TagName}}
			err := f.insist(gctx, "provide", func(c *api.Client) error { return c.ProvideNICTags(gctx, s.info.UUID, use) })
			if err != nil {
				return fmt.Errorf("have server %s provide %s: %w", s.info.UUID, TagName, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// nic is a NIC that was asked for.
type nic struct {
	instance string
	asked    time.Time
	told     <-chan time.Time
	mac      string // empty: the head node did not acknowledge it
}

// NICs has so many NICs made, by as many clients at once, spread over the servers, and
// waits until the servers know of them. It gives the MACs of those that the head node
// acknowledged, and how long the requests took. What fails is counted and not made
// again.
func (f *Fleet) NICs(ctx context.Context, count, atOnce int) (macs []string, took time.Duration) {
	made := make([]nic, count)
	begun := time.Now()
	var g errgroup.Group
	g.SetLimit(min(atOnce, cap(f.operators)))
	for i := range made {
		g.Go(func() error {
			if ctx.Err() == nil {
				made[i] = f.makeNIC(ctx, f.servers[i%len(f.servers)], i)
			}
			return nil
		})
	}
	_ = g.Wait() // no error: failures are counted
	took = time.Since(begun)
	late := time.NewTimer(lateAfter)
	defer late.Stop()
	for _, n := range made {
		if n.mac == "" {
			continue
		}
		macs = append(macs, n.mac)
		select {
		case at := <-n.told:
			f.seen.mu.Lock()
			f.seen.tell.add(at.Sub(n.asked))
			f.seen.mu.Unlock()
		case <-late.C:
			late.Reset(0) // for all others
			f.seen.failed("tell", fmt.Errorf("no server was told of NIC %s within %s", n.mac, lateAfter))
			f.seen.forget(n.instance)
		case <-ctx.Done():
			f.seen.forget(n.instance)
		}
	}
	return macs, took
}

// makeNIC asks for one NIC of an instance of its own.
func (f *Fleet) makeNIC(ctx context.Context, s *server, i int) nic {
	n := nic{instance: fmt.Sprintf("f1ee7000-0000-4000-a000-%08x%04x", uint32(time.Now().UnixNano()/1000), i&0xffff)}
	n.told = f.seen.expect(n.instance)
	err := f.operator(ctx, func(c *api.Client) error {
		n.asked = time.Now()
		out, err := c.NICs().Create(ctx, api.NetworkNIC{Owner: owner, BelongsTo: n.instance, BelongsToType: api.BelongsToOther,
			Server: s.info.UUID, Addresses: []api.NICAddress{{Network: NetworkName}}})
		n.mac = out.MAC
		return err
	})
	if err != nil {
		n.mac = ""
		f.seen.forget(n.instance)
		f.seen.failed("NIC", err)
		return n
	}
	f.seen.mu.Lock()
	f.seen.create.add(time.Since(n.asked))
	f.seen.mu.Unlock()
	f.event("NIC")
	return n
}

// DeleteNICs has NICs deleted.
func (f *Fleet) DeleteNICs(ctx context.Context, macs []string) error {
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(cap(f.operators))
	for _, mac := range macs {
		g.Go(func() error {
			err := f.insist(gctx, "NIC's deletion", func(c *api.Client) error { return c.NICs().Delete(gctx, mac) })
			if err != nil && codeOf(err) != api.CodeNotFound { // the answer to an earlier request was lost
				return fmt.Errorf("delete NIC %s: %w", mac, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// Lost says what the head node acknowledged and does not have: NICs by MAC, and of
// each server that syncs its lease, its boot, its report and an operator's decisions.
// The fleet must be at rest.
func (f *Fleet) Lost(ctx context.Context, macs []string) ([]string, error) {
	var lost []string
	nics, err := f.nics(ctx)
	if err != nil {
		return nil, err
	}
	for _, mac := range macs {
		if !nics[mac] {
			lost = append(lost, "NIC "+mac)
		}
	}
	known, err := f.known(ctx)
	if err != nil {
		return nil, err
	}
	for _, s := range f.servers {
		if State(s.state.Load()) != Syncing {
			continue
		}
		s.mu.Lock()
		bootID, address, rep, sent, approved := s.bootID, s.address.String(), s.acked, s.rep, s.approved
		s.mu.Unlock()
		v, there := known[s.info.UUID]
		switch {
		case !there:
			lost = append(lost, "server "+s.info.UUID)
		case v.Address != address:
			lost = append(lost, fmt.Sprintf("lease of %s: acknowledged %s, is %q", s.info.UUID, address, v.Address))
		case v.BootID != bootID:
			lost = append(lost, fmt.Sprintf("boot of %s: acknowledged %s, is %q", s.info.UUID, bootID, v.BootID))
		case v.Report == nil || v.Report.BootID != rep.BootID || v.Report.AppliedSpec != rep.AppliedSpec && v.Report.AppliedSpec != sent.AppliedSpec:
			lost = append(lost, "report of "+s.info.UUID)
		case approved && !v.Approved:
			lost = append(lost, "approval of "+s.info.UUID)
		case rep.Setup != nil && rep.Setup.Complete && !v.SetUp:
			lost = append(lost, "setup of "+s.info.UUID)
		case v.Sysinfo == nil:
			lost = append(lost, "inventory of "+s.info.UUID)
		}
	}
	return lost, nil
}

// known are the servers that the head node knows, by UUID.
func (f *Fleet) known(ctx context.Context) (map[string]api.Server, error) {
	out := map[string]api.Server{}
	err := f.operator(ctx, func(c *api.Client) error {
		for v, err := range c.Servers(ctx) {
			if err != nil {
				return fmt.Errorf("list servers: %w", err)
			}
			out[v.UUID] = v
		}
		return nil
	})
	return out, err
}

// nics are the MACs of the fleet's NICs that the head node knows.
func (f *Fleet) nics(ctx context.Context) (map[string]bool, error) {
	out := map[string]bool{}
	err := f.operator(ctx, func(c *api.Client) error {
		for n, err := range c.NICs().All(ctx, url.Values{"owner": {owner}}) {
			if err != nil {
				return fmt.Errorf("list NICs: %w", err)
			}
			out[n.MAC] = true
		}
		return nil
	})
	return out, err
}
