package headnode

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/store"
)

// digests are those of all parts of a sync that are not empty, as an agent names them.
func digests(req api.SyncRequest) map[string]string {
	out := map[string]string{}
	name := func(part string, v any, there bool) {
		if d, err := api.DigestOf(v); there && err == nil {
			out[part] = d
		}
	}
	name(api.PartReport, req.Report, true)
	if n := req.Usage.Network; n != nil {
		name(api.PartMaps, n.Maps, len(n.Maps) > 0)
		name(api.PartDrops, n.Drops, len(n.Drops) > 0)
		name(api.PartGateways, n.Gateways, len(n.Gateways) > 0)
	}
	return out
}

// observedSync is a sync of a server with things on its network, named by digests.
func (m *machine) observedSync(maps int) api.SyncRequest {
	n := &api.NetworkReport{Applied: true, Maps: map[uint32]string{}, Drops: map[string]uint64{"spoofed": 7},
		Gateways: []api.GatewayReport{{Owner: alice, Used: "100.64.0.1"}}}
	for i := range maps {
		n.Maps[uint32(i+1)] = fmt.Sprintf("%016x:%d", i, i)
	}
	req := api.SyncRequest{Seen: m.seen, InventoryDigest: "d1", Report: m.rep, Usage: api.Usage{Load1: 1, Network: n}}
	req.Digests = digests(req)
	return req
}

// withoutParts is a sync with nothing but the digests of its parts.
func withoutParts(req api.SyncRequest) api.SyncRequest {
	req.Report = api.Report{}
	n := *req.Usage.Network
	n.Maps, n.Drops, n.Gateways = nil, nil, nil
	req.Usage.Network = &n
	return req
}

// mustAnswer syncs, and wants an answer with a status and what the head node has.
func (m *machine) mustAnswer(what string, req api.SyncRequest, status int, have map[string]string) {
	m.h.t.Helper()
	st, out, err := m.syncWith(req)
	if err != nil {
		m.h.t.Fatal(err)
	}
	if st != status {
		m.h.t.Errorf("%s: status %d, want %d", what, st, status)
	}
	if d := cmp.Diff(have, out.Have); d != "" {
		m.h.t.Errorf("%s: it has (-want +got):\n%s", what, d)
	}
}

// shows checks that the head node shows what was synced.
func (m *machine) shows(what string, req api.SyncRequest) {
	m.h.t.Helper()
	sv := m.h.server(m.uuid)
	if d := cmp.Diff(&req.Report, sv.Report); d != "" {
		m.h.t.Errorf("%s: the report (-want +got):\n%s", what, d)
	}
	if d := cmp.Diff(req.Usage.Network, sv.Usage.Network); d != "" {
		m.h.t.Errorf("%s: the network (-want +got):\n%s", what, d)
	}
}

// TestPartsLeftOut: what the head node has is left out, and shown as if it were sent. The
// report is also had by a head node that was started anew. What it lacks it says at once.
func TestPartsLeftOut(t *testing.T) {
	dir := initDir(t, 250)
	h, ms := fabricRackIn(startIn(t, dir), 1)
	m := ms[0]
	m.mustSync()
	m.mustSync()
	all := m.observedSync(3)
	ask := all
	ask.TellHave = true
	m.mustAnswer("all, and a question", ask, http.StatusOK, all.Digests)
	m.mustAnswer("all, to a head node that holds the poll", all, http.StatusNoContent, nil)
	bare := withoutParts(all)
	m.mustAnswer("nothing", bare, http.StatusNoContent, nil)
	m.shows("nothing was sent", all)

	other := bare
	other.Digests = maps.Clone(bare.Digests)
	other.Digests[api.PartMaps], other.Digests[api.PartReport] = "another", "another"
	have := maps.Clone(all.Digests)
	have[api.PartMaps] = ""
	m.mustAnswer("others", other, http.StatusOK, have)
	if sv := h.server(m.uuid); sv.Report.BootID != m.rep.BootID || sv.State == api.StateUnknown || sv.Usage.Network.Maps != nil {
		t.Errorf("a report that the head node lacks made of the server: %+v", sv)
	}
	m.mustAnswer("all again", all, http.StatusNoContent, nil)
	m.shows("all again", all)

	h.stop()
	m.h = startIn(t, dir)
	m.mustAnswer("nothing, to a head node that is new", bare, http.StatusOK,
		map[string]string{api.PartReport: all.Digests[api.PartReport], api.PartMaps: "", api.PartDrops: "", api.PartGateways: ""})
	again := bare
	again.Usage = all.Usage
	m.mustAnswer("what it lacks", again, http.StatusNoContent, nil)
	m.shows("what it lacks was sent", all)

	// A sync that brings an inventory brings it also without its report.
	info := m.sysinfo()
	info.MemoryBytes *= 2
	more := bare
	more.Inventory, more.InventoryDigest = &info, "d2"
	m.mustAnswer("an inventory", more, http.StatusNoContent, nil)
	if sv := m.h.server(m.uuid); sv.Sysinfo.MemoryBytes != info.MemoryBytes {
		t.Errorf("the inventory was not taken in: %+v", sv.Sysinfo)
	}
	m.shows("with an inventory", all)
}

// TestPartsOfARestore: a head node that was restored from a backup has another report than
// the agent takes it for. It says so, writes nothing in its place, and gets the report.
func TestPartsOfARestore(t *testing.T) {
	dir := initDir(t, 250)
	h, ms := fabricRackIn(startIn(t, dir), 1)
	m := ms[0]
	m.mustSync()
	m.mustSync()
	first := m.observedSync(1)
	m.mustAnswer("the first", first, http.StatusNoContent, nil)
	h.stop()
	backup := filepath.Join(t.TempDir(), "backup.db")
	copyFile(t, filepath.Join(dir, storeFile), backup)
	m.h = startIn(t, dir)
	m.rep.Problems = []string{"The disk is on fire."}
	second := m.observedSync(1)
	m.mustAnswer("the second", second, http.StatusNoContent, nil)
	m.h.stop()
	copyFile(t, backup, filepath.Join(dir, storeFile))
	m.h = startIn(t, dir)
	bare := withoutParts(second)
	m.mustAnswer("nothing, to a head node of before", bare, http.StatusOK,
		map[string]string{api.PartReport: first.Digests[api.PartReport], api.PartMaps: "", api.PartDrops: "", api.PartGateways: ""})
	if sv := m.h.server(m.uuid); sv.Report == nil || len(sv.Report.Problems) != 0 {
		t.Errorf("shown before the report came: %+v", sv.Report)
	}
	m.mustAnswer("the second again", second, http.StatusNoContent, nil)
	m.shows("the second again", second)
}

// TestPartsOutOfOrder: a report that was overtaken on its way is written last. The next
// sync, which leaves the newer one out, brings it back.
func TestPartsOutOfOrder(t *testing.T) {
	_, ms := fabricRack(t, 1)
	m := ms[0]
	m.mustSync()
	m.mustSync()
	older := m.observedSync(1)
	m.rep.Problems = []string{"The disk is on fire."}
	newer := m.observedSync(2)
	m.mustAnswer("the newer", newer, http.StatusNoContent, nil)
	m.mustAnswer("the older", older, http.StatusNoContent, nil)
	have := maps.Clone(newer.Digests)
	have[api.PartReport], have[api.PartMaps] = older.Digests[api.PartReport], ""
	m.mustAnswer("nothing", withoutParts(newer), http.StatusOK, have)
	m.mustAnswer("the newer again", newer, http.StatusNoContent, nil)
	m.shows("the newer again", newer)
}

// TestPartsOfOldAgents: an agent that names no digests sends all, is not told what the head
// node has, and leads to what it sent; also in place of one that names them.
func TestPartsOfOldAgents(t *testing.T) {
	_, ms := fabricRack(t, 1)
	m := ms[0]
	m.mustSync()
	m.mustSync()
	for i := range 2 {
		m.rep.Problems = []string{fmt.Sprint("Problem ", i)}
		named := m.observedSync(i + 1)
		m.mustAnswer("with digests", named, http.StatusNoContent, nil)
		m.rep.Problems = nil
		old := m.observedSync(i + 2)
		old.Digests = nil
		m.mustAnswer("without", old, http.StatusNoContent, nil)
		m.shows("without", old)
		have := maps.Clone(named.Digests)
		have[api.PartReport], have[api.PartMaps], have[api.PartDrops], have[api.PartGateways] = "", "", "", ""
		m.mustAnswer("nothing", withoutParts(named), http.StatusOK, have)
	}
}

// TestPartsRefused: digests that are none are refused.
func TestPartsRefused(t *testing.T) {
	_, ms := fabricRack(t, 1)
	m := ms[0]
	m.mustSync()
	req := m.observedSync(1)
	req.Digests[api.PartReport] = strings.Repeat("x", api.MaxDigest+1)
	_, _, err := m.syncWith(req)
	wantCode(t, "a long one", err, api.CodeInvalid)
	for i := range maxParts + 1 {
		req.Digests[fmt.Sprint(i)] = "x"
	}
	req.Digests[api.PartReport] = "x"
	_, _, err = m.syncWith(req)
	wantCode(t, "many", err, api.CodeInvalid)
}

// BenchmarkIdleReport is a sync of a server with 2,000 ports on 200 VNIs that has nothing new:
// what the head node does but for TLS and the wait. B/request is its length.
func BenchmarkIdleReport(b *testing.B) {
	for _, out := range []bool{false, true} {
		b.Run(map[bool]string{false: "whole", true: "left out"}[out], func(b *testing.B) {
			s := benchServer(b)
			const server = "00000000-0000-4000-8000-000000000001"
			m := &machine{h: &head{Server: s}, uuid: server}
			m.rep = api.Report{BootID: "b1", Platform: "20261122T101500Z", Hostname: "cn0", AgentVersion: "v0.1.0", AppliedSpec: "0123456789abcdef", AppliedNetwork: "0123456789abcdef",
				Pools: []api.Pool{{Name: "zones", GUID: "12345678901234567890", Health: "ONLINE", SizeBytes: 1 << 40, System: true}}}
			for i := range 20 {
				m.rep.Problems = append(m.rep.Problems, fmt.Sprintf("NIC 02:6e:72:00:00:%02x of instance 00000000-0000-4000-9000-000000000001 is not there: its network namespace is missing.", i))
			}
			err := s.store.Update(context.Background(), func(tx store.Tx) error {
				e := inventory.Enrolment{BootMAC: "52:54:00:00:00:01", Key: "k", Sysinfo: api.Sysinfo{UUID: server, NICs: []api.NIC{{MAC: "52:54:00:00:00:01"}}}}
				o, err := inventory.Enrol(tx, s.now(), e)
				if err == nil {
					_, err = inventory.Approve(tx, s.now(), &o.Record, "", false)
				}
				if err == nil {
					_, err = inventory.Enrol(tx, s.now(), e)
				}
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			benchIdle(b, m, out)
		})
	}
}

// benchIdle decodes and takes in a sync that the head node has taken in before.
func benchIdle(b *testing.B, m *machine, leftOut bool) {
	req := m.observedSync(200)
	if !leftOut {
		req.Digests = nil
	}
	take := func(req api.SyncRequest) int {
		text, err := json.Marshal(req)
		if err != nil {
			b.Fatal(err)
		}
		in := &syncInput{UUID: m.uuid}
		if err := json.Unmarshal(text, &in.Body); err != nil {
			b.Fatal(err)
		}
		if _, err := m.h.takeReport(b.Context(), caller{uuid: m.uuid, key: "k"}, in); err != nil || in.lacks() {
			b.Fatalf("it lacks %v: %v", in.have, err)
		}
		return len(text)
	}
	take(req)
	if leftOut {
		req = withoutParts(req)
	}
	text, err := json.Marshal(req)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		in := &syncInput{UUID: m.uuid}
		if err := json.Unmarshal(text, &in.Body); err != nil {
			b.Fatal(err)
		}
		if _, err := m.h.takeReport(b.Context(), caller{uuid: m.uuid, key: "k"}, in); err != nil || in.lacks() {
			b.Fatalf("it lacks %v: %v", in.have, err)
		}
	}
	b.ReportMetric(float64(len(text)), "B/request")
}
