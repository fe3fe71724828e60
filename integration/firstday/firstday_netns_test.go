//go:build netns

package firstday

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// machine is a machine of its own, as far as networks, /run and /var/lib go, with
// an admin network that nobody is on. It runs a script there.
const machine = `set -eu
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
ip link set lo up
ip link add admin0 type veth peer name wire
ip address add 10.99.99.7/24 dev admin0
ip link set admin0 up
exec sh -eu -c "$0"
`

// runs starts a program and goes on once it says that it is ready.
const runs = `
ready() {
	mkfifo log.$1; n=$1; shift
	"$@" >log.$n 2>&1 & echo $! >pid.$n
	exec 3<log.$n
	while read -r line <&3; do
		echo "$line" >&2
		case $line in *"head node ready"*) break ;; esac
	done
	cat <&3 >&2 &
}
stop() { kill $(cat pid.$1); while kill -0 $(cat pid.$1) 2>/dev/null; do wait $(cat pid.$1) || true; done; }
`

// TestNetNSDayOne: init, run and "nereid server list" as the README has them.
func TestNetNSDayOne(t *testing.T) {
	init, run, list := dayOne(t)
	out := on(t, runs+init+" --answers answers.toml\nready 1 "+run+"\n"+list+"\nnereid datacenter show\nstop 1\n")
	for _, want := range []string{"Datacenter coal is set up", "No servers yet", "admin0"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// TestNetNSTwoHeadNodes: the second one of a machine is told where it is found;
// after the first is gone, and after a kill, the next one is found by itself.
func TestNetNSTwoHeadNodes(t *testing.T) {
	init, run, list := dayOne(t)
	out := on(t, runs+init+" --answers answers.toml\nready 1 "+run+`
ip address add 10.99.98.7/24 dev lo
sed 's/10.99.99/10.99.98/g; s/coal/two/; s/admin0/lo/' answers.toml >two.toml
nereid-headnode init --answers two.toml --data-dir ./two
ready 2 nereid-headnode run --data-dir ./two --http-port 0
`+list+`
nereid --server ./two/headnode.sock datacenter show | head -n 1
kill -9 $(cat pid.1); wait $(cat pid.1) || true
ready 3 `+run+`
nereid datacenter show | head -n 1
stop 3
stop 2
nereid server list || echo "exit $?"
`)
	for _, want := range []string{"nereid does not find this head node by itself", "\ntwo\n", "\ncoal\n", "exit 5", "is the head node running on this machine?"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
}

// dayOne reads the README's first commands.
func dayOne(t *testing.T) (init, run, list string) {
	t.Helper()
	b, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "## Day one")
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		line, _, _ := strings.Cut(strings.TrimSpace(s.Text()), " #")
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, "nereid-headnode init"):
			init = line
		case strings.HasPrefix(line, "nereid-headnode run"):
			run = line
		case strings.HasPrefix(line, "nereid server list") && list == "":
			list = line
		}
	}
	if init == "" || run == "" || list == "" {
		t.Fatalf("the README's day one has init %q, run %q, list %q", init, run, list)
	}
	return init, run, list
}

// on runs a script on a fresh machine, and gives what it printed.
func on(t *testing.T, script string) string {
	t.Helper()
	bin := os.Getenv("NEREID_BIN")
	if bin == "" || os.Geteuid() != 0 {
		t.Fatal("the netns tier needs root, and NEREID_BIN: make netns")
	}
	dir, err := os.MkdirTemp("", "day") // a Unix socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	answers := "datacenter = \"coal\"\n[admin]\ninterface = \"admin0\"\naddress = \"10.99.99.7/24\"\nrange = [\"10.99.99.100\", \"10.99.99.250\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "answers.toml"), []byte(answers), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", machine, script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "NEREID_SERVER=", "RUNTIME_DIRECTORY=")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String()
}
