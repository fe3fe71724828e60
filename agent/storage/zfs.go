package storage

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	zfs "github.com/mistifyio/go-zfs/v3"
)

// ZFS is the system's zfs: Datasets, Snapshots, Streams, Lister, Properties,
// Mounts and Volumes. Its zero value is ready.
type ZFS struct{}

// pipeBytes is how much of a stream is under way to zfs receive, which takes records of
// up to a mebibyte: with a pipe's usual 64 KiB it and we would wait for each other in turns.
const pipeBytes = 1 << 20

// call runs what go-zfs does and says what it meant.
func call(ctx context.Context, verb, name string, fn func() error) error {
	err := ctx.Err()
	if err == nil {
		err = supported()
	}
	if err == nil {
		err = fn()
	}
	var said *zfs.Error
	if errors.As(err, &said) {
		err = meaning(said.Stderr, said.Err)
	}
	if err != nil {
		return fmt.Errorf("zfs %s %s: %w", verb, name, err)
	}
	return nil
}

// meanings are parts of what zfs prints (libzfs_util.c, zfs_main.c), and the error
// that each is.
var meanings = []struct {
	text string
	err  error
}{
	{"dataset already exists", fs.ErrExist},
	{"does not exist", fs.ErrNotExist},
	{"no such pool", fs.ErrNotExist},
	{"could not find any snapshots to destroy", fs.ErrNotExist},
	{"dataset is busy", syscall.EBUSY},
	{"pool or dataset is busy", syscall.EBUSY},
	{"has dependent clones", syscall.EBUSY},
	{"it's being held", syscall.EBUSY},
	{"has children", syscall.EBUSY},
	{"more recent snapshots or bookmarks exist", syscall.EBUSY},
	{"out of space", syscall.ENOSPC},
	{"disk quota exceeded", syscall.EDQUOT},
}

// meaning is an error with what zfs printed, and what that means where it is known.
func meaning(printed string, err error) error {
	text := strings.Join(strings.Fields(printed), " ")
	if strings.Contains(text, "cannot receive") && strings.Contains(text, "exists") {
		return fmt.Errorf("%w: %s (%w)", fs.ErrExist, text, err)
	}
	for _, m := range meanings {
		if strings.Contains(text, m.text) {
			return fmt.Errorf("%w: %s (%w)", m.err, text, err)
		}
	}
	if text == "" {
		return err
	}
	return fmt.Errorf("%s (%w)", text, err)
}

// snapshotOf is a snapshot as go-zfs wants it, without a look at it.
func snapshotOf(name string) *zfs.Dataset {
	return &zfs.Dataset{Name: name, Type: zfs.DatasetSnapshot}
}

// Create implements Datasets.
func (ZFS) Create(ctx context.Context, name string, props map[string]string) error {
	return call(ctx, "create", name, func() error { _, err := zfs.CreateFilesystem(name, props); return err })
}

// CreateVolume implements Datasets.
func (ZFS) CreateVolume(ctx context.Context, name string, bytes uint64, props map[string]string) error {
	return call(ctx, "create -V", name, func() error { _, err := zfs.CreateVolume(name, bytes, props); return err })
}

// Set implements Datasets.
func (ZFS) Set(ctx context.Context, name string, props map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(props)) {
		if err := call(ctx, "set "+k, name, func() error { return (&zfs.Dataset{Name: name}).SetProperty(k, props[k]) }); err != nil {
			return err
		}
	}
	return nil
}

// Rename implements Datasets.
// go-zfs looks at what has the name then, which takes as long as to give it.
func (z ZFS) Rename(ctx context.Context, from, to string) error {
	_, err := z.run(ctx, nil, "rename", from, to)
	return err
}

// Destroy implements Datasets. A volume that is busy is tried once more when udev has
// looked at what it was told of: its rules open each volume that comes.
func (ZFS) Destroy(ctx context.Context, name string) error {
	destroy := func() error {
		return call(ctx, "destroy", name, func() error { return (&zfs.Dataset{Name: name}).Destroy(zfs.DestroyDefault) })
	}
	err := destroy()
	if !isBusy(err) {
		return err
	}
	if _, settled := (commands{}).Run(ctx, "udevadm", "settle", "--timeout=30"); settled != nil {
		return err
	}
	return destroy()
}

// Snapshot implements Snapshots.
func (ZFS) Snapshot(ctx context.Context, dataset, snapshot string, recursive bool) error {
	return call(ctx, "snapshot", dataset+"@"+snapshot, func() error {
		_, err := (&zfs.Dataset{Name: dataset}).Snapshot(snapshot, recursive)
		return err
	})
}

// Clone implements Snapshots. The kernel makes a clone in one transaction, sets its quota
// in a later one and all other properties together in the last: power that goes between
// them leaves a clone without them, whose mount point tells.
func (z ZFS) Clone(ctx context.Context, snapshot, name string, props map[string]string) error {
	// go-zfs looks at what it made, which takes as long as to make it. It is asked when
	// something is in the way.
	args := []string{"clone"}
	for _, k := range slices.Sorted(maps.Keys(props)) {
		args = append(args, "-o", k+"="+props[k])
	}
	_, err := z.run(ctx, nil, append(args, snapshot, name)...)
	if !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	whole := true
	err = call(ctx, "clone", snapshot, func() error {
		d, err := snapshotOf(snapshot).Clone(name, props)
		if err == nil && d.Origin != snapshot {
			err = fmt.Errorf("%w: %s is there and is no clone of it", fs.ErrExist, name)
		}
		if err == nil && props["mountpoint"] != "" {
			whole = d.Mountpoint == props["mountpoint"]
		}
		return err
	})
	if err != nil || whole {
		return err
	}
	last := map[string]string{"mountpoint": props["mountpoint"]} // it tells that all others are there
	props = maps.Clone(props)
	delete(props, "mountpoint")
	if err := z.Set(ctx, name, props); err != nil {
		return err
	}
	return z.Set(ctx, name, last)
}

// Rollback implements Snapshots.
func (ZFS) Rollback(ctx context.Context, snapshot string, newer bool) error {
	return call(ctx, "rollback", snapshot, func() error { return snapshotOf(snapshot).Rollback(newer) })
}

// Send implements Streams.
func (ZFS) Send(ctx context.Context, snapshot, base string, w io.Writer) error {
	return call(ctx, "send", snapshot, func() error {
		if base == "" {
			return snapshotOf(snapshot).SendSnapshot(w)
		}
		return snapshotOf(snapshot).IncrementalSend(snapshotOf(base), w)
	})
}

// Receive implements Streams. go-zfs's has no options and no context.
func (z ZFS) Receive(ctx context.Context, name string, r io.Reader, props map[string]string, resumable bool) error {
	args := []string{"receive", "-u"}
	if resumable {
		args = append(args, "-s")
	}
	for _, k := range slices.Sorted(maps.Keys(props)) {
		if v := props[k]; v != "" {
			args = append(args, "-o", k+"="+v)
		} else {
			args = append(args, "-x", k)
		}
	}
	_, err := z.run(ctx, r, append(args, name)...)
	return err
}

// DestroySnapshots implements Snapshots. go-zfs destroys one at a time.
func (z ZFS) DestroySnapshots(ctx context.Context, dataset string, snapshots ...string) error {
	if len(snapshots) == 0 {
		return nil
	}
	_, err := z.run(ctx, nil, "destroy", dataset+"@"+strings.Join(snapshots, ","))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // zfs destroys those that are there, and says so only when none is
	}
	return err
}

// List implements Lister. go-zfs's lists have neither GUIDs nor user properties.
func (z ZFS) List(ctx context.Context, root string, props ...string) (map[string]map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	defer cancel()
	out, err := z.run(ctx, nil, "get", "-j", "-p", "-r", "-s", "local,received,default,none", "-t", "filesystem,volume,snapshot", strings.Join(props, ","), root)
	if err != nil {
		return nil, err
	}
	sets, err := parseProperties(out)
	if err != nil {
		return nil, err
	}
	for _, values := range sets {
		maps.DeleteFunc(values, func(_, v string) bool { return v == "-" || v == "" })
	}
	return sets, nil
}

// Keep implements Properties: a channel program (zfs-program(8)) that comes on
// standard input, so that the values are in no command line.
func (z ZFS) Keep(ctx context.Context, name string, props map[string]string) error {
	pool, _, _ := strings.Cut(name, "/")
	_, err := z.run(ctx, strings.NewReader(keepProgram(name, props)), "program", pool, "-")
	return err
}

// keepProgram is the channel program that sets and takes away properties of users.
func keepProgram(name string, props map[string]string) string {
	var b strings.Builder
	b.WriteString("local function done(e) if e == 2 then error(\"dataset does not exist\") end " +
		"if e == 28 then error(\"out of space\") end if e ~= 0 then error(\"error \" .. e) end end\n")
	for _, k := range slices.Sorted(maps.Keys(props)) {
		if v := props[k]; v != "" {
			fmt.Fprintf(&b, "done(zfs.sync.set_prop(%s, %s, %s))\n", luaString(name), luaString(k), luaString(v))
		} else {
			fmt.Fprintf(&b, "done(zfs.sync.inherit(%s, %s))\n", luaString(name), luaString(k))
		}
	}
	return b.String()
}

// luaString is a string as Lua reads it: every byte that is not plain is an escape.
func luaString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, "\\%03d", c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// run runs what go-zfs cannot express. It returns when stdin is read no more.
func (ZFS) run(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	if err := supported(); err != nil {
		return nil, fmt.Errorf("zfs %s: %w", args[0], err)
	}
	cmd := exec.CommandContext(ctx, "zfs", args...)
	cmd.Env = append(cmd.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second
	var out, printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &printed
	var fed sync.WaitGroup
	if stdin != nil {
		pipe, err := cmd.StdinPipe()
		if err != nil {
			return nil, fmt.Errorf("zfs %s: %w", args[0], err)
		}
		widen(pipe)
		fed.Go(func() {
			w := bufio.NewWriterSize(pipe, pipeBytes)
			if _, err := io.Copy(w, stdin); err == nil {
				_ = w.Flush() // what was cut, or not taken, the program says
			}
			pipe.Close()
		})
	}
	err := cmd.Run()
	fed.Wait()
	if err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return nil, fmt.Errorf("zfs %s %s: %w", args[0], args[len(args)-1], meaning(printed.String(), err))
	}
	return out.Bytes(), nil
}
