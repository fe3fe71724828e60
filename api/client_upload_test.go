package api

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// uploads is the head node's side of an upload, with faults.
type uploads struct {
	have   []byte
	total  int64
	puts   []string
	meddle func(n int, w http.ResponseWriter, r *http.Request) (handled bool) // n-th PUT, from 1
	head   func(w http.ResponseWriter) (handled bool)
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodHead {
		if u.head != nil && u.head(w) {
			return
		}
		if int64(len(u.have)) == u.total {
			w.Header().Set("Content-Length", strconv.FormatInt(u.total, 10))
		} else {
			w.Header().Set("Upload-Offset", strconv.Itoa(len(u.have)))
		}
		return
	}
	u.puts = append(u.puts, r.Header.Get("Content-Range"))
	if u.meddle != nil && u.meddle(len(u.puts), w, r) {
		return
	}
	var from, to, total int
	if n, _ := fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); n != 3 || int64(total) != u.total || r.ContentLength != int64(to-from+1) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if from != len(u.have) {
		w.Header().Set("Upload-Offset", strconv.Itoa(len(u.have)))
		w.WriteHeader(http.StatusConflict)
		return
	}
	b, _ := io.ReadAll(r.Body)
	u.have = append(u.have, b...)
}

func TestUpload(t *testing.T) {
	body, f := content(2*uploadChunk + 1234)
	for _, tt := range []struct {
		name  string
		start int
		u     uploads
		puts  int
		want  string // of the error
	}{
		{name: "from nothing", puts: 3},
		{name: "resumed", start: uploadChunk + 5, puts: 2},
		{name: "all there", start: len(body), puts: 0},
		{name: "no record yet", u: uploads{head: func(w http.ResponseWriter) bool { w.WriteHeader(404); return true }}, puts: 3},
		{name: "cut within a chunk", puts: 4, u: uploads{meddle: func(n int, _ http.ResponseWriter, r *http.Request) bool {
			if n == 2 {
				_, _ = io.CopyN(io.Discard, r.Body, 1000)
				panic(http.ErrAbortHandler)
			}
			return false
		}}},
		{name: "busy for a while", puts: 5, u: uploads{meddle: func(n int, w http.ResponseWriter, _ *http.Request) bool {
			if n <= 2 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			return n <= 2
		}}},
		{name: "never any progress", puts: uploadTries, want: "no progress in 6 tries", u: uploads{meddle: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}}},
		{name: "disk full", puts: 1, want: "upload base.squashfs: the head node answered 507", u: uploads{meddle: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusInsufficientStorage)
			return true
		}}},
		{name: "more there than it has", puts: 0, want: "has 99999999 bytes of a file of", u: uploads{head: func(w http.ResponseWriter) bool {
			w.Header().Set("Upload-Offset", "99999999")
			return true
		}}},
		{name: "nonsense for an offset", puts: 0, want: `upload offset "-1"`, u: uploads{head: func(w http.ResponseWriter) bool {
			w.Header().Set("Upload-Offset", "-1")
			return true
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := tt.u
			u.total, u.have = f.Size, append([]byte(nil), body[:tt.start]...)
			c := serve(t, u.ServeHTTP)
			last := int64(-1)
			err := c.Upload(t.Context(), f, bytes.NewReader(body), func(n int64) { last = n })
			switch {
			case tt.want != "":
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			case err != nil:
				t.Error(err)
			case tt.start < len(body) && !bytes.Equal(u.have, body):
				t.Errorf("the head node has other bytes (%d of %d)", len(u.have), len(body))
			case last != f.Size:
				t.Errorf("progress ended at %d, want %d", last, f.Size)
			}
			if len(u.puts) != tt.puts {
				t.Errorf("%d PUTs, want %d: %v", len(u.puts), tt.puts, u.puts)
			}
		})
	}
}

func TestUploadSlowButSteady(t *testing.T) {
	// Every chunk needs as many tries as there may be without progress, less one.
	body, f := content(3 * uploadChunk)
	u := &uploads{total: f.Size}
	u.meddle = func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n%(uploadTries-1) != 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	if err := serve(t, u.ServeHTTP).Upload(t.Context(), f, bytes.NewReader(body), nil); err != nil {
		t.Error(err)
	}
}

func TestUploadEndsWithContext(t *testing.T) {
	body, f := content(100)
	ctx, cancel := context.WithCancel(t.Context())
	u := &uploads{total: f.Size, meddle: func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		cancel()
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}}
	c := serve(t, u.ServeHTTP)
	c.Retry = time.Hour // not waited for
	if err := c.Upload(ctx, f, bytes.NewReader(body), nil); err == nil || !strings.HasPrefix(err.Error(), "upload base.squashfs: ") {
		t.Errorf("got %v", err)
	}
}
