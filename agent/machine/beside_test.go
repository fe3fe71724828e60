package machine

import (
	"context"
	"testing"
	"time"

	"nereid/agent/agenttest"
	"nereid/api"
)

// slowStore keeps no spec before the unit was started.
type slowStore struct {
	*agenttest.Zones
	started chan struct{}
}

func (s slowStore) KeepSpec(ctx context.Context, uuid string, spec []byte) error {
	select {
	case <-s.started:
	case <-ctx.Done():
		return ctx.Err()
	}
	return s.Zones.KeepSpec(ctx, uuid, spec)
}

func (s slowStore) Start(ctx context.Context, name, dir string, l api.Limits) error {
	close(s.started)
	return s.Zones.Start(ctx, name, dir, l)
}

// TestKeptBeside: an instance that is started again does not wait until the change of its
// spec is kept, but is said to run when both are done; a new one is started when its spec
// is kept, and not before.
func TestKeptBeside(t *testing.T) {
	s := newServer(t)
	spec := specOf("a")
	s.set(s.with(spec, func(c *api.InstanceSpec) { c.Wanted = api.InstanceStopped }), "a")
	store := slowStore{s.zones, make(chan struct{})}
	s.m.Store, s.m.Units = store, store
	st, _ := s.set(Wanted{Spec: spec}, "a")
	if kept := s.m.Kept("a"); st.State != api.InstanceRunning || kept == nil || kept.Wanted != api.InstanceRunning {
		t.Errorf("it is %s, and kept is %+v", st.State, kept)
	}

	n := newServer(t)
	store = slowStore{n.zones, make(chan struct{})}
	n.m.Store, n.m.Units = store, store
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := n.m.Set(ctx, "b", Wanted{Spec: specOf("b")}); err == nil {
		t.Error("a new one whose spec is not kept is there")
	}
	select {
	case <-store.started:
		t.Error("a new one was started before its spec was kept")
	default:
	}
}
