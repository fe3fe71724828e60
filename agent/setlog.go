package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"nereid/agent/storage"
)

// A set is kept in a file of the run directory and one of the pool: setRecords as
// JSON, a line each. A line that a power cut broke off is the last one, and is not one:
// the change that it is of is asked for again. What is added to a file costs what
// changed; when that has become more than what was there, the file is written anew.

// minLog is how many bytes are added to a file before it is written anew.
const minLog = 256 << 10

// Times between tries to keep a set.
const (
	keepRetry    = 2 * time.Second
	keepRetryMax = 2 * time.Minute
)

// setFile is one of the files.
type setFile struct {
	write func(ctx context.Context, data []byte) error // replaces it, at once and for good
	add   func(ctx context.Context, data []byte) error // for good

	begun bool // this agent has written it whole
	size  int  // when it did
	added int  // bytes, since
}

// keep writes changes, or the state where that is less or the file is not ours yet.
func (f *setFile) keep(ctx context.Context, changes []byte, whole func() []byte) (err error) {
	if f.begun && f.added+len(changes) <= max(minLog, f.size) {
		if len(changes) == 0 {
			return nil
		}
		f.begun = false // until it is known that the lines are there
		if err = f.add(ctx, changes); err == nil {
			f.begun, f.added = true, f.added+len(changes)
		}
		return err
	}
	data := whole()
	f.begun = false
	if err = f.write(ctx, data); err == nil {
		f.begun, f.size, f.added = true, len(data), 0
	}
	return err
}

// keep is the goroutine that keeps the set, until ctx ends. It may wait for the pool,
// and nothing waits for it: what is not kept yet is told again after a restart.
func (p *follower[V]) keep(ctx context.Context) error {
	a, name := p.a, p.kind.file
	path := filepath.Join(a.Dir, name)
	run := &setFile{
		write: func(_ context.Context, data []byte) error { return writeFile(path, data) },
		add:   func(_ context.Context, data []byte) error { return storage.Append(path, data) },
	}
	pool := &setFile{
		write: func(ctx context.Context, data []byte) error { return a.Config.WriteConfig(ctx, name, data) },
		add:   func(ctx context.Context, data []byte) error { return a.Config.AppendConfig(ctx, name, data) },
	}
	retry := backoff{min: keepRetry, max: keepRetryMax}
	for ctx.Err() == nil {
		changes, whole, at := p.wanted()
		if whole {
			run.begun, pool.begun = false, false
		}
		lines := logLines(changes...)
		err := run.keep(ctx, lines, p.file)
		if err == nil {
			if err = pool.keep(ctx, lines, p.file); errors.Is(err, storage.ErrNoPool) {
				pool.begun, err = false, nil // it is written whole when there is one
			}
		} else {
			pool.begun = false
		}
		if err == nil {
			p.kept(at)
			retry.reset()
			a.board.problem(name, "")
			select {
			case <-p.news:
			case <-ctx.Done():
			}
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		a.Log.Error("keep set", "file", name, "err", err)
		a.board.problem(name, p.kind.lost+": "+err.Error()+"; a boot without the head node would not know the last changes.")
		pause(ctx, retry.next())
	}
	return nil
}

// logLines are records as they are in a file.
func logLines[V any](records ...setRecord[V]) []byte {
	var b bytes.Buffer
	for _, r := range records {
		line, err := json.Marshal(r)
		if err != nil {
			panic(err) // maps, strings and what was decoded: nothing that JSON lacks
		}
		b.Write(append(line, '\n'))
	}
	return b.Bytes()
}

// readLog is the state that a file leads to; nil when there is none in it.
func readLog[V any](k kind[V], data []byte) *setState[V] {
	var s *setState[V]
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		var r setRecord[V]
		if !ended || json.Unmarshal(line, &r) != nil {
			return s // where the power went
		}
		if s == nil {
			if r.State == nil {
				return nil
			}
			fresh := newSetState(k)
			s = &fresh
		}
		s.apply(r)
		data = rest
	}
	if s != nil {
		s.Follow.Kept = 0 // until both files are known to have it
	}
	return s
}

// start begins with the set as it was kept, of this boot, else on the pool, else with
// what else is known of it.
func (p *follower[V]) start(ctx context.Context, other *setState[V]) {
	kept := p.read(ctx)
	if kept == nil {
		kept = other
	}
	p.begin(kept)
}

func (p *follower[V]) read(ctx context.Context) *setState[V] {
	data, err := os.ReadFile(filepath.Join(p.a.Dir, p.kind.file))
	if s := readLog(p.kind, data); s != nil && err == nil {
		return s
	}
	if data, err = p.a.Config.ReadConfig(ctx, p.kind.file); err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrNoPool) {
			p.a.Log.Warn("read set of the pool", "file", p.kind.file, "err", err)
		}
		return nil
	}
	return readLog(p.kind, data)
}
