package stub

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"syscall"

	"nereid/api"
	"nereid/images"
)

// trouble is an error in plain words: what, why, what next.
type trouble struct {
	what, why, next string
	err             error
}

func problem(what, why, next string, err error) error {
	return &trouble{what: what, why: why, next: next, err: err}
}

// Error is one sentence without its full stop.
func (t *trouble) Error() string {
	s := t.what
	if t.why != "" {
		s += ": " + t.why
	}
	if t.next != "" {
		s += "; " + t.next
	}
	return s
}

func (t *trouble) Unwrap() error { return t.err }

// final marks what a retry cannot mend: the server restarts instead.
type final struct{ err error }

func (f *final) Error() string { return f.err.Error() }
func (f *final) Unwrap() error { return f.err }

// sentence writes an error as people read it: one line, a capital, a full stop.
func sentence(err error) string {
	s := strings.Join(strings.Fields(err.Error()), " ")
	if s == "" {
		return "Something went wrong and gave no reason."
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if !strings.HasSuffix(s, ".") {
		s += "."
	}
	return s
}

// explainGet puts the failure to get something from the boot server in words.
func explainGet(what string, c api.BootConfig, err error) error {
	var st *images.StatusError
	var digest *images.DigestError
	var size *images.SizeError
	verify := "the boot server's copy is damaged: nereid platform verify " + c.Platform + ", then import it again"
	switch {
	case errors.As(err, &st):
		why := st.Body
		if why == "" {
			why = http.StatusText(st.Status)
		}
		switch st.Status {
		case http.StatusForbidden:
			return problem("The boot server does not give this server "+what, why, "", err)
		case http.StatusNotFound:
			return problem("The boot server does not have "+what, why, "", err)
		case http.StatusGone:
			return problem("This boot is over for the boot server, which no longer gives "+what, why, "", err)
		case http.StatusServiceUnavailable:
			return problem("The boot server cannot give "+what+" now", why, "", err)
		}
		return problem("The boot server did not give "+what, st.Error(), "", err)
	case errors.As(err, &digest):
		return problem("The bytes of "+what+" are not those the signed manifest names",
			"SHA-256 is "+digest.Got+" instead of "+digest.Want, verify, err)
	case errors.As(err, &size):
		return problem("The length of "+what+" is not what the signed manifest says", size.Error(), verify, err)
	case errors.Is(err, syscall.ENOSPC):
		return problem("There is no room in memory for "+what, "the server has too little RAM for this platform", "add memory or assign another platform", err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return problem("The boot server "+c.BootServer+" refuses connections, so "+what+" did not come", "nothing listens there", "is nereid-headnode running?", err)
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.ETIMEDOUT):
		return problem("The boot server "+c.BootServer+" cannot be reached, so "+what+" did not come", "no answer on the network", "look at the switch port and the VLAN of "+c.Network.MAC, err)
	case errors.Is(err, context.DeadlineExceeded):
		return problem("The boot server "+c.BootServer+" did not send "+what+" in time", "", "is it overloaded, or is the network?", err)
	}
	return problem("Getting "+what+" from "+c.BootServer+" was cut", err.Error(), "it goes on where it was", err)
}

// explainDisk puts the failure to get something from a disk in words.
func explainDisk(what, disk string, err error) error {
	var digest *images.DigestError
	var size *images.SizeError
	var known *trouble
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &digest):
		return problem("The bytes of "+what+" on "+disk+" are not those the signed manifest names",
			"SHA-256 is "+digest.Got+" instead of "+digest.Want, "make the disk again", err)
	case errors.As(err, &size):
		return problem("The length of "+what+" on "+disk+" is not what the signed manifest says", size.Error(), "make the disk again", err)
	case errors.Is(err, syscall.ENOSPC):
		return problem("There is no room in memory for "+what, "the server has too little RAM for this platform", "add memory or use another platform", err)
	}
	return problem("Reading "+what+" from "+disk+" went wrong", err.Error(), "", err)
}

// explainManifest puts a refused manifest in words.
func explainManifest(c api.BootConfig, err error) error {
	if errors.Is(err, images.ErrSignature) {
		return problem("The manifest of platform "+c.Platform+" is not signed with the key this boot was given",
			"it was changed, or signed by somebody else", "nothing of it is used; import the platform again or assign another", err)
	}
	return problem("The manifest of platform "+c.Platform+" cannot be used", err.Error(), "build and import the platform again", err)
}
