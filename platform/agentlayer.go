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
	unit  []byte
	base  []byte // base's os-release
}

// nereid makes the topmost layer: seconds to make again when only the agent changed.
func (b *build) nereid(ctx context.Context, in agentFiles, stamp string, epoch int64) (made, error) {
	release := strings.TrimRight(string(in.base), "\n") + "\nNEREID_PLATFORM=" + stamp + "\n"
	st := stage{
		name: "nereid", what: "nereid.squashfs: the agent of platform " + stamp,
		inputs: append([]string{"recipe 1", "agent " + in.agent.SHA256, "unit " + string(in.unit), release, fmt.Sprint("epoch ", epoch)}, squashOptions...),
	}
	st.run = func(ctx context.Context, r *runner, scratch, out string) error {
		root := filepath.Join(scratch, "root")
		const unit = "usr/lib/systemd/system/nereid-agent.service"
		files := []rootFile{
			{path: unit, text: string(in.unit)},
			{path: "etc/systemd/system/multi-user.target.wants/nereid-agent.service", link: "/" + unit},
			{path: "usr/lib/os-release", text: release},
		}
		for _, f := range files {
			if err := putFile(root, f); err != nil {
				return err
			}
		}
		agent := filepath.Join(root, "usr/lib/nereid/nereid-agent")
		if err := os.MkdirAll(filepath.Dir(agent), 0o755); err != nil {
			return err
		}
		data, err := os.ReadFile(in.agent.path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(agent, data, 0o755); err != nil {
			return err
		}
		return squash(ctx, r, root, filepath.Join(out, "nereid.squashfs"), epoch)
	}
	return b.stages.do(ctx, st)
}
