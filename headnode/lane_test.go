package headnode

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// lanes is a store that notes which Updates go behind others.
type lanes struct {
	store.Store
	mu            sync.Mutex
	front, behind int
}

func (l *lanes) Update(ctx context.Context, fn func(store.Tx) error) error {
	l.mu.Lock()
	if store.IsBehind(ctx) {
		l.behind++
	} else {
		l.front++
	}
	l.mu.Unlock()
	return l.Store.Update(ctx, fn)
}

func (l *lanes) taken() (front, behind int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	front, behind = l.front, l.behind
	l.front, l.behind = 0, 0
	return front, behind
}

// TestStrangersWriteBehindServers: whatever a machine makes the head node write from
// its first DHCP message until it enrols goes behind what others write, until it is a
// server; then nothing does that its boot waits for.
func TestStrangersWriteBehindServers(t *testing.T) {
	l := &lanes{}
	h := startIn(t, initDir(t, 250), func(s *Server) { l.Store, s.store = s.store, l })
	h.platform("20261122T101500Z")
	m := h.machine(1)
	l.taken()
	m.powerOn()
	if front, behind := l.taken(); front != 0 || behind == 0 {
		t.Errorf("a stranger's boot: %d writes before others, %d behind them", front, behind)
	}
	if _, err := h.Boot(t.Context(), api.BootRequest{Kind: api.KindDecline, MAC: m.mac, Requested: m.addr}); err != nil {
		t.Fatal(err)
	}
	if front, behind := l.taken(); front != 0 || behind != 1 {
		t.Errorf("its DECLINE: %d writes before others, %d behind them", front, behind)
	}
	m.powerOn()
	if _, _, err := m.enrol(); err != nil {
		t.Fatal(err)
	}
	if err := h.client.ApproveServer(t.Context(), m.uuid, ""); err != nil {
		t.Fatal(err)
	}
	if status, _, err := m.enrol(); status != http.StatusOK || err != nil {
		t.Fatalf("enrol: %d %v", status, err)
	}
	m.mustSync()
	for limit := time.After(10 * time.Second); !h.Known(m.mac); {
		select {
		case <-limit:
			t.Fatal("its MAC is not known")
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := h.flushBoots(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.taken()
	m.powerOn()
	if front, behind := l.taken(); front == 0 || behind > 1 { // events that are written later
		t.Errorf("a server's boot: %d writes before others, %d behind them", front, behind)
	}
}
