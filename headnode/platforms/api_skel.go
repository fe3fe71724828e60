package platforms

import (
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Record is a registered platform.
type Record struct {
	Manifest  []byte    `json:"manifest"` // exact bytes that were signed
	Signature []byte    `json:"signature"`
	Key       string    `json:"key"` // name of the key that signed
	Imported  time.Time `json:"imported"`
	Complete  bool      `json:"complete"` // every file is there and verified
}

// State is what is known of a server's platforms.
type State struct{}

// Decision is what a server boots next, and why.
type Decision struct {
	Next   string // stamp; empty: nothing can be booted, Reason says why and what to do
	Trial  bool
	Reason string
	State  State
}

// Register adds a platform whose signature was verified. The same bytes again change nothing; other bytes
// under a known stamp are refused.
func Register(tx store.Tx, s api.SignedManifest, key string, now time.Time) (Record, api.Manifest, error) {
	panic("x")
}
func Get(tx store.Tx, stamp string) (Record, api.Manifest, error) { panic("x") }

// List gives all platforms newest first, without Missing.
func List(tx store.Tx, now time.Time) ([]api.Platform, error)                 { panic("x") }
func Describe(tx store.Tx, stamp string, now time.Time) (api.Platform, error) { panic("x") }
func SetComplete(tx store.Tx, stamp string, complete bool) error              { panic("x") }
func SetDefault(tx store.Tx, stamp string) error                              { panic("x") }
func Default(tx store.Tx) (string, error)                                     { panic("x") }

// Expected finds a file some incomplete platform consists of.
func Expected(tx store.Tx, sha256 string) (api.File, bool, error) { panic("x") }

// Files of all platforms by digest, with the stamps that need them.
func Files(tx store.Tx) (map[string][]string, error) { panic("x") }

// Assign: stamp empty: the default.
func Assign(tx store.Tx, server, stamp string) error { panic("x") }

// Next decides without writing; boot is the boot that asks, or empty.
func Next(tx store.Tx, server, boot string, now time.Time) (Decision, error) { panic("x") }

// HandOut decides and counts: the boot's script with the platform is being handed out.
func HandOut(tx store.Tx, server, boot string, now time.Time) (Decision, error) { panic("x") }
func FirstSync(tx store.Tx, server, stamp string, now time.Time) error          { panic("x") }

// Migrate moves the state of a machine known by MAC to its UUID at enrolment.
func Migrate(tx store.Tx, mac, uuid string) error { panic("x") }
func Forget(tx store.Tx, server string) error     { panic("x") }
func (d Decision) Choice() api.PlatformChoice     { panic("x") }

// Delete returns the digests nothing needs any more.
func Delete(tx store.Tx, stamp string, now time.Time, name func(server string) string) ([]string, error) {
	panic("x")
}
func Collect(tx store.Tx, now time.Time) (removed, digests []string, err error) { panic("x") }
