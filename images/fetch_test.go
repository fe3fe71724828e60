package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nereid/api"
)

// server serves data, and lets each request go wrong as script says.
type server struct {
	*httptest.Server
	mu     sync.Mutex
	ranges []string // Range header of each request
	script []func(w http.ResponseWriter, r *http.Request, data []byte)
}

func serve(t *testing.T, data []byte, script ...func(http.ResponseWriter, *http.Request, []byte)) *server {
	t.Helper()
	s := &server{script: script}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.ranges = append(s.ranges, r.Header.Get("Range"))
		step := ok
		if len(s.script) > 0 {
			step, s.script = s.script[0], s.script[1:]
		}
		s.mu.Unlock()
		step(w, r, data)
	}))
	t.Cleanup(s.Close)
	return s
}

func ok(w http.ResponseWriter, r *http.Request, data []byte) {
	w.Header().Set("ETag", `"`+digestOf(data)+`"`)
	http.ServeContent(w, r, "x", time.Time{}, bytes.NewReader(data))
}

// cutAfter sends n bytes of the answer and then closes the connection.
func cutAfter(n int) func(http.ResponseWriter, *http.Request, []byte) {
	return func(w http.ResponseWriter, r *http.Request, data []byte) {
		ok(&cutter{ResponseWriter: w, left: n}, r, data)
	}
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

// whole ignores Range.
func whole(w http.ResponseWriter, r *http.Request, data []byte) {
	r.Header.Del("Range")
	ok(w, r, data)
}

func status(code int, text string) func(http.ResponseWriter, *http.Request, []byte) {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) { http.Error(w, text, code) }
}

func fetcher() *Fetcher {
	return &Fetcher{Client: http.DefaultClient, Attempts: 4, Sleep: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }}
}

func sinkFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "sink"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.WriteString("left from before"); err != nil {
		t.Fatal(err)
	}
	return f
}

func TestFetch(t *testing.T) {
	data := pattern(1 << 20)
	changed := bytes.Clone(data)
	changed[77] ^= 1
	serveOther := func(b []byte) func(http.ResponseWriter, *http.Request, []byte) {
		return func(w http.ResponseWriter, r *http.Request, _ []byte) { ok(w, r, b) }
	}
	for _, tt := range []struct {
		name   string
		script []func(http.ResponseWriter, *http.Request, []byte)
		ranges string // as the server saw them
		want   string // in the error; empty: success
	}{
		{name: "in one piece", ranges: "[]"},
		{name: "cut twice", script: []func(http.ResponseWriter, *http.Request, []byte){cutAfter(300_000), cutAfter(200_000)}, ranges: "[ bytes=300000- bytes=500000-]"},
		{name: "cut before the first byte", script: []func(http.ResponseWriter, *http.Request, []byte){cutAfter(0)}, ranges: "[ ]"},
		{name: "Range ignored", script: []func(http.ResponseWriter, *http.Request, []byte){cutAfter(300_000), whole}, ranges: "[ bytes=300000-]"},
		{name: "Range refused", script: []func(http.ResponseWriter, *http.Request, []byte){cutAfter(300_000), status(416, "no")}, ranges: "[ bytes=300000- ]"},
		{name: "busy, then there", script: []func(http.ResponseWriter, *http.Request, []byte){status(503, "starting"), status(502, "x")}, ranges: "[  ]"},
		{name: "file changed between", script: []func(http.ResponseWriter, *http.Request, []byte){
			func(w http.ResponseWriter, r *http.Request, _ []byte) { cutAfter(300_000)(w, r, changed) }}, ranges: "[ bytes=300000-]"},
		{name: "another range", script: []func(http.ResponseWriter, *http.Request, []byte){cutAfter(300_000), func(w http.ResponseWriter, r *http.Request, d []byte) {
			r.Header.Set("Range", "bytes=100-")
			r.Header.Del("If-Range")
			ok(w, r, d)
		}}, ranges: "[ bytes=300000- ]"},
		{name: "not found", script: []func(http.ResponseWriter, *http.Request, []byte){status(404, "no such file;\nimport it")}, want: "404: no such file; import it"},
		{name: "forbidden", script: []func(http.ResponseWriter, *http.Request, []byte){status(403, "not your address")}, want: "403: not your address"},
		{name: "busy for good", script: []func(http.ResponseWriter, *http.Request, []byte){status(503, "a"), status(503, "b"), status(503, "c"), status(503, "d")}, want: "503: d"},
		{name: "changed bytes", script: []func(http.ResponseWriter, *http.Request, []byte){serveOther(changed)}, want: "bytes have SHA-256"},
		{name: "truncated file", script: []func(http.ResponseWriter, *http.Request, []byte){serveOther(data[:1000])}, want: "size is 1000 bytes"},
		{name: "longer file", script: []func(http.ResponseWriter, *http.Request, []byte){serveOther(append(bytes.Clone(data), 1))}, want: "size is 1048577 bytes"},
		{name: "endless body", script: []func(http.ResponseWriter, *http.Request, []byte){func(w http.ResponseWriter, _ *http.Request, d []byte) {
			w.(http.Flusher).Flush() // chunked: no length
			_, _ = w.Write(d)
			_, _ = w.Write(d)
		}}, want: "more bytes than the 1048576 announced"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, data, tt.script...)
			f := sinkFile(t)
			var last Progress
			fe := fetcher()
			fe.Progress = func(p Progress) { last = p }
			err := fe.Fetch(t.Context(), s.URL, api.File{Name: "base.squashfs", SHA256: digestOf(data), Size: int64(len(data))}, f)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "base.squashfs") {
					t.Fatalf("error %v; want %q in it", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(f.Name())
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("%d bytes written, %v; want the %d served", len(got), err, len(data))
			}
			if r := fmt.Sprint(s.ranges); r != tt.ranges && tt.ranges != "[]" {
				t.Errorf("ranges asked for: %q; want %q", r, tt.ranges)
			}
			if last.Bytes != int64(len(data)) || last.Total != last.Bytes {
				t.Errorf("last progress: %+v", last)
			}
		})
	}
}

// A server that falls silent is cut, and the transfer goes on.
func TestFetchStalls(t *testing.T) {
	data := pattern(100_000)
	hang := make(chan struct{})
	s := serve(t, data, func(w http.ResponseWriter, r *http.Request, d []byte) {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(d[:5000])
		w.(http.Flusher).Flush()
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	})
	defer close(hang)
	f := fetcher()
	f.Idle = 50 * time.Millisecond
	var why error
	f.Retry = func(err error, _ time.Duration) { why = err }
	if err := f.Fetch(t.Context(), s.URL, api.File{Name: "x", SHA256: digestOf(data), Size: 100_000}, sinkFile(t)); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(why, errStalled) {
		t.Errorf("retried for %v", why)
	}
}

func TestFetchEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := &Fetcher{Client: http.DefaultClient, Retry: func(error, time.Duration) { cancel() }}
	s := serve(t, nil, status(503, "starting"))
	err := f.Fetch(ctx, s.URL, api.File{Name: "x", SHA256: digestOf(nil), Size: 1}, sinkFile(t))
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "starting") {
		t.Errorf("error %v; want the context's and the last reason", err)
	}
}

type brokenSink struct{ io.WriterAt }

func (brokenSink) Truncate(int64) error               { return nil }
func (brokenSink) WriteAt([]byte, int64) (int, error) { return 0, io.ErrShortWrite }

func TestFetchSinkBreaks(t *testing.T) {
	s := serve(t, pattern(10))
	err := fetcher().Fetch(t.Context(), s.URL, api.File{Name: "x", SHA256: digestOf(pattern(10)), Size: 10}, brokenSink{})
	if !errors.Is(err, io.ErrShortWrite) || len(s.ranges) != 1 {
		t.Errorf("%v after %d requests; want one and the sink's error", err, len(s.ranges))
	}
}

func TestGet(t *testing.T) {
	s := serve(t, []byte("manifest"), status(503, "starting"), ok, status(410, "used"), ok)
	f := fetcher()
	if b, err := f.Get(t.Context(), s.URL, 100); err != nil || string(b) != "manifest" {
		t.Errorf("%q %v", b, err)
	}
	var st *StatusError
	if _, err := f.Get(t.Context(), s.URL, 100); !errors.As(err, &st) || st.Status != 410 || st.Body != "used" {
		t.Errorf("%v", err)
	}
	var size *SizeError
	if _, err := f.Get(t.Context(), s.URL, 7); !errors.As(err, &size) {
		t.Errorf("too long: %v", err)
	}
}

func TestBackoff(t *testing.T) {
	b := Backoff{Rand: func() float64 { return 0 }}
	var got []time.Duration
	for range 8 {
		got = append(got, b.Next()/time.Second)
	}
	if s := fmt.Sprint(got); s != "[1ns 2ns 4ns 8ns 16ns 32ns 60ns 60ns]" {
		t.Errorf("delays %s", s)
	}
	for range 100 {
		if d := b.Next(); d != time.Minute {
			t.Fatalf("delay %v", d)
		}
	}
	b.Reset()
	b.Rand = func() float64 { return 0.999 }
	if d := b.Next(); d < 750*time.Millisecond || d >= time.Second {
		t.Errorf("first delay with jitter: %v", d)
	}
}
