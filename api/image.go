package api

import "time"

// Types of an Image.
const (
	ImageLXDataset = "lx-dataset" // root file system of a Linux zone
	ImageDocker    = "docker"     // the same, made from an OCI image
	ImageZvol      = "zvol"       // first disk of a virtual machine
)

// States of an Image.
const (
	ImageCreating    = "creating"    // its file is on the way
	ImageUnactivated = "unactivated" // its file is there; nobody may use it yet
	ImageActive      = "active"
	ImageDisabled    = "disabled" // no new instances; those that there are run on
	ImageFailed      = "failed"
)

// Formats of an ImageFile.
const (
	FormatTar = "tar" // POSIX.1-2001 (pax) or GNU tar of the root file system, owners by number
	FormatZFS = "zfs" // one full zfs send stream, not recursive, not raw: of a file system whose root is in root/, or of a volume

	FormatRaw   = "raw"   // the bytes of a disk
	FormatQCOW2 = "qcow2" // QEMU's, without a file that it lies on and without encryption
)

// Image is the manifest of what instances are cloned from. Its words are those of
// IMGAPI's manifests, version 2.
type Image struct {
	V            int               `json:"v" doc:"2"`
	UUID         string            `json:"uuid"`
	Owner        string            `json:"owner"`
	Name         string            `json:"name" doc:"1 to 512 characters"`
	Version      string            `json:"version" doc:"1 to 128 characters"`
	State        string            `json:"state" enum:"creating,unactivated,active,disabled,failed"`
	Error        string            `json:"error,omitempty" doc:"why it failed"`
	Public       bool              `json:"public" doc:"every account may use it"`
	ACL          []string          `json:"acl,omitempty" doc:"further accounts that may use it"`
	PublishedAt  time.Time         `json:"published_at,omitzero"`
	Type         string            `json:"type" enum:"lx-dataset,docker,zvol"`
	OS           string            `json:"os" enum:"linux,smartos,illumos,windows,bsd,other"`
	SizeMiB      int               `json:"image_size,omitempty" doc:"zvol: MiB of the disk"`
	Origin       string            `json:"origin,omitempty" doc:"UUID of the image that this one is a change of"`
	Description  string            `json:"description,omitempty" doc:"at most 512 characters"`
	Homepage     string            `json:"homepage,omitempty"`
	EULA         string            `json:"eula,omitempty"`
	Source       string            `json:"source,omitempty" doc:"file, URL or OCI reference that it was imported from"`
	Files        []ImageFile       `json:"files" doc:"one; while it is being created, what its file will be"`
	Requirements ImageRequirements `json:"requirements,omitzero"`
	Run          ImageRun          `json:"run,omitzero"`
	Tags         map[string]any    `json:"tags,omitempty" doc:"strings, numbers and booleans"`
	Other        map[string]any    `json:"other,omitempty" doc:"what an IMGAPI manifest has and Nereid does not act on; export puts it back"`
	Created      time.Time         `json:"created,omitzero"`
	Revision     string            `json:"revision,omitempty" doc:"ETag"`
}

// ImageFile is the bytes of an image.
type ImageFile struct {
	Format             string `json:"format,omitempty" enum:",tar,zfs,raw,qcow2" doc:"empty: zfs, as in manifests of IMGAPI"`
	Compression        string `json:"compression" enum:"none,gzip,xz,zstd"`
	Size               int64  `json:"size" doc:"bytes, compressed"`
	Digest             string `json:"digest,omitempty" doc:"sha256: and 64 hexadecimal digits, of the compressed bytes"`
	SHA1               string `json:"sha1,omitempty" doc:"of the compressed bytes, in older manifests"`
	UncompressedSize   int64  `json:"uncompressed_size,omitempty" doc:"bytes of the tar, stream or disk; of a qcow2 file, those of the file"`
	UncompressedDigest string `json:"uncompressedDigest,omitempty"`
	DatasetGUID        string `json:"dataset_guid,omitempty" doc:"zfs: of the snapshot, decimal"`
}

// ImageRequirements are what an image needs of an instance and its server.
type ImageRequirements struct {
	Brand       string `json:"brand,omitempty"`
	MinMemory   int    `json:"min_ram,omitempty" doc:"MiB"`
	MaxMemory   int    `json:"max_ram,omitempty" doc:"MiB"`
	MinQuotaMiB int    `json:"min_quota_mib,omitempty"`
}

// ImageRun is how the first process of an image is started. An Init whose last part is
// init or systemd is that process; of any other program it is the parent, which passes
// signals on and buries what lost its own. Without Init it is the first of
// /usr/lib/systemd/systemd, /lib/systemd/systemd and /sbin/init that is there.
type ImageRun struct {
	Init       []string `json:"init,omitempty" doc:"program and arguments; of an OCI image its entrypoint and command"`
	Env        []string `json:"env,omitempty" doc:"NAME=VALUE"`
	User       string   `json:"user,omitempty" doc:"USER or UID, and :GROUP or :GID; empty: root"`
	WorkingDir string   `json:"working_dir,omitempty"`
	StopSignal string   `json:"stop_signal,omitempty" doc:"SIGTERM, SIGRTMIN+3 ...; empty: what the init program wants"`
}

// ImageUpdate changes what may be changed of an image; absent fields stay.
type ImageUpdate struct {
	Name        *string         `json:"name,omitempty"`
	Version     *string         `json:"version,omitempty"`
	Public      *bool           `json:"public,omitempty"`
	ACL         *[]string       `json:"acl,omitempty"`
	Description *string         `json:"description,omitempty"`
	Homepage    *string         `json:"homepage,omitempty"`
	EULA        *string         `json:"eula,omitempty"`
	Tags        *map[string]any `json:"tags,omitempty"`
}

// CollectedImages is what a collection deleted.
type CollectedImages struct {
	Images     []string `json:"images" doc:"names, versions and UUIDs"`
	Files      int      `json:"files"`
	FreedBytes int64    `json:"freed_bytes"`
}

// ImageSet names the set of the images that a server may fetch: ImageSpecs, by UUID.
func ImageSet(server string) string { return "server/" + server + "/images" }

// ImageSpec is an image as a server needs it. Its file is at /v1/images/{uuid}/file, for
// the servers whose sets name it.
type ImageSpec struct {
	UUID string    `json:"uuid"`
	Name string    `json:"name" doc:"and version, for messages"`
	Type string    `json:"type"`
	File ImageFile `json:"file"`

	SizeMiB int `json:"image_size,omitempty" doc:"zvol: MiB of the disk"`
}
