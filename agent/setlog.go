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

// keepable is what can be kept in a file.
type keepable interface {
	wanted() (lines []byte, whole bool, kept func()) // changes since it was asked last; whole: or more
	file() []byte                                    // all of it
}

// keep is the goroutine that keeps sets in the file of a name, until ctx ends; news says
// that there is something to keep. It may wait for the pool, and nothing waits for it:
// what is not kept yet is told again after a restart. lost is a sentence: what it means
// that they could not be kept.
func (a *Agent) keep(ctx context.Context, p keepable, news <-chan struct{}, name, lost string) error {
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
		lines, whole, kept := p.wanted()
		if whole {
			run.begun, pool.begun = false, false
		}
		err := run.keep(ctx, lines, p.file)
		if err == nil {
			if err = pool.keep(ctx, lines, p.file); errors.Is(err, storage.ErrNoPool) {
				pool.begun, err = false, nil // it is written whole when there is one
			}
		} else {
			pool.begun = false
		}
		if err == nil {
			kept()
			retry.reset()
			a.board.problem(name, "")
			select {
			case <-news:
			case <-ctx.Done():
			}
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		a.Log.Error("keep set", "file", name, "err", err)
		a.board.problem(name, lost+": "+err.Error()+"; a boot without the head node would not know the last changes.")
		pause(ctx, retry.next())
	}
	return nil
}

// logLines are records as they are in a file.
func logLines[R any](records ...R) []byte {
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

// readRecords hands the records of a file to take, until it says false.
func readRecords[R any](data []byte, take func(R) bool) {
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		var r R
		if !ended || json.Unmarshal(line, &r) != nil || !take(r) {
			return // where the power went
		}
		data = rest
	}
}

// readLog is the state that a file leads to; nil when there is none in it.
func readLog[V any](k kind[V], data []byte) *setState[V] {
	var s *setState[V]
	readRecords(data, func(r setRecord[V]) bool {
		if s == nil {
			if r.State == nil {
				return false
			}
			fresh := newSetState(k)
			s = &fresh
		}
		s.apply(r)
		return true
	})
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

func (p *follower[V]) read(ctx context.Context) (s *setState[V]) {
	p.a.readKept(ctx, p.kind.file, func(data []byte) bool {
		s = readLog(p.kind, data)
		return s != nil
	})
	return s
}

// readKept hands a kept file to take: that of this boot, and unless take says true, that
// of the pool.
func (a *Agent) readKept(ctx context.Context, name string, take func(data []byte) bool) {
	if data, err := os.ReadFile(filepath.Join(a.Dir, name)); err == nil && take(data) {
		return
	}
	data, err := a.Config.ReadConfig(ctx, name)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrNoPool) {
			a.Log.Warn("read set of the pool", "file", name, "err", err)
		}
		return
	}
	take(data)
}

// start begins with the copies as they were kept. Where it is not known which server this
// is, it is the one that they were kept of.
func (c *copies) start(ctx context.Context) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.a.readKept(ctx, setsFile, func(data []byte) (some bool) {
		readRecords(data, func(r copiesRecord) bool {
			if some = some || r.State != nil; some {
				c.apply(r)
			}
			return some
		})
		return some
	})
	for name := range c.sets {
		if c.nat == "" && isServerNAT(name) {
			c.nat = name
		}
	}
}
