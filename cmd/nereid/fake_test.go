package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"nereid/api"
)

// fake is a head node with servers that do what they are asked, one step each
// time somebody looks at them. It keeps state and a log of what was asked.
type fake struct {
	mu        sync.Mutex
	token     string // wanted of clients over TLS
	servers   []*api.Server
	steps     map[string][]func(*api.Server) // what a server does next, by UUID
	boots     []api.Boot
	platforms map[string]*api.Platform
	files     map[string][]byte
	keys      []api.PlatformKey
	tokens    []api.Token
	log       []string
	faults    []fault
	cut       int64 // bytes after which the next upload's connection breaks; 0: none
	streams   map[chan api.Event]bool
	opened    chan struct{} // closed and replaced when a stream opens
	listed    chan struct{} // closed and replaced when all servers were listed
	stop      chan struct{} // closed: streams end
	page      int
}

// fault is one answer that is a problem, or with status 200 one that promises
// what is not done.
type fault struct {
	method, path string
	problem      api.Problem
}

func newFake() *fake {
	f := &fake{
		steps: map[string][]func(*api.Server){}, platforms: map[string]*api.Platform{}, files: map[string][]byte{},
		streams: map[chan api.Event]bool{}, opened: make(chan struct{}), listed: make(chan struct{}), stop: make(chan struct{}), page: 2,
	}
	return f
}

func (f *fake) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) (any, error){
		"GET /v1":                           f.capabilities,
		"GET /v1/datacenter":                f.datacenter,
		"GET /v1/servers":                   f.listServers,
		"GET /v1/servers/{id}":              f.getServer,
		"PATCH /v1/servers/{id}":            f.patchServer,
		"DELETE /v1/servers/{id}":           f.deleteServer,
		"POST /v1/servers/{id}/{verb}":      f.act,
		"GET /v1/servers/{id}/boots":        f.serverBoots,
		"GET /v1/boots":                     f.macBoots,
		"GET /v1/platforms":                 f.listPlatforms,
		"POST /v1/platforms":                f.addPlatform,
		"GET /v1/platforms/{stamp}":         f.getPlatform,
		"DELETE /v1/platforms/{stamp}":      f.deletePlatform,
		"PUT /v1/platforms/{stamp}/default": f.defaultPlatform,
		"POST /v1/platforms/{stamp}/verify": f.verifyPlatform,
		"POST /v1/platforms/collect":        f.collect,
		"HEAD /v1/files/{sha}":              f.headFile,
		"PUT /v1/files/{sha}":               f.putFile,
		"GET /v1/platform-keys":             func(http.ResponseWriter, *http.Request) (any, error) { return items(f.keys), nil },
		"POST /v1/platform-keys":            f.addKey,
		"DELETE /v1/platform-keys/{name}":   f.deleteKey,
		"GET /v1/tokens":                    f.listTokens,
		"POST /v1/tokens":                   f.addToken,
		"DELETE /v1/tokens/{id}":            f.deleteToken,
		"POST /v1/explain":                  f.explain,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { f.serve(w, r, h) })
	}
	mux.HandleFunc("GET /v1/events", f.events)
	return mux
}

func items[T any](list []T) map[string]any {
	if list == nil {
		list = []T{}
	}
	return map[string]any{"items": list, "next": ""}
}

// serve runs a handler under the lock and writes what it gives.
func (f *fake) serve(w http.ResponseWriter, r *http.Request, h func(http.ResponseWriter, *http.Request) (any, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.TLS != nil && r.Header.Get("Authorization") != "Bearer "+f.token {
		writeProblem(w, problem(401, api.CodeUnauthorized, "this needs an operator's token", `make one with "nereid token create" on the head node`))
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead && !strings.HasPrefix(r.URL.Path, "/v1/files/") {
		b, _ := io.ReadAll(r.Body)
		f.log = append(f.log, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+string(b)))
		r.Body = io.NopCloser(strings.NewReader(string(b)))
	}
	for i, x := range f.faults {
		if x.method == r.Method && x.path == r.URL.Path {
			f.faults = slices.Delete(f.faults, i, i+1)
			if x.problem.Status == 200 {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			writeProblem(w, &x.problem)
			return
		}
	}
	v, err := h(w, r)
	if err != nil {
		writeProblem(w, err)
		return
	}
	if v == nil {
		if r.Method != http.MethodHead {
			w.WriteHeader(http.StatusNoContent)
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func problem(status int, code api.Code, detail, next string) *api.Problem {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail, Next: next}
}

func writeProblem(w http.ResponseWriter, err error) {
	p, ok := err.(*api.Problem)
	if !ok {
		p = problem(422, api.CodeInvalid, err.Error(), "")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

func read[T any](r *http.Request) (T, error) {
	var v T
	b, err := io.ReadAll(r.Body)
	if err == nil && len(b) > 0 {
		err = json.Unmarshal(b, &v)
	}
	return v, err
}

// tell sends an event to every open stream.
func (f *fake) tell(ev api.Event) {
	for s := range f.streams {
		select {
		case s <- ev:
		default:
		}
	}
}

func (f *fake) events(w http.ResponseWriter, r *http.Request) {
	ch := make(chan api.Event, 16)
	f.mu.Lock()
	f.streams[ch] = true
	stop := f.stop
	close(f.opened)
	f.opened = make(chan struct{})
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.streams, ch)
		f.mu.Unlock()
	}()
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = io.WriteString(w, ": hello\n\n")
	_ = http.NewResponseController(w).Flush()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-stop:
			return
		case ev := <-ch:
			b, _ := json.Marshal(ev)
			fmt.Fprintf(w, "event: %s\ndata: %s\n\n", ev.Kind, b)
			_ = http.NewResponseController(w).Flush()
		}
	}
}

func (f *fake) capabilities(http.ResponseWriter, *http.Request) (any, error) {
	return api.Capabilities{Datacenter: "coal", Version: "v0.1.0", Capabilities: []string{"boot", "setup"}}, nil
}

func (f *fake) datacenter(http.ResponseWriter, *http.Request) (any, error) {
	return api.Datacenter{
		Name: "coal", DNSDomain: "coal.example.com", Version: "v0.1.0", CASHA256: strings.Repeat("ab", 32),
		Admin: api.AdminNetwork{Interface: "admin0", Address: "10.99.99.7/24", Range: []string{"10.99.99.100", "10.99.99.250"},
			NTP: []string{"10.99.99.1"}, Lease: "12h0m0s", Clients: "pxe"},
		Servers: len(f.servers), Platforms: len(f.platforms), AddressCap: 151, AddressUse: 3,
		Alerts: []string{"no default platform: servers get an address and nothing to boot"},
	}, nil
}

func (f *fake) listServers(_ http.ResponseWriter, r *http.Request) (any, error) {
	from := 0
	if after := r.URL.Query().Get("after"); after != "" {
		from = slices.IndexFunc(f.servers, func(s *api.Server) bool { return s.UUID == after }) + 1
	}
	to := min(from+f.page, len(f.servers))
	next := ""
	if to < len(f.servers) {
		next = f.servers[to-1].UUID
	}
	if next == "" {
		close(f.listed)
		f.listed = make(chan struct{})
	}
	out := items(f.servers[from:to])
	out["next"] = next
	return out, nil
}

func (f *fake) find(id string) (*api.Server, error) {
	for _, s := range f.servers {
		if s.UUID == id || s.Hostname == id || slices.Contains(s.MACs, id) {
			return s, nil
		}
	}
	return nil, problem(404, api.CodeNotFound, fmt.Sprintf("there is no server %q", id), "see which there are: nereid server list")
}

func (f *fake) getServer(_ http.ResponseWriter, r *http.Request) (any, error) {
	s, err := f.find(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if steps := f.steps[s.UUID]; len(steps) > 0 {
		steps[0](s)
		f.steps[s.UUID] = steps[1:]
		f.tell(api.Event{Kind: "server", Server: s.UUID, Name: s.Hostname})
	}
	return s, nil
}

func (f *fake) patchServer(_ http.ResponseWriter, r *http.Request) (any, error) {
	s, err := f.find(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	if m := r.Header.Get("If-Match"); m != "" && m != strconv.Quote(s.Revision) {
		return nil, problem(412, api.CodeStale, "the server was changed meanwhile", "look at it again")
	}
	u, err := read[api.ServerUpdate](r)
	if err != nil {
		return nil, err
	}
	if u.Hostname != nil {
		if o, err := f.find(*u.Hostname); err == nil && o != s {
			return nil, problem(409, api.CodeConflict, fmt.Sprintf("hostname %q is taken by %s", *u.Hostname, o.UUID), "choose another")
		}
		s.Hostname = *u.Hostname
	}
	if u.Platform != nil {
		if *u.Platform != "" && f.platforms[*u.Platform] == nil {
			return nil, problem(404, api.CodeNotFound, fmt.Sprintf("there is no platform %q", *u.Platform), "see which there are: nereid platform list")
		}
		s.Platform.Assigned = *u.Platform
		s.Platform.Next = firstOf(*u.Platform, "20261122T101500Z")
		s.Platform.Reason = "assigned to this server"
		if *u.Platform == "" {
			s.Platform.Reason = "the default"
		}
	}
	s.Revision += "1"
	f.tell(api.Event{Kind: "server", Server: s.UUID})
	return s, nil
}

func (f *fake) deleteServer(_ http.ResponseWriter, r *http.Request) (any, error) {
	s, err := f.find(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	f.servers = slices.DeleteFunc(f.servers, func(o *api.Server) bool { return o == s })
	f.tell(api.Event{Kind: "server", Server: s.UUID})
	return nil, nil
}

func (f *fake) act(_ http.ResponseWriter, r *http.Request) (any, error) {
	s, err := f.find(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	defer f.tell(api.Event{Kind: "server", Server: s.UUID})
	running := func(s *api.Server) {
		if s.State = api.StateApproved; s.SetUp {
			s.State = api.StateRunning
		}
		if s.BootID += "-next"; s.Report == nil {
			s.Report = &api.Report{}
		}
		s.Report.BootID = s.BootID
	}
	booting := func(s *api.Server) { s.State = api.StateBooting }
	switch r.PathValue("verb") {
	case "approve":
		in, err := read[map[string]string](r)
		if err != nil {
			return nil, err
		}
		if s.State == api.StateHeld && in["mac"] == "" {
			return nil, problem(409, api.CodeUUIDCollision, "two machines claim UUID "+s.UUID+": "+strings.Join(s.MACs, ", "), "say which one is meant with --mac")
		}
		s.Approved, s.State, s.StateReason = true, api.StateApproved, ""
	case "accept-key":
		if s.State != api.StateHeld {
			return nil, problem(409, api.CodeConflict, "server "+s.Hostname+" presents no other key", "see what it does with: nereid server boot-log "+s.Hostname)
		}
		s.State, s.StateReason = api.StateApproved, ""
	case "reject":
		s.Approved, s.State = false, api.StateRejected
	case "setup":
		spec, err := read[api.SetupSpec](r)
		if err != nil {
			return nil, err
		}
		if !s.Approved {
			return nil, problem(403, api.CodeNotApproved, s.Hostname+" is not approved", "approve it: nereid server approve "+s.Hostname)
		}
		spec.ID = "setup-1"
		s.Setup, s.State = &spec, api.StateSettingUp
		for _, phase := range []string{"planning", "creating pool", "creating datasets", "storing key"} {
			f.steps[s.UUID] = append(f.steps[s.UUID], func(s *api.Server) {
				s.Report = &api.Report{Setup: &api.SetupReport{ID: "setup-1", Phase: phase}}
			})
		}
		f.steps[s.UUID] = append(f.steps[s.UUID], func(s *api.Server) {
			s.State, s.SetUp = api.StateRunning, true
			s.Report = &api.Report{Setup: &api.SetupReport{ID: "setup-1", Phase: "complete", Complete: true},
				Pools: []api.Pool{{Name: spec.Pool, GUID: "42", Health: "ONLINE", SizeBytes: 8 << 30, AllocatedBytes: 1 << 20, System: true}}}
		})
	case "reboot":
		f.steps[s.UUID] = []func(*api.Server){booting, running}
	case "shutdown":
		f.steps[s.UUID] = []func(*api.Server){func(*api.Server) {}, func(s *api.Server) { s.State = api.StateOff }}
	case "reset":
		in, err := read[api.ServerReset](r)
		if err != nil || in.Hostname != s.Hostname {
			return nil, problem(409, api.CodeConflict, "the hostname does not match", "type "+s.Hostname)
		}
		f.steps[s.UUID] = []func(*api.Server){booting, func(s *api.Server) {
			s.SetUp, s.Report, s.State, s.BootID = false, nil, api.StateApproved, "boot-after-reset"
		}}
	default:
		return nil, problem(404, api.CodeNotFound, "no such action", "")
	}
	return nil, nil
}

func (f *fake) serverBoots(_ http.ResponseWriter, r *http.Request) (any, error) {
	s, err := f.find(r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return items(slices.DeleteFunc(slices.Clone(f.boots), func(b api.Boot) bool { return b.UUID != s.UUID })), nil
}

func (f *fake) macBoots(_ http.ResponseWriter, r *http.Request) (any, error) {
	mac := r.URL.Query().Get("mac")
	return items(slices.DeleteFunc(slices.Clone(f.boots), func(b api.Boot) bool { return b.MAC != mac })), nil
}

func (f *fake) addKey(_ http.ResponseWriter, r *http.Request) (any, error) {
	k, err := read[api.PlatformKey](r)
	f.keys = append(f.keys, k)
	return k, err
}

func (f *fake) deleteKey(_ http.ResponseWriter, r *http.Request) (any, error) {
	n := len(f.keys)
	f.keys = slices.DeleteFunc(f.keys, func(k api.PlatformKey) bool { return k.Name == r.PathValue("name") })
	if len(f.keys) == n {
		return nil, problem(404, api.CodeNotFound, fmt.Sprintf("there is no key %q", r.PathValue("name")), "see which there are: nereid platform key list")
	}
	return nil, nil
}

func (f *fake) listTokens(http.ResponseWriter, *http.Request) (any, error) {
	out := slices.Clone(f.tokens)
	for i := range out {
		out[i].Secret = ""
	}
	return items(out), nil
}

func (f *fake) addToken(_ http.ResponseWriter, r *http.Request) (any, error) {
	in, err := read[api.TokenCreate](r)
	if err != nil {
		return nil, err
	}
	t := api.Token{ID: fmt.Sprintf("t%d", len(f.tokens)+1), Name: in.Name, Scope: in.Scope, Created: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC), Secret: "nrd_secret" + in.Name}
	if in.TTL != "" {
		d, err := time.ParseDuration(in.TTL)
		if err != nil {
			return nil, err
		}
		end := t.Created.Add(d)
		t.Expires = &end
	}
	f.tokens = append(f.tokens, t)
	f.token = t.Secret
	return t, nil
}

func (f *fake) deleteToken(_ http.ResponseWriter, r *http.Request) (any, error) {
	n := len(f.tokens)
	f.tokens = slices.DeleteFunc(f.tokens, func(t api.Token) bool { return t.ID == r.PathValue("id") })
	if len(f.tokens) == n {
		return nil, problem(404, api.CodeNotFound, fmt.Sprintf("there is no token %q", r.PathValue("id")), "see which there are: nereid token list")
	}
	return nil, nil
}
