package labtest

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/integration/lab"
)

// TestProgram builds the vm tests of a package, to be put into a platform and run
// in a server.
func TestProgram(t *testing.T, pkg string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", "vm", "-ldflags=-s -w", "-o", bin, pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build.Args, err, out)
	}
	b, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Carry puts a file into a server's memory for as long as the test runs, as a program,
// and gives its path there.
func (r *Rack) Carry(m *lab.Machine, name, data string) string {
	r.T.Helper()
	path := "/run/lab-" + name
	r.Shell(m, "curl -sSf -o "+path+" "+r.serve(name, data)+" && chmod 700 "+path)
	r.T.Cleanup(func() {
		if out, err := m.Shell(context.WithoutCancel(r.T.Context()), "rm -f "+path); err != nil {
			r.T.Errorf("remove %s: %v\n%s", path, err, out)
		}
	})
	return path
}

// serve gives a file to the servers of a rack until the test ends, at the URL it gives.
func (r *Rack) serve(name, data string) string {
	r.T.Helper()
	var ln net.Listener
	err := lab.Inside(filepath.Join("/run/netns", r.Namespace), func() (err error) {
		ln, err = new(net.ListenConfig).Listen(r.T.Context(), "tcp4", "10.99.99.7:0")
		return err
	})
	if err != nil {
		r.T.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.ServeContent(w, req, name, time.Time{}, strings.NewReader(data))
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	r.T.Cleanup(func() {
		if err := errors.Join(s.Close(), <-done); !errors.Is(err, http.ErrServerClosed) {
			r.T.Errorf("serve %s: %v", name, err)
		}
	})
	return "http://" + ln.Addr().String() + "/" + name
}

// RunTests runs the TestReal tests of a program in a server, of which at least want
// must pass and none fail within limit. environment is put before the command.
func RunTests(t *testing.T, m *lab.Machine, environment, program string, want int, limit time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit+time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, "cd /tmp && "+environment+" "+program+" -test.v -test.timeout "+limit.String()+" -test.run '^TestReal' 2>&1")
	for line := range strings.Lines(out) {
		t.Log(strings.TrimRight(line, "\n"))
	}
	if err != nil {
		t.Error("the tests in the server failed")
	}
	if n := strings.Count(out, "--- PASS: TestReal"); n < want {
		t.Errorf("%d tests passed in the server: want %d", n, want)
	}
}
