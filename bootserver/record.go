package bootserver

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"nereid/api"
)

// recordTimeout bounds one write to the boot record.
const recordTimeout = 5 * time.Second

// record tells the Booter what the boot server saw. A client that hung up does
// not stop it: that the transfer happened stays true.
func (s *Server) record(ctx context.Context, bootID string, ev api.BootEvent) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTimeout)
	defer cancel()
	ev.Time = time.Now()
	if err := s.Booter.Record(ctx, bootID, netip.Addr{}, ev); err != nil {
		s.log().Warn("record boot event", "boot", bootID, "stage", string(ev.Stage), "err", err)
	}
}

func (s *Server) recordRefusal(ctx context.Context, bootID, why string) {
	if bootID != "" {
		s.record(ctx, bootID, api.BootEvent{Stage: api.StageRefused, Detail: clip(why)})
	}
}

// clip makes a text of a machine fit for a record: one line, valid UTF-8, at
// most 1000 bytes.
func clip(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) > 1000 {
		text = strings.ToValidUTF8(text[:1000], "")
	}
	return text
}

// inFlight is a set of boots whose configuration is being sent.
type inFlight struct {
	mu sync.Mutex
	m  map[string]bool
}

func (f *inFlight) start(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.m[id] {
		return false
	}
	if f.m == nil {
		f.m = map[string]bool{}
	}
	f.m[id] = true
	return true
}

func (f *inFlight) end(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.m, id)
}
