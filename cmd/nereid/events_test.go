package main

import (
	"bufio"
	"context"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"nereid/api"
	"nereid/headnode"
)

// TestEventsCommand: "events" goes on behind an id, prints what the filters let through,
// says so when events were missed, and ends with Ctrl-C.
func TestEventsCommand(t *testing.T) {
	r, err := startReal(t.Context(), filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.stop(); err != nil {
			t.Error(err)
		}
	}()
	c := api.NewClient(filepath.Join(r.dir, headnode.SocketFile))
	defer c.Close()
	s, err := c.Events(t.Context(), api.EventQuery{})
	if err != nil {
		t.Fatal(err)
	}
	const owner = "930896af-bf8c-48d4-885c-6573a94b1853"
	var ids []string
	if _, err := c.NICTags().Create(t.Context(), api.NICTag{Name: "external"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Networks().Create(t.Context(), api.Network{Name: "net", NICTag: "external", Subnet: "10.88.88.0/24", Owners: []string{owner}}); err != nil {
		t.Fatal(err)
	}
	for ev, err := range s.All() {
		if err != nil {
			t.Fatal(err)
		}
		if ids = append(ids, ev.ID); len(ids) == 2 {
			break
		}
	}
	for _, tt := range []struct {
		args, want string
	}{
		{"--since-id " + ids[0], `^\S+Z  ` + ids[1] + `  network  /v1/networks  owner ` + owner + `$`},
		{"--since-id " + ids[0] + " --kind nic,network --owner " + owner + " -o json", `^{"id":"` + ids[1] + `","time":"[^"]+","kind":"network","owner_uuid":"` + owner + `","name":"[^"]+","path":"/v1/networks"}$`},
		{"--since-id " + ids[0] + " -o yaml", `^---$`},
		{"--since-id x-1 --kind nic", `^\S+Z  ` + ids[1] + `  reset  events were missed: read anew what you look at$`},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		out, w := io.Pipe()
		code := make(chan int, 1)
		go func() {
			code <- run(ctx, append([]string{"--server", c.Headnode, "events"}, strings.Fields(tt.args)...), strings.NewReader(""), w, t.Output())
			_ = w.Close()
		}()
		lines := bufio.NewScanner(out)
		if !lines.Scan() || !regexp.MustCompile(tt.want).MatchString(lines.Text()) {
			t.Errorf("events %s: %s, want %s", tt.args, lines.Text(), tt.want)
		}
		cancel()
		_, _ = io.Copy(io.Discard, out)
		if got := <-code; got != exitInterrupted {
			t.Errorf("events %s: exit code %d", tt.args, got)
		}
	}
	var text strings.Builder
	if code := run(t.Context(), []string{"--server", c.Headnode, "events", "--on", "nobody"}, strings.NewReader(""), io.Discard, &text); code != exitNotFound {
		t.Errorf("events of a server that is not there: exit code %d, %s", code, text.String())
	}
}
