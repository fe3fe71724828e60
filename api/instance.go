package api

import "time"

// Brands of an Instance.
const (
	BrandLX  = "lx"  // a Linux zone
	BrandKVM = "kvm" // a virtual machine
)

// States of an Instance. InstanceUnknown is never stored: it is that of an instance whose
// server is silent.
const (
	InstanceProvisioning = "provisioning"
	InstanceRunning      = "running"
	InstanceStopping     = "stopping"
	InstanceStopped      = "stopped"
	InstanceFailed       = "failed"
	InstanceDeleted      = "deleted"
	InstanceUnknown      = "unknown"
)

// What is done when an instance that is to run has ended by itself.
const (
	RestartNo        = "no"         // it stays as it is
	RestartOnFailure = "on-failure" // one that failed is started again, less and less often
	RestartAlways    = "always"     // so is one that ended well
)

// Instance is a zone or a virtual machine.
type Instance struct {
	UUID      string            `json:"uuid"`
	Owner     string            `json:"owner_uuid"`
	Name      string            `json:"name" doc:"unique for its owner until it is deleted: 1 to 63 of a-z, 0-9 and '-', a host name's label"`
	Brand     string            `json:"brand" enum:"lx,kvm"`
	Image     string            `json:"image_uuid"`
	Package   string            `json:"package_uuid"`
	Server    string            `json:"server_uuid"`
	Wanted    string            `json:"wanted" enum:"running,stopped,deleted"`
	State     string            `json:"state" enum:"provisioning,running,stopping,stopped,failed,deleted,unknown"`
	Restart   string            `json:"restart,omitempty" enum:",no,on-failure,always" doc:"what is done when it has ended by itself; empty: on-failure"`
	Reason    string            `json:"reason,omitempty" doc:"why it is in this state, or what it waits for"`
	Until     time.Time         `json:"until,omitzero" doc:"when it waits no longer"`
	Protected bool              `json:"deletion_protection,omitempty"`
	Firewall  bool              `json:"firewall_enabled,omitempty"`
	NICs      []InstanceNIC     `json:"nics,omitempty"`
	Resolvers []string          `json:"resolvers,omitempty" doc:"of its networks, the primary NIC's first"`
	Tags      map[string]any    `json:"tags,omitempty" doc:"strings, numbers and booleans; also the tags that firewall rules see"`
	Metadata  map[string]any    `json:"customer_metadata,omitempty" doc:"strings, numbers and booleans; user-data, user-script and root_authorized_keys are among them"`
	Internal  map[string]any    `json:"internal_metadata,omitempty" doc:"operators', of which the instance reads what has a colon in its name or ends in _pw, and changes nothing. Lists are without it"`
	Affinity  []string          `json:"affinity,omitempty" doc:"what it was placed with"`
	Traits    map[string]string `json:"traits,omitempty"`
	VM        *VM               `json:"vm,omitempty" doc:"of brand kvm"`
	Snapshots *SnapshotSchedule `json:"snapshot_schedule,omitempty" doc:"by which its server takes snapshots; absent: by none"`
	Limits
	Created  time.Time `json:"created,omitzero"`
	Started  time.Time `json:"started,omitzero" doc:"when it began to run last"`
	Deleted  time.Time `json:"deleted,omitzero"`
	Revision string    `json:"revision,omitempty" doc:"ETag"`
}

// InstanceNIC is a NIC as it is inside an instance.
type InstanceNIC struct {
	Interface string        `json:"interface" doc:"net0, net1 ...: its name inside"`
	MAC       string        `json:"mac"`
	Network   string        `json:"network_uuid"`
	MTU       int           `json:"mtu"`
	Primary   bool          `json:"primary,omitempty" doc:"its gateways are the default routes"`
	Addresses []PortAddress `json:"addresses" doc:"in the order asked for"`
}

// InstanceSet names the set of a server's instances: InstanceSpecs, by UUID. Nothing but
// a tombstone removes an instance.
func InstanceSet(server string) string { return "server/" + server + "/instances" }

// InstanceSpec is what is wanted of an instance on its server. It is kept with the
// instance's dataset, and is all that a server needs to start it.
type InstanceSpec struct {
	UUID      string `json:"uuid"`
	Owner     string `json:"owner_uuid"`
	Name      string `json:"name"`
	Hostname  string `json:"hostname"`
	DNSDomain string `json:"dns_domain,omitempty"`
	Brand     string `json:"brand"`
	Image     string `json:"image_uuid"`
	Package   string `json:"package_uuid,omitempty"`

	Datacenter string `json:"datacenter,omitempty" doc:"its name"`

	Run       ImageRun       `json:"run,omitzero"`
	Wanted    string         `json:"wanted" enum:"running,stopped"`
	Restart   string         `json:"restart,omitempty" doc:"as Instance's"`
	Reboot    string         `json:"reboot,omitempty" doc:"id of a request: an instance that was not started after the request is started anew"`
	Force     string         `json:"force,omitempty" doc:"id of a request: what is to stop or reboot is killed, and not asked"`
	Signal    *SignalSpec    `json:"signal,omitempty"`
	Made      bool           `json:"made,omitempty" doc:"it ran once: without its dataset it is failed, and not made anew from its image"`
	NICs      []InstanceNIC  `json:"nics,omitempty"`
	Resolvers []string       `json:"resolvers,omitempty"`
	Metadata  map[string]any `json:"customer_metadata,omitempty"`
	Internal  map[string]any `json:"internal_metadata,omitempty"`
	Tags      map[string]any `json:"tags,omitempty"`
	VM        *VM            `json:"vm,omitempty" doc:"of brand kvm"`

	Snapshots *SnapshotSchedule `json:"snapshot_schedule,omitempty"`
	Rollback  *RollbackSpec     `json:"rollback,omitempty"`
	Limits
}

// SignalSpec asks for one signal to an instance's first process.
type SignalSpec struct {
	ID     string `json:"id"`
	Signal string `json:"signal" doc:"SIGTERM, SIGHUP ..."`
}

// InstanceStatus is what an agent observed of an instance.
type InstanceStatus struct {
	UUID    string         `json:"uuid"`
	State   string         `json:"state" enum:"provisioning,running,stopping,stopped,failed"`
	Reason  string         `json:"reason,omitempty"`
	Until   time.Time      `json:"until,omitzero"`
	Started time.Time      `json:"started,omitzero"`
	Done    []string       `json:"done,omitempty" doc:"ids of requests (reboot, force, signal, rollback) that were carried out, or failed"`
	Refused string         `json:"refused,omitempty" doc:"why the rollback of the spec, which is among done, was refused"`
	Made    bool           `json:"made,omitempty" doc:"its dataset is there"`
	Spec    *InstanceSpec  `json:"spec,omitempty" doc:"of one that the set does not name: what is kept with its dataset"`
	Steps   []InstanceStep `json:"steps,omitempty" doc:"where the time of its create went on its server; told once, when it is for the first time what was asked for"`
}

// InstanceReport is what changed of the instances of a server since the head node
// acknowledged what was reported before. It is in memory on both sides, but for the states
// that the head node stored.
type InstanceReport struct {
	Since string           `json:"since" doc:"Seen of the last answer; empty: none"`
	Now   string           `json:"now" doc:"name of what the agent knows with this report"`
	Full  bool             `json:"full,omitempty" doc:"Put is all that there is"`
	Put   []InstanceStatus `json:"put,omitempty"`
	Gone  []string         `json:"gone,omitempty" doc:"UUIDs of which nothing is left on the server"`

	Snapshots []SnapshotReport `json:"snapshots,omitempty" doc:"what changed of instances' snapshots; a full report is followed by those of all instances, some with each report"`

	Written []MetadataChange `json:"written,omitempty" doc:"what instances changed of their metadata from inside, the oldest first: of each that is named all that is not acknowledged. It is acknowledged with the report"`
}

// MetadataChange is one key of its metadata that an instance set or deleted from inside.
type MetadataChange struct {
	ID       string  `json:"id" doc:"of this change, no other has it"`
	Instance string  `json:"instance"`
	Key      string  `json:"key"`
	Value    *string `json:"value,omitempty" doc:"absent: the key is deleted"`
}
