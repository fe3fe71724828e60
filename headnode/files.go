package headnode

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
	"nereid/images"
)

// uploadTime bounds one chunk of an upload, digest included.
const uploadTime = 10 * time.Minute

// routeStreams adds what does not fit into one JSON body: uploads and events.
func (s *Server) routeStreams(h huma.API, mux *http.ServeMux) {
	add := func(method, path, summary string, fn http.HandlerFunc) {
		mux.HandleFunc(method+" "+path, restrict(operators, fn))
		h.OpenAPI().AddOperation(&huma.Operation{
			OperationID: operationID(method, path), Method: method, Path: path, Summary: summary,
			Security:  []map[string][]string{{"token": {}}},
			Responses: map[string]*huma.Response{"default": {Description: "See the summary; errors are application/problem+json"}},
		})
	}
	add(http.MethodHead, "/v1/files/{sha256}", "Upload-Offset says how much of a file is there; 200 without it: all of it", s.headFile)
	add(http.MethodPut, "/v1/files/{sha256}", "Append bytes (Content-Range) to a file some platform misses", s.putFile)
	add(http.MethodGet, "/v1/events", "What changes, as server-sent events", s.serveEvents)
}

func (s *Server) fail(w http.ResponseWriter, op string, err error) {
	p, expected := problemOf(err)
	if !expected {
		s.log.Error(op, "err", err)
	}
	writeProblem(w, p)
}

// headFile answers 404 for a file of which nothing is there.
func (s *Server) headFile(w http.ResponseWriter, r *http.Request) {
	e, err := s.images.Stat(r.PathValue("sha256"))
	switch {
	case err != nil:
		s.fail(w, "look at file", err)
	case e.Partial:
		w.Header().Set("Upload-Offset", strconv.FormatInt(e.Size, 10))
		w.WriteHeader(http.StatusOK)
	default:
		w.Header().Set("Content-Length", strconv.FormatInt(e.Size, 10))
		w.WriteHeader(http.StatusOK)
	}
}

// putFile takes a part of a file. What came of a part that was cut is kept.
func (s *Server) putFile(w http.ResponseWriter, r *http.Request) {
	ctl := callerOf(r.Context()).control
	deadline := time.Now().Add(uploadTime)
	_ = ctl.SetReadDeadline(deadline)
	_ = ctl.SetWriteDeadline(deadline)
	s.files.RLock()
	defer s.files.RUnlock()
	digest := r.PathValue("sha256")
	if err := images.CheckDigest(digest); err != nil {
		s.fail(w, "upload file", err)
		return
	}
	from, to, total, err := contentRange(r.Header.Get("Content-Range"))
	if err != nil {
		s.fail(w, "upload file", refuse(http.StatusBadRequest, api.CodeInvalid, "send Content-Range: bytes FIRST-LAST/TOTAL", "%v", err))
		return
	}
	want, found, err := s.expected(r, digest)
	if err != nil {
		s.fail(w, "upload file", err)
		return
	}
	if !found && s.images.Has(digest) {
		w.WriteHeader(http.StatusNoContent) // somebody else brought it
		return
	}
	if !found {
		s.fail(w, "upload file", refuse(http.StatusForbidden, api.CodeForbidden, "register the platform it belongs to first: POST /v1/platforms", "no registered platform misses the file %s", digest))
		return
	}
	if total != want.Size {
		s.fail(w, "upload file", refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "check the file against the manifest", "file %s has %d bytes by the manifest, not %d", want.Name, want.Size, total))
		return
	}
	have, complete, err := s.images.Append(r.Context(), digest, total, from, http.MaxBytesReader(w, r.Body, to-from+1))
	w.Header().Set("Upload-Offset", strconv.FormatInt(have, 10))
	if err != nil {
		var off *images.OffsetError
		if errors.As(err, &off) {
			w.Header().Set("Upload-Offset", strconv.FormatInt(off.Have, 10))
		}
		s.fail(w, "upload file", err)
		return
	}
	if complete {
		if err := s.finishAll(r, digest); err != nil {
			s.fail(w, "finish platform", err)
			return
		}
	} else if have != to+1 {
		s.fail(w, "upload file", refuse(http.StatusBadRequest, api.CodeInvalid, "go on at Upload-Offset", "the part ended at %d, not at %d as its Content-Range says; what came was kept", have, to+1))
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) expected(r *http.Request, digest string) (f api.File, found bool, err error) {
	err = s.store.View(r.Context(), func(tx store.Tx) (err error) {
		f, found, err = platforms.Expected(tx, digest)
		return err
	})
	return f, found, err
}

// finishAll completes the platforms a file was the last missing one of.
func (s *Server) finishAll(r *http.Request, digest string) error {
	var stamps []string
	err := s.store.View(r.Context(), func(tx store.Tx) error {
		all, err := platforms.Files(tx)
		stamps = all[digest]
		return err
	})
	if err != nil {
		return err
	}
	for _, stamp := range stamps {
		if err := s.finish(r.Context(), stamp); err != nil {
			return err
		}
		s.platformChanged(stamp)
	}
	return nil
}

// contentRange reads "bytes A-B/TOTAL" (RFC 9110, section 14.4).
func contentRange(h string) (from, to, total int64, err error) {
	bad := fmt.Errorf("the Content-Range %q is not bytes FIRST-LAST/TOTAL", h)
	rest, ok := strings.CutPrefix(h, "bytes ")
	span, size, ok2 := strings.Cut(rest, "/")
	first, last, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, 0, bad
	}
	var n [3]int64
	for i, t := range []string{first, last, size} {
		if n[i], err = strconv.ParseInt(t, 10, 64); err != nil || n[i] < 0 {
			return 0, 0, 0, bad
		}
	}
	if n[0] > n[1] || n[1] >= n[2] {
		return 0, 0, 0, bad
	}
	return n[0], n[1], n[2], nil
}
