package images

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
func invalid(format string, args ...any) error {
	return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "correct the manifest", format, args...)
}

// conflict refuses what the present state does not allow.
func conflict(next, format string, args ...any) error {
	return refuse(http.StatusConflict, api.CodeConflict, next, format, args...)
}

// missing says that there is no such image.
func missing(id string) error {
	return refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid image list", "there is no image %.200q", id)
}

// named adds the operation to an error that is no refusal.
func named(err *error, format string, args ...any) {
	if p := (*api.Problem)(nil); *err != nil && !errors.As(*err, &p) {
		*err = fmt.Errorf(format+": %w", append(args, *err)...)
	}
}

// told is how many uses of an image a refusal lists.
const told = 20

// inUse refuses to take away an image that others need.
func inUse(next string, users []string, format string, args ...any) error {
	if more := len(users) - told; more > 0 {
		users = append(users[:told:told], fmt.Sprintf("and %d more", more))
	}
	return &api.Problem{Title: "In use", Status: http.StatusConflict, Code: api.CodeInUse, Detail: fmt.Sprintf(format, args...), Errors: users, Next: next}
}
