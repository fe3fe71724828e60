package bootserver_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
	"nereid/bootserver"
)

// busy refuses every event, as the head node does those beyond a boot's share.
type busy struct {
	bootserver.Booter
	recorded int
}

func (b *busy) Record(context.Context, string, netip.Addr, api.BootEvent) error {
	b.recorded++
	return &api.Problem{Title: "Too many", Status: http.StatusTooManyRequests, Code: api.CodeUnavailable, Detail: "this boot reports more than 10 events a second", Next: "report less often"}
}

// TestTooManyEvents: who reports too much is answered a second later, so that few
// connections ask seldom, and the refusal is no further event of the boot.
func TestTooManyEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &busy{}
		h := (&bootserver.Server{Booter: b}).Handler()
		began := time.Now()
		for range 3 {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/boot/mfrggzdfmztwq2lknnwg23tpoa/event", strings.NewReader(`{"stage":"stub"}`))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusTooManyRequests || !strings.Contains(w.Body.String(), "report less often") {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
		}
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("three refusals took %v, want a second each", d)
		}
		if b.recorded != 3 {
			t.Errorf("%d events were recorded for 3 reports", b.recorded)
		}
		// Who hangs up is not waited for.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		began = time.Now()
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodPost, "/boot/mfrggzdfmztwq2lknnwg23tpoa/event", strings.NewReader(`{"stage":"stub"}`)))
		if time.Since(began) != 0 {
			t.Error("a client that is gone is waited for")
		}
	})
}
