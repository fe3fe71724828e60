package answers

import (
	_ "embed"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"nereid/api"
)

// Sample is a complete, commented answers file that parses.
//
//go:embed sample.toml
var Sample string

// Answers is a validated answers file, and what the store keeps of it.
type Answers struct {
	Datacenter string `json:"datacenter"`
	DNSDomain  string `json:"dns_domain,omitempty"`
	Admin      Admin  `json:"admin"`
}

// Admin is the admin network.
type Admin struct {
	Interface string        `json:"interface"`
	Address   netip.Prefix  `json:"address"` // the head node's own, with the network's prefix length
	First     netip.Addr    `json:"first"`   // first address for servers
	Last      netip.Addr    `json:"last"`    // last address for servers, included
	Gateway   netip.Addr    `json:"gateway,omitzero"`
	DNS       []netip.Addr  `json:"dns,omitempty"`
	NTP       []netip.Addr  `json:"ntp,omitempty"`
	Lease     time.Duration `json:"lease"` // 2 minutes to 30 days
	Clients   string        `json:"clients"`
}

// The values of Admin.Clients.
const (
	ClientsPXE = "pxe"
	ClientsAll = "all"
)

// Bounds of Admin.Lease. Below two minutes a lease would end during a boot.
const (
	MinLease = 2 * time.Minute
	MaxLease = 720 * time.Hour
)

// Fault is one thing wrong with an answers file.
type Fault struct {
	Line int    // from 1; 0 when a key is missing
	Key  string // dotted, as admin.range
	Text string
}

// Faults is everything wrong with an answers file, by line.
type Faults struct {
	File string // name used in messages; may be empty
	List []Fault
}

// Error prints one fault per line.
func (f *Faults) Error() string {
	var b strings.Builder
	name := f.File
	if name == "" {
		name = "answers"
	}
	fmt.Fprintf(&b, "%s: %s; correct the file and run init again", name, api.Plural(len(f.List), "fault"))
	for _, x := range f.List {
		b.WriteString("\n  ")
		b.WriteString(x.String())
	}
	return b.String()
}

// String prints a fault as "line 3: admin.lease: ...".
func (f Fault) String() string {
	where := "missing"
	if f.Line > 0 {
		where = fmt.Sprintf("line %d", f.Line)
	}
	if f.Key == "" {
		return where + ": " + f.Text
	}
	return where + ": " + f.Key + ": " + f.Text
}
