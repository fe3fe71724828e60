package platform

import (
	"bufio"
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// moduleIndex is what depmod(8) knows of a kernel's modules.
type moduleIndex struct {
	deps  map[string][]string // path below /lib/modules/RELEASE -> paths it needs, in modules.dep's order
	order []string            // paths as listed
	paths map[string]string   // module name -> path
}

// moduleName is a module's name as the kernel writes it: no directory, no suffix,
// underscores for dashes.
func moduleName(p string) string {
	base := path.Base(p)
	if i := strings.Index(base, ".ko"); i >= 0 {
		base = base[:i]
	}
	return strings.ReplaceAll(base, "-", "_")
}

// parseDeps reads modules.dep: "path: needed needed ...".
func parseDeps(r io.Reader) (moduleIndex, error) {
	x := moduleIndex{deps: map[string][]string{}, paths: map[string]string{}}
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		p, needs, ok := strings.Cut(line, ":")
		if !ok {
			return x, fmt.Errorf("modules.dep: line %q has no colon", line)
		}
		x.deps[p] = strings.Fields(needs)
		x.order = append(x.order, p)
		x.paths[moduleName(p)] = p
	}
	return x, sc.Err()
}

// parseSoftdeps reads modules.softdep: "softdep NAME pre: a b post: c" and returns
// the pre lists by module name.
func parseSoftdeps(r io.Reader) (map[string][]string, error) {
	pre := map[string][]string{}
	sc := bufio.NewScanner(r)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 3 || f[0] != "softdep" {
			continue
		}
		name, in := moduleName(f[1]), false
		for _, w := range f[2:] {
			switch {
			case strings.HasSuffix(w, ":"):
				in = w == "pre:"
			case in:
				pre[name] = append(pre[name], moduleName(w))
			}
		}
	}
	return pre, sc.Err()
}

// harden turns soft dependencies into hard ones, for a loader that reads only
// modules.dep: what must be loaded before a module comes with what it needs.
// Modules the kernel has built in, or has not at all, are passed over.
func (x moduleIndex) harden(pre map[string][]string) {
	for _, name := range sortedKeys(pre) {
		p, ok := x.paths[name]
		if !ok {
			continue
		}
		for _, want := range pre[name] {
			q, ok := x.paths[want]
			if !ok || q == p {
				continue
			}
			// modules.dep lists what is loaded first last.
			for _, d := range append([]string{q}, x.deps[q]...) {
				if d != p && !slices.Contains(x.deps[p], d) {
					x.deps[p] = append(slices.Clone(x.deps[p]), d)
				}
			}
		}
	}
}

// closure returns the paths chosen by wanted and everything they need, in
// modules.dep's order.
func (x moduleIndex) closure(wanted func(path string) bool) ([]string, error) {
	in := map[string]bool{}
	var add func(p string) error
	add = func(p string) error {
		if in[p] {
			return nil
		}
		needs, ok := x.deps[p]
		if !ok {
			return fmt.Errorf("modules.dep: %s is needed but not listed", p)
		}
		in[p] = true
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		return nil
	}
	for _, p := range x.order {
		if wanted(p) {
			if err := add(p); err != nil {
				return nil, err
			}
		}
	}
	var chosen []string
	for _, p := range x.order {
		if in[p] {
			chosen = append(chosen, p)
		}
	}
	return chosen, nil
}

// dep writes modules.dep for the chosen modules.
func (x moduleIndex) dep(chosen []string) []byte {
	var b bytes.Buffer
	for _, p := range chosen {
		b.WriteString(p + ":")
		for _, n := range x.deps[p] {
			b.WriteString(" " + n)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// reduceAliases keeps the lines of modules.alias ("alias PATTERN MODULE") that
// name a chosen module.
func reduceAliases(r io.Reader, chosen []string) ([]byte, error) {
	names := map[string]bool{}
	for _, p := range chosen {
		names[moduleName(p)] = true
	}
	var b bytes.Buffer
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) == 3 && f[0] == "alias" && names[moduleName(f[2])] {
			fmt.Fprintln(&b, sc.Text())
		}
	}
	return b.Bytes(), sc.Err()
}

// firmwareOf lists the firmware files a module may ask for, from the NUL-separated
// KEY=VALUE strings of its .modinfo section.
func firmwareOf(module string) ([]string, error) {
	f, err := elf.Open(module)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", module, err)
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil, nil
	}
	data, err := s.Data()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", module, err)
	}
	var names []string
	for kv := range bytes.SplitSeq(data, []byte{0}) {
		if name, ok := bytes.CutPrefix(kv, []byte("firmware=")); ok {
			names = append(names, string(name))
		}
	}
	return names, nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
