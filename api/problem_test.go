package api

import (
	"errors"
	"testing"
)

func TestFaults(t *testing.T) {
	disk := errors.New("disk")
	name := &Problem{Status: 422, Code: CodeInvalid, Detail: "no name", Next: "give one"}
	taken := &Problem{Status: 409, Code: CodeConflict, Detail: "port is taken", Next: "choose another"}
	rule := &Problem{Status: 422, Code: CodeInvalid, Detail: "rule", Errors: []string{"FROM", "^"}}
	stale := &Problem{Status: 412, Code: CodeStale, Detail: "stale"}
	for _, tt := range []struct {
		what string
		errs []error
		want string
		code Code
	}{
		{"one", []error{nil, taken, nil}, "port is taken; choose another", CodeConflict},
		{"the request's own faults give the status", []error{taken, name}, "2 things are wrong with the request\n  port is taken; choose another\n  no name; give one\ncorrect them and send it again", CodeInvalid},
		{"joined ones", []error{Faults(taken, name), rule}, "3 things are wrong with the request\n  port is taken; choose another\n  no name; give one\n  rule\n  FROM\n  ^\ncorrect them and send it again", CodeInvalid},
		{"an error of another kind comes alone", []error{name, disk, stale}, "disk", ""},
		{"a precondition comes alone", []error{name, stale}, "stale", CodeStale},
	} {
		err := Faults(tt.errs...)
		var p *Problem
		if errors.As(err, &p); err.Error() != tt.want || p != nil && p.Code != tt.code {
			t.Errorf("%s: %q, want %q", tt.what, err, tt.want)
		}
	}
	if err := Faults(nil, nil); err != nil {
		t.Errorf("none: %v", err)
	}
}
