package headnode

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/headnode/events"
	"nereid/headnode/store"
)

// bare are events without what differs from run to run.
func bare(evs ...api.Event) []api.Event {
	out := slices.Clone(evs)
	for i := range out {
		out[i].ID, out[i].Time = "", time.Time{}
	}
	return out
}

// told are the events behind an id.
func (h *head) told(id string, f events.Filter) []api.Event {
	h.t.Helper()
	p := h.events.Read(id, f)
	if p.Missed {
		h.t.Error("events were missed")
	}
	return p.Events
}

// TestEventsOfNICs: a NIC's event says whose it is and where, before and after a change,
// and names the other NICs that change with it. What is refused has none.
func TestEventsOfNICs(t *testing.T) {
	h, ms := fabricRack(t, 2)
	ctx := context.Background()
	vlan := must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	web := must[api.Network](t)(h.client.FabricNetworks(alice, vlan.VLAN).Create(ctx, api.Network{Name: "web", Subnet: "10.0.1.0/24"}))
	nics := func(do func()) []api.Event {
		id := h.events.Now()
		do()
		return bare(h.told(id, events.Filter{Kinds: []string{"nic"}})...)
	}
	on := func(n api.NetworkNIC, server string) api.Event {
		return api.Event{Kind: "nic", Path: "/v1/nics/" + n.MAC, Name: n.MAC, Owner: alice, Server: server}
	}
	want := func(what string, got []api.Event, want ...api.Event) {
		t.Helper()
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
	var n, other api.NetworkNIC
	in := api.NetworkNIC{Owner: alice, BelongsTo: alice, BelongsToType: api.BelongsToOther, Server: ms[0].uuid, Primary: true, Addresses: []api.NICAddress{{Network: web.UUID}}}
	got := nics(func() { n = must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, in)) })
	want("new", got, api.Event{Kind: "nic", Path: "/v1/nics", Name: n.MAC, Owner: alice, Server: ms[0].uuid})
	got = nics(func() {
		_, err := h.client.NICs().Create(ctx, in)
		wantCode(t, "takes the other's place", err, api.CodeSideEffects)
	})
	want("refused", got)
	got = nics(func() {
		other = must[api.NetworkNIC](t)(h.client.NICs().Create(api.WithConfirm(ctx, api.ConfirmAll), in))
	})
	want("another", got, api.Event{Kind: "nic", Path: "/v1/nics", Name: other.MAC, Owner: alice, Server: ms[0].uuid}, on(n, ms[0].uuid))
	got = nics(func() {
		must[api.NetworkNIC](t)(h.client.NICs().Update(ctx, other.MAC, api.NICUpdate{Server: &ms[1].uuid}, ""))
	})
	want("moved", got, on(other, ms[0].uuid), on(other, ms[1].uuid))
	got = nics(func() {
		if err := h.client.NICs().Delete(api.WithConfirm(ctx, api.ConfirmAll), other.MAC); err != nil {
			t.Fatal(err)
		}
	})
	want("deleted", got, on(other, ms[1].uuid))
	if err := h.client.NICs().Delete(api.WithConfirm(ctx, api.ConfirmAll), n.MAC); err != nil {
		t.Fatal(err)
	}
	got = nics(func() {
		if err := h.client.ForgetServer(api.WithConfirm(ctx, api.ConfirmAll), ms[0].uuid); err != nil {
			t.Fatal(err)
		}
	})
	if len(got) != 1 || got[0].Server != ms[0].uuid || got[0].Path != "/v1/nics/"+got[0].Name {
		t.Errorf("a server is forgotten, and the NICs that go with it have these events: %+v", got)
	}
}

// TestEventsOfSets: who asks for sets hears of each that a change wrote.
func TestEventsOfSets(t *testing.T) {
	h, ms := fabricRack(t, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	ports := api.PortSet(ms[0].uuid)
	es := must[*api.EventStream](t)(h.client.Events(ctx, api.EventQuery{Sets: []string{"server/"}, Servers: []string{ms[0].uuid}}))
	defer es.Close()
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	web := must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web", Subnet: "10.0.1.0/24"}))
	must[api.NetworkNIC](t)(h.client.NICs().Create(ctx, api.NetworkNIC{Owner: alice, BelongsTo: alice, BelongsToType: api.BelongsToOther,
		Server: ms[0].uuid, Addresses: []api.NICAddress{{Network: web.UUID}}}))
	for ev, err := range es.All() {
		if err != nil {
			t.Fatal(err)
		}
		if ev.Kind == api.EventSet && ev.Set == ports && ev.Server == ms[0].uuid {
			return
		}
	}
}

// cutter passes connections on to a head node's socket. Of each it passes so many bytes of
// the answer, and then breaks it.
func cutter(t *testing.T, to string, bytes int64) *api.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				head, err := net.Dial("unix", to)
				if err != nil {
					t.Error(err)
					return
				}
				defer head.Close()
				conns.Go(func() {
					_, _ = io.Copy(head, c)
					_ = head.Close()
				})
				_, _ = io.CopyN(c, head, bytes)
			})
		}
	})
	c := api.NewClient(path)
	c.Retry = time.Millisecond
	t.Cleanup(func() {
		c.Close()
		l.Close()
		conns.Wait()
	})
	return c
}

// TestEventsCut: a reader whose every connection is cut after some bytes gets each event
// of a head node once and in order, wherever the cuts are.
func TestEventsCut(t *testing.T) {
	h := startHead(t)
	id := h.events.Now()
	for i := range 12 {
		must[api.NICTag](t)(h.client.NICTags().Create(t.Context(), api.NICTag{Name: fmt.Sprintf("tag%d", i)}))
		h.serverChanged(alice, "cn0") // others that are not wanted
	}
	want := h.told(id, events.Filter{Kinds: []string{"nic_tag"}})
	if len(want) != 12 {
		t.Fatalf("%d events, want 12", len(want))
	}
	// An answer's head and the longest event have about 400 bytes: what passes is at least one.
	for bytes := int64(500); bytes < 1200; bytes += 7 {
		c := cutter(t, filepath.Join(h.dir, SocketFile), bytes)
		s := must[*api.EventStream](t)(c.Events(t.Context(), api.EventQuery{Kinds: []string{"nic_tag"}, Since: id}))
		var got []api.Event
		for ev, err := range s.All() {
			if err != nil {
				t.Fatal(err)
			}
			if got = append(got, ev); len(got) == len(want) {
				break
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("connections of %d bytes (-want +got):\n%s", bytes, d)
		}
		c.Close()
	}
}

// firstEvents opens a stream and gives its first events.
func firstEvents(t *testing.T, h *head, q api.EventQuery, n int) []api.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := must[*api.EventStream](t)(h.client.Events(ctx, q))
	var got []api.Event
	for ev, err := range s.All() {
		if err != nil {
			t.Fatalf("%v, after %+v", err, got)
		}
		if got = append(got, ev); len(got) == n {
			break
		}
	}
	return got
}

// TestEventsOlderReader: who asks for events that are kept no more, or are of another run
// of the head node, is told so once, and goes on with what is new.
func TestEventsOlderReader(t *testing.T) {
	dir := initDir(t, 250)
	h := startIn(t, dir)
	old := h.events.Now()
	h.events.Publish(make([]api.Event, events.Kept+1)...)
	reset := firstEvents(t, h, api.EventQuery{Since: old}, 1)[0]
	if reset.Kind != api.EventReset || reset.ID != h.events.Now() {
		t.Errorf("behind an event that is kept no more: %+v", reset)
	}
	h.serverChanged(alice, "cn0")
	if d := cmp.Diff([]api.Event{{Kind: "server", Server: alice, Name: "cn0"}}, bare(firstEvents(t, h, api.EventQuery{Since: reset.ID}, 1)...)); d != "" {
		t.Errorf("behind the reset (-want +got):\n%s", d)
	}
	last := h.events.Now()
	h.stop()
	h = startIn(t, dir)
	if got := firstEvents(t, h, api.EventQuery{Since: last, Kinds: []string{"nic"}}, 1)[0]; got.Kind != api.EventReset {
		t.Errorf("behind an event of another run: %+v", got)
	}
}

// TestEventsSlowReader: a reader that does not read keeps nobody from making changes, and
// is told what came of it once it reads.
func TestEventsSlowReader(t *testing.T) {
	h := startHead(t)
	s := must[*api.EventStream](t)(h.client.Events(t.Context(), api.EventQuery{}))
	defer s.Close()
	opened := h.events.Now()
	evs := make([]api.Event, events.Kept)
	for i := range evs {
		evs[i] = api.Event{Kind: "flood", Name: strings.Repeat("x", 100)}
	}
	for range 4 { // 20 MB: more than sockets hold, and more than is kept
		h.events.Publish(evs...)
	}
	h.serverChanged(alice, "last")
	number := func(id string) (n int) {
		_, text, _ := strings.Cut(id, "-")
		_, _ = fmt.Sscan(text, &n)
		return n
	}
	last, resets := number(opened), 0
	for ev, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		n := number(ev.ID)
		if ev.Kind == api.EventReset {
			resets++
		} else if n != last+1 {
			t.Errorf("event %d comes after %d, and nothing says that others were missed", n, last)
		}
		if last = n; ev.ID == h.events.Now() {
			break
		}
	}
	if resets == 0 {
		t.Error("it was not told that events were missed")
	}
}

// TestEventsAreBounded: an operator may have so many streams open, and is told why there is
// no more; what is closed makes room.
func TestEventsAreBounded(t *testing.T) {
	h := startHead(t)
	var open []*api.EventStream
	for range maxWatching {
		open = append(open, must[*api.EventStream](t)(h.client.Events(t.Context(), api.EventQuery{})))
	}
	_, err := h.client.Events(t.Context(), api.EventQuery{})
	wantCode(t, "one too many", err, api.CodeUnavailable)
	if !h.alerted("streams of events of one operator beyond 128 ") {
		t.Error("no alert says so")
	}
	for _, s := range open {
		_ = s.Close()
	}
	h.until("there is room for one more", func() bool {
		s, err := h.client.Events(t.Context(), api.EventQuery{})
		if err == nil {
			open = append(open, s)
		}
		return err == nil
	})
	_ = open[len(open)-1].Close()
	h.until("no stream is counted", func() bool {
		h.watch.mu.Lock()
		defer h.watch.mu.Unlock()
		return h.watch.all == 0 && len(h.watch.of) == 0
	})
}

// TestEventsRefuse: a question that is wrong is refused with all that is wrong.
func TestEventsRefuse(t *testing.T) {
	h := startHead(t)
	ask := func(query string) asked { return h.ask(http.MethodGet, "/v1/events?"+query, "") }
	a := ask("kinds=nic&owner=&since=a&since=b" + strings.Repeat("&kind=nic", maxWanted+1))
	for _, want := range []string{"parameter", "kinds", "owner is empty", "since is given 2 times", "kind is given 65 times"} {
		if !strings.Contains(string(a.body), want) {
			t.Errorf("the refusal does not say %q: %s", want, a.body)
		}
	}
	if a.status != http.StatusUnprocessableEntity {
		t.Errorf("status %d", a.status)
	}
}

// TestEventsByCurl: the wire is that of the HTML standard, section 9.2: an id and a kind
// with each event, resumed by Last-Event-ID or since, of which the header counts.
func TestEventsByCurl(t *testing.T) {
	h := startHead(t)
	start := h.events.Now()
	h.serverChanged(alice, "cn0")
	first := h.events.Now()
	h.serverChanged(alice, "cn1")
	last := h.events.Now()
	for _, c := range []struct{ since, header, want string }{
		{start, "", first},
		{first, "", last},
		{start, first, last},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", filepath.Join(h.dir, SocketFile))
		}}
		r := must[*http.Request](t)(http.NewRequestWithContext(ctx, http.MethodGet, "http://headnode/v1/events?since="+c.since, nil))
		if c.header != "" {
			r.Header.Set("Last-Event-ID", c.header)
		}
		res := must[*http.Response](t)(tr.RoundTrip(r))
		var got []string
		for lines := bufio.NewScanner(res.Body); len(got) < 4 && lines.Scan(); {
			got = append(got, lines.Text())
		}
		_ = res.Body.Close()
		cancel()
		tr.CloseIdleConnections()
		if len(got) != 4 || got[0] != ": open" || got[1] != "id: "+c.want || got[2] != "event: server" || !strings.HasPrefix(got[3], `data: {"id":"`+c.want+`"`) {
			t.Errorf("since %q, Last-Event-ID %q: got %q, want the event %s", c.since, c.header, got, c.want)
		}
	}
}

// TestWriteTells: events of a transaction are told once it is written, each once, however
// often its function ran; those of one that failed are not.
func TestWriteTells(t *testing.T) {
	h := startHead(t)
	id := h.events.Now()
	ev := api.Event{Kind: "nic", Name: "a"}
	err := h.write(t.Context(), func(n *noting) error {
		tell(n, ev)
		tell(n, ev)
		if got := h.told(id, events.Filter{}); len(got) > 0 {
			t.Errorf("told before it was written: %+v", got)
		}
		return n.Put("test/a", []byte("1"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]api.Event{ev}, bare(h.told(id, events.Filter{})...)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	id = h.events.Now()
	if err := h.write(t.Context(), func(n *noting) error { tell(n, ev); return store.ErrNoSpace }); err == nil {
		t.Error("it did not fail")
	}
	if got := h.told(id, events.Filter{}); len(got) > 0 {
		t.Errorf("nothing was written, and %+v was told", got)
	}
}
