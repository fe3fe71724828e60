package stub

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func request(t *testing.T, ctx context.Context, url string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("question"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPlainHTTP(t *testing.T) {
	hang := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || string(b) != "question" || !r.Close {
			t.Errorf("the server saw %q, %v, close %v", b, err, r.Close)
		}
		switch r.URL.Path {
		case "/silent":
			<-hang
		case "/stalls":
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write([]byte("half"))
			w.(http.Flusher).Flush()
			<-hang
		default:
			_, _ = w.Write([]byte("answer"))
		}
	}))
	defer s.Close()
	defer close(hang)
	c := &plainHTTP{header: 100 * time.Millisecond}

	resp, err := c.Do(request(t, t.Context(), s.URL+"/"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "answer" {
		t.Errorf("answer %q %v", b, err)
	}
	for range 2 {
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
	}

	var timeout net.Error
	if _, err := c.Do(request(t, t.Context(), s.URL+"/silent")); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("silent server: %v", err)
	}

	ctx, cancel := context.WithCancelCause(t.Context())
	resp, err = c.Do(request(t, ctx, s.URL+"/stalls"))
	if err != nil {
		t.Fatal(err)
	}
	half := make([]byte, 4)
	if _, err := io.ReadFull(resp.Body, half); err != nil || string(half) != "half" {
		t.Errorf("half: %q %v", half, err)
	}
	cancel(errors.New("enough"))
	if _, err := resp.Body.Read(half); err == nil {
		t.Error("a body was read after its context ended")
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Do(request(t, ctx, s.URL+"/")); err == nil {
		t.Error("a request was sent after its context ended")
	}
	if _, err := c.Do(request(t, t.Context(), "https://127.0.0.1/")); err == nil || !strings.Contains(err.Error(), "plain http only") {
		t.Errorf("https: %v", err)
	}
}
