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
	SMBIOS   string    `json:"smbios,omitempty"` // the usable UUID its machine says it has, where that is another than UUID
	Hostname string    `json:"hostname"`
	MACs     []string  `json:"macs"`                // those below, and those of its NICs that identify it
	BootMACs []string  `json:"boot_macs,omitempty"` // it was seen to boot from
	Created  time.Time `json:"created"`
	Approved bool      `json:"approved"`
	Rejected bool      `json:"rejected,omitempty"`
	SetUp    bool      `json:"set_up,omitempty"` // the agent reported a complete setup

	Key    string    `json:"key,omitempty"` // SHA-256 of the public key of the certificate issued last
	Pin    string    `json:"pin,omitempty"` // the same of the key on the pool; no other is accepted
	BootID string    `json:"boot_id,omitempty"`
	Booted time.Time `json:"booted,omitzero"` // start of that boot

	Setup   *api.SetupSpec `json:"setup,omitempty"`
	Power   *api.PowerSpec `json:"power,omitempty"`
	PowerAt time.Time      `json:"power_at,omitzero"` // when Power was asked for

	Rack     string            `json:"rack,omitempty"`
	Traits   map[string]string `json:"traits,omitempty"`   // what packages may ask of it
	Reserved bool              `json:"reserved,omitempty"` // it takes no new instances but those that name it

	Claims    string     `json:"claims,omitempty"`   // UUID of the known server that this machine, seen for the first time, said it is
	Presented *Presented `json:"mismatch,omitempty"` // the key of the last enrolment that got no certificate

	Revision string `json:"revision"` // new with each change of what is wanted
}

// Presented is a key that an enrolment presented and that got no certificate.
type Presented struct {
	Key    string    `json:"key"`
	MAC    string    `json:"mac"`
	BootID string    `json:"boot_id"`
	Seen   time.Time `json:"seen"`
}

// holds says whether a key proves to be the server: the one on its pool, without
// a pool the one of its certificate, and before its first certificate the one it
// waits with.
func (r *Record) holds(key string) bool {
	switch {
	case r.Pin != "":
		return r.Pin == key
	case r.Key != "":
		return r.Key == key
	}
	return r.Presented != nil && r.Presented.Key == key
}

// accepted says whether the server got a certificate.
func (r *Record) accepted() bool { return r.Key != "" || r.Pin != "" }

// OtherKey says whether an approved server's machine, or another that boots from
// its MAC, presented another key than the server's.
func (r *Record) OtherKey() bool { return r.Approved && r.accepted() && r.Presented != nil }

// Undecided says whether a machine that claims another server's UUID waits for an
// operator's decision.
func (r *Record) Undecided() bool { return r.Claims != "" && !r.Approved && !r.Rejected }

// Observed is what a server reported. Only changes of it are written, and the hardware,
// which is large and hardly ever changes, has a key of its own.
type Observed struct {
	Report  *api.Report  `json:"report,omitempty"`
	Sysinfo *api.Sysinfo `json:"sysinfo,omitempty"`
	Digest  string       `json:"digest,omitempty"` // SHA-256 of Sysinfo as the agent computed it

	ReportDigest string `json:"report_digest,omitempty"` // of Report, as the agent computed it; empty: it names none
}

// Owner says whose a MAC is.
type Owner struct {
	UUID string   `json:"uuid"`           // of the server whose boots these are; empty: the MAC identifies nobody
	Boot bool     `json:"boot,omitempty"` // it was seen to boot from it; else an accepted enrolment listed it
	Also []string `json:"also,omitempty"` // UUIDs of others that list it, or booted from it
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
