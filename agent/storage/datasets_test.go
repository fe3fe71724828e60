package storage

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"nereid/agent/agenttest"
	"nereid/api"
)

// backend is what a suite of datasets runs on.
type backend interface {
	Datasets
	Snapshots
	Streams
	Lister
}

var (
	_ backend = ZFS{}
	_ backend = (*agenttest.World)(nil)
)

// testDatasets is what every backend does. parent is an empty file system that is
// mounted at dir.
func testDatasets(t *testing.T, z backend, parent, dir string) {
	ctx := t.Context()
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	is := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want an error that is %v", what, err, want)
		}
	}
	write := func(name, text string) {
		t.Helper()
		must("write", os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	reads := func(name, want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
			t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
		}
	}
	image := parent + "/image"
	must("create", z.Create(ctx, image, map[string]string{"compression": "zstd", "nereid:image": "debian"}))
	is("create again", z.Create(ctx, image, nil), fs.ErrExist)
	is("create without a parent", z.Create(ctx, parent+"/no/child", nil), fs.ErrNotExist)
	write("image/etc", "one")
	must("set", z.Set(ctx, image, map[string]string{"nereid:state": "active", "quota": "1073741824"}))
	is("set on nothing", z.Set(ctx, parent+"/none", map[string]string{"nereid:x": "1"}), fs.ErrNotExist)
	must("snapshot", z.Snapshot(ctx, image, "final", false))
	is("snapshot again", z.Snapshot(ctx, image, "final", false), fs.ErrExist)

	for range 2 { // once more is no change
		must("clone", z.Clone(ctx, image+"@final", parent+"/vm/disk", map[string]string{"nereid:instance": "1"}))
	}
	reads("vm/disk/etc", "one")
	is("clone of nothing", z.Clone(ctx, image+"@none", parent+"/other", nil), fs.ErrNotExist)
	is("destroy with a clone", z.Destroy(ctx, image+"@final"), syscall.EBUSY)
	is("destroy with a snapshot", z.Destroy(ctx, image), syscall.EBUSY)
	is("destroy with a child", z.Destroy(ctx, parent+"/vm"), syscall.EBUSY)

	must("snapshot below", z.Snapshot(ctx, parent+"/vm", "a", true))
	write("vm/disk/etc", "two")
	must("snapshot below", z.Snapshot(ctx, parent+"/vm", "b", true))
	write("vm/disk/etc", "three")
	is("rollback over a newer one", z.Rollback(ctx, parent+"/vm/disk@a", false), syscall.EBUSY)
	must("rollback", z.Rollback(ctx, parent+"/vm/disk@b", false))
	reads("vm/disk/etc", "two")
	must("rollback over a newer one", z.Rollback(ctx, parent+"/vm/disk@a", true))
	reads("vm/disk/etc", "one")

	for range 2 {
		must("volume", z.CreateVolume(ctx, parent+"/vm/data", 8<<20, map[string]string{"volblocksize": "16384"}))
	}

	write("image/etc", "newer")
	must("snapshot", z.Snapshot(ctx, image, "next", false))
	var full, more bytes.Buffer
	must("send", z.Send(ctx, image+"@final", "", &full))
	must("send what changed", z.Send(ctx, image+"@next", image+"@final", &more))
	is("send of nothing", z.Send(ctx, image+"@none", "", &bytes.Buffer{}), fs.ErrNotExist)
	copied := parent + "/copy-partial"
	must("receive", z.Receive(ctx, copied, bytes.NewReader(full.Bytes()), map[string]string{"nereid:copy": "yes", "quota": ""}, true))
	is("receive again", z.Receive(ctx, copied, bytes.NewReader(full.Bytes()), nil, false), fs.ErrExist)
	must("receive what changed", z.Receive(ctx, copied, &more, nil, false))
	if err := z.Receive(ctx, parent+"/bad", strings.NewReader("no stream"), nil, false); err == nil {
		t.Error("a stream that is none was received")
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := z.Receive(ended, parent+"/late", bytes.NewReader(full.Bytes()), nil, false); err == nil {
		t.Error("an ended context receives")
	}
	must("rename", z.Rename(ctx, copied, parent+"/copy"))
	is("rename of nothing", z.Rename(ctx, copied, parent+"/x"), fs.ErrNotExist)
	is("rename to what is there", z.Rename(ctx, parent+"/copy", image), fs.ErrExist)

	all, err := z.List(ctx, parent, "type", "guid", "origin", "nereid:instance", "nereid:copy")
	must("list", err)
	guids := map[string]string{}
	for name, v := range all {
		guids[name] = v["guid"]
		delete(v, "guid")
		if guids[name] == "" {
			t.Errorf("%s has no GUID", name)
		}
	}
	for name, want := range map[string]string{
		"/vm/disk":    "filesystem of " + image + "@final for 1",
		"/vm/disk@a":  "snapshot of  for ", // properties of users are inherited
		"/vm/data":    "volume of  for ",
		"/image@next": "snapshot of  for ",
		"/copy":       "filesystem of  for ",
		"/copy@final": "snapshot of  for ",
	} {
		v := all[parent+name]
		if got := v["type"] + " of " + v["origin"] + " for " + v["nereid:instance"]; got != want {
			t.Errorf("%s is a %q, want %q", name, got, want)
		}
	}
	if _, there := all[parent+"/vm/disk@b"]; there || all[parent+"/copy"]["nereid:copy"] != "yes" || guids[parent+"/copy@final"] != guids[image+"@final"] {
		t.Errorf("list: %v", all)
	}
	if _, err := z.List(ctx, parent+"/none", "type"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("list of nothing: %v", err)
	}

	must("destroy snapshots", z.DestroySnapshots(ctx, parent+"/vm/disk", "a", "none"))
	must("destroy snapshots again", z.DestroySnapshots(ctx, parent+"/vm/disk", "a"))
	must("destroy", z.Destroy(ctx, parent+"/vm/disk"))
	is("destroy again", z.Destroy(ctx, parent+"/vm/disk"), fs.ErrNotExist)
	must("destroy a volume", z.Destroy(ctx, parent+"/vm/data"))
	must("destroy snapshots", z.DestroySnapshots(ctx, image, "final", "next"))
	must("destroy", z.Destroy(ctx, image))
}

func TestDatasets(t *testing.T) {
	l := newLab(t, "sda")
	if err := l.setup(t, api.SetupSpec{ID: testSetup}); err != nil {
		t.Fatal(err)
	}
	if err := l.World.Create(t.Context(), "zones/suite", nil); err != nil {
		t.Fatal(err)
	}
	testDatasets(t, l.World, "zones/suite", filepath.Join(l.World.Root, "zones", "suite"))
	l.Calls()
	// A listing costs one command, however many datasets there are.
	for _, name := range []string{"zones/a", "zones/b", "zones/c"} {
		if err := l.World.Create(t.Context(), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	l.Calls()
	if _, err := l.List(t.Context(), "zones", "guid"); err != nil || len(l.Calls()) != 1 {
		t.Errorf("a listing took more than one command: %v", err)
	}
}

// TestMeaning: what zfs prints says which error it is.
func TestMeaning(t *testing.T) {
	failed := errors.New("exit status 1")
	for printed, want := range map[string]error{
		"cannot create 'zones/a': dataset already exists\n":                                fs.ErrExist,
		"cannot open 'zones/a': dataset does not exist":                                    fs.ErrNotExist,
		"could not find any snapshots to destroy; check snapshot names.":                   fs.ErrNotExist,
		"cannot destroy 'zones/a': dataset is busy":                                        syscall.EBUSY,
		"cannot destroy 'zones/a@b': snapshot has dependent clones\nuse '-R' to destroy":   syscall.EBUSY,
		"cannot destroy 'zones/a': filesystem has children\nuse '-r' to destroy":           syscall.EBUSY,
		"cannot rollback to 'a@b': more recent snapshots or bookmarks exist":               syscall.EBUSY,
		"cannot receive new filesystem stream: destination 'zones/a' exists\nmust specify": fs.ErrExist,
		"cannot receive new filesystem stream: out of space":                               syscall.ENOSPC,
		"cannot set property for 'zones/a': disk quota exceeded":                           syscall.EDQUOT,
	} {
		err := meaning(printed, failed)
		if !errors.Is(err, want) || !errors.Is(err, failed) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q means %v, want %v and %v", printed, err, want, failed)
		}
	}
	if err := meaning("I/O error", failed); err.Error() != "I/O error (exit status 1)" {
		t.Errorf("what has no meaning of its own: %v", err)
	}
	if err := meaning("", failed); err != failed {
		t.Errorf("what printed nothing: %v", err)
	}
}
