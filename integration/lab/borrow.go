package lab

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"nereid/api"
	"nereid/images"
)

// udhcpcScript configures the address and prints the boot file's URL.
const udhcpcScript = `#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/$mask" dev "$interface"
echo "BOOTFILE ${boot_file:-$bootfile}"
`

// BorrowBoot begins a boot in a machine's name, as its iPXE would, and gives the
// configuration it gets. The machine must be off. It is how a boot that does not
// come over the network gets its identity.
func (r *Rack) BorrowBoot(ctx context.Context, m *Machine) (api.BootConfig, error) {
	var conf api.BootConfig
	ns := r.Namespace + "-c"
	if err := run(ctx, "ip", "netns", "add", ns); err != nil {
		return conf, fmt.Errorf("borrow a boot: %w", err)
	}
	defer exec.Command("ip", "netns", "delete", ns).Run()
	for _, args := range [][]string{
		{"-n", r.Namespace, "link", "add", "borrow", "type", "veth", "peer", "name", "eth0", "netns", ns},
		{"-n", r.Namespace, "link", "set", "borrow", "master", "admin0", "up"},
		{"-n", ns, "link", "set", "eth0", "address", m.Spec.MAC, "up"},
	} {
		if err := run(ctx, "ip", args...); err != nil {
			return conf, fmt.Errorf("borrow a boot: %w", err)
		}
	}
	defer exec.Command("ip", "-n", r.Namespace, "link", "delete", "borrow").Run()
	return borrow(ctx, m.path("udhcpc"), "ip", "netns", "exec", ns)
}

// borrow asks DHCP as iPXE does, configures eth0 as it is told, and fetches the boot
// configuration, all by commands that enter runs where the NIC is.
func borrow(ctx context.Context, script string, enter ...string) (api.BootConfig, error) {
	var conf api.BootConfig
	if err := os.WriteFile(script, []byte(udhcpcScript), 0o700); err != nil {
		return conf, fmt.Errorf("borrow a boot: %w", err)
	}
	inside := func(name string, args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, enter[0], slices.Concat(enter[1:], []string{name}, args)...)
		var faults bytes.Buffer
		cmd.Stderr = &faults
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("borrow a boot: %s: %w: %s", name, err, bytes.TrimSpace(faults.Bytes()))
		}
		return out, nil
	}
	out, err := inside("udhcpc", "-i", "eth0", "-n", "-q", "-f", "-s", script, "-O", "bootfile",
		"-V", "PXEClient:Arch:00000:UNDI:002001", "-x", "0x4d:69505845")
	if err != nil {
		return conf, err
	}
	_, url, found := strings.Cut(string(out), "BOOTFILE ")
	url = strings.TrimSpace(url)
	if !found || !strings.HasSuffix(url, "/script.ipxe") {
		return conf, fmt.Errorf("borrow a boot: DHCP gave no script: %q", out)
	}
	if _, err := inside("curl", "-sSf", "-A", "iPXE/lab", url); err != nil {
		return conf, err
	}
	archive, err := inside("curl", "-sSf", strings.TrimSuffix(url, "script.ipxe")+"config.cpio")
	if err != nil {
		return conf, err
	}
	from := bytes.IndexByte(archive, '{')
	if from < 0 {
		return conf, fmt.Errorf("borrow a boot: no configuration in %d bytes", len(archive))
	}
	if err := json.NewDecoder(bytes.NewReader(archive[from:])).Decode(&conf); err != nil {
		return conf, fmt.Errorf("borrow a boot: %w", err)
	}
	return conf, nil
}

// BootDisk writes a disk that nereid.root=disk boots from: a plain tar of the
// configuration, the signed manifest and the layers.
func BootDisk(path, platform string, conf api.BootConfig) (err error) {
	_, m, err := images.ReadPlatform(platform)
	if err != nil {
		return fmt.Errorf("make boot disk: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make boot disk: %w", err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	b, err := json.Marshal(conf)
	if err != nil {
		return fmt.Errorf("make boot disk: %w", err)
	}
	w := tar.NewWriter(f)
	if err := w.WriteHeader(&tar.Header{Name: "boot.json", Mode: 0o600, Size: int64(len(b)), Format: tar.FormatUSTAR}); err != nil {
		return fmt.Errorf("make boot disk: %w", err)
	}
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("make boot disk: %w", err)
	}
	names := []string{"manifest.json", "manifest.sig"}
	for _, l := range m.Layers {
		names = append(names, l.Name)
	}
	for _, name := range names {
		if err := addFile(w, filepath.Join(platform, name)); err != nil {
			return fmt.Errorf("make boot disk: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("make boot disk: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("make boot disk: %w", err)
	}
	return f.Truncate((st.Size() + 511) &^ 511) // whole sectors
}

func addFile(w *tar.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: filepath.Base(path), Mode: 0o600, Size: st.Size(), Format: tar.FormatUSTAR}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
