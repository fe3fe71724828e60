package bootserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"nereid/admit"
	"nereid/api"
)

// serveScript renders what iPXE is told. iPXE is shown refusals on its screen.
func (s *Server) serveScript(w http.ResponseWriter, r *http.Request, id string, from netip.Addr) {
	start := time.Now()
	plan, err := s.Booter.Plan(r.Context(), id, from)
	var text string
	if err == nil {
		plan.BootID = id
		text, err = Script(s.URL(), plan)
	}
	switch {
	case err != nil && isIPXE(r) && r.Method == http.MethodGet:
		p := s.explainError(r, "boot plan", err)
		s.recordRefusal(r.Context(), id, p.Error())
		s.log().Info("boot refused", "client", from.String(), "boot", id, "status", p.Status, "why", p.Error())
		s.writeScript(w, refusedScript(p))
		return
	case err != nil:
		s.fail(w, r, id, "boot plan", err)
		return
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		return
	}
	n, err := s.writeScript(w, text)
	switch {
	case err != nil:
		s.log().Warn("script cut", "client", from.String(), "boot", id, "err", err)
	case plan.Hold != "":
		s.recordRefusal(r.Context(), id, "held: "+plan.Hold)
	default:
		s.boots.put(id, newBootFiles(plan, from), ofStranger)
		s.record(r.Context(), id, api.BootEvent{Stage: api.StageScript, Bytes: int64(n), Seconds: time.Since(start).Seconds()})
	}
}

func (s *Server) writeScript(w http.ResponseWriter, text string) (int, error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	return io.WriteString(w, text)
}

// serveConfig hands out the configuration. While it is on its way nobody else
// gets it, and once it was sent in full the Booter refuses it.
func (s *Server) serveConfig(w http.ResponseWriter, r *http.Request, id string, from netip.Addr) {
	if r.Method != http.MethodGet {
		s.refuse(w, r, "", &api.Problem{Title: "Method not allowed", Status: http.StatusMethodNotAllowed, Code: api.CodeInvalid,
			Detail: "the configuration is handed out once, so there is no looking at it first", Next: "use GET"})
		return
	}
	if !s.configs.start(id) {
		s.refuse(w, r, id, &api.Problem{Title: "Busy", Status: http.StatusServiceUnavailable, Code: api.CodeUnavailable,
			Detail: "this boot's configuration is being sent to another request", Next: "ask again when that one has ended"})
		return
	}
	defer s.configs.end(id)
	start := time.Now()
	c, err := s.Booter.Config(r.Context(), id, from)
	if err != nil {
		s.fail(w, r, id, "boot configuration", err)
		return
	}
	archive, err := configArchive(c)
	if err != nil {
		s.fail(w, r, id, "boot configuration", err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Length", strconv.Itoa(len(archive)))
	h.Set("Cache-Control", "no-store")
	n, err := w.Write(archive)
	if err == nil {
		err = http.NewResponseController(w).Flush()
	}
	if err != nil {
		s.log().Warn("configuration cut", "client", from.String(), "boot", id, "bytes", n, "err", err)
		return
	}
	s.record(r.Context(), id, api.BootEvent{Stage: api.StageConfig, Bytes: int64(n), Seconds: time.Since(start).Seconds()})
}

// reported are the stages a machine may report of itself; all others are seen
// by the servers.
var reported = []api.BootStage{api.StageStub, api.StageRoot, api.StageSwitchRoot, api.StageFailed}

// serveEvent takes a report of the stub.
func (s *Server) serveEvent(w http.ResponseWriter, r *http.Request, id string, from netip.Addr) {
	var ev api.BootEvent
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxEvent)).Decode(&ev)
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &tooLong):
		s.refuse(w, r, id, &api.Problem{Title: "Too long", Status: http.StatusRequestEntityTooLarge, Code: api.CodeInvalid,
			Detail: fmt.Sprintf("the event is longer than %d bytes", maxEvent), Next: "shorten its detail"})
		return
	case err != nil:
		s.refuse(w, r, id, invalid("the event is not a JSON object of a boot event", "see BootEvent in the API description"))
		return
	case !slices.Contains(reported, ev.Stage):
		s.refuse(w, r, id, &api.Problem{Title: "Invalid event", Status: http.StatusUnprocessableEntity, Code: api.CodeInvalid,
			Detail: fmt.Sprintf("a machine does not report stage %q of itself", clip(string(ev.Stage))),
			Next:   "report stub, root, switch-root or failed"})
		return
	}
	ev.Time = time.Now() // the machine's clock is not set yet
	ev.Detail, ev.Count = clip(ev.Detail), 0
	if ev.Bytes < 0 {
		ev.Bytes = 0
	}
	if err := s.Booter.Record(r.Context(), id, from, ev); err != nil {
		var p *api.Problem
		if errors.As(err, &p) && p.Status == http.StatusTooManyRequests {
			id = "" // its record is not for this
			admit.SlowDown(r.Context())
		}
		s.fail(w, r, id, "boot record", err)
		return
	}
	s.log().Info("boot event", "boot", id, "client", from.String(), "stage", string(ev.Stage), "detail", ev.Detail)
	w.WriteHeader(http.StatusNoContent)
}
