package main

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"nereid/api"
)

func TestExitCodes(t *testing.T) {
	away := &api.UnreachableError{Headnode: "/run/s", Err: errors.New("no")}
	for _, tt := range []struct {
		err  error
		want int
	}{
		{errors.New("disk full"), exitFailed},
		{usagef("no"), exitUsage},
		{fmt.Errorf("cn0: %w", usagef("no")), exitUsage},
		{problem(404, api.CodeNotFound, "", ""), exitNotFound},
		{problem(422, api.CodeInvalid, "", ""), exitUsage},
		{problem(422, api.CodeSignature, "", ""), exitRefused},
		{problem(401, api.CodeUnauthorized, "", ""), exitRefused},
		{problem(403, api.CodeNotApproved, "", ""), exitRefused},
		{problem(409, api.CodeInUse, "", ""), exitRefused},
		{problem(412, api.CodeStale, "", ""), exitRefused},
		{problem(500, api.CodeInternal, "", ""), exitFailed},
		{problem(503, api.CodeUnavailable, "", ""), exitFailed},
		{problem(507, api.CodeNoSpace, "", ""), exitFailed},
		{away, exitUnreachable},
		{fmt.Errorf("upload x: %w", away), exitUnreachable},
		{fmt.Errorf("upload x: %w", context.Canceled), exitInterrupted},
		{codedError{exitTimedOut, errors.New("waited")}, exitTimedOut},
		{fmt.Errorf("import: %w", notFoundf("no")), exitNotFound},
	} {
		if got := exitCode(tt.err); got != tt.want {
			t.Errorf("%T %v: %d, want %d", tt.err, tt.err, got, tt.want)
		}
	}
}
