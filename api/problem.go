package api

import "fmt"

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
	CodeNotApproved   Code = "not_approved"    // the server waits for approval; 403
	CodeTokenUsed     Code = "token_used"      // 403
	CodeTokenExpired  Code = "token_expired"   // 403
	CodeTokenInvalid  Code = "token_invalid"   // 403
	CodeKeyMismatch   Code = "key_mismatch"    // the server presents another key than the one on its pool; 403
	CodeUUIDCollision Code = "uuid_collision"  // two machines claim one SMBIOS UUID; 409
	CodeDigest        Code = "digest_mismatch" // bytes do not have the digest they were named by; 422
	CodeSignature     Code = "bad_signature"   // 422
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
}

// Error prints detail and next step in one line.
func (p *Problem) Error() string {
	s := p.Detail
	if s == "" {
		s = p.Title
	}
	for _, e := range p.Errors {
		s += "\n  " + e
	}
	if p.Next != "" {
		s = fmt.Sprintf("%s; %s", s, p.Next)
	}
	return s
}
