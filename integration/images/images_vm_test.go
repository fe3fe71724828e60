//go:build vm

package images

import (
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/integration/lab"
	"nereid/integration/lab/labtest"
)

// TestVMImages runs the agent's own tests of images and instances in a server, beside
// what else is in its pool: a tar and a ZFS stream imported, broken and killed half way,
// clones with quotas and specs, and drops. The server's agent runs meanwhile.
func TestVMImages(t *testing.T) {
	r := labtest.Standard(t)
	m := r.Machines()[0]
	get := serve(t, r, "storage.test", labtest.TestProgram(t, "nereid/agent/storage"))
	const program = "/run/lab-storage.test"
	r.Shell(m, "curl -sSf -o "+program+" "+get+" && chmod 700 "+program)
	defer r.Shell(m, "rm -f "+program)

	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	defer cancel()
	out, err := m.Shell(ctx, "cd /run && NEREID_TEST_POOL=zones "+program+" -test.v -test.timeout 8m -test.run '^TestVMPoolRoots$' 2>&1")
	for line := range strings.Lines(out) {
		t.Log(strings.TrimRight(line, "\n"))
	}
	if err != nil || !strings.Contains(out, "--- PASS: TestVMPoolRoots") {
		t.Errorf("the tests in the server failed: %v", err)
	}
}

// serve gives a file to the servers of a rack until the test ends, at the URL it gives.
func serve(t *testing.T, r *labtest.Rack, name, data string) string {
	t.Helper()
	var ln net.Listener
	err := lab.Inside(filepath.Join("/run/netns", r.Namespace), func() (err error) {
		ln, err = new(net.ListenConfig).Listen(t.Context(), "tcp4", "10.99.99.7:0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.ServeContent(w, req, name, time.Time{}, strings.NewReader(data))
	})}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ln) }()
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), <-done); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve %s: %v", name, err)
		}
	})
	return "http://" + ln.Addr().String() + "/" + name
}
