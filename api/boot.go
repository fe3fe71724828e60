package api

import (
	"net/netip"
	"strings"
	"time"
)

// BootKind is the DHCP message a BootRequest stands for.
type BootKind string

// The DHCP messages that reach a Booter (RFC 2131, section 3).
const (
	KindDiscover BootKind = "discover"
	KindRequest  BootKind = "request"
	KindInform   BootKind = "inform"
	KindRelease  BootKind = "release"
	KindDecline  BootKind = "decline"
)

// BootRequest is what a machine said of itself in a DHCP message.
type BootRequest struct {
	Kind        BootKind   `json:"kind"`
	MAC         string     `json:"mac"`
	UUID        string     `json:"uuid,omitempty" doc:"option 97, lower case; empty when the ROM sends none"`
	Arch        uint16     `json:"arch" doc:"option 93, RFC 4578: 0 BIOS, 7 and 9 UEFI x64, 16 UEFI x64 HTTP"`
	UserClass   string     `json:"user_class,omitempty" doc:"option 77; iPXE says iPXE"`
	VendorClass string     `json:"vendor_class,omitempty" doc:"option 60; PXEClient:..., HTTPClient:..."`
	Requested   netip.Addr `json:"requested,omitzero" doc:"option 50, or ciaddr when renewing"`
	Explain     bool       `json:"explain,omitempty" doc:"say what would happen; record nothing"`
}

// IPXE reports whether iPXE itself asks, and not firmware: one of the user classes
// is its own.
func (r BootRequest) IPXE() bool {
	for c := range strings.SplitSeq(r.UserClass, ",") {
		if strings.HasPrefix(c, "iPXE") {
			return true
		}
	}
	return false
}

// Boots reports whether firmware or iPXE asks. Everybody else runs a system already
// and is given nothing to boot.
func (r BootRequest) Boots() bool {
	return r.IPXE() || strings.HasPrefix(r.VendorClass, "PXEClient") || strings.HasPrefix(r.VendorClass, "HTTPClient")
}

// Verdict is what a DHCP server does with a message.
type Verdict string

// The verdicts. Silence is always deliberate and always has a reason.
const (
	VerdictAnswer Verdict = "answer"
	VerdictNAK    Verdict = "nak"
	VerdictSilent Verdict = "silent"
)

// BootAnswer is the head node's decision for a BootRequest.
type BootAnswer struct {
	Verdict  Verdict       `json:"verdict"`
	Rule     string        `json:"rule" doc:"name of the rule that decided"`
	Reason   string        `json:"reason" doc:"one sentence"`
	Change   string        `json:"change,omitempty" doc:"what would change the answer"`
	BootID   string        `json:"boot_id,omitempty"`
	Address  netip.Prefix  `json:"address,omitzero" doc:"the server's address with the admin network's prefix length"`
	Gateway  netip.Addr    `json:"gateway,omitzero"`
	DNS      []netip.Addr  `json:"dns,omitempty"`
	NTP      []netip.Addr  `json:"ntp,omitempty"`
	Domain   string        `json:"domain,omitempty"`
	Hostname string        `json:"hostname,omitempty"`
	Lease    time.Duration `json:"lease,omitempty" doc:"nanoseconds"`
	Boot     bool          `json:"boot" doc:"false: an address, but nothing to boot"`
	Server   string        `json:"server,omitempty" doc:"UUID of the server the MAC belongs to, when known"`
	Platform string        `json:"platform,omitempty" doc:"stamp this boot would get"`
}

// BootPlan is what an iPXE script is rendered from.
type BootPlan struct {
	BootID   string       `json:"boot_id"`
	Hold     string       `json:"hold,omitempty" doc:"not booted now: why, shown on the screen"`
	RetryIn  int          `json:"retry_in_s,omitempty" doc:"seconds until iPXE asks again, with Hold"`
	Manifest *Manifest    `json:"manifest,omitempty"`
	Args     []string     `json:"args,omitempty" doc:"kernel arguments"`
	Address  netip.Prefix `json:"address,omitzero"`
}

// BootConfig is the file a boot gets as its second initrd, at /nereid/boot.json.
// It holds a secret (Token) and is handed out once per boot, only to the address
// leased to the MAC.
type BootConfig struct {
	BootID      string      `json:"boot_id"`
	Token       string      `json:"token"`
	API         string      `json:"api" doc:"https URL of the head node's API"`
	CASHA256    string      `json:"ca_sha256" doc:"digest of the CA certificate in DER"`
	BootServer  string      `json:"boot_server" doc:"http URL of the boot server"`
	Platform    string      `json:"platform" doc:"stamp"`
	PlatformKey string      `json:"platform_key" doc:"ed25519 public key of the manifest's signature, base64"`
	Hostname    string      `json:"hostname"`
	UUID        string      `json:"uuid,omitempty" doc:"of the server that booted from this MAC, where the head node knows it"`
	Network     BootNetwork `json:"network"`
	NTP         []string    `json:"ntp,omitempty"`
	Time        time.Time   `json:"time" doc:"head node's clock when the file was made"`
}

// BootNetwork is how the stub configures the NIC the server booted from.
type BootNetwork struct {
	MAC     string       `json:"mac"`
	Address netip.Prefix `json:"address"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	DNS     []netip.Addr `json:"dns,omitempty"`
	Domain  string       `json:"domain,omitempty"`
}

// BootStage is a point every boot passes, in this order.
type BootStage string

// The stages of a boot.
const (
	StageDiscover     BootStage = "discover"      // firmware's first DISCOVER; mints the boot id
	StageAck          BootStage = "ack"           // firmware has an address
	StageTFTP         BootStage = "tftp"          // iPXE sent over TFTP
	StageIPXEDiscover BootStage = "ipxe-discover" // iPXE asks for itself
	StageIPXEAck      BootStage = "ipxe-ack"      // iPXE has an address
	StageScript       BootStage = "script"        // iPXE script sent
	StageKernel       BootStage = "kernel"        // kernel sent
	StageInitrd       BootStage = "initrd"        // initrd sent
	StageConfig       BootStage = "config"        // configuration handed out
	StageStub         BootStage = "stub"          // stub runs
	StageLayer        BootStage = "layer"         // a layer of the root filesystem sent, or a part of it
	StageRoot         BootStage = "root"          // stub has the root filesystem, verified
	StageSwitchRoot   BootStage = "switch-root"   // stub enters it
	StageEnrol        BootStage = "enrol"         // agent enrolled
	StageFirstSync    BootStage = "first-sync"    // agent's first sync: the boot is good
	StageRefused      BootStage = "refused"       // something was refused; Detail says what, why, what next
	StageFailed       BootStage = "failed"        // the machine reported a failure; Detail is its sentence
)

// BootEvent is one line of a boot record.
type BootEvent struct {
	Time    time.Time `json:"time"`
	Stage   BootStage `json:"stage"`
	Detail  string    `json:"detail,omitempty"`
	Bytes   int64     `json:"bytes,omitempty" doc:"sent"`
	Seconds float64   `json:"seconds,omitempty" doc:"how long the transfer took, or for stub, root and switch-root the kernel's monotonic clock"`
	Count   int       `json:"count,omitempty" doc:"times seen in a row, when more than once"`
}

// BootReport is what a boot server saw of a boot; the head node adds the time.
type BootReport struct {
	Stage   BootStage `json:"stage" enum:"discover,ack,tftp,ipxe-discover,ipxe-ack,script,kernel,initrd,config,stub,layer,root,switch-root,refused,failed"`
	Detail  string    `json:"detail,omitempty" maxLength:"1000"`
	Bytes   int64     `json:"bytes,omitempty"`
	Seconds float64   `json:"seconds,omitempty"`
}

// Boot is the record of one boot.
type Boot struct {
	ID       string       `json:"id"`
	MAC      string       `json:"mac"`
	UUID     string       `json:"uuid,omitempty"`
	Address  string       `json:"address,omitempty"`
	Arch     uint16       `json:"arch"`
	Platform string       `json:"platform,omitempty"`
	Trial    bool         `json:"trial,omitempty"`
	Started  time.Time    `json:"started"`
	Done     *time.Time   `json:"done,omitempty" doc:"first sync"`
	Events   []BootEvent  `json:"events"`
	Timings  *BootTimings `json:"timings,omitempty" doc:"as the agent reported them at its first sync"`
	Legs     []BootLeg    `json:"legs,omitempty" doc:"the waterfall; computed when read"`
}

// BootLeg is one bar of a boot's waterfall.
type BootLeg struct {
	Name    string  `json:"name" doc:"firmware+DHCP, TFTP, script, kernel+initrd, root filesystem, kernel to systemd, systemd to first sync"`
	Start   float64 `json:"start_s" doc:"seconds since the boot started"`
	Seconds float64 `json:"seconds"`
}

// Explanation is what "nereid explain" prints.
type Explanation struct {
	Request  BootRequest `json:"request"`
	Answer   BootAnswer  `json:"answer"`
	BootFile string      `json:"boot_file,omitempty" doc:"option 67 as it would be sent"`
	Options  []string    `json:"options,omitempty" doc:"the DHCP options of the answer, one per line"`
	Script   string      `json:"script,omitempty" doc:"the iPXE script this boot would get"`
}
