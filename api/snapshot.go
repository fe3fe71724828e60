package api

import "time"

// States of a Snapshot.
const (
	SnapshotCreating = "creating" // its server has not taken it yet
	SnapshotCreated  = "created"
	SnapshotFailed   = "failed"
	SnapshotDeleting = "deleting" // its server has not destroyed it yet
)

// What a Snapshot holds. It is always of all datasets of its instance, and of one moment.
const (
	SnapshotStopped = "stopped" // the instance did not run
	SnapshotFrozen  = "frozen"  // the guest wrote out all that it had, and waited
	SnapshotAtomic  = "atomic"  // of a zone that ran: all that its programs had written
	SnapshotCrash   = "crash"   // of a virtual machine that ran: what is left when its power is cut
)

// Schedules by which a server takes snapshots.
const (
	SnapshotHourly = "hourly"
	SnapshotDaily  = "daily"
	SnapshotWeekly = "weekly"
)

// Snapshot is what an instance's datasets were at one moment.
type Snapshot struct {
	Instance    string    `json:"instance_uuid"`
	ID          string    `json:"id" doc:"no other snapshot has it; its ZFS snapshots are named nereid- and this"`
	Name        string    `json:"name" doc:"unique in its instance: 1 to 64 of letters, digits, '.', '_' and '-'"`
	State       string    `json:"state" enum:"creating,created,failed,deleting"`
	Reason      string    `json:"reason,omitempty" doc:"why it is in this state, or what it waits for"`
	Consistency string    `json:"consistency,omitempty" enum:",stopped,frozen,atomic,crash" doc:"stopped: the instance did not run; frozen: its guest wrote out all it had; atomic: all that a zone's programs had written; crash: as if the machine's power had been cut"`
	Schedule    string    `json:"schedule,omitempty" enum:",hourly,daily,weekly" doc:"by which its server took it, and lets it go; empty: somebody asked"`
	Unexpected  bool      `json:"unexpected,omitempty" doc:"its server has it, and the head node did not ask for it; it stays until it is deleted"`
	By          string    `json:"by,omitempty" doc:"the operator who asked"`
	Asked       time.Time `json:"asked,omitzero"`
	Created     time.Time `json:"created,omitzero" doc:"when its server took it"`
	Updated     time.Time `json:"updated" doc:"when its state changed last"`
}

// SnapshotCreate asks for a snapshot.
type SnapshotCreate struct {
	Name string `json:"name,omitempty" doc:"empty: the time, as 20261130T224501Z"`
}

// SnapshotSchedule is how many snapshots a server takes by the hour, the day and the week,
// and keeps: with each that is too many the oldest of its kind goes. 0: none. Each instance
// has its minute, so that a server does not take all at once.
type SnapshotSchedule struct {
	Hourly int `json:"hourly,omitempty" minimum:"0" maximum:"48"`
	Daily  int `json:"daily,omitempty" minimum:"0" maximum:"31"`
	Weekly int `json:"weekly,omitempty" minimum:"0" maximum:"52"`

	Since time.Time `json:"since,omitzero" doc:"when it was set: the first ones are of the hour, day and week that begin after that"`
}

// SnapshotSet names the set of the snapshots that a server's instances are to have:
// SnapshotSpecs, by SnapshotKey. Those that it takes by a schedule are not in it. Nothing
// but a tombstone, or the end of its schedule, removes a snapshot.
func SnapshotSet(server string) string { return "server/" + server + "/snapshots" }

// SnapshotKey is the key of a snapshot in the set of its server's.
func SnapshotKey(instance, id string) string { return instance + "/" + id }

// SnapshotSpec is a snapshot that an instance is to have.
type SnapshotSpec struct {
	Instance string `json:"instance_uuid"`
	ID       string `json:"id"`
	Name     string `json:"name"`
	Made     bool   `json:"made,omitempty" doc:"it was taken once: one that is not there any more is not taken anew"`
}

// RollbackSpec asks for one rollback: an instance is to be what it was when a snapshot was
// taken. What was written since is lost.
type RollbackSpec struct {
	ID       string   `json:"id" doc:"of the request, which is carried out once"`
	Snapshot string   `json:"snapshot" doc:"its id"`
	Name     string   `json:"name" doc:"its name, for sentences"`
	Newer    []string `json:"newer,omitempty" doc:"ids of the newer snapshots, which are destroyed; with one that is not named the rollback is refused"`
}

// SnapshotStatus is what an agent has of a snapshot, from its pool alone.
type SnapshotStatus struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	State       string    `json:"state" enum:"creating,created,failed,deleting"`
	Reason      string    `json:"reason,omitempty"`
	Consistency string    `json:"consistency,omitempty"`
	Schedule    string    `json:"schedule,omitempty"`
	Created     time.Time `json:"created,omitzero"`
}

// SnapshotReport is what changed of the snapshots of one instance.
type SnapshotReport struct {
	Instance string           `json:"instance_uuid"`
	Full     bool             `json:"full,omitempty" doc:"Put is all that there is"`
	Put      []SnapshotStatus `json:"put,omitempty"`
	Gone     []string         `json:"gone,omitempty" doc:"ids of those of which nothing is left"`
}
