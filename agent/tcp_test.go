package agent

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"nereid/api"
)

// TestOverTCP is the way from enrolment to a complete setup over real sockets
// and in real time, with HTTP/2 as the standard library's server speaks it.
func TestOverTCP(t *testing.T) {
	w, h, dir := newWorld(), newHeadNode(t), t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protos atomic.Int32
	srv := &http.Server{
		TLSConfig: h.tls.Clone(),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			protos.Store(int32(r.ProtoMajor))
			h.handle(w, r)
		}),
	}
	go func() { _ = srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() { srv.Close() })
	h.approved, h.spec = true, setupSpec("r1")
	h.boot.API = "https://" + l.Addr().String()
	r := start(t, w, h, dir, func(a *Agent) { a.Dial = nil })
	h.until("applied", func(s api.SyncRequest) bool { return complete(s) && s.Report.AppliedSpec == "r1" })
	if got := protos.Load(); got != 2 {
		t.Errorf("HTTP/%d, want 2", got)
	}
	r.stop()
	if _, _, enrols, _ := h.counts(); enrols != 1 || !strings.Contains(r.console.String(), "Enrolled") {
		t.Errorf("%d enrolments, console %q", enrols, r.console)
	}
}

// TestNobodyThere dials a port that is closed, by the agent's own dialer.
func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w, h := newWorld(), newHeadNode(t)
	h.boot.API = "https://" + l.Addr().String()
	l.Close()
	dialled := make(chan struct{}, 100)
	r := start(t, w, h, t.TempDir(), func(a *Agent) {
		a.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			select {
			case dialled <- struct{}{}:
			default:
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	})
	for range 3 {
		<-dialled
	}
	r.stop()
	if got := r.console.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "does not answer") {
		t.Errorf("console says %q", got)
	}
}
