//go:build netns

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"nereid/api"
	"nereid/images"
)

// An import that does not fit on the head node's disk is refused, leaves nothing
// of the file behind, and the head node goes on.
func TestNetNSDiskFullOnImport(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("the netns tier needs root")
	}
	dir, err := os.MkdirTemp("", "hnf") // a Unix socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=40m,mode=0700"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
		os.Remove(dir)
	})
	data := filepath.Join(dir, "d")
	if _, err := call("init", "--answers", answersFile(t, good), "--data-dir", data); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var log bytes.Buffer
	done := make(chan error, 1)
	args := []string{"run", "--data-dir", data, "--listen", "127.78.0.7:0", "--http-port", "0"}
	go func() { done <- run(ctx, args, strings.NewReader(""), &log, &log) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	c := api.NewClient(filepath.Join(data, "headnode.sock"))
	defer c.Close()
	for ctx.Err() == nil {
		if _, err := c.Capabilities(ctx); err == nil {
			break
		}
		select {
		case err := <-done:
			done <- nil
			t.Fatalf("run: %v", err)
		default:
		}
	}

	key, err := images.CreateKey(filepath.Join(t.TempDir(), "key"))
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, size int) (api.File, []byte) {
		b := bytes.Repeat([]byte(name), size/len(name)+1)[:size]
		sum := sha256.Sum256(b)
		return api.File{Name: name, SHA256: hex.EncodeToString(sum[:]), Size: int64(size)}, b
	}
	kernel, kernelBytes := file("vmlinuz", 1000)
	layer, layerBytes := file("base.squashfs", 60<<20)
	initrd, _ := file("initrd.img", 1000)
	packages, _ := file("packages.json", 1000)
	text, err := json.Marshal(api.Manifest{Stamp: "20261122T101500Z", Arch: "x86_64", Kernel: kernel, Initrd: initrd, Packages: packages, Layers: []api.File{layer}})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := images.Sign(text, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.AddPlatformKey(ctx, api.PlatformKey{Name: "test", Key: images.FormatPublicKey(images.PublicKey(key))}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.AddPlatform(ctx, signed); err != nil {
		t.Fatal(err)
	}
	err = c.Upload(ctx, layer, bytes.NewReader(layerBytes), nil)
	var p *api.Problem
	if !errors.As(err, &p) || p.Code != api.CodeNoSpace || p.Status != 507 || p.Next == "" {
		t.Fatalf("a file larger than the disk: %v", err)
	}
	if off, complete, err := c.FileOffset(ctx, layer.SHA256); off != 0 || complete || err != nil {
		t.Errorf("something of it was kept: %d %v %v", off, complete, err)
	}
	if out, err := exec.Command("find", filepath.Join(data, "images"), "-type", "f").CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("files left: %s %v", out, err)
	}
	if err := c.Upload(ctx, kernel, bytes.NewReader(kernelBytes), nil); err != nil {
		t.Errorf("what does fit: %v", err)
	}
	if pl, err := c.Platform(ctx, "20261122T101500Z"); err != nil || pl.Complete || len(pl.Missing) != 3 {
		t.Errorf("platform %+v %v", pl, err)
	}
}
