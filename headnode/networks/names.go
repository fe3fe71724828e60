package networks

import (
	"net"
	"regexp"
	"slices"
	"strings"
)

var (
	uuidRE = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	tagRE  = regexp.MustCompile(`^[a-zA-Z0-9_]{1,31}$`)
	nameRE = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`)
	bondRE = regexp.MustCompile(`^[a-z][a-z0-9]{0,14}$`)
)

// maxDescription is the length of the longest description, in bytes.
const maxDescription = 1024

// parseUUID lower-cases a UUID and checks its form.
func parseUUID(s string) (string, bool) {
	s = strings.ToLower(s)
	return s, uuidRE.MatchString(s)
}

// parseUUIDs does that for a list, which must not name one twice.
func parseUUIDs(what string, in []string) ([]string, error) {
	var out []string
	for _, s := range in {
		u, ok := parseUUID(s)
		if !ok {
			return nil, invalid("give UUIDs", "%s: %.64q is not a UUID", what, s)
		}
		if slices.Contains(out, u) {
			return nil, invalid("name each once", "%s: %s is there twice", what, u)
		}
		out = append(out, u)
	}
	return out, nil
}

// checkName is for networks and pools.
func checkName(what, s string) error {
	if _, isUUID := parseUUID(s); isUUID || !nameRE.MatchString(s) {
		return invalid("take another name", "%s name %.80q: want 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit, and not the form of a UUID", what, s)
	}
	return nil
}

func checkDescription(s string) error {
	if len(s) > maxDescription {
		return invalid("shorten it", "description has %d bytes; at most %d are allowed", len(s), maxDescription)
	}
	return nil
}

// parseMAC gives a unicast Ethernet address in lower case with colons.
func parseMAC(s string) (string, error) {
	m, err := net.ParseMAC(s)
	switch {
	case err != nil || len(m) != 6:
		return "", invalid("give a MAC like 02:6e:72:01:02:03", "%.64q is not an Ethernet address", s)
	case m[0]&1 != 0:
		return "", invalid("give a unicast address: its first byte is even", "%s is a multicast address", m)
	case m.String() == "00:00:00:00:00:00":
		return "", invalid("give another address", "%s is nobody's address", m)
	}
	return m.String(), nil
}
