package zone

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"nereid/api"
)

// mark is the first line of files that are ours in a zone. One that a customer wrote
// has it not, and stays.
const mark = "# Written by Nereid at each start; without this line it stays as it is.\n"

// file is one that is written in a zone.
type file struct {
	path string
	text string
	mode os.FileMode
	dir  os.FileMode // of the folder, where there is none
	ours bool        // whatever is there, it is replaced
}

// Files that say where others are.
const (
	hostsFile  = "etc/hosts"
	resolvFile = "etc/resolv.conf"
)

// files are those that a zone has before its init.
func (in Inside) files() []file {
	names := in.Hostname
	if in.Domain != "" {
		names = in.Hostname + "." + in.Domain + " " + in.Hostname
	}
	hosts := mark + "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n"
	for _, ip := range in.addresses() {
		hosts += ip.String() + " " + names + "\n"
	}
	if len(in.addresses()) == 0 {
		hosts += "127.0.1.1 " + names + "\n"
	}
	all := []file{
		{path: "etc/hostname", text: in.Hostname + "\n", mode: 0o644, dir: 0o755, ours: true},
		{path: hostsFile, text: hosts, mode: 0o644, dir: 0o755},
	}
	if len(in.Resolvers) > 0 {
		text := mark
		if in.Domain != "" {
			text += "search " + in.Domain + "\n"
		}
		for _, r := range in.Resolvers {
			text += "nameserver " + r + "\n"
		}
		all = append(all, file{path: resolvFile, text: text, mode: 0o644, dir: 0o755})
	}
	if in.Keys != "" {
		all = append(all, file{path: "root/.ssh/authorized_keys", text: mark + strings.TrimRight(in.Keys, "\n") + "\n", mode: 0o600, dir: 0o700})
	}
	return all
}

// addresses are the zone's, the primary NIC's alone where one is.
func (in Inside) addresses() (all []netip.Addr) {
	primary := false
	for _, n := range in.NICs {
		primary = primary || n.Primary
	}
	for _, n := range in.NICs {
		if primary && !n.Primary {
			continue
		}
		for _, a := range n.Addresses {
			if p, err := netip.ParsePrefix(a.Address); err == nil {
				all = append(all, p.Addr())
			}
		}
	}
	return all
}

// write writes a zone's files below root. One that is not ours, and is more than what a
// fresh image brings, stays; first says that the image is fresh.
func (in Inside) write(root string, first bool) error {
	seed, err := in.seed()
	return errors.Join(err, write(root, append(in.files(), seed...), first))
}

func write(root string, files []file, first bool) error {
	var errs []error
	for _, f := range files {
		path := filepath.Join(root, f.path)
		if !f.ours && !first && foreign(path) {
			continue
		}
		if err := f.put(path); err != nil {
			errs = append(errs, fmt.Errorf("write /%s: %w", f.path, err))
		}
	}
	return errors.Join(errs...)
}

// foreign reports whether a file is there that Nereid did not write.
func foreign(path string) bool {
	data, err := os.ReadFile(path)
	return err == nil && !strings.HasPrefix(string(data), mark)
}

// put replaces what is there, be it a link that leads nowhere.
func (f file) put(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), f.dir); err != nil {
		return err
	}
	next := path + ".nereid"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.WriteFile(next, []byte(f.text), f.mode); err != nil {
		return err
	}
	if err := os.Chmod(next, f.mode); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// who is a user as an image names it.
type who struct {
	uid, gid uint32
	groups   []uint32
	home     string
}

// find finds a user of an image: USER or UID, and :GROUP or :GID. Names are looked up in
// the files passwd and group (passwd(5), group(5)) below root.
func find(root, user string) (who, error) {
	name, group, _ := strings.Cut(user, ":")
	w := who{home: "/"}
	if name == "" {
		name = "0"
	}
	fields := records(filepath.Join(root, "etc/passwd"), 7)
	id, err := strconv.ParseUint(name, 10, 32)
	known := err == nil
	w.uid = uint32(id)
	for _, f := range fields {
		uid, uerr := strconv.ParseUint(f[2], 10, 32)
		gid, gerr := strconv.ParseUint(f[3], 10, 32)
		if uerr != nil || gerr != nil || f[0] != name && (!known || uint32(uid) != w.uid) {
			continue
		}
		w.uid, w.gid, w.home, known = uint32(uid), uint32(gid), f[5], true
		name = f[0]
		break
	}
	if !known {
		return w, fmt.Errorf("user %q is not in the image's /etc/passwd", name)
	}
	found := group == ""
	if id, err := strconv.ParseUint(group, 10, 32); err == nil {
		w.gid, found = uint32(id), true
	}
	for _, f := range records(filepath.Join(root, "etc/group"), 4) {
		gid, err := strconv.ParseUint(f[2], 10, 32)
		if err != nil {
			continue
		}
		if f[0] == group {
			w.gid, found = uint32(gid), true
		}
		for m := range strings.SplitSeq(f[3], ",") {
			if m == name && m != "" && group == "" {
				w.groups = append(w.groups, uint32(gid))
			}
		}
	}
	if !slices.Contains(w.groups, w.gid) {
		// Among the others, too: what is kept from a group is kept from it however the
		// process changes its own (as container runtimes do since CVE-2022-36109).
		w.groups = append([]uint32{w.gid}, w.groups...)
	}
	if !found {
		return w, fmt.Errorf("group %q is not in the image's /etc/group", group)
	}
	return w, nil
}

// records are the lines of a file with a number of fields between colons.
func records(path string, fields int) (all [][]string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Split(strings.TrimRight(line, "\n"), ":"); len(f) == fields {
			all = append(all, f)
		}
	}
	return all
}

// usual is the path that programs are looked for in, where nothing says otherwise.
const usual = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is that of an image's program: what systemd-nspawn gave, and over it what
// the image says.
func environment(given []string, run api.ImageRun, home string) []string {
	values, order := map[string]string{}, []string{}
	for _, list := range [][]string{{usual, "HOME=" + home}, given, run.Env} {
		for _, e := range list {
			name, value, ok := strings.Cut(e, "=")
			if !ok || name == "" {
				continue
			}
			if _, is := values[name]; !is {
				order = append(order, name)
			}
			values[name] = value
		}
	}
	env := make([]string, 0, len(order))
	for _, name := range order {
		env = append(env, name+"="+values[name])
	}
	return env
}

// lookup finds a program as execvp(3) does.
func lookup(name string, env []string, dir string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			name = filepath.Join(dir, name)
		}
		return name, nil
	}
	for _, e := range env {
		path, ok := strings.CutPrefix(e, "PATH=")
		if !ok {
			continue
		}
		for d := range strings.SplitSeq(path, ":") {
			p := filepath.Join(d, name)
			if info, err := os.Stat(p); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
				return p, nil
			}
		}
	}
	return "", fmt.Errorf("program %q is not in the image's PATH", name)
}
