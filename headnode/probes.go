package headnode

import (
	"context"
	"crypto/rand"
	"net/http"
	"sync"
	"time"

	"nereid/api"
)

// probeWait is how long a server has to answer a probe: its next sync comes at once,
// and it may measure for agent.probeLimit.
const probeWait = 6 * time.Second

// probes are what servers are asked to measure. They are in memory only: when the
// head node ends, so does who asked.
type probes struct {
	mu      sync.Mutex
	servers map[string]*probed
}

type probed struct {
	asked   []*probe
	changed chan struct{} // closed and replaced when there is more to ask
}

type probe struct {
	api.Probe
	answer chan api.ProbeResult // one slot
}

func (p *probes) of(server string) *probed {
	if p.servers == nil {
		p.servers = map[string]*probed{}
	}
	s := p.servers[server]
	if s == nil {
		s = &probed{changed: make(chan struct{})}
		p.servers[server] = s
	}
	return s
}

// ask has a server measure something and waits for what comes of it.
func (p *probes) ask(ctx context.Context, server string, what api.Probe) (api.ProbeResult, error) {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	q := &probe{what, make(chan api.ProbeResult, 1)}
	q.ID = rand.Text()
	p.mu.Lock()
	s := p.of(server)
	if len(s.asked) >= api.MaxProbes {
		p.mu.Unlock()
		return api.ProbeResult{}, refuse(http.StatusTooManyRequests, api.CodeConflict, "try again in some seconds", "the server measures for %d others already", api.MaxProbes)
	}
	s.asked = append(s.asked, q)
	close(s.changed)
	s.changed = make(chan struct{})
	p.mu.Unlock()
	defer p.drop(server, q.ID)
	select {
	case r := <-q.answer:
		return r, nil
	case <-ctx.Done():
		return api.ProbeResult{}, ctx.Err()
	}
}

// pending are the probes that a server has not answered, and a channel that is
// closed when there is another.
func (p *probes) pending(server string) ([]api.Probe, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.of(server)
	var out []api.Probe
	for _, q := range s.asked {
		out = append(out, q.Probe)
	}
	return out, s.changed
}

// answered hands over what a server has measured. What nobody waits for is dropped.
func (p *probes) answered(server string, results []api.ProbeResult) {
	for _, r := range results {
		if q := p.drop(server, r.ID); q != nil {
			q.answer <- r // it was taken out of the list: there is one sender
		}
	}
}

// drop takes a probe out of the list; nil when it is not there any more.
func (p *probes) drop(server, id string) *probe {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.servers[server]
	if s == nil {
		return nil
	}
	for i, q := range s.asked {
		if q.ID == id {
			s.asked = append(s.asked[:i:i], s.asked[i+1:]...)
			return q
		}
	}
	return nil
}
