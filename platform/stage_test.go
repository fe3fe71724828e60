package platform

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newStages(t *testing.T) *stages {
	t.Helper()
	return &stages{cache: t.TempDir(), show: &progress{w: io.Discard, now: time.Now}, now: time.Now}
}

func TestStageKeyTellsInputsApart(t *testing.T) {
	base := stageKey("base", []string{"a", "b"})
	for name, other := range map[string]string{
		"another stage":     stageKey("kernel", []string{"a", "b"}),
		"another order":     stageKey("base", []string{"b", "a"}),
		"joined inputs":     stageKey("base", []string{"ab"}),
		"a newline inside":  stageKey("base", []string{"a\n1:b"}),
		"one input more":    stageKey("base", []string{"a", "b", ""}),
		"input moved over":  stageKey("basea", []string{"b"}),
		"one input changed": stageKey("base", []string{"a", "c"}),
	} {
		if other == base {
			t.Errorf("%s: same key", name)
		}
	}
	if again := stageKey("base", []string{"a", "b"}); again != base {
		t.Errorf("same inputs gave %s, then %s", base, again)
	}
}

// writing returns a stage that writes one file and counts its runs.
func writing(text string, runs *int) stage {
	return stage{name: "s", what: "test", inputs: []string{"x"}, run: func(_ context.Context, _ *runner, _, out string) error {
		*runs++
		return os.WriteFile(filepath.Join(out, "f"), []byte(text), 0o644)
	}}
}

func TestStageIsMadeOnceAndFoundAgain(t *testing.T) {
	s, runs := newStages(t), 0
	first, err := s.do(t.Context(), writing("hello", &runs))
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.do(t.Context(), writing("hello", &runs))
	if err != nil {
		t.Fatal(err)
	}
	if runs != 1 || first.dir != second.dir || len(second.Files) != 1 {
		t.Errorf("%d runs, %q then %q with files %v; want one run and the same output", runs, first.dir, second.dir, second.Files)
	}
	if !s.results[1].Cached || s.results[0].Cached {
		t.Errorf("results say %+v; want the second, and only it, cached", s.results)
	}
}

func TestStageWithDamagedOutputIsMadeAgain(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"changed byte": func(dir string) error { return os.WriteFile(filepath.Join(dir, "f"), []byte("hellO"), 0o644) },
		"truncated":    func(dir string) error { return os.Truncate(filepath.Join(dir, "f"), 2) },
		"file missing": func(dir string) error { return os.Remove(filepath.Join(dir, "f")) },
		"record torn":  func(dir string) error { return os.Truncate(filepath.Join(dir, stageFile), 10) },
		"no record":    func(dir string) error { return os.Remove(filepath.Join(dir, stageFile)) },
	} {
		t.Run(name, func(t *testing.T) {
			s, runs := newStages(t), 0
			m, err := s.do(t.Context(), writing("hello", &runs))
			if err != nil {
				t.Fatal(err)
			}
			if err := damage(m.dir); err != nil {
				t.Fatal(err)
			}
			if m, err = s.do(t.Context(), writing("hello", &runs)); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(m.file("f")); err != nil || string(got) != "hello" || runs != 2 {
				t.Errorf("content %q, error %v, %d runs; want hello after 2 runs", got, err, runs)
			}
		})
	}
}

func TestKilledStageIsResumed(t *testing.T) {
	s, runs := newStages(t), 0
	ctx, cancel := context.WithCancel(t.Context())
	killed := writing("half", &runs)
	killed.run = func(ctx context.Context, r *runner, scratch, out string) error {
		if err := os.WriteFile(filepath.Join(out, "f"), []byte("ha"), 0o644); err != nil {
			return err
		}
		cancel()
		return r.run(ctx, "sleep", "1000")
	}
	if _, err := s.do(ctx, killed); !errors.Is(err, context.Canceled) {
		t.Fatalf("cancelled stage: error %v, want context.Canceled", err)
	}
	if left, _ := filepath.Glob(filepath.Join(s.cache, "stages", "*")); len(left) != 0 {
		t.Fatalf("a cancelled stage left output: %v", left)
	}
	// What a SIGKILL leaves: a scratch directory with half an output in it.
	stale := filepath.Join(s.cache, "scratch", "s-"+stageKey("s", []string{"x"})[:24], "out", "junk")
	if err := os.MkdirAll(stale, 0o755); err != nil {
		t.Fatal(err)
	}
	m, err := s.do(t.Context(), writing("whole", &runs))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(m.file("f")); err != nil || string(got) != "whole" {
		t.Errorf("after resuming: %q, %v; want whole", got, err)
	}
	if _, err := os.Stat(m.file("junk")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what the killed build left is in the output: %v", err)
	}
}

func TestTwoBuildsShareAStage(t *testing.T) {
	s, runs := newStages(t), 0
	other := &stages{cache: s.cache, show: s.show, now: s.now}
	inside, proceed := make(chan struct{}), make(chan struct{})
	slow := writing("one", &runs)
	plain := slow.run
	slow.run = func(ctx context.Context, r *runner, scratch, out string) error {
		close(inside)
		<-proceed
		return plain(ctx, r, scratch, out)
	}
	done := make(chan error, 1)
	go func() {
		_, err := s.do(t.Context(), slow)
		done <- err
	}()
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := other.do(ctx, writing("two", &runs)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second build beside the first: error %v; want it to wait until its deadline", err)
	}
	close(proceed)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := other.do(t.Context(), writing("two", &runs)); err != nil || runs != 1 {
		t.Errorf("error %v, %d runs; want the first build's output, made once", err, runs)
	}
}

func TestFailedProgramIsExplained(t *testing.T) {
	s := newStages(t)
	st := stage{name: "s", run: func(ctx context.Context, r *runner, _, _ string) error {
		return r.run(ctx, "sh", "-c", "echo first; echo the reason >&2; exit 3")
	}}
	_, err := s.do(t.Context(), st)
	if err == nil || !strings.Contains(err.Error(), "the reason") || !strings.Contains(err.Error(), "s.log") {
		t.Errorf("error %v; want the program's last lines and the path of its log", err)
	}
}

func TestPruneDropsOnlyWhatIsUnusedForLong(t *testing.T) {
	s, runs := newStages(t), 0
	old, err := s.do(t.Context(), writing("old", &runs))
	if err != nil {
		t.Fatal(err)
	}
	fresh := writing("fresh", &runs)
	fresh.inputs = []string{"y"}
	if err := os.MkdirAll(filepath.Join(s.cache, "debs"), 0o755); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	s.now = func() time.Time { return start.Add(keepUnused + time.Hour) }
	kept, err := s.do(t.Context(), fresh)
	if err != nil {
		t.Fatal(err)
	}
	unlock, err := s.lock(t.Context(), filepath.Base(old.dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.prune(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old.dir); err != nil {
		t.Errorf("a stage another build holds was removed: %v", err)
	}
	unlock()
	if err := s.prune(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stage unused for a month is still there: %v", err)
	}
	if _, err := os.Stat(kept.dir); err != nil {
		t.Errorf("a stage used today was removed: %v", err)
	}
}
