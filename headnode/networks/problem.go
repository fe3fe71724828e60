package networks

import (
	"errors"
	"fmt"
	"net/http"

	"nereid/api"
)

// refuse makes a problem.
func refuse(status int, code api.Code, next, format string, args ...any) error {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...), Next: next}
}

// invalid refuses a request that makes no sense by itself.
func invalid(next, format string, args ...any) error {
	return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, next, format, args...)
}

// conflict refuses what the present state does not allow.
func conflict(next, format string, args ...any) error {
	return refuse(http.StatusConflict, api.CodeConflict, next, format, args...)
}

// forbidden refuses an account what is not for it.
func forbidden(next, format string, args ...any) error {
	return refuse(http.StatusForbidden, api.CodeForbidden, next, format, args...)
}

// missing says that there is no such thing.
func missing(what, id, list string) error {
	return refuse(http.StatusNotFound, api.CodeNotFound, "list them with: "+list, "there is no %s %s", what, id)
}

// unchanged refuses to replace a thing by one that was made of another revision of it.
// One without a revision replaces any.
func unchanged(what, have, read string) error {
	if read == "" || read == have {
		return nil
	}
	return refuse(http.StatusPreconditionFailed, api.CodeStale, "read it again and repeat the change",
		"%s changed since you read it: the revision is %s, not %s", what, have, read)
}

// named adds the operation to an error that is no refusal.
func named(err *error, format string, args ...any) {
	if p := (*api.Problem)(nil); *err != nil && !errors.As(*err, &p) {
		*err = fmt.Errorf(format+": %w", append(args, *err)...)
	}
}

// How much of a list of uses is told, and how far it is counted.
const (
	usesTold    = 20
	usesCounted = 10_000
)

// uses collects what uses a thing.
type uses struct {
	told []string
	n    int
}

// add notes one use. It is false when there is no need to look for more.
func (u *uses) add(format string, args ...any) bool {
	if len(u.told) < usesTold {
		u.told = append(u.told, fmt.Sprintf(format, args...))
	}
	u.n++
	return u.n < usesCounted
}

// list is what is told: at most 20 uses, and how many more there are.
func (u *uses) list() []string {
	switch more := u.n - len(u.told); {
	case u.n >= usesCounted:
		return append(u.told, fmt.Sprintf("and %d more at least", more))
	case more > 0:
		return append(u.told, fmt.Sprintf("and %d more", more))
	}
	return u.told
}

// refuse is the refusal to do what the uses stand against; nil when there are none.
func (u *uses) refuse(next, format string, args ...any) error {
	if u.n == 0 {
		return nil
	}
	return &api.Problem{Title: "In use", Status: http.StatusConflict, Code: api.CodeInUse,
		Detail: fmt.Sprintf(format, args...), Errors: u.list(), Next: next}
}
