package fleet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"nereid/api"
)

// follower is what a server follows beside its spec, and the one place that knows how:
// the maps of the VNIs that it hosts, in a poll of their own. It keeps versions, and
// of the ports whose they are, and no map.
type follower struct {
	f *Fleet

	mu     sync.Mutex
	uuid   string
	agent  *api.Client // nil: not connected
	ports  map[string]bool
	vnis   []uint32
	at     map[uint32]api.MapFollow
	change chan struct{} // one slot: vnis or agent changed
}

func newFollower(f *Fleet) *follower {
	return &follower{f: f, ports: map[string]bool{}, at: map[uint32]api.MapFollow{}, change: make(chan struct{}, 1)}
}

// connect takes a client with the server's certificate, for the follower alone.
func (w *follower) connect(uuid string, agent *api.Client) {
	w.close()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uuid, w.agent = uuid, agent
	w.poke()
}

func (w *follower) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.agent != nil {
		w.agent.Close()
	}
	w.agent = nil
}

// poke is told that a poll for what was wanted is of no use.
func (w *follower) poke() {
	select {
	case w.change <- struct{}{}:
	default:
	}
}

// spec takes the network that is wanted, and gives the ids of the NICs that are gone.
func (w *follower) spec(n *api.NetworkSpec) (gone []string) {
	if n == nil {
		return nil
	}
	w.mu.Lock()
	ports, news := map[string]bool{}, []string(nil)
	for _, p := range n.Ports {
		ports[p.Instance] = true
		if !w.ports[p.Instance] {
			news = append(news, p.Instance)
		}
	}
	w.ports = ports
	var vnis []uint32
	for _, v := range n.VNIs {
		vnis = append(vnis, v.VNI)
	}
	if !slices.Equal(vnis, w.vnis) {
		w.vnis = vnis
		maps.DeleteFunc(w.at, func(v uint32, _ api.MapFollow) bool { return !slices.Contains(vnis, v) })
		w.poke()
	}
	w.mu.Unlock()
	w.f.seen.told(news, time.Now())
	for _, g := range n.Gone {
		gone = append(gone, g.ID)
	}
	return gone
}

// versions are those of the maps in use, as a report has them.
func (w *follower) versions() map[uint32]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[uint32]string{}
	for v, at := range w.at {
		out[v] = fmt.Sprintf("%s:%d", at.Epoch, at.Since)
	}
	return out
}

// run follows until ctx ends.
func (w *follower) run(ctx context.Context) {
	wait := backoff{min: 500 * time.Millisecond, max: 10 * time.Second}
	for ctx.Err() == nil {
		w.mu.Lock()
		agent, uuid, req := w.agent, w.uuid, api.MapsRequest{}
		for _, v := range w.vnis {
			at := w.at[v]
			at.VNI = v
			req.Follow = append(req.Follow, at)
		}
		w.mu.Unlock()
		if agent == nil || len(req.Follow) == 0 {
			select {
			case <-w.change:
			case <-ctx.Done():
			}
			continue
		}
		out, changed, err := w.poll(ctx, agent, uuid, req)
		switch {
		case ctx.Err() != nil:
			return
		case changed:
			continue
		case err != nil:
			w.f.seen.failed("maps", err)
			pause(ctx, wait.next())
			continue
		}
		wait = backoff{min: wait.min, max: wait.max}
		w.took(out.Maps)
	}
}

// poll is one long poll. It ends when other sets are wanted.
func (w *follower) poll(ctx context.Context, agent *api.Client, uuid string, req api.MapsRequest) (out api.MapsResponse, changed bool, err error) {
	pctx, cancel := context.WithCancel(ctx)
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		out, err = agent.Maps(pctx, uuid, req)
	}()
	select {
	case <-w.change:
		changed = true
	case <-answered:
	}
	cancel()
	<-answered
	return out, changed, err
}

// took notes the versions of maps.
func (w *follower) took(maps []api.FabricMap) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range maps {
		if slices.Contains(w.vnis, m.VNI) {
			w.at[m.VNI] = api.MapFollow{VNI: m.VNI, Epoch: m.Epoch, Since: m.Version}
		}
	}
}
