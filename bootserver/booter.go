package bootserver

import (
	"context"
	"net/netip"
	"os"

	"nereid/api"
)

// Booter decides what machines boot and keeps the record of it. Its methods are
// called from many goroutines. An *api.Problem as error is shown to the machine
// with its status and text; any other error is logged and shown as trouble here.
//
// Refusals of every leg that can be tied to a boot, the Booter's own included,
// are handed to Record as StageRefused; a Booter need not record them itself.
type Booter interface {
	// Boot decides a DHCP message. It is called again for each retransmission.
	Boot(ctx context.Context, r api.BootRequest) (api.BootAnswer, error)
	// Plan says what a boot loads, or why it is held. It has no effect.
	Plan(ctx context.Context, bootID string, from netip.Addr) (api.BootPlan, error)
	// Config makes the boot's configuration. It refuses every address but the
	// one leased to the machine, and every call after StageConfig was recorded.
	Config(ctx context.Context, bootID string, from netip.Addr) (api.BootConfig, error)
	// Record adds to the boot's record. from is the machine that reports, or
	// invalid when the boot server itself saw it.
	Record(ctx context.Context, bootID string, from netip.Addr, ev api.BootEvent) error
	// Manifest returns a platform's manifest as it was signed.
	Manifest(ctx context.Context, stamp string) (api.SignedManifest, error)
}

// Files opens immutable bytes by their SHA-256. What is not there is an error
// wrapping fs.ErrNotExist.
type Files interface {
	Open(ctx context.Context, sha256 string) (*os.File, error)
}
