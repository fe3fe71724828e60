package instances

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/journal"
)

// UsePrefix is what the keys of servers' sums begin with, for store.Feed.
const UsePrefix = "instances/use/"

// Keys of this package; see the package comment.
const (
	recordPrefix     = "instances/instance/"
	deletedPrefix    = "instances/deleted/"
	statePrefix      = "instances/state/"
	namePrefix       = "instances/name/"
	ownerPrefix      = "instances/owner/"
	serverPrefix     = "instances/server/"
	imagePrefix      = "instances/image/"
	placementPrefix  = "instances/placement/"
	stepsPrefix      = "instances/steps/"
	auditPrefix      = "instances/audit/"
	expiryPrefix     = "instances/expiry/"
	unexpectedPrefix = "instances/unexpected/"
	writtenPrefix    = "instances/written/"
	settingsKey      = "instances/settings"
)

// Set is the journal's set of what is wanted of a server's instances.
func Set(server string) journal.Set {
	return journal.Set{Name: api.InstanceSet(server), Keep: true}
}

// ImageSet is the journal's set of the images that a server may fetch.
func ImageSet(server string) journal.Set { return journal.Set{Name: api.ImageSet(server), Keep: true} }

// index are the keys by which an instance is found.
func index(r Record) []string {
	return []string{
		namePrefix + r.Name + "/" + r.Owner,
		ownerPrefix + r.Owner + "/" + r.UUID,
		serverPrefix + r.Server + "/" + r.Owner + "/" + r.UUID,
		imagePrefix + r.Image + "/" + r.Server + "/" + r.UUID,
	}
}

// timeKey is a time as keys have it: their order is that of the times.
func timeKey(t time.Time) string { return fmt.Sprintf("%016x", max(0, t.UnixNano())) }

var (
	uuidRE = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
)

// parseUUID lower-cases a UUID and checks its form.
func parseUUID(s string) (string, bool) {
	s = strings.ToLower(s)
	return s, uuidRE.MatchString(s)
}

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

func missing(id string) error {
	return refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid instance list", "there is no instance %.64q", id)
}

// named adds the operation to an error that is no refusal.
func named(err *error, format string, args ...any) {
	if p := (*api.Problem)(nil); *err != nil && !errors.As(*err, &p) {
		*err = fmt.Errorf(format+": %w", append(args, *err)...)
	}
}

// newID is 16 random hexadecimal digits: a revision, or the id of a request.
func newID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b)
}

// NewUUID is a random UUID (RFC 9562, section 5.4).
func NewUUID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
