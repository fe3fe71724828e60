package ga

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
)

// guest is a guest whose agent answers as a test says. What it said to somebody before,
// half of it, comes first.
func guest(t *testing.T, answer func(command string, args json.RawMessage) string) *Agent {
	return &Agent{Turn: make(chan struct{}, 1), Dial: func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() {
			defer theirs.Close()
			lines := bufio.NewReader(theirs)
			for {
				line, err := lines.ReadBytes('\n')
				if err != nil {
					return
				}
				var r struct {
					Execute   string
					Arguments json.RawMessage
				}
				if err := json.Unmarshal(bytes.TrimLeft(line, "\xff"), &r); err != nil {
					t.Errorf("it is asked %q: %v", line, err)
					return
				}
				text := ""
				if r.Execute == "guest-sync-delimited" {
					var id struct{ ID int64 }
					if err := json.Unmarshal(r.Arguments, &id); err != nil || line[0] != delimiter {
						t.Errorf("it is asked %q: %v", line, err)
					}
					text = fmt.Sprintf("{\"return\": {\"old\": 1}}\n{\"ret\xff{\"return\": %d}\n", id.ID)
				} else {
					text = answer(r.Execute, r.Arguments)
				}
				if _, err := io.WriteString(theirs, text); err != nil {
					return
				}
			}
		}()
		return ours, nil
	}}
}

// TestRun: a program gets its input, and its output and status come back, whatever was said
// before; what a guest says wrongly is an error with words.
func TestRun(t *testing.T) {
	for name, tt := range map[string]struct {
		answers map[string]string
		status  int
		out     string
		err     string
	}{
		"well":          {map[string]string{"guest-exec": `{"return": {"pid": 7}}`, "guest-exec-status": `{"return": {"exited": true, "exitcode": 3, "out-data": "aGVsbG8=", "err-data": "Cg=="}}`}, 3, "hello|\n", ""},
		"a signal":      {map[string]string{"guest-exec": `{"return": {"pid": 7}}`, "guest-exec-status": `{"return": {"exited": true, "signal": 9}}`}, 137, "|", ""},
		"refused":       {map[string]string{"guest-exec": `{"error": {"class": "CommandNotFound", "desc": "Command guest-exec has been disabled"}}`}, 0, "|", "refused guest-exec: \"Command guest-exec has been disabled\""},
		"no status":     {map[string]string{"guest-exec": `{"return": {"pid": 7}}`, "guest-exec-status": `{"return": {"exited": true}}`}, 0, "|", "does not say how"},
		"too much":      {map[string]string{"guest-exec": `{"return": {"pid": 7}}`, "guest-exec-status": `{"return": {"exited": true, "exitcode": 0, "out-data": "aGVsbG8=", "out-truncated": true}}`}, 0, "hello|", "the rest is lost"},
		"not a number":  {map[string]string{"guest-exec": `{"return": {"pid": "x"}}`}, 0, "|", "read what the guest's agent answers"},
		"not JSON":      {map[string]string{"guest-exec": `hello`}, 0, "|", "is not its protocol"},
		"no answer":     {map[string]string{"guest-exec": `{}`}, 0, "|", "is no answer"},
		"a hostile one": {map[string]string{"guest-exec": `{"return": {"pid": 7}}`, "guest-exec-status": `{"return": {"exited": true, "exitcode": -1}}`}, 255, "|", ""},
	} {
		t.Run(name, func(t *testing.T) {
			a := guest(t, func(command string, args json.RawMessage) string {
				if command == "guest-exec" && string(args) != `{"arg":["x"],"capture-output":true,"input-data":"aW4=","path":"cat"}` {
					t.Errorf("asked for %s", args)
				}
				return tt.answers[command] + "\n"
			})
			var out, errs strings.Builder
			status, err := a.Run(t.Context(), Program{Command: []string{"cat", "x"}}, strings.NewReader("in"), &out, &errs)
			if got := out.String() + "|" + errs.String(); status != tt.status || got != tt.out || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%d, %q, %v: want %d, %q, %q", status, got, err, tt.status, tt.out, tt.err)
			}
		})
	}
}

// TestSilent: a guest without an agent is waited for some seconds, and told of; a program
// whose client goes is ended; who waits for the channel has it when the other has gone.
func TestSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{Turn: make(chan struct{}, 1), Dial: func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, theirs); theirs.Close() }()
			return ours, nil
		}}
		if _, err := a.Run(t.Context(), Program{Command: []string{"true"}}, strings.NewReader(""), io.Discard, io.Discard); !errors.Is(err, ErrSilent) {
			t.Errorf("of a silent guest: %v", err)
		}
		if len(a.Turn) != 0 {
			t.Error("the channel is not free afterwards")
		}
	})
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var asked []string
		a := guest(t, func(command string, args json.RawMessage) string {
			asked = append(asked, command+" "+string(args))
			if command == "guest-exec" {
				return `{"return": {"pid": 7}}` + "\n"
			}
			if len(asked) == 4 {
				cancel()
			}
			return `{"return": {"exited": false}}` + "\n"
		})
		if _, err := a.Run(ctx, Program{Command: []string{"sleep", "99"}}, strings.NewReader(""), io.Discard, io.Discard); !errors.Is(err, context.Canceled) {
			t.Errorf("of a client that went: %v", err)
		}
		if last := asked[len(asked)-1]; last != `guest-exec {"arg":["-KILL","7"],"path":"kill"}` {
			t.Errorf("the last that it was asked is %s", last)
		}
		synctest.Wait()
	})
}

// TestRest: file systems are at rest, and go on.
func TestRest(t *testing.T) {
	var asked []string
	a := guest(t, func(command string, _ json.RawMessage) string {
		asked = append(asked, command)
		return `{"return": 3}` + "\n"
	})
	n, err := a.Freeze(t.Context())
	if err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
	if err := a.Thaw(t.Context()); err != nil || strings.Join(asked, " ") != "guest-fsfreeze-freeze guest-fsfreeze-thaw" {
		t.Errorf("%v, %v", asked, err)
	}
}

// FuzzRead: whatever a guest says, there is an answer or an error.
func FuzzRead(f *testing.F) {
	f.Add([]byte("\xff{\"return\": {}}\n"))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "no"}}` + "\n"))
	f.Add([]byte("{\"return\": null}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := read(bufio.NewReaderSize(bytes.NewReader(b), 16))
		if err == nil && m.Return == nil && m.Error == nil {
			t.Errorf("%q is an answer", b)
		}
		if err == nil {
			var e ended
			_ = json.Unmarshal(m.Return, &e) // an error is one
		}
	})
}
