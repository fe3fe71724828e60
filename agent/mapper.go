package agent

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"time"

	"nereid/agent/identity"
	"nereid/agent/network"
	"nereid/api"
)

// mapper is the goroutine that follows the maps of the VNIs this server hosts, all
// of them in one long poll.
type mapper struct {
	a       *Agent
	n       *networker
	base    *url.URL
	trust   identity.Trust
	cert    *identity.Certificate
	head    *head
	backoff backoff
	late    []api.FabricMap // that the kernel did not take; they are applied again
}

// run follows until ctx ends. What it got before stays in use while the head node
// is away.
func (m *mapper) run(ctx context.Context) error {
	m.backoff = backoff{min: 500 * time.Millisecond, max: 10 * time.Second}
	defer func() { m.head.close() }()
	for ctx.Err() == nil {
		vnis := *m.n.vnis.Load()
		if len(vnis) == 0 {
			select {
			case <-m.n.news:
			case <-ctx.Done():
			}
			continue
		}
		if !m.connected() {
			m.wait(ctx, m.backoff.next())
			continue
		}
		m.wait(ctx, m.turn(ctx, vnis))
	}
	return nil
}

// wait waits, but not when there are other VNIs to follow.
func (m *mapper) wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-m.n.news:
	case <-ctx.Done():
	}
}

// connected has a client with the certificate that is in use now.
func (m *mapper) connected() bool {
	c := m.a.cert.Load()
	if c == nil {
		return false
	}
	if c != m.cert {
		m.head.close()
		m.cert, m.head = c, newHead(m.base, m.trust, c, false, m.a.Dial)
	}
	return true
}

// turn is one poll. It returns how long to wait before the next. What failed before
// is tried first, and again soon: nothing else would come to repair it.
func (m *mapper) turn(ctx context.Context, vnis []uint32) time.Duration {
	limit := heldTimeout
	if m.apply(ctx, m.late); len(m.late) > 0 {
		limit = m.backoff.next()
	}
	pctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stopped := make(chan struct{})
	watched := make(chan struct{})
	go func() { // a poll for yesterday's VNIs is of no use
		defer close(watched)
		select {
		case <-m.n.news:
			cancel()
		case <-stopped:
		}
	}()
	defer func() {
		close(stopped)
		<-watched
	}()
	req := api.MapsRequest{}
	for _, v := range vnis {
		f := api.MapFollow{VNI: v}
		if epoch, since, known := m.a.Net.Maps.MapState(v); known {
			f.Epoch, f.Since = epoch, since
		}
		req.Follow = append(req.Follow, f)
	}
	var out api.MapsResponse
	begun := time.Now()
	_, err := m.head.call(pctx, http.MethodPost, "/v1/servers/"+m.a.UUID+"/maps", req, &out, nil)
	if err != nil {
		if ctx.Err() == nil && pctx.Err() == nil {
			m.a.Log.Info("follow maps", "err", err)
			return m.backoff.next()
		}
		return 0
	}
	if m.apply(ctx, slices.Concat(m.late, out.Maps)); len(m.late) > 0 || (len(out.Maps) == 0 && time.Since(begun) < quickAnswer) {
		return m.backoff.next()
	}
	m.backoff.reset()
	return 0
}

// apply hands maps to the kernel. Those that it does not take are late.
func (m *mapper) apply(ctx context.Context, maps []api.FabricMap) {
	m.late = nil
	for _, fm := range maps {
		err := m.a.Net.Links.ApplyMap(ctx, fm.VNI, fm)
		if err != nil && !errors.Is(err, network.ErrUnknownVNI) && ctx.Err() == nil {
			m.a.Log.Error("apply map", "vni", fm.VNI, "version", fm.Version, "err", err)
			m.late = append(m.late, fm)
		}
	}
	if len(maps) > 0 {
		poke(m.n.seen.maps)
	}
}
