package api

import (
	"errors"
	"fmt"
	"net/http"
)

// Code is a stable error code, the same in the API, the CLI's exit and the docs.
type Code string

// The error codes.
const (
	CodeInvalid       Code = "invalid"         // the request is malformed; 400 or 422
	CodeUnauthorized  Code = "unauthorized"    // no or unknown credentials; 401
	CodeForbidden     Code = "forbidden"       // known, but not allowed; 403
	CodeNotFound      Code = "not_found"       // 404
	CodeConflict      Code = "conflict"        // the present state does not allow it; 409
	CodeStale         Code = "stale"           // If-Match does not match; 412
	CodeInUse         Code = "in_use"          // 409
	CodeSideEffects   Code = "side_effects"    // other things would change too, and the request does not agree to that; 409
	CodeNotApproved   Code = "not_approved"    // the server waits for approval; 403
	CodeTokenUsed     Code = "token_used"      // 403
	CodeTokenExpired  Code = "token_expired"   // 403
	CodeTokenInvalid  Code = "token_invalid"   // 403
	CodeKeyMismatch   Code = "key_mismatch"    // the server presents another key than the one on its pool; 403
	CodeUUIDCollision Code = "uuid_collision"  // two machines claim one SMBIOS UUID; 409
	CodeDigest        Code = "digest_mismatch" // bytes do not have the digest they were named by; 422
	CodeSignature     Code = "bad_signature"   // 422
	CodeNoCapacity    Code = "no_capacity"     // no server takes the instance; 409
	CodeNoSpace       Code = "no_space"        // disk full; 507
	CodeUnavailable   Code = "unavailable"     // cannot answer now; 503
	CodeInternal      Code = "internal"        // 500
)

// Problem is an error as RFC 9457 problem details. Detail says what and why,
// Next what to do.
type Problem struct {
	Type   string   `json:"type,omitempty"`
	Title  string   `json:"title"`
	Status int      `json:"status"`
	Code   Code     `json:"code"`
	Detail string   `json:"detail,omitempty"`
	Next   string   `json:"next,omitempty"`
	Errors []string `json:"errors,omitempty"`

	// Confirm agrees to the side effects that Errors lists (CodeSideEffects).
	Confirm string `json:"confirm,omitempty" doc:"what to send as ?confirm= to agree to the side effects in errors"`

	parts []*Problem // of one that Faults made
}

// ConfirmAll agrees to whatever side effects there are.
const ConfirmAll = "yes"

// severalFaults is the title of what Faults joined; each of its Errors says its own
// next step.
const severalFaults = "Several faults"

// Error prints detail and next step in one line, with Errors, if any, on lines of
// their own between them.
func (p *Problem) Error() string {
	s := p.Detail
	if s == "" {
		s = p.Title
	}
	for _, e := range p.Errors {
		s += "\n  " + e
	}
	switch {
	case p.Next == "":
		return s
	case p.Title == severalFaults, p.Code == CodeSideEffects:
		return s + "\n" + p.Next
	}
	return s + "; " + p.Next
}

// Faults gives one error for several, so that a request hears at once all that is
// wrong with it; nil ones do not count. Refusals of what was asked (400, 404, 409,
// 422) become one whose Errors lists them, and it is of the status of the first that
// the request is wrong by itself (422), or else of the first. Any other error comes
// alone.
func Faults(errs ...error) error {
	var parts []*Problem
	for _, err := range errs {
		var p *Problem
		switch {
		case err == nil:
		case !errors.As(err, &p) || !joins(p):
			return err
		case p.parts != nil:
			parts = append(parts, p.parts...)
		default:
			parts = append(parts, p)
		}
	}
	switch len(parts) {
	case 0:
		return nil
	case 1:
		return parts[0]
	}
	first := parts[0]
	for _, p := range parts {
		if p.Status == http.StatusUnprocessableEntity && first.Status != p.Status {
			first = p
		}
	}
	out := &Problem{Title: severalFaults, Status: first.Status, Code: first.Code, parts: parts,
		Detail: fmt.Sprintf("%d things are wrong with the request", len(parts)), Next: "correct them and send it again"}
	for _, p := range parts {
		line := p.Detail
		if p.Next != "" {
			line += "; " + p.Next
		}
		out.Errors = append(append(out.Errors, line), p.Errors...)
	}
	return out
}

// joins says whether a refusal can be told together with others.
func joins(p *Problem) bool {
	switch p.Status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusConflict, http.StatusUnprocessableEntity:
		return true
	}
	return false
}
