package inventory

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"nereid/api"
)

// Record is what is stored of a server besides what it reported.
type Record struct {
	UUID     string    `json:"uuid"`
	Hostname string    `json:"hostname"`
	MACs     []string  `json:"macs"`
	Created  time.Time `json:"created"`
	Approved bool      `json:"approved"`
	Rejected bool      `json:"rejected,omitempty"`
	SetUp    bool      `json:"set_up,omitempty"` // the agent reported a complete setup

	Key    string    `json:"key,omitempty"` // SHA-256 of the public key of the certificate issued last
	Pin    string    `json:"pin,omitempty"` // the same of the key on the pool; no other is accepted
	BootID string    `json:"boot_id,omitempty"`
	Booted time.Time `json:"booted,omitzero"` // start of that boot

	Setup *api.SetupSpec `json:"setup,omitempty"`
	Power *api.PowerSpec `json:"power,omitempty"`

	Claim    *Claim    `json:"claim,omitempty"`
	Refused  []string  `json:"refused,omitempty"` // MACs of machines with this UUID an operator decided against
	Moves    []Move    `json:"moves,omitempty"`   // MACs seen in this server that belong to another
	Lost     []Move    `json:"lost,omitempty"`    // MACs of this server seen in, or moved to, another
	Mismatch *Mismatch `json:"mismatch,omitempty"`

	Revision string `json:"revision"` // new with each change of what is wanted
}

// Claim is another machine that says it has a record's UUID.
type Claim struct {
	MACs    []string    `json:"macs"`
	Sysinfo api.Sysinfo `json:"sysinfo"`
	BootID  string      `json:"boot_id"`
	Seen    time.Time   `json:"seen"`
}

// Move is a MAC that belongs to one server and was seen in another.
type Move struct {
	MAC   string    `json:"mac"`
	Other string    `json:"other"` // UUID of the other server
	Seen  time.Time `json:"seen"`
	Done  bool      `json:"done,omitempty"` // it has moved
}

// Mismatch is the last boot that presented another key than the pinned one.
type Mismatch struct {
	Key    string    `json:"key"`
	MAC    string    `json:"mac"`
	BootID string    `json:"boot_id"`
	Seen   time.Time `json:"seen"`
}

// Observed is what a server reported. Only changes of it are written.
type Observed struct {
	Report  *api.Report  `json:"report,omitempty"`
	Sysinfo *api.Sysinfo `json:"sysinfo,omitempty"`
	Digest  string       `json:"digest,omitempty"` // SHA-256 of Sysinfo as the agent computed it
}

// Role is in which way a MAC belongs to a server.
type Role string

// The roles of a MAC.
const (
	RoleOwned   Role = "owned"
	RoleClaim   Role = "claim"   // of a machine that claims the server's UUID
	RoleRefused Role = "refused" // of a machine an operator decided against
)

// Owner is the server a MAC belongs to.
type Owner struct {
	UUID string `json:"uuid"`
	Role Role   `json:"role"`
}

// NewRevision makes a revision or a request id: 16 random hexadecimal digits.
func NewRevision() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b)
}

// Spec is what is wanted of a server. Power is left out for a boot it is not for.
func (r *Record) Spec(ntp []string) api.Spec {
	return api.Spec{Revision: r.Revision, Hostname: r.Hostname, NTP: ntp, Setup: r.Setup, Power: r.Power}
}

// touch gives the record a new revision.
func (r *Record) touch() { r.Revision = NewRevision() }
