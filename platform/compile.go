package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// compilePhase is a part of what Debian's packages do to make the ZFS modules.
// None of it reaches the output of mmdebstrap, but all of it leaves files.
type compilePhase int

// The phases, in their order.
const (
	unpacking   compilePhase = iota // packages are unpacked
	configuring                     // ZFS's configure looks at the kernel
	compiling                       // make
	packing                         // DKMS packs and installs the modules
)

// compileState is how far the modules are.
type compileState struct {
	phase       compilePhase
	done, total int    // packages, checks or objects; total 0: nobody knows
	last        string // what was done last

	trials, trialsDone int // programs by which configure tries out the kernel
}

// compileFigures are what a build took, kept for the next one's forecast.
type compileFigures struct {
	Checks  int              `json:"checks"` // of configure
	Seconds [packing]float64 `json:"seconds"`
}

// compileFile keeps the figures in the cache.
const compileFile = "modules-figures.json"

var (
	compiled = regexp.MustCompile(`(?m)^ +(?:CC|AS) +\[M\] +(\S+\.o)\s*$`)
	checked  = regexp.MustCompile(`(?m)^checking (.+?)\.\.\.`)
	objsVar  = regexp.MustCompile(`^([A-Za-z0-9_]*(?:_OBJS[A-Z0-9_]*|-objs)) *[:+]?=`)
	object   = regexp.MustCompile(`(?:^|[\s=])[\w./-]+\.o\b`)
	foreign  = regexp.MustCompile(`_(?:ARM|ARM64|PPC\w*|SPARC\w*)$`)
)

// countObjects counts what make compiles for x86-64 by ZFS's Kbuild file.
func countObjects(kbuild string) int {
	n, counts := 0, false
	for line := range strings.SplitSeq(kbuild, "\n") {
		if m := objsVar.FindStringSubmatch(line); m != nil {
			counts = !foreign.MatchString(m[1])
		} else if !strings.HasPrefix(line, "\t") {
			counts = false
		}
		if counts {
			n += len(object.FindAllString(line, -1))
		}
		counts = counts && strings.HasSuffix(line, `\`)
	}
	return n
}

// readCompile says how far the modules are, by what is in the chroot where they
// are made of so many packages.
func readCompile(root string, packages int, earlier compileFigures) compileState {
	s := compileState{total: packages}
	dkms := filepath.Join(root, "var/lib/dkms/zfs")
	if logs, _ := filepath.Glob(filepath.Join(dkms, "*/*/*/log/make.log")); len(logs) > 0 {
		return compileState{phase: packing}
	}
	logs, _ := filepath.Glob(filepath.Join(dkms, "*/build/make.log"))
	if len(logs) == 0 {
		lists, _ := filepath.Glob(filepath.Join(root, "var/lib/dpkg/info/*.list"))
		s.done = min(len(lists), packages)
		return s
	}
	log, err := os.ReadFile(logs[0])
	if err != nil {
		return compileState{phase: packing} // moved this moment
	}
	kbuild, _ := os.ReadFile(filepath.Join(filepath.Dir(logs[0]), "module/Kbuild"))
	s = parseMakeLog(string(log), string(kbuild), earlier)
	if s.phase == configuring {
		s.tried(filepath.Dir(logs[0]))
	}
	return s
}

// tried counts the programs by which configure tries out the kernel: it compiles
// some 250 of them, and logs nothing meanwhile. Each has a directory of its own.
func (s *compileState) tried(build string) {
	sources, _ := filepath.Glob(filepath.Join(build, "build/*/*.c"))
	objects, _ := filepath.Glob(filepath.Join(build, "build/*/*.o"))
	made := func(p string) bool { return strings.Contains(p, ".mod.") }
	s.trials = len(slices.DeleteFunc(sources, made))
	s.trialsDone = min(len(slices.DeleteFunc(objects, made)), s.trials)
}

// parseMakeLog reads what DKMS logs: configure's checks, then make's objects.
func parseMakeLog(log, kbuild string, earlier compileFigures) compileState {
	if objects := compiled.FindAllStringSubmatch(log, -1); len(objects) > 0 {
		s := compileState{phase: compiling, total: countObjects(kbuild)}
		for _, o := range objects {
			if !strings.HasSuffix(o[1], ".mod.o") {
				s.done++
				s.last = o[1]
			}
		}
		if _, short, ok := strings.Cut(s.last, "/module/"); ok {
			s.last = short
		}
		if s.total > 0 {
			s.done = min(s.done, s.total)
		}
		return s
	}
	checks := checked.FindAllStringSubmatch(log, -1)
	s := compileState{phase: configuring, done: len(checks), total: earlier.Checks}
	if len(checks) > 0 {
		s.last = checks[len(checks)-1][1]
	}
	if s.done > s.total {
		s.total = 0 // another version's figure
	}
	return s
}

// left forecasts the time until the modules are made, after so long in this phase.
// It needs an earlier build's figures, but for the objects, which speak for
// themselves; without either it is 0.
func (s compileState) left(inPhase time.Duration, earlier compileFigures) time.Duration {
	if s.phase >= packing {
		return 0
	}
	var here, later time.Duration
	for p := s.phase; p < packing; p++ {
		d := time.Duration(earlier.Seconds[p] * float64(time.Second))
		if d <= 0 && p > s.phase {
			return 0
		}
		if p > s.phase {
			later += d
		} else {
			here = max(0, d-inPhase)
			if d <= 0 && s.phase != compiling {
				return 0
			}
		}
	}
	if s.phase == compiling && s.total > 0 && s.done*10 >= s.total && inPhase >= 10*time.Second {
		here = inPhase * time.Duration(s.total-s.done) / time.Duration(s.done)
	}
	return here + later
}

// text says it in one line.
func (s compileState) text(left time.Duration) string {
	var out string
	switch s.phase {
	case unpacking:
		out = fmt.Sprintf("unpacking: %d of %d packages", s.done, s.total)
	case configuring:
		out = fmt.Sprintf("configuring ZFS: %d", s.done)
		if s.total > 0 {
			out += fmt.Sprintf(" of %d", s.total)
		}
		out += " checks"
		if s.trials > 0 {
			out += fmt.Sprintf(", %d of %d trials", s.trialsDone, s.trials)
		}
	case compiling:
		if s.total > 0 && s.done == s.total {
			return fmt.Sprintf("compiling ZFS: all %d objects, now they are linked", s.total)
		}
		out = fmt.Sprintf("compiling ZFS: %d", s.done)
		if s.total > 0 {
			out += fmt.Sprintf(" of %d", s.total)
		}
		out += " objects"
	case packing:
		return "packing the modules"
	}
	if left > 0 {
		out += fmt.Sprintf(", about %s left", coarse(left))
	} else {
		out += "; time left unknown"
	}
	if s.last != "" {
		out += "; " + s.last
	}
	return out
}

// coarse rounds a forecast to what it is worth.
func coarse(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%ds", max(1, int(d.Round(5*time.Second)/time.Second)))
	}
	return fmt.Sprintf("%dm", int((d+30*time.Second)/time.Minute))
}

// compileWatch follows the making of the modules.
type compileWatch struct {
	root     string
	packages int
	now      func() time.Time
	earlier  compileFigures

	phase   compilePhase
	begun   time.Time // of the phase
	figures compileFigures
}

// look says how far it is. It is called by one goroutine.
func (w *compileWatch) look() string {
	now := w.now()
	if w.begun.IsZero() {
		w.begun = now
	}
	s := readCompile(w.root, w.packages, w.earlier)
	if s.phase > w.phase {
		w.figures.Seconds[w.phase] = now.Sub(w.begun).Seconds()
		w.phase, w.begun = s.phase, now
	}
	if s.phase == configuring {
		w.figures.Checks = s.done
	}
	return s.text(s.left(now.Sub(w.begun), w.earlier))
}

// keep writes the figures of a build that is done, for the next one. A phase that
// no look saw forecasts nothing.
func (w *compileWatch) keep(cache string) error {
	w.look()
	return writeJSON(filepath.Join(cache, compileFile), w.figures, 0o644)
}

// readFigures gives an earlier build's figures; none when there was none.
func readFigures(cache string) (f compileFigures, err error) {
	b, err := os.ReadFile(filepath.Join(cache, compileFile))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &f)
	}
	if err != nil {
		return compileFigures{}, fmt.Errorf("read figures of an earlier build: %w", err)
	}
	return f, nil
}
