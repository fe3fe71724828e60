package headnode

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	catalog "nereid/headnode/images"
	"nereid/headnode/journal"
	"nereid/headnode/store"
	"nereid/images"
)

// readerPatience is how long who fetches an image may take nothing.
const readerPatience = 2 * time.Minute

const imageFile = "/v1/images/{uuid}/file"

// routeImageFile adds the requests that carry an image's bytes.
func (s *Server) routeImageFile(h huma.API, mux *http.ServeMux) {
	add := func(method, summary string, fn http.HandlerFunc, security ...map[string][]string) {
		mux.HandleFunc(method+" "+imageFile, fn)
		op := &huma.Operation{
			OperationID: operationID(method, imageFile), Method: method, Path: imageFile, Summary: summary, Security: security,
			Responses: map[string]*huma.Response{"default": {Description: "See the summary; errors are application/problem+json"}},
		}
		op.Parameters = append(op.Parameters, &huma.Param{Name: "uuid", In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
		h.OpenAPI().AddOperation(op)
	}
	token, certificate := map[string][]string{"token": {}}, map[string][]string{"certificate": {}}
	add(http.MethodHead, "Upload-Offset says how much of an image's file is there; 200 without it: all of it", s.getImageFile, token, certificate)
	add(http.MethodGet, "The bytes of an image (Range is known), for operators and for the servers whose set of images has it", s.getImageFile, token, certificate)
	add(http.MethodPut, "Append bytes (Content-Range) to the file of an image that is being created", restrict(operators, s.putImageFile), token)
}

// getImageFile gives an image's bytes to an operator, or to a server that needs them.
func (s *Server) getImageFile(w http.ResponseWriter, r *http.Request) {
	c, uuid := callerOf(r.Context()), strings.ToLower(r.PathValue("uuid"))
	noOperator := c.allow(operators, scopeOf(r.Method, r.URL.Path))
	if noOperator != nil && (c.uuid == "" || c.operator != "") {
		writeProblem(w, noOperator)
		return
	}
	var i api.Image
	err := s.store.View(r.Context(), func(tx store.Tx) (err error) {
		if noOperator != nil {
			if err := s.needsImage(tx, c, uuid); err != nil {
				return err
			}
		}
		i, err = catalog.Get(tx, uuid)
		return err
	})
	if err != nil {
		s.fail(w, "send image", err)
		return
	}
	e, err := s.disks.Stat(uuid)
	if r.Method == http.MethodHead && err == nil && e.Partial {
		w.Header().Set("Upload-Offset", strconv.FormatInt(e.Size, 10))
		w.WriteHeader(http.StatusOK)
		return
	}
	unchecked := i.State == api.ImageCreating && r.Method != http.MethodHead // who uploads asks whether all is here
	if err != nil || e.Partial || unchecked || i.State == api.ImageFailed {
		if err != nil && !errors.Is(err, images.ErrNotFound) {
			s.fail(w, "send image", err)
			return
		}
		writeProblem(w, refuse(http.StatusNotFound, api.CodeNotFound, "import it, or run its import again", "the file of image %s@%s (%s) is not here; the image is %s", i.Name, i.Version, uuid, i.State))
		return
	}
	f, err := s.disks.Open(r.Context(), uuid)
	if err != nil {
		s.fail(w, "send image", err)
		return
	}
	defer f.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+i.Files[0].Digest+`"`)
	http.ServeContent(w, r, "", time.Time{}, patient{f, c.control})
}

// needsImage refuses a server whose set of images does not have one.
func (s *Server) needsImage(tx store.Tx, c caller, uuid string) error {
	if _, err := s.authorised(tx, c, c.uuid); err != nil {
		return err
	}
	_, found, err := journal.Get(tx, api.ImageSet(c.uuid), uuid)
	if err == nil && !found {
		err = refuse(http.StatusForbidden, api.CodeForbidden, "follow the set "+api.ImageSet(c.uuid)+" and fetch what it has", "server %s has no instance that needs image %.64q", c.uuid, uuid)
	}
	return err
}

// patient is a file whose reader may take as long as it takes, as long as it takes
// something now and then.
type patient struct {
	io.ReadSeeker
	ctl *http.ResponseController
}

func (p patient) Read(b []byte) (int, error) {
	_ = p.ctl.SetWriteDeadline(time.Now().Add(readerPatience))
	return p.ReadSeeker.Read(b)
}

// putImageFile takes a part of an image's file. What came of a part that was cut is kept.
func (s *Server) putImageFile(w http.ResponseWriter, r *http.Request) {
	ctl, uuid := callerOf(r.Context()).control, strings.ToLower(r.PathValue("uuid"))
	deadline := time.Now().Add(uploadTime)
	_ = ctl.SetReadDeadline(deadline)
	_ = ctl.SetWriteDeadline(deadline)
	from, to, total, err := contentRange(r.Header.Get("Content-Range"))
	if err != nil {
		s.fail(w, "upload image", refuse(http.StatusBadRequest, api.CodeInvalid, "send Content-Range: bytes FIRST-LAST/TOTAL", "%v", err))
		return
	}
	i, err := s.image(r, uuid)
	switch {
	case err != nil:
	case i.State != api.ImageCreating:
		err = refuse(http.StatusConflict, api.CodeConflict, "to bring other bytes, import them as another image", "image %s@%s takes no bytes: it is %s", i.Name, i.Version, i.State)
	case total != i.Files[0].Size:
		err = refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "check the file against the manifest", "the file of image %s@%s has %d bytes by its manifest, not %d", i.Name, i.Version, i.Files[0].Size, total)
	}
	if err != nil {
		s.fail(w, "upload image", err)
		return
	}
	have, complete, err := s.disks.AppendNamed(r.Context(), uuid, strings.TrimPrefix(i.Files[0].Digest, "sha256:"), total, from, http.MaxBytesReader(w, r.Body, to-from+1))
	w.Header().Set("Upload-Offset", strconv.FormatInt(have, 10))
	if err == nil && !complete && have != to+1 {
		err = refuse(http.StatusBadRequest, api.CodeInvalid, "go on at Upload-Offset", "the part ended at %d, not at %d as its Content-Range says; what came was kept", have, to+1)
	}
	var off *images.OffsetError
	if errors.As(err, &off) {
		w.Header().Set("Upload-Offset", strconv.FormatInt(off.Have, 10))
	}
	if now, gone := s.image(r, uuid); noImage(gone) || gone == nil && now.Files[0].Digest != i.Files[0].Digest {
		err = errors.Join(refuse(http.StatusConflict, api.CodeConflict, "import it again", "image %s@%s was deleted while its file came", i.Name, i.Version), s.disks.Remove(r.Context(), uuid))
	}
	if err != nil {
		s.fail(w, "upload image", err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// image reads an image in a transaction of its own.
func (s *Server) image(r *http.Request, uuid string) (i api.Image, err error) {
	err = s.store.View(r.Context(), func(tx store.Tx) (err error) {
		i, err = catalog.Get(tx, uuid)
		return err
	})
	return i, err
}
