package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/coder/websocket"

	"nereid/api"
)

// echo is an instance whose one program says what it hears.
type echo struct{ ended chan error }

func (e echo) Enter(ctx context.Context, instance string, r api.SessionRequest, stdin io.ReadCloser, stdout, stderr io.Writer, resize <-chan api.TerminalSize) (int, error) {
	switch r.Command[0] {
	case "echo":
		n, err := io.Copy(stdout, stdin)
		fmt.Fprintf(stderr, "%d bytes in %s\n", n, instance)
		return 7, err
	case "size":
		fmt.Fprint(stdout, <-resize)
		return 0, nil
	case "flood": // until nobody listens
		for {
			if _, err := stdout.Write(make([]byte, 1<<20)); err != nil {
				e.ended <- err
				return 0, err
			}
		}
	case "wait":
		<-ctx.Done()
		e.ended <- ctx.Err()
		return 0, ctx.Err()
	}
	return noProgram, errors.New("no such program")
}

// conversation is what a head node heard of a session.
type conversation struct {
	t            *testing.T
	c            *websocket.Conn
	stdout, errs strings.Builder
	exit         api.SessionExit
}

func (v *conversation) say(kind byte, text string) {
	if err := v.c.Write(context.Background(), websocket.MessageBinary, append([]byte{kind}, text...)); err != nil {
		v.t.Error(err)
	}
}

// hear listens until the last message.
func (v *conversation) hear() {
	for {
		_, m, err := v.c.Read(context.Background())
		if err != nil || len(m) == 0 {
			v.t.Errorf("the session broke off: %q, %v", m, err)
			return
		}
		switch m[0] {
		case api.MessageStdout:
			v.stdout.Write(m[1:])
		case api.MessageStderr:
			v.errs.Write(m[1:])
		case api.MessageExit:
			if err := json.Unmarshal(m[1:], &v.exit); err != nil {
				v.t.Error(err)
			}
			return
		}
	}
}

// TestSessions has conversations with an instance: each is had once, however often it is
// asked for, and ends when either side does.
func TestSessions(t *testing.T) {
	long := strings.Repeat("0123456789abcdef\x00\xff", 20000)
	asked := func(id string, words ...string) api.SessionSpec {
		return api.SessionSpec{ID: id, Instance: "zone", SessionRequest: api.SessionRequest{Kind: api.SessionExec, Command: words}}
	}
	for name, tt := range map[string]struct {
		sessions []api.SessionSpec
		talk     func(id string, v *conversation)
		want     []string // what was heard, by id
		ended    int      // programs that nobody listened to
	}{
		"echo": {[]api.SessionSpec{asked("a", "echo")}, func(_ string, v *conversation) {
			sent := make(chan struct{})
			go func() { // a client reads while it writes
				defer close(sent)
				for part := range slices.Chunk([]byte(long), 30000) {
					v.say(api.MessageStdin, string(part))
				}
				v.say(api.MessageStdin, "")
			}()
			v.hear()
			<-sent
		}, []string{"a " + long + "360000 bytes in zone\n{7 }"}, 0},
		"terminal": {[]api.SessionSpec{asked("a", "size")}, func(_ string, v *conversation) {
			v.say(api.MessageResize, `{"rows":50,"columns":132}`)
			v.hear()
		}, []string{"a {50 132}{0 }"}, 0},
		"no program": {[]api.SessionSpec{asked("a", "rm")}, func(_ string, v *conversation) { v.hear() }, []string{"a {126 no such program}"}, 0},
		"several": {[]api.SessionSpec{asked("a", "rm"), asked("b", "rm"), asked("c", "rm")}, func(_ string, v *conversation) { v.hear() },
			[]string{"a {126 no such program}", "b {126 no such program}", "c {126 no such program}"}, 0},
		"client gone":          {[]api.SessionSpec{asked("a", "wait")}, func(string, *conversation) {}, []string{"a {0 }"}, 1},
		"reader does not read": {[]api.SessionSpec{asked("a", "flood")}, func(string, *conversation) {}, []string{"a {0 }"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, h := newWorld(), newHeadNode(t)
				e := echo{make(chan error, 10)}
				heard := make(chan string, 10)
				h.approved, h.spec, h.sessions = true, setupSpec("r1"), tt.sessions
				h.converse = func(id string, c *websocket.Conn) {
					c.SetReadLimit(1 << 20)
					v := &conversation{t: t, c: c}
					tt.talk(id, v)
					heard <- fmt.Sprint(id, " ", v.stdout.String(), v.errs.String(), v.exit)
				}
				r := start(t, w, h, t.TempDir(), func(a *Agent) { a.Entry = e })
				var got []string
				for range tt.want {
					got = append(got, <-heard)
				}
				slices.Sort(got)
				if !slices.Equal(got, tt.want) {
					t.Errorf("heard %.300q: want %.300q", got, tt.want)
				}
				for range tt.ended {
					if err := <-e.ended; err == nil {
						t.Error("a program that nobody listened to ended well")
					}
				}
				h.until("sessions are asked for no more", func(api.SyncRequest) bool { return true })
				r.stop()
				select {
				case more := <-heard:
					t.Errorf("a session was had twice: %.100q", more)
				default:
				}
			})
		})
	}
}
