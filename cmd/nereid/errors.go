package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"nereid/api"
)

// The exit codes, as doc.go and the help of nereid say.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitRefused     = 4
	exitUnreachable = 5
	exitTimedOut    = 6
	exitInterrupted = 130
)

// usageError is a fault of the command line; see is the command that explains it.
type usageError struct {
	err error
	see string
}

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

// usagef makes a usageError of a command that had already begun.
func usagef(format string, args ...any) error { return usageError{err: fmt.Errorf(format, args...)} }

// codedError carries an exit code that does not follow from its cause.
type codedError struct {
	code int
	err  error
}

func (e codedError) Error() string { return e.err.Error() }
func (e codedError) Unwrap() error { return e.err }

func notFoundf(format string, args ...any) error {
	return codedError{exitNotFound, fmt.Errorf(format, args...)}
}

func refusedf(format string, args ...any) error {
	return codedError{exitRefused, fmt.Errorf(format, args...)}
}

// fail prints what is wrong, why, and what to do next, and gives the exit code.
func (a *app) fail(err error) int {
	if errors.Is(err, errSilent) {
		return exitCode(err)
	}
	text := clean(err.Error())
	if errors.Is(err, context.Canceled) {
		text = "interrupted"
	}
	if next := a.next(err); next != "" {
		text += "; " + next
	}
	fmt.Fprintf(a.stderr, "nereid: %s\n", text)
	return exitCode(err)
}

func exitCode(err error) int {
	var (
		usage   usageError
		coded   codedError
		problem *api.Problem
		away    *api.UnreachableError
	)
	switch {
	case errors.As(err, &usage):
		return exitUsage
	case errors.As(err, &coded):
		return coded.code
	case errors.As(err, &problem):
		switch {
		case problem.Status == 404:
			return exitNotFound
		case problem.Code == api.CodeInvalid:
			return exitUsage
		case problem.Status >= 400 && problem.Status < 500:
			return exitRefused
		}
		return exitFailed
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &away):
		return exitUnreachable
	}
	return exitFailed
}

// next says what to do about an error that does not say it itself.
func (a *app) next(err error) string {
	var (
		usage   usageError
		problem *api.Problem
		away    *api.UnreachableError
	)
	switch {
	case errors.As(err, &usage):
		if usage.see != "" {
			return "see: " + usage.see
		}
	case errors.As(err, &problem):
		switch {
		case problem.Next != "":
		case problem.Code == api.CodeUnauthorized:
			return `give a token with --token-file; "nereid token create" on the head node makes one`
		case problem.Status >= 500:
			return "the head node's log says more"
		}
	case errors.Is(err, context.Canceled):
		return ""
	case errors.As(err, &away):
		socket := !strings.HasPrefix(away.Headnode, "https:")
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return "try again, or give it longer with --timeout"
		case socket && errors.Is(err, fs.ErrPermission):
			return "the socket is root's; run this as root, or use https://HOST:8443 and a token"
		case socket && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
			return "is the head node running on this machine? (systemctl status nereid-headnode); for one elsewhere give --server " +
				"https://HOST:8443, for one here that is not root's, or not the first, --server DIR/headnode.sock"
		case !socket && strings.Contains(err.Error(), "x509: certificate signed by unknown authority"):
			return `give --ca-sha256; "nereid datacenter show" on the head node prints it`
		case !socket && strings.Contains(err.Error(), "pinned digest"):
			return `compare --ca-sha256 with what "nereid datacenter show" prints on the head node`
		}
		return "check the address, and that the head node runs and can be reached from here"
	}
	return ""
}
