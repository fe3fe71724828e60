//go:build netns || vm

package bootserver_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"nereid/bootserver"
	"nereid/bootserver/boottest"
)

// TestMain runs the whole test binary in a network namespace of its own, so that
// the server can have its real ports:
//
//	lab bridge admin0 10.99.99.7/24 --- veth or tap --- clients
func TestMain(m *testing.M) {
	if ifname := os.Getenv(solicitEnv); ifname != "" {
		os.Exit(solicit(ifname))
	}
	const mark = "NEREID_TEST_NETNS"
	if os.Getenv(mark) == "" {
		unshare, err := exec.LookPath("unshare")
		if err == nil {
			err = os.Setenv(mark, "1")
		}
		if err == nil {
			err = syscall.Exec(unshare, append([]string{"unshare", "--net", "--"}, os.Args...), os.Environ())
		}
		fmt.Fprintln(os.Stderr, "this tier needs root and util-linux's unshare:", err)
		os.Exit(1)
	}
	for _, c := range []string{"link set lo up", "link add admin0 type bridge forward_delay 0", "addr add 10.99.99.7/24 dev admin0", "link set admin0 up"} {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "ip %s: %v %s\n", c, err, out)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

var adminNet = netip.MustParsePrefix("10.99.99.7/24")

// ip runs ip(8) in the lab's namespace.
func ip(t *testing.T, args string) {
	t.Helper()
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v %s", args, err, out)
	}
}

// start runs a boot server on the lab's bridge until the test ends.
func start(t *testing.T, b *boottest.Booter, clients string) *bootserver.Server {
	t.Helper()
	return startWith(t, b, b, clients)
}

func startWith(t *testing.T, b *boottest.Booter, files bootserver.Files, clients string) *bootserver.Server {
	t.Helper()
	var log bytes.Buffer
	s := &bootserver.Server{Interface: "admin0", Address: adminNet, Booter: b, Files: files, Clients: clients,
		Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if t.Failed() {
			t.Logf("boot server's log:\n%s", log.String())
			t.Logf("booter:\n%s", b)
		}
	})
	select {
	case <-s.Ready():
	case err := <-done:
		done <- nil
		t.Fatalf("Run: %v", err)
	case <-time.After(10 * time.Second):
		t.Fatal("the boot server is not ready after 10 s")
	}
	return s
}

func newBooter(t *testing.T, kernel, initrd []byte, layers ...[]byte) *boottest.Booter {
	t.Helper()
	b, err := boottest.New(t.TempDir(), adminNet, netip.MustParseAddr("10.99.99.100"), kernel, initrd, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
