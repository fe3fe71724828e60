package agenttest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// command finds what a command line does; nil when it is none the agent uses.
func (w *World) command(words []string) (do func() (string, error), changes bool) {
	line := strings.Join(words, " ")
	rest := words[min(2, len(words)):]
	switch {
	case line == "udevadm settle --timeout=30":
		return func() (string, error) { return "", nil }, false
	case line == "zpool list -j -p -o size,allocated,health,guid":
		return w.list, false
	case line == "zpool status -j -P":
		return w.status, false
	case line == "zpool import -d /dev", line == "zpool import -d /dev/disk/by-id -d /dev":
		return w.scan, false
	case strings.HasPrefix(line, "zpool import -N -o cachefile=none -d /dev"):
		return func() (string, error) { return "", w.importPool(words[len(words)-1]) }, true
	case strings.HasPrefix(line, "zpool create "):
		return func() (string, error) { return "", w.createPool(rest) }, true
	case strings.HasPrefix(line, "zpool destroy -f ") && len(rest) == 2:
		return func() (string, error) { return "", w.destroyPool(rest[1]) }, true
	case strings.HasPrefix(line, "zfs get -j -p -d 1 -t filesystem ") && len(rest) == 8:
		return func() (string, error) { return w.get(rest[6], rest[7:], true) }, false
	case strings.HasPrefix(line, "zfs get -j -p nereid:") && len(rest) >= 4:
		return func() (string, error) { return w.get(rest[2], rest[3:], false) }, false
	case strings.HasPrefix(line, "zfs mount -R ") && len(rest) == 2:
		return func() (string, error) { return "", w.mountAll(rest[1]) }, true
	}
	return nil, false
}

type object = map[string]any

func render(o object) (string, error) {
	b, err := json.Marshal(o)
	return string(b), err
}

func prop(v string) object {
	return object{"value": v, "source": object{"type": "LOCAL", "data": "-"}}
}

func (w *World) list() (string, error) {
	pools := object{}
	for _, p := range w.pools {
		if p.imported {
			pools[p.name] = object{"name": p.name, "type": "POOL", "state": p.health, "pool_guid": fmt.Sprint(p.guid), "properties": object{
				"size": prop("10737418240"), "allocated": prop("1048576"), "health": prop(p.health), "guid": prop(fmt.Sprint(p.guid)),
			}}
		}
	}
	if len(pools) == 0 {
		return "no pools available\n", nil
	}
	return render(object{"output_version": object{"command": "zpool list", "vers_major": 0, "vers_minor": 1}, "pools": pools})
}

func (w *World) status() (string, error) {
	pools := object{}
	for _, p := range w.pools {
		if !p.imported {
			continue
		}
		leaves := object{}
		for _, d := range p.disks {
			path := "/dev/" + partName(d, 1)
			leaves[path] = object{"name": path, "vdev_type": "disk", "path": path, "class": "normal", "state": "ONLINE"}
		}
		pools[p.name] = object{"name": p.name, "state": p.health, "pool_guid": fmt.Sprint(p.guid), "vdevs": object{
			p.name: object{"name": p.name, "vdev_type": "root", "vdevs": leaves},
		}}
	}
	return render(object{"output_version": object{"command": "zpool status", "vers_major": 0, "vers_minor": 1}, "pools": pools})
}

// scan prints what zpool import prints: a block for every pool that labels on
// disks tell of and that is not imported.
func (w *World) scan() (string, error) {
	var b strings.Builder
	for _, p := range w.pools {
		if p.imported {
			continue
		}
		missing := 0
		for _, d := range p.disks {
			if !w.labelled(p, d) {
				missing++
			}
		}
		if missing == len(p.disks) {
			continue
		}
		state, status, action := "ONLINE", "", " action: The pool can be imported using its name or numeric identifier.\n"
		if missing > 0 {
			state, status = "UNAVAIL", " status: One or more devices are missing from the system.\n"
			action = " action: The pool cannot be imported. Attach the missing\n\tdevices and try again.\n"
		} else if p.foreign {
			status = " status: The pool was last accessed by another system.\n"
			action = " action: The pool can be imported using its name or numeric identifier and\n\tthe '-f' flag.\n"
		}
		fmt.Fprintf(&b, "   pool: %s\n     id: %d\n  state: %s\n%s%s config:\n\n\t%s\t%s\n", p.name, p.guid, state, status, action, p.name, state)
		for _, d := range p.disks {
			fmt.Fprintf(&b, "\t  %s\tONLINE\n", d)
		}
		b.WriteString("\n")
	}
	if b.Len() == 0 {
		return "", errors.New("no pools available to import")
	}
	return b.String(), nil
}

func (w *World) importPool(guid string) error {
	for _, p := range w.pools {
		if fmt.Sprint(p.guid) != guid {
			continue
		}
		switch {
		case p.foreign:
			return fmt.Errorf("cannot import '%s': pool was previously in use from another system", p.name)
		case p.imported || w.imported(p.name) != nil:
			return fmt.Errorf("cannot import '%s': a pool with that name already exists", p.name)
		}
		p.imported = true
		return w.show(p)
	}
	return fmt.Errorf("cannot import '%s': no such pool available", guid)
}

// createPool reads the arguments of zpool create.
func (w *World) createPool(args []string) error {
	props := map[string]string{}
	var opts []string
	force := len(args) > 0 && args[0] == "-f"
	if force {
		args = args[1:]
	}
	for len(args) > 2 && (args[0] == "-o" || args[0] == "-O") {
		if k, v, ok := strings.Cut(args[1], "="); ok && args[0] == "-O" {
			props[k] = v
		} else {
			opts = append(opts, args[1])
		}
		args = args[2:]
	}
	if len(args) < 2 || strings.HasPrefix(args[0], "-") {
		return fmt.Errorf("invalid arguments: %s", strings.Join(args, " "))
	}
	name, vdevs := args[0], args[1:]
	if w.imported(name) != nil {
		return fmt.Errorf("cannot create '%s': pool already exists", name)
	}
	var disks []string
	var last int64  // size of the disk before in the same vdev
	var kind string // of the vdev
	for _, v := range vdevs {
		if !strings.HasPrefix(v, "/dev/") {
			if !slices.Contains([]string{"mirror", "raidz1", "raidz2", "raidz3", "log", "cache", "spare"}, v) {
				return fmt.Errorf("invalid vdev specification: %s", v)
			}
			last, kind = 0, v
			continue
		}
		path, err := filepath.EvalSymlinks(filepath.Join(w.Root, v))
		if err != nil {
			return fmt.Errorf("cannot open '%s': no such device", v)
		}
		d := filepath.Base(path)
		for _, p := range w.pools {
			if p.imported && slices.Contains(p.disks, d) {
				return fmt.Errorf("%s is in use by pool %s", v, p.name)
			}
		}
		info, err := os.Stat(w.dev(d))
		if err != nil {
			return err
		}
		// zpool allows 16 MiB of difference (ZPOOL_FUZZ); between vdevs more is fine.
		if diff := info.Size() - last; last != 0 && !force && (diff > 16<<20 || diff < -16<<20) && (kind == "mirror" || strings.HasPrefix(kind, "raidz")) {
			return fmt.Errorf("invalid vdev specification, use '-f' to override: %s contains devices of different sizes", kind)
		}
		last = info.Size()
		if err := w.vacant(d); err != nil && !force {
			return fmt.Errorf("invalid vdev specification, use '-f' to override: %w", err)
		}
		disks = append(disks, d)
	}
	p := w.newPool(name, disks)
	p.vdevs, p.opts, p.imported = vdevs, opts, true
	for _, d := range disks {
		if err := w.writeDisk(p, d, 0); err != nil {
			return err
		}
	}
	// Pools whose disks were taken are gone.
	w.pools = slices.DeleteFunc(w.pools, func(o *pool) bool {
		return slices.ContainsFunc(o.disks, func(d string) bool { return slices.Contains(disks, d) })
	})
	w.pools = append(w.pools, p)
	if err := w.show(p); err != nil {
		return err
	}
	// The kernel sets the properties in a later transaction.
	if w.Hook != nil {
		if err := w.Hook("zpool create, between pool and properties", true); err != nil {
			return err
		}
	}
	maps.Copy(p.sets[name].props, props)
	return w.mount(p, name)
}

func (w *World) destroyPool(name string) error {
	p := w.imported(name)
	if p == nil {
		return fmt.Errorf("cannot open '%s': no such pool", name)
	}
	w.hide(p)
	w.pools = slices.DeleteFunc(w.pools, func(o *pool) bool { return o == p })
	for _, d := range p.disks {
		if err := w.writeDisk(p, d, destroyed); err != nil {
			return err
		}
	}
	return os.RemoveAll(filepath.Join(w.Root, "pools", fmt.Sprint(p.guid)))
}

// get prints properties of root datasets, or with children of all datasets of the one pool.
func (w *World) get(props string, pools []string, children bool) (string, error) {
	sets := object{}
	for _, name := range pools {
		p := w.imported(name)
		if p == nil {
			return "", fmt.Errorf("cannot open '%s': dataset does not exist", name)
		}
		for set, d := range p.sets {
			if set != name && !children {
				continue
			}
			values := object{}
			for _, k := range strings.Split(props, ",") {
				v := cmp.Or(d.props[k], "-")
				switch k {
				case "mounted":
					v = map[bool]string{true: "yes", false: "no"}[d.mounted]
				case "mountpoint":
					v = p.sets[name].props[k] + strings.TrimPrefix(set, name)
				}
				values[k] = prop(v)
			}
			sets[set] = object{"name": set, "type": "FILESYSTEM", "pool": name, "createtxg": strconv.Itoa(1), "properties": values}
		}
	}
	return render(object{"output_version": object{"command": "zfs get", "vers_major": 0, "vers_minor": 1}, "datasets": sets})
}

func (w *World) mountAll(name string) error {
	p := w.imported(name)
	if p == nil {
		return fmt.Errorf("cannot open '%s': dataset does not exist", name)
	}
	for _, set := range slices.Sorted(maps.Keys(p.sets)) {
		if !p.sets[set].mounted {
			if err := w.mount(p, set); err != nil {
				return err
			}
		}
	}
	return nil
}
