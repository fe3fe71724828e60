package stub

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// modules is the module directory of the running kernel.
type modules struct {
	dir     string
	deps    map[string][]string // name -> paths to load in order, the module itself last
	builtin map[string]bool
	aliases *aliases
}

// readModules reads modules.dep, modules.alias and modules.builtin of dir, which
// is /lib/modules/RELEASE.
func readModules(dir string) (*modules, error) {
	m := &modules{dir: dir, deps: map[string][]string{}, builtin: map[string]bool{}}
	err := readFile(filepath.Join(dir, "modules.dep"), func(r io.Reader) error {
		return lines(r, func(line string) error {
			p, needs, ok := strings.Cut(line, ":")
			if !ok {
				return fmt.Errorf("line %.80q has no colon", line)
			}
			order := strings.Fields(needs) // modules.dep(5): what is needed first stands last
			slices.Reverse(order)
			m.deps[moduleName(p)] = append(order, p)
			return nil
		})
	})
	if err == nil {
		err = readFile(filepath.Join(dir, "modules.alias"), func(r io.Reader) (err error) {
			m.aliases, err = parseAliases(r)
			return err
		})
	}
	if err == nil {
		err = readFile(filepath.Join(dir, "modules.builtin"), func(r io.Reader) error {
			return lines(r, func(line string) error { m.builtin[moduleName(line)] = true; return nil })
		})
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read modules: %w", err)
	}
	return m, nil
}

func readFile(path string, read func(io.Reader) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := read(f); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func lines(r io.Reader, each func(string) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		if line := strings.TrimSpace(sc.Text()); line != "" && line[0] != '#' {
			if err := each(line); err != nil {
				return err
			}
		}
	}
	return sc.Err()
}

// drivers loads modules, each once.
type drivers struct {
	modules *modules
	args    cmdline
	bus     string                          // /sys/bus
	insert  func(path, params string) error // fs.ErrExist: is there already
	failed  func(module string, err error)  // a driver that does not load is told, not fatal
	tried   map[string]bool                 // by path
	seen    map[string]bool                 // modaliases matched
}

// named loads a module with what it needs. A module built into the kernel is there.
func (d *drivers) named(name string) error {
	if d.modules.builtin[name] {
		return nil
	}
	order, ok := d.modules.deps[name]
	if !ok {
		return fmt.Errorf("load module %s: %w in the initrd", name, fs.ErrNotExist)
	}
	for _, p := range order {
		if d.tried[p] {
			continue
		}
		d.tried[p] = true
		err := d.insert(filepath.Join(d.modules.dir, p), d.args.params[moduleName(p)])
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("load module %s for %s: %w", moduleName(p), name, err)
		}
	}
	return nil
}

// device loads the modules for one modalias and reports whether it was new.
func (d *drivers) device(modalias string) bool {
	if modalias == "" || d.seen[modalias] {
		return false
	}
	d.seen[modalias] = true
	for _, m := range d.modules.aliases.match(modalias) {
		if d.args.blacklist[m] {
			continue
		}
		if err := d.named(m); err != nil && d.failed != nil {
			d.failed(m, err)
		}
	}
	return true
}

// walk loads drivers for every device on every bus, again and again until no new
// device appears: a PCI driver brings a virtio bus, that one a NIC.
func (d *drivers) walk(ctx context.Context) error {
	for {
		files, err := filepath.Glob(filepath.Join(d.bus, "*/devices/*/modalias"))
		if err != nil {
			return fmt.Errorf("walk devices: %w", err)
		}
		fresh := false
		for _, f := range files {
			if err := ctx.Err(); err != nil {
				return err
			}
			b, err := os.ReadFile(f)
			if err != nil {
				continue // the device went away
			}
			if d.device(strings.TrimSpace(string(b))) {
				fresh = true
			}
		}
		if !fresh {
			return nil
		}
	}
}
