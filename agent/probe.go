package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"nereid/api"
)

// probeLimit bounds all probes of a sync, which waits for them.
const probeLimit = 4 * time.Second

// probe does what the head node wants to have measured, all at once.
func (n *Net) probe(ctx context.Context, asked []api.Probe) []api.ProbeResult {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	results := make([]api.ProbeResult, min(len(asked), api.MaxProbes))
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			results[i].ID = asked[i].ID
			bytes, err := n.measure(ctx, asked[i])
			if results[i].Bytes = bytes; err != nil {
				results[i].Error = err.Error()
			}
		})
	}
	wg.Wait()
	return results
}

func (n *Net) measure(ctx context.Context, p api.Probe) (int, error) {
	if n.PathMTU == nil {
		return 0, fmt.Errorf("probe: %w on this platform", errors.ErrUnsupported)
	}
	from, err := netip.ParseAddr(p.From)
	if err != nil {
		return 0, fmt.Errorf("probe: %w", err)
	}
	to, err := netip.ParseAddr(p.To)
	if err != nil {
		return 0, fmt.Errorf("probe: %w", err)
	}
	return n.PathMTU(ctx, from, to, p.Bytes)
}
