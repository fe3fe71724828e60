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
	"nereid/api"
)

// The ports are kept in a file of the run directory and one of the pool: portRecords as
// JSON, a line each. A line that a power cut broke off is the last one, and is not one:
// the change that it is of is asked for again. What is added to a file costs what
// changed; when that has become more than what was there, the file is written anew.

// minLog is how many bytes are added to a file before it is written anew.
const minLog = 256 << 10

// Times between tries to keep the ports.
const (
	portsRetry    = 2 * time.Second
	portsRetryMax = 2 * time.Minute
)

// portFile is one of the files.
type portFile struct {
	write func(ctx context.Context, data []byte) error // replaces it, at once and for good
	add   func(ctx context.Context, data []byte) error // for good

	begun bool // this agent has written it whole
	size  int  // when it did
	added int  // bytes, since
}

// keep writes changes, or the state where that is less or the file is not ours yet.
func (f *portFile) keep(ctx context.Context, changes []byte, whole func() []byte) (err error) {
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

// keepPorts is the goroutine that keeps the ports, until ctx ends. It may wait for the
// pool, and nothing waits for it: what is not kept yet is told again after a restart.
func (a *Agent) keepPorts(ctx context.Context) error {
	path := filepath.Join(a.Dir, portsFile)
	run := &portFile{
		write: func(_ context.Context, data []byte) error { return writeFile(path, data) },
		add:   func(_ context.Context, data []byte) error { return storage.Append(path, data) },
	}
	pool := &portFile{
		write: func(ctx context.Context, data []byte) error { return a.Config.WriteConfig(ctx, portsFile, data) },
		add:   func(ctx context.Context, data []byte) error { return a.Config.AppendConfig(ctx, portsFile, data) },
	}
	retry := backoff{min: portsRetry, max: portsRetryMax}
	for ctx.Err() == nil {
		changes, whole, at := a.ports.wanted()
		if whole {
			run.begun, pool.begun = false, false
		}
		lines := logLines(changes...)
		err := run.keep(ctx, lines, a.ports.file)
		if err == nil {
			if err = pool.keep(ctx, lines, a.ports.file); errors.Is(err, storage.ErrNoPool) {
				pool.begun, err = false, nil // it is written whole when there is one
			}
		} else {
			pool.begun = false
		}
		if err == nil {
			a.ports.kept(at)
			retry.reset()
			a.board.problem("ports", "")
			select {
			case <-a.ports.news:
			case <-ctx.Done():
			}
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		a.Log.Error("keep ports", "err", err)
		a.board.problem("ports", "What the head node wants of instances' NICs could not be kept: "+err.Error()+"; a boot without the head node would not know the last changes.")
		pause(ctx, retry.next())
	}
	return nil
}

// logLines are records as they are in a file.
func logLines(records ...portRecord) []byte {
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
func readLog(data []byte) *portState {
	var s *portState
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		var r portRecord
		if !ended || json.Unmarshal(line, &r) != nil {
			return s // where the power went
		}
		if s == nil {
			if r.State == nil {
				return nil
			}
			fresh := newPortState()
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

// keptPorts are the ports as they were kept, of this boot, else on the pool; nil: they
// were not.
func (a *Agent) keptPorts(ctx context.Context) *portState {
	data, err := os.ReadFile(filepath.Join(a.Dir, portsFile))
	if s := readLog(data); s != nil && err == nil {
		return s
	}
	if data, err = a.Config.ReadConfig(ctx, portsFile); err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrNoPool) {
			a.Log.Warn("read ports of the pool", "err", err)
		}
		return nil
	}
	return readLog(data)
}

// startPorts reads what was kept of the ports; last is the last spec.
func (a *Agent) startPorts(ctx context.Context, last *api.NetworkSpec) {
	a.ports.begin(a.keptPorts(ctx), last)
}
