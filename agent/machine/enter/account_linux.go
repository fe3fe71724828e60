package enter

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// login is who a program runs as.
type login struct {
	name        string
	uid, gid    int
	groups      []int
	home, shell string
}

// defaultPath is where programs are looked for when nobody says.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxAccounts is how much is read of /etc/passwd and /etc/group, in bytes.
const maxAccounts = 4 << 20

// account looks a user up in the zone's files, by name or number. A number that is in
// none is one too.
func account(user string) (login, error) {
	if user == "" {
		user = "0"
	}
	user, group, named := strings.Cut(user, ":")
	a := login{name: user, uid: -1, home: "/", shell: "/bin/sh"}
	n, err := strconv.Atoi(user)
	if numeric := err == nil && n >= 0 && n < 1<<32-1; numeric {
		a.uid, a.gid = n, n
		if n == 0 {
			a.name, a.home = "root", "/root"
		}
	}
	err = lines("/etc/passwd", func(f []string) {
		if len(f) >= 7 && (f[0] == user || f[2] == user && a.uid >= 0) {
			a.name, a.home = f[0], f[5]
			a.uid, _ = strconv.Atoi(f[2])
			a.gid, _ = strconv.Atoi(f[3])
			if f[6] != "" {
				a.shell = f[6]
			}
		}
	})
	if err != nil && a.uid < 0 {
		return a, fmt.Errorf("find user %q: %w", user, err)
	}
	if a.uid < 0 {
		return a, fmt.Errorf("find user %q: /etc/passwd of the instance has no such user", user)
	}
	a.groups = []int{}
	gid := -1
	if n, err := strconv.Atoi(group); named && err == nil {
		gid = n
	}
	// Without the file there are no further groups.
	_ = lines("/etc/group", func(f []string) {
		if len(f) < 4 {
			return
		}
		n, err := strconv.Atoi(f[2])
		if err != nil {
			return
		}
		if named && f[0] == group {
			gid = n
		}
		if slices.Contains(strings.Split(f[3], ","), a.name) {
			a.groups = append(a.groups, n)
		}
	})
	if named {
		if gid < 0 {
			return a, fmt.Errorf("find group %q: /etc/group of the instance has no such group", group)
		}
		a.gid = gid
	}
	if !slices.Contains(a.groups, a.gid) {
		a.groups = append([]int{a.gid}, a.groups...) // as a login has it, and initgroups(3)
	}
	return a, nil
}

// lines gives fn the fields of each line of a file of accounts.
func lines(path string, fn func(fields []string)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	s := bufio.NewScanner(io.LimitReader(f, maxAccounts))
	s.Buffer(nil, 64<<10)
	for s.Scan() {
		fn(strings.Split(s.Text(), ":"))
	}
	return s.Err()
}

// environment is that of a login: what is given comes first, and wins.
func (a login) environment(given []string) []string {
	env := slices.Clone(given)
	for _, v := range []string{"PATH=" + defaultPath, "HOME=" + a.home, "USER=" + a.name, "LOGNAME=" + a.name, "SHELL=" + a.shell} {
		name, _, _ := strings.Cut(v, "=")
		if value(env, name) == "" {
			env = append(env, v)
		}
	}
	return env
}

// value is a variable of an environment; empty: it is not there.
func value(env []string, name string) string {
	for _, v := range slices.Backward(env) {
		if n, text, ok := strings.Cut(v, "="); ok && n == name {
			return text
		}
	}
	return ""
}

// take makes this thread the user's. The standard library would do it for all threads,
// which the filter of system calls is not of.
func (a login) take() error {
	if err := setGroups(a.groups); err != nil {
		return fmt.Errorf("become user %s: set groups: %w", a.name, err)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, uintptr(a.gid), uintptr(a.gid), uintptr(a.gid)); errno != 0 {
		return fmt.Errorf("become user %s: set group %d: %w", a.name, a.gid, errno)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(a.uid), uintptr(a.uid), uintptr(a.uid)); errno != 0 {
		return fmt.Errorf("become user %s: set user %d: %w", a.name, a.uid, errno)
	}
	return nil
}
