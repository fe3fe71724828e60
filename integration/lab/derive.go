package lab

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"nereid/api"
	"nereid/images"
)

// Derive makes a platform out of another by stacking one more layer on it, and
// signs it with a key of its own. Files maps paths in the root filesystem to
// contents; contents that begin with "-> " are symbolic links.
func Derive(ctx context.Context, from, to, stamp string, files map[string]string) error {
	_, m, err := images.ReadPlatform(from)
	if err != nil {
		return fmt.Errorf("derive platform: %w", err)
	}
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("derive platform: %w", err)
	}
	for _, f := range m.Files() {
		_ = os.Remove(filepath.Join(to, f.Name))
		if err := os.Link(filepath.Join(from, f.Name), filepath.Join(to, f.Name)); err != nil {
			if err := copyFile(filepath.Join(to, f.Name), filepath.Join(from, f.Name)); err != nil {
				return fmt.Errorf("derive platform: %w", err)
			}
		}
	}
	layer, err := makeLayer(ctx, to, "lab-"+stamp+".squashfs", files)
	if err != nil {
		return fmt.Errorf("derive platform: %w", err)
	}
	m.Stamp = stamp
	// Under emulation on a busy machine the kernel's check of its timer can fail,
	// which is a panic.
	m.Args = append(m.Args, "no_timer_check")
	m.Layers = append(m.Layers, layer)
	return sign(to, m)
}

// Blank makes a signed platform of files that are nothing: enough for a head node
// to answer the boots of servers that bring a kernel of their own (see Server).
func Blank(dir, stamp string) error { return Filled(dir, stamp, 0) }

// Filled makes a blank platform whose files have at least size bytes each.
func Filled(dir, stamp string, size int) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make blank platform: %w", err)
	}
	m := api.Manifest{Stamp: stamp, Arch: "x86_64"}
	for name, f := range map[string]*api.File{"vmlinuz": &m.Kernel, "initrd.img": &m.Initrd, "packages.json": &m.Packages, "base.squashfs": nil} {
		content := []byte("not a " + name + "\n")
		content = append(content, make([]byte, max(0, size-len(content)))...)
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return fmt.Errorf("make blank platform: %w", err)
		}
		sum := sha256.Sum256(content)
		file := api.File{Name: name, SHA256: hex.EncodeToString(sum[:]), Size: int64(len(content))}
		if f == nil {
			m.Layers = append(m.Layers, file)
		} else {
			*f = file
		}
	}
	return sign(dir, m)
}

func makeLayer(ctx context.Context, dir, name string, files map[string]string) (api.File, error) {
	tree, err := os.MkdirTemp(dir, "layer-")
	if err != nil {
		return api.File{}, err
	}
	defer os.RemoveAll(tree)
	if err := os.Chmod(tree, 0o755); err != nil {
		return api.File{}, err
	}
	for path, content := range files {
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return api.File{}, err
		}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o755)
		}
		if err != nil {
			return api.File{}, err
		}
	}
	if err := run(ctx, "mksquashfs", tree, filepath.Join(dir, name), "-noappend", "-quiet", "-no-progress", "-all-root"); err != nil {
		return api.File{}, err
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return api.File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return api.File{}, err
	}
	return api.File{Name: name, SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

// sign writes manifest.json, manifest.sig and manifest.pub.
func sign(dir string, m api.Manifest) error {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("sign platform: %w", err)
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("sign platform: %w", err)
	}
	for name, content := range map[string][]byte{
		"manifest.json": b,
		"manifest.sig":  ed25519.Sign(key, b),
		"manifest.pub":  []byte(base64.StdEncoding.EncodeToString(pub) + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return fmt.Errorf("sign platform: %w", err)
		}
	}
	return nil
}

// ShellLayer gives the lab a shell in a server, over a virtio serial port. It is
// how tests look into a machine that has no other way in.
func ShellLayer() map[string]string {
	return map[string]string{
		// A read ends at once while nobody has the other side open.
		"/usr/lib/lab/shell": `while :; do
	if read -r -u 3 id line; then
		eval "$line" >/run/lab.out 2>&1 </dev/null 3>&-
		rc=$?
		{ echo -n "$id $rc "; base64 -w0 /run/lab.out; echo; } >&3
	else
		sleep 0.5
	fi
done 3<>/dev/virtio-ports/lab
`,
		"/usr/lib/systemd/system/lab-shell.service": `[Unit]
Description=Shell for the lab
StartLimitIntervalSec=0
[Service]
ExecStart=/bin/bash --noprofile --norc /usr/lib/lab/shell
Restart=always
RestartSec=200ms
`,
		"/etc/systemd/system/multi-user.target.wants/lab-shell.service": "-> /usr/lib/systemd/system/lab-shell.service",
	}
}
