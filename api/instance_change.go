package api

import "time"

// InstanceCreate asks for an instance.
type InstanceCreate struct {
	UUID      string            `json:"uuid,omitempty" doc:"empty: one is made"`
	Owner     string            `json:"owner_uuid"`
	Name      string            `json:"name,omitempty" doc:"as Instance's; {{shortId}} in it is the first 8 digits of the UUID; empty: those"`
	Brand     string            `json:"brand,omitempty" enum:",lx,kvm" doc:"empty: the image's, or the package's, or lx"`
	Image     string            `json:"image" doc:"UUID, or NAME or NAME@VERSION"`
	Package   string            `json:"package" doc:"UUID, or the name of an active one"`
	Networks  []InstanceNetwork `json:"networks,omitempty" doc:"a NIC for each, the first is primary; at most 16"`
	Server    string            `json:"server,omitempty" doc:"UUID or hostname of the only server that will do; empty: the best one"`
	Affinity  []string          `json:"affinity,omitempty" doc:"rules as instance==web*, role!=db, rack==r1; ==~ and !=~ are wishes"`
	Tags      map[string]any    `json:"tags,omitempty"`
	Metadata  map[string]any    `json:"customer_metadata,omitempty"`
	Internal  map[string]any    `json:"internal_metadata,omitempty" doc:"as Instance's"`
	Firewall  bool              `json:"firewall_enabled,omitempty"`
	Protected bool              `json:"deletion_protection,omitempty"`
	Restart   string            `json:"restart,omitempty" enum:",no,on-failure,always" doc:"what is done when it has ended by itself; empty: on-failure"`
	Stopped   bool              `json:"stopped,omitempty" doc:"it is made and not started"`
	VM        *VMCreate         `json:"vm,omitempty" doc:"of brand kvm"`
}

// InstanceNetwork is a NIC that an instance is to have.
type InstanceNetwork struct {
	Addresses []NICAddress `json:"addresses" doc:"of networks or pools on one layer-2 segment; without ip a free one is chosen"`
}

// InstanceUpdate changes an instance; absent fields stay.
type InstanceUpdate struct {
	Name           *string         `json:"name,omitempty"`
	Protected      *bool           `json:"deletion_protection,omitempty"`
	Firewall       *bool           `json:"firewall_enabled,omitempty"`
	Restart        *string         `json:"restart,omitempty" doc:"no, on-failure or always"`
	Tags           *map[string]any `json:"tags,omitempty" doc:"as a whole"`
	SetTags        map[string]any  `json:"set_tags,omitempty" doc:"the others stay"`
	RemoveTags     []string        `json:"remove_tags,omitempty"`
	Metadata       *map[string]any `json:"customer_metadata,omitempty" doc:"as a whole"`
	SetMetadata    map[string]any  `json:"set_metadata,omitempty" doc:"the others stay"`
	RemoveMetadata []string        `json:"remove_metadata,omitempty"`
	Internal       *map[string]any `json:"internal_metadata,omitempty" doc:"as a whole"`
	SetInternal    map[string]any  `json:"set_internal_metadata,omitempty" doc:"the others stay"`
	RemoveInternal []string        `json:"remove_internal_metadata,omitempty"`
}

// InstanceAction is how an instance is started, stopped or rebooted.
type InstanceAction struct {
	Force bool `json:"force,omitempty" doc:"stop and reboot: it is killed, and not asked"`
}

// InstanceKill sends a signal to the first process of an instance.
type InstanceKill struct {
	Signal string `json:"signal,omitempty" doc:"SIGTERM, HUP, 9 ...; empty: SIGKILL"`
}

// InstanceAudit is something that was asked of an instance. Their number is bounded:
// the oldest go.
type InstanceAudit struct {
	ID       string    `json:"id"`
	Action   string    `json:"action" enum:"provision,start,stop,reboot,kill,rename,destroy,set_tags,set_metadata,set_internal_metadata,set_restart,enable_firewall,disable_firewall,enable_deletion_protection,disable_deletion_protection,add_nics,remove_nics,add_disk,grow_disk,remove_disk,adopt,vnc,screenshot,nmi,create_snapshot,delete_snapshot,rollback_snapshot,set_snapshot_schedule"`
	Asked    time.Time `json:"asked"`
	By       string    `json:"by" doc:"the operator, or agent for what came from inside the instance"`
	Finished time.Time `json:"finished,omitzero" doc:"zero: it is not done yet"`
	Success  bool      `json:"success,omitempty"`
	Error    string    `json:"error,omitempty" doc:"why it failed"`
}

// UnexpectedInstance is one that a server has, and that the head node has not, or has
// elsewhere. It stays as it is.
type UnexpectedInstance struct {
	Server   string         `json:"server_uuid"`
	Instance InstanceStatus `json:"instance"`
	Why      string         `json:"why"`
}

// InstanceAdopt takes back an instance that a server has and that is not known.
type InstanceAdopt struct {
	Name     string `json:"name,omitempty" doc:"another name than the one that its server keeps"`
	Firewall bool   `json:"firewall_enabled,omitempty" doc:"its server does not keep whether it had one"`
}
