package zone

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFirst: a zone's first process gets its NICs, or hears why not, and is set up once
// that is noted; of one that says something else, or ends before, nothing is noted.
func TestFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), firstSocket)
	begin := func(up func() error) chan error {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() {
			err := Host{Base: uint32(os.Geteuid())}.give(l, up)
			l.Close()
			done <- err
		}()
		return done
	}
	noted := 0
	served := begin(func() error { noted++; return nil })
	s, err := ask(path)
	if err == nil || !strings.Contains(err.Error(), "in no zone") { // this process is in none
		t.Errorf("NICs of one that is in no zone: %v", err)
	}
	if noted != 0 {
		t.Error("it was noted before it was said")
	}
	if err := errors.Join(s.up(), <-served); err != nil || noted != 1 {
		t.Errorf("set up: %v, noted %d times", err, noted)
	}

	served = begin(func() error { return errors.New("no room") })
	s, _ = ask(path)
	if err := s.up(); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("what was not noted: %v", err)
	}
	if err := <-served; err == nil {
		t.Error("the server's side did not fail")
	}

	for _, says := range []string{"", "down\n"} {
		served = begin(func() error { noted++; return nil })
		s, _ = ask(path)
		if _, err := s.conn.Write([]byte(says)); err != nil {
			t.Fatal(err)
		}
		s.conn.Close()
		if err := <-served; err == nil || noted != 1 {
			t.Errorf("of one that says %q: %v, noted %d times", says, err, noted)
		}
	}
	s, err = ask(filepath.Join(t.TempDir(), "none"))
	if err == nil || s.up() == nil {
		t.Errorf("with nobody there: %v", err)
	}
}
