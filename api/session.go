package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
)

// A session is a conversation with an instance: a program in it, its console, a file that
// goes in or comes out. It is one WebSocket (RFC 6455) from the client to the head node,
//
//	GET /v1/instances/{uuid}/session
//
// and one from the server's agent to the head node, which passes messages from one to the
// other and keeps none. The client's first message is a SessionRequest as text. All others
// are binary: a byte that says what it is, one of those below, and the rest.
const (
	MessageStdin  = 0 // to the program; without a rest: there is no more
	MessageStdout = 1
	MessageStderr = 2
	MessageResize = 3 // a TerminalSize as JSON, to the program
	MessageExit   = 4 // a SessionExit as JSON: the last message
)

// MaxMessage is the length of the longest message of a session, in bytes.
const MaxMessage = 64 << 10

// Kinds of sessions.
const (
	SessionExec    = "exec"    // a program in the instance
	SessionConsole = "console" // what the instance wrote to its console, at most the last 1 MiB of it, and its keyboard
	SessionPush    = "push"    // standard input becomes a file in the instance
	SessionPull    = "pull"    // a file of the instance becomes standard output

	// Of virtual machines only.
	SessionScreen     = "vnc"        // its screen, keyboard and mouse: what a viewer and its VNC server say (RFC 6143)
	SessionScreenshot = "screenshot" // what is on its screen becomes standard output, as PNG
	SessionNMI        = "nmi"        // an interrupt that its guest cannot ignore
)

// SessionRequest says what a client wants of an instance.
type SessionRequest struct {
	Kind    string        `json:"kind" enum:"exec,console,push,pull,vnc,screenshot,nmi"`
	Command []string      `json:"command,omitempty" doc:"exec: program and arguments; empty: the user's login shell"`
	Env     []string      `json:"env,omitempty" doc:"exec: NAME=VALUE, beside those of the image"`
	User    string        `json:"user,omitempty" doc:"exec: name or number inside; empty: root"`
	Dir     string        `json:"dir,omitempty" doc:"exec: working directory; empty: the user's home"`
	TTY     *TerminalSize `json:"tty,omitempty" doc:"exec: give the program a terminal of this size, whose output is all standard output"`
	Path    string        `json:"path,omitempty" doc:"push, pull: absolute"`
	Mode    uint32        `json:"mode,omitempty" doc:"push: permissions of a new file; 0: 0644"`
	Follow  bool          `json:"follow,omitempty" doc:"console: go on with what is written from now on"`
	Input   bool          `json:"input,omitempty" doc:"console: as follow, and what is sent as standard input is typed there. What was written before comes as standard error; tty is the terminal's size"`
}

// TerminalSize is the size of a terminal in characters.
type TerminalSize struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// SessionExit is how a session ended.
type SessionExit struct {
	Code  int    `json:"code" doc:"of a program: its exit status, or 128 and the number of the signal that ended it"`
	Error string `json:"error,omitempty" doc:"why there was no program, or no file"`
}

// SessionSpec asks a server for its end of a session: a WebSocket to
// /v1/servers/{uuid}/sessions/{id}.
type SessionSpec struct {
	ID       string `json:"id"`
	Instance string `json:"instance"`
	SessionRequest
}

// Validate says all that is wrong with a request.
func (r SessionRequest) Validate() error {
	var wrong []error
	fault := func(format string, args ...any) {
		wrong = append(wrong, &Problem{Title: "Invalid", Status: http.StatusUnprocessableEntity, Code: CodeInvalid, Detail: fmt.Sprintf(format, args...)})
	}
	switch r.Kind {
	case SessionExec, SessionConsole, SessionPush, SessionPull, SessionScreen, SessionScreenshot, SessionNMI:
	default:
		fault("kind: %.32q is none of exec, console, push, pull, vnc, screenshot and nmi", r.Kind)
	}
	if file := r.Kind == SessionPush || r.Kind == SessionPull; file && !path.IsAbs(r.Path) {
		fault("path: %.256q is not absolute", r.Path)
	}
	if r.Mode > 0o7777 {
		fault("mode: %#o is more than 07777", r.Mode)
	}
	words := append(slices.Concat(r.Command, r.Env), r.User, r.Dir, r.Path)
	bytes := 0
	for _, word := range words {
		bytes += len(word)
		if strings.ContainsRune(word, 0) {
			fault("%.64q has a zero byte", word)
		}
	}
	if bytes > maxWords {
		fault("all words together have %d bytes: at most %d are passed", bytes, maxWords)
	}
	if len(r.Command) > 0 && r.Command[0] == "" {
		fault("command: the program has no name")
	}
	for _, v := range r.Env {
		if name, _, ok := strings.Cut(v, "="); !ok || name == "" {
			fault("env: %.64q is not of the form NAME=VALUE", v)
		}
	}
	return Faults(wrong...)
}

// maxWords is how long all words of a request may be together, in bytes: it fits into a
// message.
const maxWords = 32 << 10

// MaxSessions is how many sessions a server has at once.
const MaxSessions = 32

// ExitMessage is the last message of a session.
func ExitMessage(e SessionExit) []byte {
	text, err := json.Marshal(e)
	if err != nil { // a number and a string: it cannot be
		panic(err)
	}
	return append([]byte{MessageExit}, text...)
}
