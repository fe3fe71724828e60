package fleet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"nereid/api"
)

// follower is what a server follows beside its spec, and the one place that knows how:
// the set of its ports, in the sync, and the maps of the VNIs that it hosts, in a poll
// of their own. It keeps versions, and of the ports whose they are, and no map.
type follower struct {
	f *Fleet

	mu     sync.Mutex
	uuid   string
	agent  *api.Client       // nil: not connected
	set    api.Follow        // of the server's ports
	ports  map[string]string // instances, by key of the set
	vnis   []uint32
	at     map[uint32]api.MapFollow
	change chan struct{} // one slot: vnis or agent changed
}

func newFollower(f *Fleet) *follower {
	return &follower{f: f, ports: map[string]string{}, at: map[uint32]api.MapFollow{}, change: make(chan struct{}, 1)}
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

// sets is what a sync asks for. The server keeps nothing over a boot of its own, and
// acknowledges what it was told at once.
func (w *follower) sets(uuid string) []api.Follow {
	w.mu.Lock()
	defer w.mu.Unlock()
	if set := api.PortSet(uuid); w.set.Set != set {
		w.set = api.Follow{Set: set}
	}
	if w.set.Toward == 0 {
		w.set.Kept = w.set.Since
	}
	return []api.Follow{w.set}
}

// deltas takes what a sync brought of the sets.
func (w *follower) deltas(all []api.Delta) {
	var news []string
	w.mu.Lock()
	for _, d := range all {
		if d.Set != w.set.Set {
			continue
		}
		for _, key := range d.Gone {
			delete(w.ports, key)
		}
		for _, value := range d.Put {
			var p api.PortSpec
			if err := json.Unmarshal(value, &p); err != nil {
				w.f.seen.failed("ports", err)
				continue
			}
			key := api.PortKey(p.MAC, p.Instance)
			if _, known := w.ports[key]; !known {
				news = append(news, p.Instance)
			}
			w.ports[key] = p.Instance
		}
		w.set = w.set.Take(d)
	}
	w.mu.Unlock()
	w.f.seen.ports(news, time.Now())
}

// portsAt is the version of the ports, as a report has it.
func (w *follower) portsAt() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprintf("%s:%d", w.set.Epoch, w.set.Since)
}

// spec takes the network that is wanted.
func (w *follower) spec(n *api.NetworkSpec) {
	if n == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var vnis []uint32
	for _, v := range n.VNIs {
		vnis = append(vnis, v.VNI)
	}
	if !slices.Equal(vnis, w.vnis) {
		w.vnis = vnis
		maps.DeleteFunc(w.at, func(v uint32, _ api.MapFollow) bool { return !slices.Contains(vnis, v) })
		w.poke()
	}
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
