package ga

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"
)

// Bounds of programs.
const (
	maxInput  = 1 << 20 // bytes that a program may read
	pollFirst = 50 * time.Millisecond
	pollLast  = 2 * time.Second // between two questions whether it has ended
	endLimit  = 5 * time.Second // to have it end
)

// searchPath is where programs are looked for when an environment is given.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Program is one that is to run in a guest, as root and without a terminal.
type Program struct {
	Command []string // program, and arguments
	Env     []string // NAME=VALUE; empty: the agent's own
}

// ended is how a program is.
type ended struct {
	Exited bool   `json:"exited"`
	Code   *int   `json:"exitcode"`
	Signal *int   `json:"signal"`
	Out    []byte `json:"out-data"`
	Err    []byte `json:"err-data"`
	OutCut bool   `json:"out-truncated"`
	ErrCut bool   `json:"err-truncated"`
}

// Run runs a program with all of input, at most 1 MiB, and gives its exit status, or 128
// and the number of the signal that ended it. Its output comes when it has ended, of each
// kind at most 16 MiB. It is ended with ctx.
func (a *Agent) Run(ctx context.Context, p Program, input io.Reader, stdout, stderr io.Writer) (status int, err error) {
	in, err := io.ReadAll(io.LimitReader(input, maxInput+1))
	if err != nil {
		return 0, fmt.Errorf("read what the program is to read: %w", err)
	}
	if len(in) > maxInput {
		return 0, fmt.Errorf("a program in a virtual machine can read %d bytes, and is given more; push a file instead", maxInput)
	}
	args := map[string]any{"path": p.Command[0], "arg": p.Command[1:], "input-data": in, "capture-output": true}
	if len(p.Env) > 0 {
		args["env"] = append([]string{searchPath}, p.Env...)
	}
	var begun struct {
		PID int64 `json:"pid"`
	}
	if err := a.call(ctx, "guest-exec", args, &begun); err != nil {
		return 0, err
	}
	e, err := a.wait(ctx, begun.PID)
	if err != nil {
		if ctx.Err() != nil {
			a.kill(ctx, begun.PID)
		}
		return 0, err
	}
	if _, err := stdout.Write(e.Out); err != nil {
		return 0, err
	}
	if _, err := stderr.Write(e.Err); err != nil {
		return 0, err
	}
	if e.OutCut || e.ErrCut {
		return 0, fmt.Errorf("the program wrote more than the guest's agent keeps; the rest is lost")
	}
	switch {
	case e.Signal != nil:
		return 128 + *e.Signal&0x7f, nil
	case e.Code != nil:
		return *e.Code & 0xff, nil
	}
	return 0, fmt.Errorf("the guest's agent does not say how the program ended")
}

// wait waits until a program has ended.
func (a *Agent) wait(ctx context.Context, pid int64) (e ended, err error) {
	for pause := pollFirst; ; pause = min(2*pause, pollLast) {
		e = ended{}
		if err := a.call(ctx, "guest-exec-status", map[string]any{"pid": pid}, &e); err != nil || e.Exited {
			return e, err
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return e, ctx.Err()
		}
	}
}

// kill ends a program that nobody waits for any more, where the guest has a kill(1).
func (a *Agent) kill(ctx context.Context, pid int64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endLimit)
	defer cancel()
	_ = a.call(ctx, "guest-exec", map[string]any{"path": "kill", "arg": []string{"-KILL", strconv.FormatInt(pid, 10)}}, nil) // nobody is there to be told
}

// Freeze has the guest's file systems written, and at rest until Thaw, so that a snapshot of
// its disks is one of whole file systems. n is how many. The guest may thaw them itself.
func (a *Agent) Freeze(ctx context.Context) (n int, err error) {
	err = a.call(ctx, "guest-fsfreeze-freeze", nil, &n)
	return n, err
}

// Thaw ends what Freeze began.
func (a *Agent) Thaw(ctx context.Context) error {
	return a.call(ctx, "guest-fsfreeze-thaw", nil, nil)
}
