package bootserver

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"nereid/api"
)

// chunk is how much of a file goes out between two looks at the clock, in bytes.
const chunk = 4 << 20

// serveFile sends immutable bytes by digest; ?boot=ID adds the transfer to that
// boot's record. The name in the path is for people.
func (s *Server) serveFile(w http.ResponseWriter, r *http.Request) {
	sha256, name := r.PathValue("sha256"), r.PathValue("name")
	if !digestPattern.MatchString(sha256) || !namePattern.MatchString(name) {
		s.refuse(w, r, "", notFound("this is not the path of a file", "use /files/SHA256/NAME with 64 lower-case hexadecimal digits"))
		return
	}
	id := r.URL.Query().Get("boot")
	if !bootIDPattern.MatchString(id) {
		id = ""
	}
	f, err := s.Files.Open(r.Context(), sha256)
	if err != nil {
		s.fail(w, r, id, "file "+name, err)
		return
	}
	defer func() { _ = f.Close() }() // opened for reading
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err != nil {
		s.fail(w, r, id, "file "+name, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("ETag", `"`+sha256+`"`)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	t := &transfer{ResponseWriter: w, rc: http.NewResponseController(w), began: time.Now()}
	http.ServeContent(t, r, "", time.Time{}, f)
	s.noteTransfer(r, t, id, sha256, name, st.Size())
}

// noteTransfer logs a transfer and adds it to the boot's record, as what it was:
// whole, a part, resumed, or cut.
func (s *Server) noteTransfer(r *http.Request, t *transfer, id, sha256, name string, size int64) {
	if r.Method == http.MethodHead || (t.status != http.StatusOK && t.status != http.StatusPartialContent) {
		return
	}
	seconds := time.Since(t.began).Seconds()
	first, want := t.extent(size)
	detail := name
	switch {
	case t.sent < want && first == 0:
		detail = fmt.Sprintf("%s, cut after %d of %d bytes", name, t.sent, size)
	case t.sent < want:
		detail = fmt.Sprintf("%s, resumed at byte %d, cut after %d more of %d bytes", name, first, t.sent, size)
	case first > 0 && first+want == size:
		detail = fmt.Sprintf("%s, resumed at byte %d", name, first)
	case want < size:
		detail = fmt.Sprintf("%s, bytes %d to %d of %d", name, first, first+want-1, size)
	}
	s.log().Info("file sent", "client", r.RemoteAddr, "file", name, "bytes", t.sent, "seconds", seconds, "detail", detail, "boot", id)
	if id == "" {
		return
	}
	from, err := client(r)
	if err != nil {
		return
	}
	b := s.filesOf(r.Context(), id, from)
	if b == nil {
		return
	}
	stage, ok := b.stage[sha256]
	if !ok {
		return
	}
	if have := b.sent(sha256, first, t.sent); have == size && t.sent < size && first+t.sent == size {
		detail += ", complete now"
	}
	s.record(r.Context(), id, api.BootEvent{Stage: stage, Detail: detail, Bytes: t.sent, Seconds: seconds})
}

// filesOf is what a boot may fetch, when the request comes from its machine.
func (s *Server) filesOf(ctx context.Context, id string, from netip.Addr) *bootFiles {
	b, ok := s.boots.get(id)
	if !ok {
		// Not seen since this process started.
		plan, err := s.Booter.Plan(context.WithoutCancel(ctx), id, from)
		if err != nil || plan.Manifest == nil {
			return nil
		}
		b = newBootFiles(plan, from)
		s.boots.put(id, b, ofStranger)
	}
	if b.from != from {
		return nil
	}
	return b
}

// transfer counts what a response sent and moves its deadline along, so that a
// slow client may take long but a silent one may not. Files still leave by
// sendfile: ReadFrom hands them on in chunks.
type transfer struct {
	http.ResponseWriter
	rc     *http.ResponseController
	began  time.Time
	status int
	sent   int64
}

func (t *transfer) WriteHeader(status int) {
	t.status = status
	t.ResponseWriter.WriteHeader(status)
}

func (t *transfer) Write(p []byte) (int, error) {
	t.alive()
	n, err := t.ResponseWriter.Write(p)
	t.sent += int64(n)
	return n, err
}

// ReadFrom copies src, which http.ServeContent gives as an io.LimitedReader.
func (t *transfer) ReadFrom(src io.Reader) (total int64, err error) {
	limit, ok := src.(*io.LimitedReader)
	if !ok {
		return io.Copy(struct{ io.Writer }{t}, src)
	}
	for limit.N > 0 {
		t.alive()
		part := &io.LimitedReader{R: limit.R, N: min(chunk, limit.N)}
		n, err := io.Copy(t.ResponseWriter, part)
		total, t.sent, limit.N = total+n, t.sent+n, limit.N-n
		if err != nil || n == 0 {
			return total, err
		}
	}
	return total, nil
}

func (t *transfer) alive() {
	_ = t.rc.SetWriteDeadline(time.Now().Add(stallTimeout)) // unsupported by test recorders
}

// extent says which bytes of the file the response announced.
func (t *transfer) extent(size int64) (first, want int64) {
	want = size
	if t.status != http.StatusPartialContent {
		return 0, want
	}
	// "bytes FIRST-LAST/SIZE"; absent for a response of several ranges.
	span, _, _ := strings.Cut(strings.TrimPrefix(t.Header().Get("Content-Range"), "bytes "), "/")
	a, z, _ := strings.Cut(span, "-")
	first, err1 := strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(z, 10, 64)
	if err1 != nil || err2 != nil {
		return 0, min(t.sent, size)
	}
	return first, last - first + 1
}

// serveManifest sends the exact bytes that were signed, or their signature.
func (s *Server) serveManifest(w http.ResponseWriter, r *http.Request) {
	stamp, name := r.PathValue("stamp"), r.PathValue("name")
	if !stampPattern.MatchString(stamp) || (name != "manifest.json" && name != "manifest.sig") {
		s.refuse(w, r, "", notFound("this is not a platform's manifest", "use /platforms/STAMP/manifest.json or manifest.sig"))
		return
	}
	m, err := s.Booter.Manifest(r.Context(), stamp)
	if err != nil {
		s.fail(w, r, "", "manifest of platform "+stamp, err)
		return
	}
	content, kind := m.Manifest, "application/json"
	if name == "manifest.sig" {
		content, kind = m.Signature, "application/octet-stream"
	}
	w.Header().Set("Content-Type", kind)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// serveIPXE sends iPXE itself, for UEFI HTTP boot.
func (s *Server) serveIPXE(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	content, ok := s.ipxe[name]
	if !ok {
		s.refuse(w, r, "", notFound("there is no such iPXE program here", "use "+strings.Join(ipxeNames(s.ipxe), ", ")))
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	t := &transfer{ResponseWriter: w, rc: http.NewResponseController(w), began: time.Now()}
	http.ServeContent(t, r, "", time.Time{}, bytes.NewReader(content))
	from, err := client(r)
	if err != nil || r.Method == http.MethodHead {
		return
	}
	if id, ok := s.leases.get(from); ok && t.sent == int64(len(content)) {
		s.record(r.Context(), id, api.BootEvent{Stage: api.StageTFTP, Detail: name + " over HTTP",
			Bytes: t.sent, Seconds: time.Since(t.began).Seconds()})
	}
}
