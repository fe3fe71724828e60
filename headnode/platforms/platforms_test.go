package platforms

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

var t0 = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// The platforms of these tests.
const (
	a = "20260101T000000Z"
	b = "20260202T000000Z"
	c = "20260303T000000Z"
	d = "20260404T000000Z"
)

const srv = "11111111-0000-0000-0000-000000000001"

// world is a store; each Update in it runs twice.
type world struct {
	*testing.T
	s   store.Store
	now time.Time
}

func newWorld(t *testing.T, complete ...string) *world {
	s, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	w := &world{t, storetest.Twice(s), t0}
	for _, stamp := range complete {
		w.register(stamp)
		w.do(func(tx store.Tx) error { return SetComplete(tx, stamp, true) })
	}
	return w
}

func (w *world) try(fn func(store.Tx) error) error {
	w.Helper()
	return w.s.Update(w.Context(), fn)
}

func (w *world) do(fn func(store.Tx) error) {
	w.Helper()
	if err := w.try(fn); err != nil {
		w.Fatal(err)
	}
}

// digest is a made-up SHA-256.
func digest(name string) string {
	return fmt.Sprintf("%064x", []byte(name))[:64]
}

// manifest has its own kernel, and an initrd, package list and layer all share.
func manifest(stamp string) api.SignedManifest {
	file := func(name string, size int64) api.File { return api.File{Name: name, SHA256: digest(name), Size: size} }
	m := api.Manifest{Stamp: stamp, Arch: "x86_64", Kernel: file("k"+stamp, 10), Initrd: file("initrd", 5), Packages: file("packages", 2),
		Layers: []api.File{file("base", 100), file("base", 100)}}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return api.SignedManifest{Manifest: b, Signature: []byte("signature")}
}

func (w *world) register(stamp string) {
	w.Helper()
	w.do(func(tx store.Tx) error { _, _, err := Register(tx, manifest(stamp), "key", w.now); return err })
}

func (w *world) assign(stamp string) {
	w.Helper()
	w.do(func(tx store.Tx) error { return Assign(tx, srv, stamp) })
}
func (w *world) setDefault(stamp string) {
	w.Helper()
	w.do(func(tx store.Tx) error { return SetDefault(tx, stamp) })
}
func (w *world) sync(stamp string) {
	w.Helper()
	w.do(func(tx store.Tx) error { return FirstSync(tx, srv, stamp, w.now) })
}

// boot is one boot of the server: its DHCP answer, then the script, each asked twice.
func (w *world) boot(id, want string, trial bool, reason string) (x Decision) {
	w.Helper()
	for range 2 {
		w.do(func(tx store.Tx) (err error) { x, err = Next(tx, srv, id, w.now); return err })
		w.check(x, want, trial, reason)
		w.do(func(tx store.Tx) (err error) { x, err = HandOut(tx, srv, id, w.now); return err })
		w.check(x, want, trial, "")
		reason = "" // what it was at first; the count may have changed
	}
	w.now = w.now.Add(time.Minute)
	return x
}

func (w *world) check(x Decision, want string, trial bool, reason string) {
	w.Helper()
	if x.Next != want || x.Trial != trial || !strings.Contains(x.Reason, reason) || x.Reason == "" {
		w.Fatalf("next %q, trial %v, reason %q; want %q, %v, ...%s...", x.Next, x.Trial, x.Reason, want, trial, reason)
	}
}

// next is what the API shows between boots.
func (w *world) next(want string, trial bool, reason string) api.PlatformChoice {
	w.Helper()
	var x Decision
	w.do(func(tx store.Tx) (err error) { x, err = Next(tx, srv, "", w.now); return err })
	w.check(x, want, trial, reason)
	return x.Choice()
}

func TestFirstPlatform(t *testing.T) {
	w := newWorld(t)
	w.next("", false, "nereid platform import")
	w = newWorld(t, a)
	w.next("", false, "no default")
	w.setDefault(a)
	w.next(a, true, "the default")
	w.boot("1", a, true, "on trial")
	w.boot("2", a, true, "boots so far: 1 of 3")
	w.sync(a)
	got := w.next(a, false, "reached a first sync here before")
	if want := (api.PlatformChoice{Next: a, Running: a, Previous: a, Reason: got.Reason}); got != want {
		t.Errorf("choice %+v, want %+v", got, want)
	}
	for i := range 5 { // known good: no more counting
		w.boot(fmt.Sprint("later", i), a, false, "the default")
	}
}

func TestFallsBackAfterThreeBoots(t *testing.T) {
	w := newWorld(t, a, b)
	w.setDefault(a)
	w.boot("0", a, true, "")
	w.sync(a)
	w.assign(b)
	got := w.next(b, true, "assigned to this server")
	if got.Assigned != b || got.Running != a || got.Previous != a || got.Attempts != 0 {
		t.Errorf("choice %+v", got)
	}
	for i := range 3 {
		w.boot(fmt.Sprint(i), b, true, "")
	}
	got = w.next(a, false, "did not reach a first sync in 3 boots")
	if got.Failed != b || got.Trial || got.Attempts != 0 {
		t.Errorf("choice %+v", got)
	}
	w.boot("3", a, false, "3 boots")
	w.sync(a)
	w.now = w.now.Add(100 * time.Hour)
	w.boot("4", a, false, "3 boots") // still, and for the first reason
	w.sync(a)
	if got := w.next(a, false, ""); got.Failed != b || got.Assigned != b {
		t.Errorf("choice %+v", got)
	}
	w.assign(b) // again: a new trial
	if got := w.next(b, true, "on trial"); got.Failed != "" {
		t.Errorf("choice %+v", got)
	}
	w.boot("5", b, true, "")
	w.sync(b)
	if got := w.next(b, false, "first sync"); got.Previous != b || got.Running != b {
		t.Errorf("choice %+v", got)
	}
}

func TestFallsBackAfterTenMinutes(t *testing.T) {
	w := newWorld(t, a, b)
	w.assign(a)
	w.sync(a)
	w.assign(b)
	w.now = w.now.Add(time.Hour) // waiting for the first boot is no attempt
	w.boot("1", b, true, "")
	w.now = w.now.Add(TrialTime - 2*time.Minute)
	w.boot("2", b, true, "")
	w.boot("3", a, false, "within 10m0s")
	w.sync(b) // boot 2 was only slow
	if got := w.next(b, false, "first sync"); got.Failed != "" || got.Previous != b {
		t.Errorf("choice %+v", got)
	}
}

// TestLastAttemptAsksAgain: the third boot keeps its platform while it goes on.
func TestLastAttemptAsksAgain(t *testing.T) {
	w := newWorld(t, a, b)
	w.assign(a)
	w.sync(a)
	w.assign(b)
	for _, id := range []string{"1", "2", "3", "3"} {
		w.boot(id, b, true, "")
	}
	w.boot("4", a, false, "3 boots")
	w.boot("5", a, false, "3 boots")
}

func TestNoPrevious(t *testing.T) {
	w := newWorld(t, a)
	w.setDefault(a)
	for i := range 5 {
		want := "on trial"
		if i >= 3 {
			want = "no earlier platform"
		}
		w.boot(fmt.Sprint(i), a, true, want)
	}
	if got := w.next(a, true, "in 5 boots"); got.Attempts != 5 {
		t.Errorf("choice %+v", got)
	}
	w.now = w.now.Add(time.Hour)
	w.boot("6", a, true, "no earlier platform")
	w.sync(a)
	w.next(a, false, "")
}

func TestDefaultChanges(t *testing.T) {
	w := newWorld(t, a, b)
	w.setDefault(a)
	w.boot("0", a, true, "")
	w.sync(a)
	w.setDefault(b)
	for i := range 3 {
		w.boot(fmt.Sprint(i), b, true, "the default")
	}
	w.boot("3", a, false, "3 boots")
	w.setDefault(b) // the operator insists
	w.boot("4", b, true, "on trial")
	w.setDefault(a)
	w.next(a, false, "the default")
	w.assign(b) // its own assignment, another trial
	w.boot("5", b, true, "assigned")
	w.assign("")
	w.next(a, false, "the default")
}

func TestNeverDeletedOrIncomplete(t *testing.T) {
	w := newWorld(t, a, b)
	w.register(c)
	for _, stamp := range []string{c, d} {
		for name, fn := range map[string]func(store.Tx) error{
			"assign": func(tx store.Tx) error { return Assign(tx, srv, stamp) }, "default": func(tx store.Tx) error { return SetDefault(tx, stamp) },
		} {
			var p *api.Problem
			if err := w.try(fn); !errors.As(err, &p) || p.Next == "" || (p.Status == 404) != (stamp == d) {
				t.Errorf("%s %s: %v", name, stamp, err)
			}
		}
	}
	w.assign(b)
	w.do(func(tx store.Tx) error { return SetComplete(tx, b, false) }) // verify found damage
	w.next("", false, "incomplete")
	w.next("", false, "no earlier one; import it again, or assign another one")
	w.sync(a)
	w.boot("1", a, false, "last platform that reached a first sync")
	if got := w.next(a, false, "incomplete"); got.Failed != "" || got.Attempts != 0 {
		t.Errorf("a damaged platform was called failed: %+v", got)
	}
	w.do(func(tx store.Tx) error { return SetComplete(tx, b, true) })
	for i := range 3 {
		w.boot(fmt.Sprint("b", i), b, true, "")
	}
	w.do(func(tx store.Tx) error { return SetComplete(tx, a, false) })
	w.next(b, true, "no earlier platform") // what it would fall back to is damaged
	s := State{Assigned: d, Previous: c}
	w.check(Choose(t0, s, Catalogue{Complete: map[string]bool{c: true}}, ""), c, false, "not registered any more")
	w.check(Choose(t0, s, Catalogue{Default: b, Complete: map[string]bool{b: true}}, ""), "", false, "assign another one")
}

func TestMigrate(t *testing.T) {
	w := newWorld(t, a, b)
	w.setDefault(a)
	mac := "52:54:00:00:00:01"
	hand := func(key, boot string) {
		w.do(func(tx store.Tx) error { _, err := HandOut(tx, key, boot, w.now); return err })
	}
	move := func() { w.do(func(tx store.Tx) error { return Migrate(tx, mac, srv) }) }
	hand(mac, "1")
	hand(mac, "2")
	move()
	move() // nothing left to move
	if got := w.next(a, true, "2 of 3"); got.Attempts != 2 {
		t.Errorf("choice %+v", got)
	}
	w.assign(b)
	w.now = w.now.Add(time.Minute)
	hand(mac, "3")
	move()
	if got := w.next(b, true, "assigned"); got.Assigned != b || got.Attempts != 0 {
		t.Errorf("what the server had was lost: %+v", got)
	}
	w.do(func(tx store.Tx) error {
		for it := range tx.Scan(serverPrefix+mac, "") {
			t.Errorf("left behind: %s", it.Key)
		}
		return Forget(tx, srv)
	})
	w.next(a, true, "default")
}

func TestRegister(t *testing.T) {
	w := newWorld(t, a)
	w.register(a) // again: stays complete
	get := func() (p api.Platform) {
		w.do(func(tx store.Tx) (err error) { p, err = Describe(tx, a, w.now); return err })
		return p
	}
	if p := get(); !p.Complete || p.SizeBytes != 117 || p.Default || len(p.UsedBy) != 0 || p.Manifest.Stamp != a {
		t.Errorf("platform %+v", p)
	}
	other := manifest(a)
	other.Manifest = append(other.Manifest, '\n')
	bad := manifest("yesterday")
	for name, m := range map[string]api.SignedManifest{"other bytes": other, "bad stamp": bad, "not JSON": {Manifest: []byte("x")}} {
		var p *api.Problem
		err := w.try(func(tx store.Tx) error { _, _, err := Register(tx, m, "key", w.now); return err })
		if !errors.As(err, &p) || p.Next == "" || (p.Status == 409) != (name == "other bytes") {
			t.Errorf("%s: %v", name, err)
		}
	}
	var p *api.Problem
	for _, fn := range []func(store.Tx) error{
		func(tx store.Tx) error { _, _, err := Get(tx, b); return err },
		func(tx store.Tx) error { _, err := Describe(tx, b, w.now); return err },
		func(tx store.Tx) error { _, err := Delete(tx, b, w.now, nil); return err },
		func(tx store.Tx) error { return SetComplete(tx, b, true) },
	} {
		if err := w.try(fn); !errors.As(err, &p) || p.Status != 404 {
			t.Errorf("no such platform: %v", err)
		}
	}
}

func TestFiles(t *testing.T) {
	w := newWorld(t, a)
	w.register(b)
	w.do(func(tx store.Tx) error {
		for name, want := range map[string]bool{"k" + a: false, "k" + b: true, "base": true, "other": false} {
			f, found, err := Expected(tx, digest(name))
			if err != nil || found != want || found && (f.Name != name || f.SHA256 != digest(name)) {
				t.Errorf("expected %s: %+v %v %v", name, f, found, err)
			}
		}
		if _, found, _ := Expected(tx, ""); found {
			t.Error("no digest is expected")
		}
		files, err := Files(tx)
		if len(files) != 5 || !slices.Equal(files[digest("base")], []string{a, b}) || !slices.Equal(files[digest("k"+b)], []string{b}) {
			t.Errorf("files %v", files)
		}
		return err
	})
}

func TestDelete(t *testing.T) {
	w := newWorld(t, a, b, c, d)
	w.setDefault(d)
	w.assign(a)
	w.sync(a)
	w.assign(b)
	w.boot("1", b, true, "")
	name := func(s string) string { return "host-" + s[:4] }
	for stamp, want := range map[string][]string{
		a: {"running on host-1111", "known good platform of host-1111"},
		b: {"assigned to host-1111", "being booted by host-1111"},
		d: {"it is the default"},
	} {
		var p *api.Problem
		err := w.try(func(tx store.Tx) error { _, err := Delete(tx, stamp, w.now, name); return err })
		if !errors.As(err, &p) || p.Code != api.CodeInUse || !slices.Equal(p.Errors, want) || !strings.Contains(p.Detail, want[0]) {
			t.Errorf("delete %s: %v", stamp, err)
		}
	}
	var gone []string
	w.do(func(tx store.Tx) (err error) { gone, err = Delete(tx, c, w.now, nil); return err })
	if !slices.Equal(gone, []string{digest("k" + c)}) {
		t.Errorf("files to remove: %v", gone)
	}
	w.sync(b)
	w.do(func(tx store.Tx) error { return Assign(tx, srv, "") })
	w.do(func(tx store.Tx) (err error) { gone, err = Delete(tx, a, w.now, nil); return err })
	w.do(func(tx store.Tx) error {
		list, err := List(tx, w.now)
		if len(list) != 2 || list[0].Manifest.Stamp != d || !list[0].Default || !slices.Equal(list[1].UsedBy, []string{srv}) {
			t.Errorf("list %+v", list)
		}
		return err
	})
	for i := range 15 {
		w.do(func(tx store.Tx) error { return Assign(tx, fmt.Sprintf("srv-%02d", i), b) })
	}
	err := w.try(func(tx store.Tx) error { _, err := Delete(tx, b, w.now, nil); return err })
	if !strings.Contains(err.Error(), "srv-08, and 5 more") && !strings.Contains(err.Error(), "and 5 more") {
		t.Errorf("many users: %v", err)
	}
}

func TestDeleteLast(t *testing.T) {
	w := newWorld(t, a)
	w.do(func(tx store.Tx) error {
		gone, err := Delete(tx, a, w.now, nil)
		if len(gone) != 4 {
			t.Errorf("files to remove: %v", gone)
		}
		for it := range tx.Scan("platform/", "") {
			t.Errorf("left behind: %s", it.Key)
		}
		return err
	})
}

func TestCollect(t *testing.T) {
	stamps := []string{a, b, c, d, "20260505T000000Z", "20260606T000000Z"}
	w := newWorld(t, stamps...)
	w.setDefault(a)
	w.assign(b)
	w.register("20260707T000000Z") // still being uploaded
	collect := func() (removed, digests []string) {
		w.do(func(tx store.Tx) (err error) { removed, digests, err = Collect(tx, w.now); return err })
		return removed, digests
	}
	removed, digests := collect()
	if !slices.Equal(removed, []string{d, c}) || !slices.Equal(digests, []string{digest("k" + d), digest("k" + c)}) {
		t.Errorf("removed %v, files %v", removed, digests)
	}
	if removed, digests = collect(); len(removed)+len(digests) != 0 {
		t.Errorf("second time: %v, %v", removed, digests)
	}
	w.now = w.now.Add(uploadTime)
	if removed, _ = collect(); !slices.Equal(removed, []string{"20260707T000000Z"}) {
		t.Errorf("upload that was given up: %v", removed)
	}
}

// TestListReadsTogether: a list of many platforms asks the store a few times.
func TestListReadsTogether(t *testing.T) {
	w := newWorld(t)
	for i := range 50 {
		w.register(fmt.Sprintf("202611%02dT10%02d00Z", 1+i/25, i%25))
	}
	n := 0
	trips := storetest.Trips(t, w.s, func(tx store.Tx) error { l, err := List(tx, t0); n = len(l); return err })
	if n != 50 || trips > 4 {
		t.Errorf("%d platforms with %d requests, want 50 with at most 4", n, trips)
	}
}
