package headnode

import (
	"net/http"

	"nereid/api"
)

// maxParts bounds how many parts of a sync have digests.
const maxParts = 16

// mayName refuses digests that are none.
func mayName(server string, digests map[string]string) error {
	for part, d := range digests {
		if len(digests) > maxParts || len(d) > api.MaxDigest {
			return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "look at the agent's version", "server %s names %d parts of its sync, at most %d are allowed, and %.64q with a digest of %d bytes, at most %d are allowed",
				server, len(digests), maxParts, part, len(d), api.MaxDigest)
		}
	}
	return nil
}

// lacks says whether the agent left out what the head node does not have, or asks for
// what it has: whether it is to be answered at once.
func (in *syncInput) lacks() bool {
	if in.Body.TellHave && in.have != nil {
		return true
	}
	for part, d := range in.Body.Digests {
		if has, known := in.have[part]; known && has != d {
			return true
		}
	}
	return false
}
