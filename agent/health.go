package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// health knows which goroutine is busy and until when it may be. One that is
// busy longer than it said is stuck; the watchdog then hears nothing more, and
// systemd restarts the agent.
type health struct {
	mu    sync.Mutex
	until map[string]time.Time
}

func newHealth() *health { return &health{until: map[string]time.Time{}} }

// busy says that task works and will be done, or say so again, within limit.
// The returned function says that it is done.
func (h *health) busy(task string, limit time.Duration) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.until[task] = time.Now().Add(limit)
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.until, task)
	}
}

// stuck names a task that is over its time; empty when there is none.
func (h *health) stuck(now time.Time) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for task, t := range h.until {
		if now.After(t) {
			return fmt.Sprintf("%s, %s over its time", task, now.Sub(t).Round(time.Second))
		}
	}
	return ""
}

// watch feeds the service manager's watchdog at half its period for as long as
// nothing is stuck. A period of zero means that there is no watchdog.
func (h *health) watch(ctx context.Context, period time.Duration, notify func(string) error, log *slog.Logger) {
	if period <= 0 {
		return
	}
	t := time.NewTicker(period / 2)
	defer t.Stop()
	for {
		if s := h.stuck(time.Now()); s != "" {
			log.Error("a goroutine is stuck; the watchdog is not fed", "task", s)
		} else if err := notify("WATCHDOG=1"); err != nil {
			log.Warn("feed watchdog", "err", err)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}
