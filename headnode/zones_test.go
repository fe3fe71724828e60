package headnode

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode/store"
)

// debian is an image that every account may use.
var debian = api.Image{V: 2, UUID: "0000d3b1-0000-4000-8000-000000000001", Owner: alice, Name: "debian", Version: "13", State: api.ImageActive, Public: true,
	Type: api.ImageLXDataset, OS: "linux", Requirements: api.ImageRequirements{MinMemory: 64},
	Files: []api.ImageFile{{Format: api.FormatTar, Compression: "zstd", Size: 1 << 20, Digest: "sha256:" + strings.Repeat("0", 64)}}}

// withImages has a head node know the image debian.
func withImages(s *Server) {
	s.imageOf = func(tx store.Tx, owner, id string) (api.Image, error) {
		if id == debian.UUID || id == "debian" {
			return debian, nil
		}
		return usableImage(tx, owner, id)
	}
}

// zones is a server whose agent runs instances, as far as the head node sees it: it
// follows its sets, and reports what a test has it report.
type zones struct {
	*machine
	follow map[string]api.Follow
	specs  map[string]api.InstanceSpec
	images map[string]api.ImageSpec
	snaps  map[string]api.SnapshotSpec // by id
	gone   map[string]bool
	seen   string // InstancesSeen of the last answer
}

// zoneRack is a rack of servers with 1 GiB each, a NIC tag external with the networks
// ext (10.9.0.0/24), and a fabric network web of alice.
func zoneRack(t *testing.T, n int, set ...func(*Server)) (*head, []*zones) {
	t.Helper()
	h, ms := fabricRackIn(startIn(t, initDir(t, 250), append([]func(*Server){withImages}, set...)...), n)
	ctx := context.Background()
	must[api.NICTag](t)(h.client.NICTags().Create(ctx, api.NICTag{Name: "external"}))
	must[api.Network](t)(h.client.Networks().Create(ctx, api.Network{Name: "ext", NICTag: "external", Subnet: "10.9.0.0/24", Gateway: "10.9.0.1", Resolvers: []string{"10.9.0.53"}}))
	must[api.FabricVLAN](t)(h.client.FabricVLANs(alice).Create(ctx, api.FabricVLAN{VLAN: 2, Name: "web"}))
	must[api.Network](t)(h.client.FabricNetworks(alice, 2).Create(ctx, api.Network{Name: "web"}))
	var out []*zones
	for _, m := range ms {
		if err := h.client.ProvideNICTags(ctx, m.uuid, api.NICTagUse{MAC: m.nics[1], NICTags: []string{"external", "underlay"}}); err != nil {
			t.Fatal(err)
		}
		out = append(out, runner(m))
	}
	return h, out
}

// runner has a server be set up, and its agent run instances.
func runner(m *machine) *zones {
	m.h.t.Helper()
	m.rep.Setup = &api.SetupReport{ID: "s", Phase: "complete", Complete: true}
	m.rep.Pools = []api.Pool{{Name: "zones", GUID: "1", Health: "ONLINE", SizeBytes: 20 << 30, System: true}}
	m.mustSync()
	z := &zones{machine: m, follow: map[string]api.Follow{}, specs: map[string]api.InstanceSpec{}, images: map[string]api.ImageSpec{}, snaps: map[string]api.SnapshotSpec{}, gone: map[string]bool{}}
	z.report(&api.InstanceReport{Now: "first", Full: true})
	return z
}

// report is a sync of the agent with a report of its instances; nil: none.
func (z *zones) report(rep *api.InstanceReport) api.SyncResponse {
	z.h.t.Helper()
	req := api.SyncRequest{Seen: z.machine.seen, InventoryDigest: "d1", Report: z.rep, Instances: rep}
	for _, set := range []string{api.InstanceSet(z.uuid), api.ImageSet(z.uuid), api.SnapshotSet(z.uuid), api.RuleSet(""), api.ServerNATSet(z.uuid)} {
		f := z.follow[set]
		f.Set, f.Kept = set, f.Since
		req.Follow = append(req.Follow, f)
	}
	var out api.SyncResponse
	st, err := z.post(z.h.ca.Pool(), "/v1/servers/"+z.uuid+"/sync", req, &out)
	if err != nil {
		z.h.t.Fatal(err)
	}
	if st == http.StatusOK {
		z.seen = out.InstancesSeen
	}
	if out.Revision != "" {
		z.machine.seen = out.Revision
	}
	for _, d := range out.Deltas {
		z.follow[d.Set] = z.follow[d.Set].Take(d)
		if d.Set == api.RuleSet("") || d.Set == api.ServerNATSet(z.uuid) {
			continue
		}
		for _, v := range d.Put {
			if d.Set == api.SnapshotSet(z.uuid) {
				s := decoded[api.SnapshotSpec](z.h.t, v)
				z.snaps[s.ID] = s
				continue
			}
			if d.Set == api.ImageSet(z.uuid) {
				i := decoded[api.ImageSpec](z.h.t, v)
				z.images[i.UUID] = i
				continue
			}
			s := decoded[api.InstanceSpec](z.h.t, v)
			z.specs[s.UUID] = s
		}
		for _, key := range d.Gone {
			if d.Set == api.SnapshotSet(z.uuid) {
				_, id, _ := strings.Cut(key, "/")
				delete(z.snaps, id)
				z.gone[id] = true
				continue
			}
			if d.Set == api.ImageSet(z.uuid) {
				delete(z.images, key)
				continue
			}
			delete(z.specs, key)
			z.gone[key] = true
		}
	}
	return out
}

// says is a report that goes on from the last one.
func (z *zones) says(now string, put []api.InstanceStatus, gone ...string) {
	z.h.t.Helper()
	z.report(&api.InstanceReport{Since: z.seen, Now: now, Put: put, Gone: gone})
	if z.seen != now {
		z.h.t.Fatalf("the head node has seen report %q, not %q", z.seen, now)
	}
}

func decoded[T any](t *testing.T, b []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// web is a create of a small instance of alice.
func web(name string) api.InstanceCreate {
	return api.InstanceCreate{Owner: alice, Name: name, Image: "debian", Package: "sample-128M",
		Networks: []api.InstanceNetwork{{Addresses: []api.NICAddress{{Network: "ext"}}}}}
}

func (h *head) instance(id string) api.Instance {
	h.t.Helper()
	return must[api.Instance](h.t)(h.client.Instances().Get(context.Background(), id))
}

// TestInstance: an instance from its create to the day it is forgotten, as an operator
// and its server see it.
func TestInstance(t *testing.T) {
	h, zs := zoneRack(t, 2)
	ctx := context.Background()
	in := web("web0")
	in.Networks = append(in.Networks, api.InstanceNetwork{Addresses: []api.NICAddress{{Network: "web", IP: "192.168.128.9"}}})
	in.Tags, in.Metadata = map[string]any{"role": "web", "n": 3, "live": true}, map[string]any{"user-data": "#cloud-config", "k": 1.5}
	in.Firewall = true
	made := must[api.Instance](t)(h.client.CreateInstance(ctx, in))
	if made.State != api.InstanceProvisioning || made.Name != "web0" || made.Wanted != "running" || made.MemoryMiB != 128 || len(made.NICs) != 2 || made.Revision == "" {
		t.Fatalf("made: %+v", made)
	}
	if n := made.NICs[0]; n.Interface != "net0" || !n.Primary || n.Addresses[0].Gateway != "10.9.0.1" || !strings.HasPrefix(n.Addresses[0].Address, "10.9.0.") || n.MTU != 1500 {
		t.Errorf("net0: %+v", n)
	}
	if n := made.NICs[1]; n.Interface != "net1" || n.Primary || n.Addresses[0].Address != "192.168.128.9/24" {
		t.Errorf("net1: %+v", n)
	}
	if !slices.Equal(made.Resolvers, []string{"10.9.0.53"}) || made.Metadata["user-data"] != "#cloud-config" || made.Metadata["k"] != 1.5 || made.Tags["n"] != 3.0 || made.Tags["live"] != true {
		t.Errorf("made: %+v", made)
	}
	z := zs[slices.IndexFunc(zs, func(z *zones) bool { return z.uuid == made.Server })]
	z.report(nil)
	spec := z.specs[made.UUID]
	if spec.Wanted != "running" || spec.Hostname != "web0" || spec.Metadata["k"] != 1.5 || spec.DNSDomain != "coal.example.com" || len(spec.NICs) != 2 || spec.MemoryMiB != 128 || spec.Made {
		t.Errorf("spec: %+v", spec)
	}
	if i := z.images[debian.UUID]; i.File.Digest != debian.Files[0].Digest || i.Name != "debian@13" {
		t.Errorf("image: %+v", z.images)
	}
	nics := slices.Collect(func(yield func(api.NetworkNIC) bool) {
		for n, err := range h.client.NICs().All(ctx, map[string][]string{"belongs_to": {made.UUID}}) {
			if err != nil || !yield(n) {
				return
			}
		}
	})
	for _, n := range nics {
		if n.Brand != api.BrandLX || n.NoFirewall || !maps.Equal(n.Tags, map[string]string{"role": "web", "n": "3", "live": "true"}) || n.Server != made.Server {
			t.Errorf("NIC: %+v", n)
		}
	}
	if len(nics) != 2 {
		t.Fatalf("%d NICs", len(nics))
	}

	// Its server reports; only what is new is told.
	z.says("r1", []api.InstanceStatus{{UUID: made.UUID, State: "provisioning", Reason: "fetches image debian 13"}})
	if i := h.instance("web0"); i.Reason != "fetches image debian 13" {
		t.Errorf("%+v", i)
	}
	z.says("r2", []api.InstanceStatus{{UUID: made.UUID, State: "running", Made: true, Started: h.clock()}})
	z.report(nil)
	if i := h.instance("web0"); i.State != "running" || i.Reason != "" || i.Started.IsZero() || i.Revision != made.Revision || !z.specs[made.UUID].Made {
		t.Errorf("%+v, spec %+v", i, z.specs[made.UUID])
	}
	// A report that does not follow on the last one is left, until the agent sends all.
	z.report(&api.InstanceReport{Since: "lost", Now: "r9", Put: []api.InstanceStatus{{UUID: made.UUID, State: "failed"}}})
	if z.seen != "r2" || h.instance("web0").State != "running" {
		t.Errorf("seen %q, %s", z.seen, h.instance("web0").State)
	}

	// Requests, and what the server answers to them.
	must[api.Instance](t)(h.client.RebootInstance(ctx, "web0", true))
	z.report(nil)
	spec = z.specs[made.UUID]
	if spec.Reboot == "" || spec.Force == "" {
		t.Fatalf("reboot: %+v", spec)
	}
	z.says("r3", []api.InstanceStatus{{UUID: made.UUID, State: "running", Made: true, Started: h.clock(), Done: []string{spec.Reboot, spec.Force}}})
	z.report(nil)
	if s := z.specs[made.UUID]; s.Reboot != "" || s.Force != "" {
		t.Errorf("a request that is done stays: %+v", s)
	}
	must[api.Instance](t)(h.client.KillInstance(ctx, "web0", "hup"))
	z.report(nil)
	if s := z.specs[made.UUID].Signal; s == nil || s.Signal != "SIGHUP" {
		t.Errorf("signal %+v", s)
	}
	if i := must[api.Instance](t)(h.client.StopInstance(ctx, "web0", false)); i.State != "stopping" || i.Wanted != "stopped" {
		t.Errorf("stop: %+v", i)
	}
	z.says("r4", []api.InstanceStatus{{UUID: made.UUID, State: "stopped", Made: true}})
	_, err := h.client.RebootInstance(ctx, "web0", false)
	wantCode(t, "reboot of a stopped one", err, api.CodeConflict)
	_, err = h.client.KillInstance(ctx, "web0", "TERM")
	wantCode(t, "signal to a stopped one", err, api.CodeConflict)
	must[api.Instance](t)(h.client.StopInstance(ctx, "web0", false)) // again: no error
	must[api.Instance](t)(h.client.StartInstance(ctx, "web0"))

	// Its server falls silent: that shows, and is not stored.
	h.advance(2 * api.SilentAfter)
	if i := h.instance("web0"); i.State != "unknown" || !strings.Contains(i.Reason, "not heard of for 1m30s") {
		t.Errorf("%+v", i)
	}
	z.report(nil)
	if i := h.instance("web0"); i.State != "stopped" || i.Reason == "" {
		t.Errorf("%+v", i)
	}

	// Deleted: it is there until its server says that nothing is left.
	yes := true
	must[api.Instance](t)(h.client.Instances().Update(ctx, "web0", api.InstanceUpdate{Protected: &yes}, ""))
	_, err = h.client.DeleteInstance(ctx, "web0", false)
	wantCode(t, "deletion of a protected one", err, api.CodeConflict)
	yes = false
	must[api.Instance](t)(h.client.Instances().Update(ctx, "web0", api.InstanceUpdate{Protected: &yes}, ""))
	if i := must[api.Instance](t)(h.client.DeleteInstance(ctx, "web0", false)); i.State != "stopping" || i.Wanted != "deleted" || i.Reason == "" {
		t.Errorf("deleted: %+v", i)
	}
	must[api.Instance](t)(h.client.DeleteInstance(ctx, "web0", false)) // again: no error
	_, err = h.client.CreateInstance(ctx, web("web0"))
	wantCode(t, "the name of one that is being deleted", err, api.CodeConflict)
	_, err = h.client.StartInstance(ctx, "web0")
	wantCode(t, "start of one that is being deleted", err, api.CodeConflict)
	z.report(nil)
	if !z.gone[made.UUID] || len(z.images) != 1 {
		t.Errorf("the server was not told: %v, %v", z.gone, z.images)
	}
	z.says("r5", nil, made.UUID)
	z.report(nil)
	if len(z.images) != 0 {
		t.Errorf("images that no instance uses: %v", z.images)
	}
	gone := h.instance(made.UUID)
	if gone.State != "deleted" || gone.Deleted.IsZero() || gone.Metadata["k"] != 1.5 || len(gone.NICs) != 2 {
		t.Errorf("deleted: %+v", gone)
	}
	_, err = h.client.StartInstance(ctx, made.UUID)
	wantCode(t, "start of a deleted one", err, api.CodeNotFound)
	again := web("web0")
	again.Networks[0].Addresses[0].IP = strings.TrimSuffix(made.NICs[0].Addresses[0].Address, "/24")
	if _, err := h.client.CreateInstance(ctx, again); err != nil {
		t.Errorf("the name and the address are free: %v", err)
	}
	var actions []string
	for _, a := range must[[]api.InstanceAudit](t)(h.client.InstanceAudit(ctx, made.UUID)) {
		actions = append(actions, a.Action)
		if a.Finished.IsZero() && a.Action != "kill" || a.By != "root" {
			t.Errorf("audit: %+v", a)
		}
	}
	if want := "destroy disable_deletion_protection enable_deletion_protection start stop stop kill reboot provision"; strings.Join(actions, " ") != want {
		t.Errorf("audit:\n%s, want\n%s", strings.Join(actions, " "), want)
	}
	h.advance(29 * 24 * 3600e9)
	if err := h.cleanInstances(ctx); err != nil || h.instance(made.UUID).State != "deleted" {
		t.Fatal(err)
	}
	h.advance(2 * 24 * 3600e9)
	if err := h.cleanInstances(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = h.client.Instances().Get(ctx, made.UUID)
	wantCode(t, "one deleted a month ago", err, api.CodeNotFound)
}
