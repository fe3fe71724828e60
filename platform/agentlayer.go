package platform

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"nereid/api"
)

// builtProgram is one of our own programs, ready to be put into an image.
type builtProgram struct {
	api.File
	path string
}

// program returns a program of this module: the one given, or built now. Go's
// own cache makes that quick, and -trimpath with an empty build id makes equal
// sources give equal bytes wherever the checkout is.
func (b *build) program(ctx context.Context, name, given string) (builtProgram, error) {
	path := given
	if path == "" {
		dir := filepath.Join(b.Cache, "programs")
		logs := filepath.Join(b.Cache, "logs")
		for _, d := range []string{dir, logs} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return builtProgram{}, err
			}
		}
		b.show.begin(name, "build the program")
		logPath := filepath.Join(logs, name+".log")
		log, err := os.Create(logPath)
		if err != nil {
			return builtProgram{}, err
		}
		defer log.Close()
		path = filepath.Join(dir, name)
		r := &runner{log: log, path: logPath, tick: b.show.tick, env: []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + debArch}}
		flags := "-s -w -buildid="
		if b.Version != "" {
			flags += " -X main.version=" + b.Version
		}
		err = r.run(ctx, "go", "-C", b.Module, "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", path, "./cmd/"+name)
		if err != nil {
			return builtProgram{}, fmt.Errorf("build %s (needs Go and the sources; or give a built one): %w", name, err)
		}
		b.show.end("built")
	}
	f, err := hashFile(path)
	if err != nil {
		return builtProgram{}, fmt.Errorf("read %s: %w", name, err)
	}
	return builtProgram{File: f, path: path}, nil
}

// agentFiles are the inputs of the nereid layer.
type agentFiles struct {
	agent builtProgram
	zone  builtProgram // what enters zones, and is their first process
	unit  []byte
	base  []byte // base's os-release
}

// consolesUnit is the unit that keeps what zones print: it outlives the agent, and a
// zone waits for it only when more than a pipe holds was not taken.
const consolesUnit = `[Unit]
Description=Nereid: what zones print
DefaultDependencies=no
Conflicts=shutdown.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/lib/nereid/nereid-zone consoles
Restart=always
RestartSec=100ms
OOMScoreAdjust=-900
UMask=0077
Environment=GOGC=50 GOMAXPROCS=1
CapabilityBoundingSet=CAP_DAC_OVERRIDE
SystemCallArchitectures=native
NoNewPrivileges=yes
`

// metadataUnit is the unit that answers what zones ask of their metadata: with the agent
// away too. It takes a zone's terminal from the zone's own process.
const metadataUnit = `[Unit]
Description=Nereid: metadata of zones
DefaultDependencies=no
Conflicts=shutdown.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/lib/nereid/nereid-zone metadata
Restart=always
RestartSec=100ms
OOMScoreAdjust=-900
MemoryMax=256M
UMask=0077
Environment=GOGC=50 GOMAXPROCS=1
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_CHOWN CAP_SYS_PTRACE
RestrictAddressFamilies=AF_UNIX
SystemCallArchitectures=native
NoNewPrivileges=yes
`

// volumesRule keeps udev from reading what is on volumes, which are disks of instances, and
// from opening each anew whenever one that wrote to it has closed it (udev(7)). The links
// below /dev/zvol are made by a rule of ZFS's.
const volumesRule = `SUBSYSTEM=="block", KERNEL=="zd*", OPTIONS:="nowatch", ENV{UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG}="1"
`

// nereid makes the topmost layer: seconds to make again when only the agent changed.
func (b *build) nereid(ctx context.Context, in agentFiles, stamp string, epoch int64) (made, error) {
	release := strings.TrimRight(string(in.base), "\n") + "\nNEREID_PLATFORM=" + stamp + "\n"
	st := stage{
		name: "nereid", what: "nereid.squashfs: the agent of platform " + stamp,
		inputs: append([]string{"recipe 2", "agent " + in.agent.SHA256, "zone " + in.zone.SHA256, "consoles " + consolesUnit, "metadata " + metadataUnit, "volumes " + volumesRule, "unit " + string(in.unit), release, fmt.Sprint("epoch ", epoch)}, squashOptions...),
	}
	st.run = func(ctx context.Context, r *runner, scratch, out string) error {
		root := filepath.Join(scratch, "root")
		const unit = "usr/lib/systemd/system/nereid-agent.service"
		files := []rootFile{
			{path: unit, text: string(in.unit)},
			{path: "etc/udev/rules.d/10-nereid-volumes.rules", text: volumesRule},
			{path: "etc/systemd/system/multi-user.target.wants/nereid-agent.service", link: "/" + unit},
			{path: "usr/lib/systemd/system/nereid-consoles.service", text: consolesUnit},
			{path: "usr/lib/systemd/system/nereid-metadata.service", text: metadataUnit},
			{path: "usr/lib/os-release", text: release},
		}
		for _, f := range files {
			if err := putFile(root, f); err != nil {
				return err
			}
		}
		programs := filepath.Join(root, "usr/lib/nereid")
		if err := os.MkdirAll(programs, 0o755); err != nil {
			return err
		}
		for name, p := range map[string]builtProgram{"nereid-agent": in.agent, "nereid-zone": in.zone} {
			data, err := os.ReadFile(p.path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(programs, name), data, 0o755); err != nil {
				return err
			}
		}
		return squash(ctx, r, root, filepath.Join(out, "nereid.squashfs"), epoch)
	}
	return b.stages.do(ctx, st)
}
