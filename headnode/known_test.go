package headnode

import (
	"context"
	"testing"
	"time"
)

// TestKnown: a server of the inventory is known as long as it is one; a machine that
// only asks for addresses is not.
func TestKnown(t *testing.T) {
	h := startHead(t)
	h.platform("20261122T101500Z")
	m, stranger := h.machine(1), h.machine(2)
	m.powerOn()
	stranger.dhcp("")
	until := func(want bool) {
		t.Helper()
		limit := time.After(10 * time.Second)
		for h.Known(m.mac) != want {
			select {
			case <-limit:
				t.Fatalf("%s is known: %v, want %v", m.mac, !want, want)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	until(false)
	if _, _, err := m.enrol(); err != nil {
		t.Fatal(err)
	}
	until(true)
	if h.Known(stranger.mac) {
		t.Error("a stranger is known")
	}
	if err := h.client.ForgetServer(context.Background(), m.uuid); err != nil {
		t.Fatal(err)
	}
	until(false)
}
