package agent

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
)

// keeper of parts: what a head node does with them, as headnode does it. The report is on
// its disk, the rest in its memory.
type partsHead struct {
	report  api.Report
	network *api.NetworkReport
	have    map[string]string
}

// take takes in a sync as it came over the wire. none: it may hold the poll.
func (h *partsHead) take(req api.SyncRequest) (have map[string]string, none bool) {
	if req.Digests == nil { // of an agent that knows nothing of parts
		h.report, h.network, h.have = req.Report, req.Usage.Network, nil
		return nil, true
	}
	now := map[string]string{api.PartReport: h.have[api.PartReport], api.PartMaps: "", api.PartDrops: "", api.PartGateways: ""}
	if req.Report.BootID != "" {
		h.report, now[api.PartReport] = req.Report, req.Digests[api.PartReport]
	}
	n := req.Usage.Network
	if n != nil {
		was := h.network
		if was == nil {
			was = &api.NetworkReport{}
		}
		part := func(name string, sent bool, keep func()) {
			if d := req.Digests[name]; d != "" && (sent || h.have[name] == d) {
				now[name] = d
				if !sent {
					keep()
				}
			}
		}
		part(api.PartMaps, n.Maps != nil, func() { n.Maps = was.Maps })
		part(api.PartDrops, n.Drops != nil, func() { n.Drops = was.Drops })
		part(api.PartGateways, n.Gateways != nil, func() { n.Gateways = was.Gateways })
	}
	h.network, h.have = n, now
	for part, d := range req.Digests {
		if now[part] != d {
			return maps.Clone(now), false
		}
	}
	return maps.Clone(now), !req.TellHave
}

// TestPartsConverge: whatever changes, and whoever is lost, killed, replaced or restored at
// any step, two syncs that come through bring the head node to what the agent has.
func TestPartsConverge(t *testing.T) {
	wire := func(req api.SyncRequest) (out api.SyncRequest) {
		b, err := json.Marshal(req)
		if err == nil {
			err = json.Unmarshal(b, &out)
		}
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 0))
		pick := func(n int) int { return r.IntN(n) }
		var p parts
		head, backup, past := partsHead{}, partsHead{}, []string{}
		state := func() api.SyncRequest {
			n := &api.NetworkReport{Links: []api.LinkReport{{Name: "eth0", RxBytes: r.Uint64()}}}
			if k := pick(3); k > 0 {
				n.Maps = map[uint32]string{1: fmt.Sprint(k)}
			}
			if k := pick(3); k > 0 {
				n.Drops = map[string]uint64{"spoofed": uint64(k)}
			}
			if k := pick(3); k > 0 {
				n.Gateways = []api.GatewayReport{{Owner: fmt.Sprint(k)}}
			}
			return api.SyncRequest{Report: api.Report{BootID: "b1", Hostname: fmt.Sprint(pick(3))}, Usage: api.Usage{Network: n}}
		}
		sync := func(s api.SyncRequest, fault string) {
			req := s
			if err := p.leaveOut(&req); err != nil {
				t.Fatal(err)
			}
			if fault == "request lost" {
				p.lost()
				return
			}
			have, none := head.take(wire(req))
			switch fault {
			case "answer lost":
				p.lost()
			case "poll ended": // by the agent itself, which has something new to tell
			case "":
				// A head node that has other news answers also when it lacks nothing.
				if none && pick(2) == 0 {
					p.answered(req, nil, true)
				} else {
					p.answered(req, have, false)
				}
			}
		}
		s := state()
		for range 30 {
			fault := []string{"", "", "", "request lost", "answer lost", "poll ended", "agent restarted", "head node restarted", "head node restored", "backup", "change", "change"}[pick(12)]
			past = append(past, fault)
			switch fault {
			case "agent restarted":
				p = parts{}
			case "head node restarted", "head node restored": // its connections broke
				if fault == "head node restored" {
					head.report, head.have = backup.report, backup.have
				}
				if r := head.have[api.PartReport]; head.have != nil {
					head.have = map[string]string{api.PartReport: r}
				}
				head.network = nil
				if pick(2) == 0 { // between two polls: nothing of it was seen
					p.lost()
				}
			case "backup":
				backup = partsHead{report: head.report, have: maps.Clone(head.have)}
			case "change":
				s = state()
			default:
				sync(s, fault)
			}
		}
		sync(s, "")
		sync(s, "")
		if !reflect.DeepEqual(head.report, s.Report) || !reflect.DeepEqual(head.network, s.Usage.Network) {
			t.Fatalf("seed %d, after %q: the head node has\n%+v %+v\nwant\n%+v %+v", seed, past, head.report, head.network, s.Report, s.Usage.Network)
		}
	}
}

// TestPartsOfAnOldHeadNode: a head node that says nothing of what it has gets all.
func TestPartsOfAnOldHeadNode(t *testing.T) {
	var p parts
	for i := range 3 {
		req := api.SyncRequest{Report: api.Report{BootID: "b1"}}
		if err := p.leaveOut(&req); err != nil || req.Report.BootID == "" {
			t.Fatalf("sync %d: %+v %v", i, req, err)
		}
		p.answered(req, nil, i > 0)
	}
}

// TestIdleSyncIsShort: an agent that has nothing new sends no report, while its head node
// has it; after an answer that was cut at any byte, and to a head node that is new, it
// sends it again.
func TestIdleSyncIsShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, h := newWorld(), newHeadNode(t)
		h.approved, h.spec, h.parts = true, setupSpec("r1"), &partsHead{}
		start(t, w, h, t.TempDir(), nil)
		idle := func(what string) {
			t.Helper()
			_, n := h.last()
			h.until(what+": two syncs without a report", func(api.SyncRequest) bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				last := h.syncs[max(0, len(h.syncs)-2):]
				return len(h.syncs) >= n+2 && len(last) == 2 && last[0].Report.BootID == "" && last[1].Report.BootID == ""
			})
			h.mu.Lock()
			defer h.mu.Unlock()
			if r := h.parts.report; r.AppliedSpec != h.spec.Revision || r.Setup == nil || !r.Setup.Complete {
				t.Errorf("%s: the head node has %+v", what, r)
			}
		}
		applied := func(rev string) {
			t.Helper()
			h.until(rev+" is applied", func(api.SyncRequest) bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				return h.parts.report.AppliedSpec == rev
			})
		}
		applied("r1")
		idle("set up")
		for cut := range 40 {
			h.set(func() {
				h.spec = setupSpec(fmt.Sprint("cut", cut))
				n := cut * 7
				h.cutSpec = &n
			})
			applied(fmt.Sprint("cut", cut))
			idle(fmt.Sprint("an answer was cut at ", cut*7))
		}
		h.set(func() { h.parts = &partsHead{} }) // between two polls
		idle("the head node is new")
		h.close()
		h.set(func() { h.parts = &partsHead{} })
		time.Sleep(time.Minute)
		h.serve()
		h.set(func() { h.down = false })
		idle("the head node was away")
	})
}
