package platform

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"nereid/api"
)

// stageFile records what a stage made; a stage directory without it is not complete.
const stageFile = "stage.json"

// lockPoll is how often a stage another build works on is asked for again.
const lockPoll = 300 * time.Millisecond

// keyVersion changes when the meaning of stage inputs or outputs does.
const keyVersion = "nereid platform stage 1"

// stage is one step of a build.
type stage struct {
	name     string
	what     string    // for people
	inputs   []string  // everything the output depends on
	packages []Package // what packages.json says of it
	run      func(ctx context.Context, r *runner, scratch, out string) error
}

// stageRecord is the content of stageFile.
type stageRecord struct {
	Inputs   []string   `json:"inputs"`
	Files    []api.File `json:"files"`
	Packages []Package  `json:"packages,omitempty"`
}

// made is a stage's output in the cache.
type made struct {
	stageRecord
	key string
	dir string
}

// file returns the path of one output file.
func (m made) file(name string) string { return filepath.Join(m.dir, name) }

// digest returns the recorded digest of one output file.
func (m made) digest(name string) (api.File, error) {
	for _, f := range m.Files {
		if f.Name == name {
			return f, nil
		}
	}
	return api.File{}, fmt.Errorf("stage output %s: no file %s", m.dir, name)
}

// stageKey derives a stage's key from its name and inputs. Lengths go in too, so
// that no two lists of inputs read the same.
func stageKey(name string, inputs []string) string {
	h := sha256.New()
	for _, s := range append([]string{keyVersion, name}, inputs...) {
		fmt.Fprintf(h, "%d:%s\n", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// stages runs stages against a cache directory.
type stages struct {
	cache   string
	show    *progress
	now     func() time.Time
	results []StageResult
}

// do returns the output of a stage: the cached one when it is there and its
// digests still hold, or else made now.
func (s *stages) do(ctx context.Context, st stage) (made, error) {
	key := stageKey(st.name, st.inputs)
	id := st.name + "-" + key[:24]
	m := made{key: key, dir: filepath.Join(s.cache, "stages", id)}
	s.show.begin(st.name, st.what)
	begun := s.now()

	unlock, err := s.lock(ctx, id)
	if err != nil {
		return made{}, fmt.Errorf("stage %s: %w", st.name, err)
	}
	defer unlock()

	rec, err := readStage(m.dir)
	cached := err == nil
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		s.show.say("%-12s   cached output is damaged (%v); making it again", st.name, err)
	}
	if !cached {
		if rec, err = s.make(ctx, st, id, m.dir); err != nil {
			return made{}, fmt.Errorf("stage %s: %w", st.name, err)
		}
	}
	if err := touch(m.dir, begun); err != nil {
		return made{}, err
	}
	m.stageRecord = rec
	took := s.now().Sub(begun)
	s.results = append(s.results, StageResult{Name: st.name, Key: key, Cached: cached, Elapsed: took, Files: rec.Files})
	s.show.end(summary(cached, took, rec.Files))
	return m, nil
}

// make runs a stage in scratch and moves its output to dir when it is complete.
func (s *stages) make(ctx context.Context, st stage, id, dir string) (stageRecord, error) {
	rec := stageRecord{Inputs: st.inputs, Packages: st.packages}
	scratch := filepath.Join(s.cache, "scratch", id)
	if err := os.RemoveAll(scratch); err != nil {
		return rec, fmt.Errorf("remove what a killed build left: %w", err)
	}
	out := filepath.Join(scratch, "out")
	logs := filepath.Join(s.cache, "logs")
	for _, d := range []string{out, logs, filepath.Dir(dir)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return rec, err
		}
	}
	defer os.RemoveAll(scratch)

	logPath := filepath.Join(logs, st.name+".log")
	log, err := os.Create(logPath)
	if err != nil {
		return rec, err
	}
	defer log.Close()
	defer s.show.watch()()
	if err := st.run(ctx, &runner{log: log, path: logPath, tick: s.show.tick}, scratch, out); err != nil {
		return rec, err
	}
	if rec.Files, err = listFiles(out); err != nil {
		return rec, err
	}
	if err := writeJSON(filepath.Join(out, stageFile), rec, 0o644); err != nil {
		return rec, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return rec, err
	}
	return rec, os.Rename(out, dir)
}

// lock keeps two builds from working on one stage, across processes.
func (s *stages) lock(ctx context.Context, id string) (func(), error) {
	dir := filepath.Join(s.cache, "locks")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, id), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for waited := false; ; waited = true {
		ok, err := flock(f.Fd())
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if ok {
			return func() { f.Close() }, nil
		}
		if !waited {
			s.show.say("%-12s   another build works on it; waiting for that one", "")
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the build that holds %s: %w", f.Name(), ctx.Err())
		case <-tick.C:
		}
	}
}

// readStage reads a cached stage and checks its files against their digests.
func readStage(dir string) (stageRecord, error) {
	var rec stageRecord
	b, err := os.ReadFile(filepath.Join(dir, stageFile))
	if err != nil {
		return rec, err
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		return rec, fmt.Errorf("%s: %w", stageFile, err)
	}
	for _, want := range rec.Files {
		got, err := hashFile(filepath.Join(dir, want.Name))
		if err != nil {
			return rec, fmt.Errorf("cached file: %s", err) // a missing file is damage, not a missing stage
		}
		if got != want {
			return rec, fmt.Errorf("%s does not have the digest it was made with", want.Name)
		}
	}
	return rec, nil
}

// listFiles digests the regular files directly in dir; directories beside them
// are for later stages and are not checked.
func listFiles(dir string) ([]api.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []api.File
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		f, err := hashFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// hashFile digests one file.
func hashFile(path string) (api.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return api.File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return api.File{}, fmt.Errorf("digest %s: %w", path, err)
	}
	return api.File{Name: filepath.Base(path), SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

func writeJSON(path string, v any, mode fs.FileMode) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), mode)
}

func summary(cached bool, took time.Duration, files []api.File) string {
	var parts []string
	for _, f := range files {
		parts = append(parts, fmt.Sprintf("%s %s", f.Name, mb(f.Size)))
	}
	verb := "done in"
	if cached {
		verb = "cached, checked in"
	}
	return fmt.Sprintf("%s %s  %s", verb, round(took), strings.Join(parts, ", "))
}
