package main

import (
	"io"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// TestEscapes watches, waits and transfers on terminals: control sequences go
// only to one that knows them, and only for a person who does not mind.
func TestEscapes(t *testing.T) {
	for _, tt := range []struct {
		name, term, noColour string
		columns              int
		escapes              bool
	}{
		{"xterm", "xterm", "", 80, true},
		{"dumb", "dumb", "", 80, false},
		{"no TERM", "", "", 80, false},
		{"NO_COLOR", "xterm", "1", 80, false},
		{"no terminal", "xterm", "", 0, false},
	} {
		for what, show := range map[string]func(*app) error{
			"watch": func(a *app) error {
				show := a.watchShows(false)
				for _, state := range []api.ServerState{api.StateBooting, api.StateRunning} {
					if err := show([]api.Server{{UUID: longUUID, Hostname: "cn0", State: state}}); err != nil {
						return err
					}
				}
				return nil
			},
			"list": func(a *app) error {
				return a.serverTable([]api.Server{{UUID: longUUID, Hostname: "cn0", State: api.StateHeld}}, false).write(a.stdout)
			},
			"--wait": func(a *app) error {
				p := a.newStatus("cn0")
				p.show("booting")
				p.show("running")
				p.end()
				return nil
			},
			"transfer": func(a *app) error {
				b := a.newBar("base.squashfs", 100<<20)
				b.at(0)
				b.at(100 << 20)
				b.end()
				return nil
			},
		} {
			t.Run(tt.name+"/"+what, func(t *testing.T) {
				out := onTerminal(t, tt.columns, func(w io.Writer) {
					a := newApp(strings.NewReader(""), w, w)
					a.output, a.now = "table", func() time.Time { return time.Unix(0, 0) }
					a.getenv = func(name string) string {
						return map[string]string{"TERM": tt.term, "NO_COLOR": tt.noColour}[name]
					}
					if err := show(a); err != nil {
						t.Error(err)
					}
				})
				if got := strings.ContainsAny(out, "\x1b\r"); got != tt.escapes || out == "" {
					t.Errorf("escapes %v, want %v: %q", got, tt.escapes, out)
				}
			})
		}
	}
}
