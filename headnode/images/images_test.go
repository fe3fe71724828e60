package images

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
	"nereid/headnode/store"
	"nereid/headnode/store/storetest"
)

var t0 = time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)

const (
	alice = "00000000-0000-4000-8000-00000000000a"
	bob   = "00000000-0000-4000-8000-00000000000b"
	one   = "11111111-0000-4000-8000-000000000001"
	two   = "22222222-0000-4000-8000-000000000002"
)

func open(t testing.TB) store.Store {
	b, err := store.OpenBolt(t.Context(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return storetest.Twice(b)
}

// do is one transaction.
func do[T any](t testing.TB, s store.Store, fn func(tx store.Tx) (T, error)) (out T, err error) {
	t.Helper()
	err = s.Update(t.Context(), func(tx store.Tx) (err error) {
		out, err = fn(tx)
		return err
	})
	return out, err
}

func must[T any](t testing.TB, s store.Store, fn func(tx store.Tx) (T, error)) T {
	t.Helper()
	out, err := do(t, s, fn)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func refused(t *testing.T, err error, code api.Code, words ...string) {
	t.Helper()
	p := (*api.Problem)(nil)
	if !errors.As(err, &p) || p.Code != code || p.Next == "" {
		t.Fatalf("got %v, want a refusal %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(p.Error()+strings.Join(p.Errors, "\n"), w) {
			t.Errorf("got %q %q, want %q in it", p, p.Errors, w)
		}
	}
}

func sample(uuid, name, version string) api.Image {
	return api.Image{UUID: uuid, Name: name, Version: version, Owner: alice, Type: api.ImageLXDataset,
		Files: []api.ImageFile{{Format: api.FormatTar, Compression: "zstd", Size: 100, Digest: "sha256:" + strings.Repeat("ab", 32)}}}
}

func create(t testing.TB, s store.Store, i api.Image) api.Image {
	t.Helper()
	return must(t, s, func(tx store.Tx) (api.Image, error) { return Create(tx, i, t0) })
}

// active makes an image that may be used.
func active(t testing.TB, s store.Store, i api.Image, at time.Time) api.Image {
	t.Helper()
	i = create(t, s, i)
	must(t, s, func(tx store.Tx) (api.Image, error) { return Checked(tx, i.UUID, i.Revision, i.Files[0]) })
	return must(t, s, func(tx store.Tx) (api.Image, error) { return Activate(tx, i.UUID, at) })
}

// keys are all that the package has in the store.
func keys(t *testing.T, s store.Store) (out []string) {
	t.Helper()
	err := s.View(t.Context(), func(tx store.Tx) error {
		for it, err := range tx.Scan(Prefix, "") {
			if err != nil {
				return err
			}
			out = append(out, it.Key)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// One refusal names every fault of a manifest.
func TestFaults(t *testing.T) {
	s := open(t)
	bad := api.Image{V: 1, UUID: "x", Owner: "me", Name: "a@b", Version: "1\n", Type: "vmdk", SizeMiB: 5, OS: "dos", Origin: "o", Description: strings.Repeat("x", 513),
		Homepage: "javascript:alert(1)", EULA: "x", ACL: []string{"me"}, Tags: map[string]any{"k": []string{"v"}},
		Requirements: api.ImageRequirements{Brand: "kvm", MinMemory: 2, MaxMemory: 1},
		Run:          api.ImageRun{Init: []string{""}, Env: []string{"X"}, User: "a b", WorkingDir: "x", StopSignal: "SIG"},
		Files:        []api.ImageFile{{Format: "ova", Compression: "bzip2", Size: -1, Digest: "x", SHA1: "y", DatasetGUID: "z"}}}
	_, err := do(t, s, func(tx store.Tx) (api.Image, error) { return Create(tx, bad, t0) })
	refused(t, err, api.CodeInvalid, "v is 1", `uuid "x"`, `owner "me"`, `name "a@b"`, `version "1\n"`, `type "vmdk"`, "image_size 5: only", `os "dos"`, `origin "o"`, "description",
		"homepage", "eula", `acl: "me"`, `tags: "k"`, "requirements.brand", "max_ram 1 is less", "run.init", `run.env: "X"`, "run.user", "run.working_dir", "run.stop_signal",
		"files[0].format", "files[0].compression", "files[0].size -1", "files[0].digest", "files[0].sha1", "files[0].dataset_guid")
	if k := keys(t, s); len(k) != 0 {
		t.Errorf("written all the same: %v", k)
	}
}

// The image of a disk says how large that is, and its file is no tar.
func TestDiskImages(t *testing.T) {
	s := open(t)
	i := sample(one, "disk", "1")
	i.Type = api.ImageZvol
	i.Run = api.ImageRun{Env: []string{"A=B"}}
	i.Requirements.Brand = api.BrandLX
	_, err := do(t, s, func(tx store.Tx) (api.Image, error) { return Create(tx, i, t0) })
	refused(t, err, api.CodeInvalid, "image_size 0: want the MiB", `"tar": want one of raw, qcow2, zfs`, "run: what is on a disk", "want kvm for an image of type")
	i.SizeMiB, i.Run, i.Requirements.Brand = 1024, api.ImageRun{}, api.BrandKVM
	for _, format := range []string{api.FormatRaw, api.FormatQCOW2, api.FormatZFS} {
		i.UUID, i.Version = "", format
		i.Files[0].Format = format
		got := create(t, s, i)
		if spec := SpecOf(got); spec.SizeMiB != 1024 || spec.Type != api.ImageZvol || spec.File.Format != format {
			t.Errorf("spec %+v", spec)
		}
	}
	i = sample(two, "zone", "1")
	i.Files[0].Format = api.FormatRaw
	_, err = do(t, s, func(tx store.Tx) (api.Image, error) { return Create(tx, i, t0) })
	refused(t, err, api.CodeInvalid, `"raw": want one of tar, zfs`)
}

// The states of an image, in the order of its life; each step again changes nothing.
func TestLife(t *testing.T) {
	s := open(t)
	i := create(t, s, sample(one, "debian", "1"))
	if i.State != api.ImageCreating || i.V != 2 || i.OS != "linux" || i.Revision == "" || !i.Created.Equal(t0) {
		t.Fatalf("%+v", i)
	}
	again := create(t, s, sample(one, "debian", "1"))
	if again.State != api.ImageCreating || again.Revision == i.Revision {
		t.Errorf("an import that goes on: %+v", again)
	}
	_, err := do(t, s, func(tx store.Tx) (api.Image, error) { return Activate(tx, one, t0) })
	refused(t, err, api.CodeConflict, "not all here")
	_, err = do(t, s, func(tx store.Tx) (api.Image, error) { return Disable(tx, one) })
	refused(t, err, api.CodeConflict, "creating")
	_, err = do(t, s, func(tx store.Tx) (api.Image, error) { return Checked(tx, one, i.Revision, i.Files[0]) })
	refused(t, err, api.CodeConflict, "was changed while")
	other := sample(one, "debian", "1")
	other.Files[0].Size++
	_, err = do(t, s, func(tx store.Tx) (api.Image, error) { return Create(tx, other, t0) })
	refused(t, err, api.CodeConflict, "with another file")
	f := i.Files[0]
	f.UncompressedSize = 300
	i = must(t, s, func(tx store.Tx) (api.Image, error) { return Checked(tx, one, again.Revision, f) })
	if i.State != api.ImageUnactivated || i.Files[0].UncompressedSize != 300 {
		t.Errorf("checked: %+v", i)
	}
	refused(t, Usable(i, alice), api.CodeConflict, "unactivated")
	for range 2 {
		i = must(t, s, func(tx store.Tx) (api.Image, error) { return Activate(tx, one, t0) })
	}
	if i.State != api.ImageActive || !i.PublishedAt.Equal(t0) || Usable(i, alice) != nil {
		t.Errorf("activated: %+v, %v", i, Usable(i, alice))
	}
	_, err = do(t, s, func(tx store.Tx) (api.Image, error) { return Create(tx, sample(one, "debian", "1"), t0) })
	refused(t, err, api.CodeConflict, "imported already")
	for range 2 {
		i = must(t, s, func(tx store.Tx) (api.Image, error) { return Disable(tx, one) })
	}
	refused(t, Usable(i, alice), api.CodeConflict, "disabled")
	i = must(t, s, func(tx store.Tx) (api.Image, error) { return Activate(tx, one, t0.Add(time.Hour)) })
	if !i.PublishedAt.Equal(t0) {
		t.Errorf("published anew: %v", i.PublishedAt)
	}
	// Damaged, and imported again under the same UUID.
	i = must(t, s, func(tx store.Tx) (api.Image, error) { return Fail(tx, one, i.Revision, "damaged") })
	if i.State != api.ImageFailed || i.Error != "damaged" {
		t.Errorf("failed: %+v", i)
	}
	if i = create(t, s, sample(one, "debian", "1")); i.State != api.ImageCreating || i.Error != "" {
		t.Errorf("imported again: %+v", i)
	}
	if i = must(t, s, func(tx store.Tx) (api.Image, error) { return Fail(tx, one, "stale", "x") }); i.State != api.ImageCreating {
		t.Errorf("failed by a check of another import: %+v", i)
	}
	must(t, s, func(tx store.Tx) (api.Image, error) { return Delete(tx, one, nil) })
	if k := keys(t, s); len(k) != 0 {
		t.Errorf("left behind: %v", k)
	}
	_, err = do(t, s, func(tx store.Tx) (api.Image, error) { return Get(tx, one) })
	refused(t, err, api.CodeNotFound)
}

// Who may use an image, and whom it is hidden from.
func TestAccess(t *testing.T) {
	s := open(t)
	i := active(t, s, sample(one, "debian", "1"), t0)
	find := func(account string) error {
		_, err := do(t, s, func(tx store.Tx) (api.Image, error) { return FindFor(tx, account, "debian") })
		return err
	}
	refused(t, find(bob), api.CodeNotFound)
	refused(t, Usable(i, bob), api.CodeNotFound)
	acl := []string{strings.ToUpper(bob), bob}
	i = must(t, s, func(tx store.Tx) (api.Image, error) { return Update(tx, one, api.ImageUpdate{ACL: &acl}) })
	if d := cmp.Diff([]string{bob}, i.ACL); d != "" || find(bob) != nil || Usable(i, bob) != nil {
		t.Errorf("shared: %v %v %s", find(bob), Usable(i, bob), d)
	}
	none, public := []string{}, true
	i = must(t, s, func(tx store.Tx) (api.Image, error) { return Update(tx, one, api.ImageUpdate{ACL: &none}) })
	refused(t, find(bob), api.CodeNotFound)
	i = must(t, s, func(tx store.Tx) (api.Image, error) { return Update(tx, one, api.ImageUpdate{Public: &public}) })
	if find(bob) != nil || Usable(i, bob) != nil {
		t.Error("a public image is hidden")
	}
}

// By name it is the newest active one; by version, that one; none active: it must be clear.
func TestFind(t *testing.T) {
	s := open(t)
	three := "33333333-0000-4000-8000-000000000003"
	active(t, s, sample(two, "debian", "1"), t0)
	active(t, s, sample(one, "debian", "2"), t0.Add(time.Hour))
	create(t, s, sample(three, "debian", "3"))
	create(t, s, sample("44444444-0000-4000-8000-000000000004", "debian2", "3"))
	for id, want := range map[string]string{"debian": one, "debian@1": two, "debian@3": three, strings.ToUpper(two): two} {
		i, err := do(t, s, func(tx store.Tx) (api.Image, error) { return Find(tx, id) })
		if err != nil || i.UUID != want {
			t.Errorf("%s: %s %v; want %s", id, i.UUID, err, want)
		}
	}
	for _, uuid := range []string{one, two} {
		must(t, s, func(tx store.Tx) (api.Image, error) { return Disable(tx, uuid) })
	}
	_, err := do(t, s, func(tx store.Tx) (api.Image, error) { return Find(tx, "debian") })
	refused(t, err, api.CodeConflict, "none is active", one, two, three)
	for _, id := range []string{"", "@", "debian@9", "nothing", "../x"} {
		_, err := do(t, s, func(tx store.Tx) (api.Image, error) { return Find(tx, id) })
		refused(t, err, api.CodeNotFound)
	}
}

func TestList(t *testing.T) {
	s := open(t)
	for n := range 5 {
		i := sample(fmt.Sprintf("0000000%d-0000-4000-8000-000000000000", n), "img", fmt.Sprint(n))
		if n%2 == 1 {
			i.Owner = bob
		}
		create(t, s, i)
	}
	page := func(f Filter, after string, limit int) (versions string) {
		err := s.View(t.Context(), func(tx store.Tx) error {
			l, next, err := List(tx, f, after, limit)
			for _, i := range l {
				versions += i.Version
			}
			if next != "" {
				versions += "+"
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return versions
	}
	for _, tt := range []struct {
		f     Filter
		after string
		limit int
		want  string
	}{
		{want: "01234"}, {limit: 2, want: "01+"}, {after: "00000001-0000-4000-8000-000000000000", limit: 3, want: "234"},
		{f: Filter{Owner: bob}, want: "13"}, {f: Filter{Owner: alice}, limit: 2, want: "02+"}, {f: Filter{Account: bob}, want: "13"},
		{f: Filter{Name: "img"}, limit: 4, want: "0123+"}, {f: Filter{State: "active"}}, {f: Filter{State: "creating"}, want: "01234"}, {f: Filter{Type: "docker"}},
		{f: Filter{Name: "img"}, after: "00000003-0000-4000-8000-000000000000", limit: 4, want: "4"},
	} {
		if got := page(tt.f, tt.after, tt.limit); got != tt.want {
			t.Errorf("%+v after %q, %d: %s; want %s", tt.f, tt.after, tt.limit, got, tt.want)
		}
	}
}

// Delete is refused with the instances, and with the images that are changes of it.
func TestDeleteInUse(t *testing.T) {
	s := open(t)
	base := sample(one, "base", "1")
	base.Files[0].Format = api.FormatZFS
	child := base
	child.UUID, child.Name, child.Origin = two, "child", one
	_, err := do(t, s, func(tx store.Tx) (api.Image, error) { return Create(tx, child, t0) })
	refused(t, err, api.CodeConflict, "whose file is not here")
	active(t, s, base, t0)
	create(t, s, child)
	_, err = do(t, s, func(tx store.Tx) (api.Image, error) { return Delete(tx, one, []string{"instance web (x)"}) })
	refused(t, err, api.CodeInUse, "instance web (x)", "image child@1")
	many := make([]string, 30)
	_, err = do(t, s, func(tx store.Tx) (api.Image, error) { return Delete(tx, two, many) })
	refused(t, err, api.CodeInUse, "and 10 more")
	must(t, s, func(tx store.Tx) (api.Image, error) { return Delete(tx, two, nil) })
	must(t, s, func(tx store.Tx) (api.Image, error) { return Delete(tx, one, nil) })
	if k := keys(t, s); len(k) != 0 {
		t.Errorf("left behind: %v", k)
	}
}

func TestCollectable(t *testing.T) {
	s := open(t)
	uuid := func(n int) string { return fmt.Sprintf("0000000%d-0000-4000-8000-000000000000", n) }
	create(t, s, sample(uuid(1), "creating", "1")) // given up
	create(t, s, sample(uuid(2), "moving", "1"))
	i := create(t, s, sample(uuid(3), "failed", "1"))
	must(t, s, func(tx store.Tx) (api.Image, error) { return Fail(tx, i.UUID, i.Revision, "x") })
	for n, name := range map[int]string{4: "active", 5: "disabled", 6: "used"} {
		active(t, s, sample(uuid(n), name, "1"), t0)
	}
	for _, n := range []int{5, 6} {
		must(t, s, func(tx store.Tx) (api.Image, error) { return Disable(tx, uuid(n)) })
	}
	at := func(now time.Time) (names string) {
		err := s.View(t.Context(), func(tx store.Tx) error {
			found, err := Collectable(tx, now, func(u string) time.Time {
				if u == uuid(2) {
					return now.Add(-time.Minute)
				}
				return time.Time{}
			}, func(u string) ([]string, error) {
				if u == uuid(6) {
					return []string{"instance web"}, nil
				}
				return nil, nil
			})
			for _, i := range found {
				names += i.Name + " "
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if got := at(t0.Add(AbandonedAfter - time.Second)); got != "failed disabled " {
		t.Errorf("after less than a day: %s", got)
	}
	if got := at(t0.Add(AbandonedAfter)); got != "failed creating disabled " {
		t.Errorf("after a day: %s", got)
	}
}

// What a server is told of an image.
func TestSpecOf(t *testing.T) {
	i := sample(one, "debian", "1")
	want := api.ImageSpec{UUID: one, Name: "debian@1", Type: api.ImageLXDataset, File: i.Files[0]}
	if d := cmp.Diff(want, SpecOf(i)); d != "" {
		t.Error(d)
	}
}

// BenchmarkFind is one look at an image by name among 10,000, as every create of an
// instance has it.
func BenchmarkFind(b *testing.B) {
	s := open(b)
	err := s.Update(b.Context(), func(tx store.Tx) error {
		for n := range 10_000 {
			if _, err := Create(tx, sample("", fmt.Sprint("img", n), "1"), t0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		err := s.View(b.Context(), func(tx store.Tx) error {
			_, err := Find(tx, "img5000")
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
