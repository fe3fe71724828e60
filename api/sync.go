package api

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Spec is what the head node wants of a server. It is the whole of it: applying
// it twice does the same as applying it once. Absence never means deletion.
type Spec struct {
	Revision string     `json:"revision" doc:"compared for difference, not for order"`
	Hostname string     `json:"hostname"`
	NTP      []string   `json:"ntp,omitempty" doc:"time servers; without any the agent sets its clock from the API's Date"`
	Setup    *SetupSpec `json:"setup,omitempty"`
	Power    *PowerSpec `json:"power,omitempty"`

	Network *NetworkSpec `json:"network,omitempty" doc:"absent: the head node says nothing about it, and it stays as it is"`
}

// SetupSpec asks for the system pool and its first datasets.
type SetupSpec struct {
	ID         string   `json:"id" doc:"one id per request; marks what it created"`
	Pool       string   `json:"pool" doc:"name of the pool, zones unless said otherwise"`
	Layout     string   `json:"layout,omitempty" enum:",single,mirror,raidz1,raidz2,raidz3" doc:"empty: chosen by number, kind and size of the disks"`
	Spares     *int     `json:"spares,omitempty" doc:"hot spares; absent: chosen"`
	Width      int      `json:"width,omitempty" doc:"disks of a vdev, 2 to 24; absent: chosen"`
	DataOn     string   `json:"data_on,omitempty" enum:",hdd,ssd" doc:"the kind of disk that carries the data; empty: the one that gives the larger pool"`
	NoCache    bool     `json:"no_cache,omitempty" doc:"solid-state disks become no cache devices"`
	Exclude    []string `json:"exclude,omitempty" doc:"kernel names or ids of disks to leave alone"`
	Wipe       []string `json:"wipe,omitempty" doc:"kernel names or ids of disks whose foreign data may be destroyed"`
	Distinct   []string `json:"distinct,omitempty" doc:"kernel names or ids of disks that are different ones although their WWN or serial number is the same"`
	PlanDigest string   `json:"plan_digest,omitempty" doc:"refuse when the disks no longer give the plan that was shown"`
}

// PowerSpec asks for one reboot, shutdown or factory reset. It names the boot it
// is meant for, so that the boot after it is not rebooted again.
type PowerSpec struct {
	ID       string `json:"id"`
	Action   string `json:"action" enum:"reboot,shutdown,reset"`
	BootID   string `json:"boot_id"`
	PoolGUID string `json:"pool_guid,omitempty" doc:"reset: the pool that may be destroyed, and no other"`
}

// Report is what the agent observed, but for what changes all the time (Usage).
type Report struct {
	BootID         string          `json:"boot_id"`
	Platform       string          `json:"platform"`
	Hostname       string          `json:"hostname"`
	AgentVersion   string          `json:"agent_version"`
	AppliedSpec    string          `json:"applied_spec,omitempty" doc:"revision of the spec last applied in full"`
	AppliedNetwork string          `json:"applied_network,omitempty" doc:"revision of the spec whose network was last applied in full"`
	NICTagsDown    []string        `json:"nic_tags_down,omitempty" doc:"NIC tags whose NIC or bond has no carrier; one that has it again is named for 5 s more"`
	Pools          []Pool          `json:"pools,omitempty"`
	Setup          *SetupReport    `json:"setup,omitempty"`
	Power          *PowerReport    `json:"power,omitempty"`
	Boot           BootTimings     `json:"boot"`
	Problems       []string        `json:"problems,omitempty" doc:"what is wrong on the server, one sentence each"`
	UnexpectedNICs []UnexpectedNIC `json:"unexpected_nics,omitempty" doc:"instances' NICs that are there and that the set of ports does not name; they stay"`
	Unexpected     []string        `json:"unexpected,omitempty" doc:"what is there and not in the spec; never removed for that"`
}

// Pool is a ZFS pool of a server.
type Pool struct {
	Name           string `json:"name"`
	GUID           string `json:"guid"`
	Health         string `json:"health" doc:"ONLINE, DEGRADED, FAULTED ... as zpool prints it"`
	SizeBytes      int64  `json:"size_bytes"`
	AllocatedBytes int64  `json:"allocated_bytes"`
	System         bool   `json:"system,omitempty" doc:"carries nereid:system=on"`
	SetupID        string `json:"setup_id,omitempty" doc:"setup that made it"`
}

// SetupReport is how far a setup has come.
type SetupReport struct {
	ID       string    `json:"id"`
	Phase    string    `json:"phase" doc:"planning, creating pool, creating datasets, storing key, complete, failed"`
	Error    string    `json:"error,omitempty"`
	Plan     *PoolPlan `json:"plan,omitempty"`
	Complete bool      `json:"complete"`
}

// PowerReport says that a power request was taken up, or why not.
type PowerReport struct {
	ID    string `json:"id"`
	Error string `json:"error,omitempty"`
}

// BootTimings are seconds since the kernel started (its monotonic clock).
type BootTimings struct {
	Stub       float64 `json:"stub_s,omitempty" doc:"stub started"`
	SwitchRoot float64 `json:"switch_root_s,omitempty" doc:"stub entered the real root"`
	Systemd    float64 `json:"systemd_s,omitempty" doc:"systemd started"`
	Agent      float64 `json:"agent_s,omitempty" doc:"agent started"`
	FirstSync  float64 `json:"first_sync_s,omitempty" doc:"first sync sent"`
}

// Usage changes all the time; the head node keeps it in memory only.
type Usage struct {
	UptimeSeconds   float64 `json:"uptime_s"`
	MemoryFreeBytes int64   `json:"memory_free_bytes" doc:"MemAvailable of /proc/meminfo"`
	Load1           float64 `json:"load1"`
	AgentRSSBytes   int64   `json:"agent_rss_bytes"`
	AgentCPUSeconds float64 `json:"agent_cpu_s" doc:"user and system time of the agent since it started"`

	Network *NetworkReport `json:"network,omitempty"`
}

// SyncRequest carries liveness, observed state and what was seen.
type SyncRequest struct {
	Seen            string   `json:"seen" doc:"revision of the spec the agent has"`
	InventoryDigest string   `json:"inventory_digest" doc:"SHA-256 of Inventory as JSON"`
	Inventory       *Sysinfo `json:"inventory,omitempty" doc:"only when the head node asked for it"`
	Report          Report   `json:"report,omitzero" doc:"left out: what the head node has under the digest of the part report"`
	Usage           Usage    `json:"usage"`

	Digests  map[string]string `json:"digests,omitempty" doc:"DigestOf the parts report, maps, drops and gateways, but for those that are empty. A part that is left out and has a digest is what the head node has; absent: nothing is left out"`
	TellHave bool              `json:"tell_have,omitempty" doc:"answer at once, and say what the head node has"`

	Instances *InstanceReport `json:"instances,omitempty" doc:"absent: nothing changed"`

	Follow []Follow      `json:"follow,omitempty" doc:"sets of the server, at most MaxFollow; an agent that follows none hears nothing of its network"`
	Probes []ProbeResult `json:"probes,omitempty" doc:"what came of the probes of the last answer"`
}

// Parts of a sync that an agent leaves out while the head node has them. All but the
// report are of Usage.Network.
const (
	PartReport   = "report"
	PartMaps     = "maps"
	PartDrops    = "drops"
	PartGateways = "gateways"
)

// MaxDigest is the length of the longest digest of a part, in bytes.
const MaxDigest = 64

// DigestOf names what a part is: 16 hexadecimal digits of the SHA-256 of it as JSON. It
// tells states of one server from another, and proves nothing.
func DigestOf(part any) (string, error) {
	b, err := json.Marshal(part)
	if err != nil {
		return "", fmt.Errorf("name a part of a sync: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}

// PortSet names the set of a server's ports: PortSpecs, by PortKey.
func PortSet(server string) string { return "server/" + server + "/ports" }

// PortKey is the key of an instance's NIC in the set of its server's ports.
func PortKey(mac, instance string) string { return mac + "/" + instance }

// MapSet names the set of a VNI's map: MapEntries, by address.
func MapSet(vni uint32) string { return fmt.Sprintf("%s%06x", mapSetPrefix, vni) }

const mapSetPrefix = "vni/"

// VNIOfMap is the inverse of MapSet.
func VNIOfMap(set string) (vni uint32, is bool) {
	text, is := strings.CutPrefix(set, mapSetPrefix)
	n, err := strconv.ParseUint(text, 16, 24)
	return uint32(n), is && err == nil && set == MapSet(uint32(n))
}

// AccountSet names a set of an account that the servers with its NICs follow; without
// an owner, one of all accounts, which every server may follow.
func AccountSet(owner, name string) string {
	return accountSetPrefix + cmp.Or(owner, allAccounts) + "/" + name
}

const (
	accountSetPrefix = "account/"
	allAccounts      = "all"
)

// AccountOfSet is the owner of an AccountSet, empty for one of all accounts, and its name
// there.
func AccountOfSet(set string) (owner, name string, is bool) {
	rest, is := strings.CutPrefix(set, accountSetPrefix)
	owner, name, cut := strings.Cut(rest, "/")
	if owner == allAccounts {
		owner = ""
	}
	return owner, name, is && cut && name != "" && set == AccountSet(owner, name)
}

// RuleSet names the set of an account's firewall rules; without an owner, of the global
// ones. They are RuleSpecs, by UUID. An agent that does not follow the global rules takes
// its rules from the spec, which has none any more.
func RuleSet(owner string) string { return AccountSet(owner, "rules") }

// MaxFollow is how many sets a server follows at most.
const MaxFollow = 16384

// RefusedSet is a set that a server may not follow.
type RefusedSet struct {
	Set string  `json:"set"`
	Why Problem `json:"why"`
}

// Follow says what a follower has of a set: what the last Delta of it said.
type Follow struct {
	Set    string `json:"set"`
	Epoch  string `json:"epoch,omitempty" doc:"empty: nothing"`
	Since  uint64 `json:"since,omitempty" doc:"version of the last delta"`
	Toward uint64 `json:"toward,omitempty" doc:"of the last delta: it was a part, and the next one is to come"`
	Full   bool   `json:"full,omitempty" doc:"the last delta was a part of a snapshot"`
	Kept   uint64 `json:"kept,omitempty" doc:"version that a restart goes on from: what was gone by then need not be told again"`
}

// Versions names what a follower has of sets, in any order: 16 hexadecimal digits. Of none
// it is empty.
func Versions(sets []Follow) string {
	if len(sets) == 0 {
		return ""
	}
	sum := sha256.New()
	for _, f := range slices.SortedFunc(slices.Values(sets), func(a, b Follow) int { return strings.Compare(a.Set, b.Set) }) {
		fmt.Fprintf(sum, "%s %s:%d\n", f.Set, f.Epoch, f.Since)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// Take is what a follower has once it has taken in a Delta.
func (f Follow) Take(d Delta) Follow {
	if d.Full {
		f.Kept = 0
	}
	return Follow{Set: f.Set, Epoch: d.Epoch, Since: d.Version, Toward: d.Toward, Full: d.Toward != 0 && (d.Full || f.Full), Kept: f.Kept}
}

// Delta is what a follower lacks of a set. A snapshot begins with Full; it, and a delta
// that was cut into parts, takes effect with the part that has no Toward. Of a server's
// own sets only Gone removes: what a snapshot names neither way stays where it is.
type Delta struct {
	Set     string            `json:"set"`
	Epoch   string            `json:"epoch"`
	Version uint64            `json:"version"`
	Toward  uint64            `json:"toward,omitempty" doc:"version that the parts lead to; 0: this is the last part"`
	Full    bool              `json:"full,omitempty" doc:"a snapshot begins"`
	Put     []json.RawMessage `json:"put,omitempty" doc:"values, new or changed"`
	Gone    []string          `json:"gone,omitempty" doc:"keys that have no value any more"`
}

// Probe asks a server for the largest IP packet, header included, that gets from an
// address of its own to another server's and back. It is nothing that is wanted of
// the server, so it is not in the spec and is forgotten when it was answered.
type Probe struct {
	ID    string `json:"id"`
	From  string `json:"from" doc:"address of this server"`
	To    string `json:"to" doc:"address of another"`
	Bytes int    `json:"bytes" doc:"no larger packet is tried"`
}

// ProbeResult is what came of a probe.
type ProbeResult struct {
	ID    string `json:"id"`
	Bytes int    `json:"bytes" doc:"largest packet that got there and back; 0: none did"`
	Error string `json:"error,omitempty" doc:"why it could not be tried"`
}

// SyncResponse is the answer when there is something to say; otherwise the head
// node answers 204 after SyncHold.
type SyncResponse struct {
	Revision string  `json:"revision,omitempty" doc:"of the spec"`
	Spec     *Spec   `json:"spec,omitempty" doc:"absent: it is the one that the agent has seen"`
	Deltas   []Delta `json:"deltas,omitempty" doc:"of followed sets that changed, of about a megabyte together"`

	Have          map[string]string `json:"have,omitempty" doc:"digests of the parts that the head node has now; what differs from the request is to be sent. 204: it has them all"`
	Refused       []RefusedSet      `json:"refused,omitempty" doc:"sets that the server may not follow, as nothing of them is on it; the others are followed"`
	NeedInventory bool              `json:"need_inventory,omitempty"`
	InstancesSeen string            `json:"instances_seen,omitempty" doc:"Now of the InstanceReport that the head node took in last; when it is not what the agent takes it for, the next report is full"`

	Probes []Probe `json:"probes,omitempty" doc:"to be done before the next sync; at most MaxProbes"`

	Sessions []SessionSpec `json:"sessions,omitempty" doc:"for which the server is to come; one that it has come for already is named no more"`
}

// MaxProbes is how many probes a server is asked for at once.
const MaxProbes = 4

// MaxEnrol is the size of the longest enrolment, in bytes: anybody may send one.
const MaxEnrol = 256 << 10

// EnrolRequest asks for a client certificate. The token is bound to the key of
// the first CSR that used it; the same key may ask again until it is approved.
type EnrolRequest struct {
	Token   string  `json:"token"`
	BootID  string  `json:"boot_id"`
	CSR     string  `json:"csr" doc:"PEM PKCS#10 request, ECDSA P-256; the head node decides which server it is for"`
	Sysinfo Sysinfo `json:"sysinfo"`
}

// EnrolResponse carries the certificate, or the state that stands in its way.
type EnrolResponse struct {
	State       ServerState `json:"state"`
	UUID        string      `json:"uuid,omitempty" doc:"of the server that the machine is; it need not be its SMBIOS UUID"`
	Reason      string      `json:"reason,omitempty"`
	Certificate string      `json:"certificate,omitempty" doc:"PEM, 24 h, extended key usage client authentication"`
	NotAfter    time.Time   `json:"not_after,omitzero"`
}

// PoolPlan is the pool a setup would make: what goes where, and why.
type PoolPlan struct {
	Layout        string   `json:"layout" enum:"single,mirror,raidz1,raidz2,raidz3"`
	Vdevs         []Vdev   `json:"vdevs"`
	Log           []Vdev   `json:"log,omitempty"`
	Cache         []string `json:"cache,omitempty"`
	Spares        []string `json:"spares,omitempty"`
	CapacityBytes int64    `json:"capacity_bytes" doc:"usable, before ZFS's own reserve"`
	Survives      int      `json:"survives" doc:"data disks, whichever they are, that may fail at once without loss"`
	ReadIOPS      int      `json:"read_iops" doc:"random reads, as a multiple of one disk's"`
	WriteIOPS     int      `json:"write_iops" doc:"random writes, as a multiple of one disk's"`
	Skipped       []Skip   `json:"skipped,omitempty" doc:"disks left alone"`
	Why           []string `json:"why" doc:"the rules that decided, in order"`
	Digest        string   `json:"digest" doc:"SHA-256 over layout, vdevs, log, cache and spares"`

	Alternatives []PoolOption `json:"alternatives,omitempty" doc:"the two next best pools of the same disks"`
}

// PoolOption is another pool that the same disks could make.
type PoolOption struct {
	Ask           string `json:"ask" doc:"options of nereid server setup that choose it"`
	Layout        string `json:"layout" enum:"single,mirror,raidz1,raidz2,raidz3"`
	Width         int    `json:"width" doc:"disks of a vdev"`
	Vdevs         int    `json:"vdevs"`
	Spares        int    `json:"spares"`
	CapacityBytes int64  `json:"capacity_bytes"`
	Survives      int    `json:"survives"`
	ReadIOPS      int    `json:"read_iops"`
	WriteIOPS     int    `json:"write_iops"`
}

// Vdev is one top-level vdev.
type Vdev struct {
	Type  string   `json:"type" enum:"disk,mirror,raidz1,raidz2,raidz3"`
	Disks []string `json:"disks" doc:"kernel names"`
}

// Skip says why a disk is not part of a plan.
type Skip struct {
	Disk   string `json:"disk"`
	Reason string `json:"reason"`
}
