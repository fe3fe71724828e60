package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"nereid/api"
)

// screens is a head node with a virtual machine vm0, whose screen says what it hears in
// upper case, and a zone.
func screens(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/instances/{id}", func(w http.ResponseWriter, r *http.Request) {
		i := api.Instance{UUID: r.PathValue("id"), Name: r.PathValue("id"), Brand: api.BrandKVM}
		if i.Name == "web0" {
			i.Brand = api.BrandLX
		}
		_ = json.NewEncoder(w).Encode(i)
	})
	mux.HandleFunc("GET /v1/instances/{id}/session", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		ctx := r.Context()
		say := func(kind byte, text string) { _ = c.Write(ctx, websocket.MessageBinary, append([]byte{kind}, text...)) }
		_, text, err := c.Read(ctx)
		var want api.SessionRequest
		if err != nil || json.Unmarshal(text, &want) != nil {
			t.Errorf("asked for %q, %v", text, err)
		}
		exit := api.SessionExit{}
		switch want.Kind {
		case api.SessionScreenshot:
			say(api.MessageStdout, "PNG")
			if r.PathValue("id") != "vm0" {
				exit = api.SessionExit{Code: sessionFailed, Error: "the instance does not run"}
			}
		case api.SessionScreen:
			for {
				_, m, err := c.Read(ctx)
				if err != nil || len(m) < 2 {
					break
				}
				say(api.MessageStdout, strings.ToUpper(string(m[1:])))
			}
		}
		_ = c.Write(ctx, websocket.MessageBinary, api.ExitMessage(exit))
		_, _, _ = c.Read(ctx)
	})
	s := httptest.NewUnstartedServer(mux)
	s.Listener.Close()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
	return socket
}

const sessionFailed = 126

// TestScreenshot: a picture is a file when it is whole, and none otherwise.
func TestScreenshot(t *testing.T) {
	url, dir := screens(t), t.TempDir()
	nereid := func(args ...string) (int, string, string) {
		var out, errs strings.Builder
		code := run(t.Context(), append([]string{"--server", url}, args...), strings.NewReader(""), &out, &errs)
		return code, out.String(), errs.String()
	}
	file := filepath.Join(dir, "vm0.png")
	if code, out, errs := nereid("instance", "screenshot", "vm0", file); code != 0 || !strings.Contains(out, "vm0.png") {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "PNG" {
		t.Errorf("%q, %v", b, err)
	}
	if code, out, _ := nereid("instance", "screenshot", "vm0", "-"); code != 0 || out != "PNG" {
		t.Errorf("to standard output: %d, %q", code, out)
	}
	if code, _, errs := nereid("instance", "screenshot", "vm1", filepath.Join(dir, "vm1.png")); code != sessionFailed || !strings.Contains(errs, "does not run") {
		t.Errorf("of one that does not run: %d, %q", code, errs)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left are %v, %v", left, err)
	}
	if code, out, errs := nereid("instance", "nmi", "vm0"); code != 0 || !strings.Contains(out, "was sent an NMI") {
		t.Errorf("an NMI: %d, %q, %q", code, out, errs)
	}
	if code, _, errs := nereid("instance", "vnc", "web0"); code != exitRefused || !strings.Contains(errs, "is a zone") {
		t.Errorf("the screen of a zone: %d, %q", code, errs)
	}
}

// TestVNC: a viewer is served at the address that is printed, then another one, until the
// command is told to end.
func TestVNC(t *testing.T) {
	url := screens(t)
	ctx, stop := context.WithCancel(t.Context())
	read, out := io.Pipe()
	done := make(chan int)
	go func() {
		done <- run(ctx, []string{"--server", url, "-o", "json", "instance", "vnc", "vm0"}, strings.NewReader(""), out, t.Output())
	}()
	var said struct{ Address string }
	if err := json.NewDecoder(bufio.NewReader(read)).Decode(&said); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(said.Address, "127.0.0.1:59") {
		t.Errorf("it listens at %s", said.Address)
	}
	for range 2 {
		c, err := net.DialTimeout("tcp", said.Address, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 5)
		if _, err := c.Write([]byte("hello")); err == nil {
			_, err = io.ReadFull(c, buf)
		}
		if err != nil || string(buf) != "HELLO" {
			t.Errorf("a viewer hears %q, %v", buf, err)
		}
		c.Close()
	}
	stop()
	if code := <-done; code != 0 {
		t.Errorf("it ends with %d", code)
	}
}
