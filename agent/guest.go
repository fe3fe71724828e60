package agent

import (
	"context"
	"errors"
	"io"

	"nereid/agent/machine/ga"
	"nereid/api"
)

// inGuest has a session with the guest of a virtual machine, by the agent in it.
func inGuest(ctx context.Context, a *ga.Agent, r api.SessionRequest, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	status, err := 0, error(nil)
	switch r.Kind {
	case api.SessionPush:
		err = a.Push(ctx, r.Path, r.Mode, stdin)
	case api.SessionPull:
		err = a.Pull(ctx, r.Path, stdout)
	default:
		status, err = a.Run(ctx, ga.Program{Command: r.Command, Env: r.Env}, stdin, stdout, stderr)
	}
	if err != nil {
		return noProgram, err
	}
	return status, nil
}

// unableInGuest says all of what is asked for that a guest's agent cannot do.
func unableInGuest(r api.SessionRequest) error {
	var all []error
	if r.TTY != nil || r.Kind == api.SessionExec && len(r.Command) == 0 {
		all = append(all, errors.New("the agent in a virtual machine gives no terminals and no shells: use its console, or SSH"))
	}
	if r.User != "" && r.User != "root" && r.User != "0" {
		all = append(all, errors.New("the agent in a virtual machine runs programs as root only: take runuser -u "+r.User+" -- PROGRAM"))
	}
	if r.Dir != "" {
		all = append(all, errors.New("the agent in a virtual machine has one working directory: take env -C "+r.Dir+" PROGRAM"))
	}
	return errors.Join(all...)
}
