//go:build vm

package storage

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"nereid/api"
)

// importRounds is how often each way of an import is measured; medians are printed.
const importRounds = 5

// TestBenchImport compares the import of an image, in NEREID_TEST_IMAGE, with what an
// operator would do by hand: zstd(1) and tar(1) into a dataset, zstd(1) into zfs receive;
// in turns. It prints; it judges nothing.
func TestBenchImport(t *testing.T) {
	r := testPool(t)
	ctx := t.Context()
	pool, _ := r.Pool(ctx)
	tarred, err := os.ReadFile(os.Getenv("NEREID_TEST_IMAGE"))
	if err != nil {
		t.Fatalf("NEREID_TEST_IMAGE names no image, as integration/bench has it: %v", err)
	}
	t.Cleanup(func() {
		for _, u := range []string{poolTar, poolZFS} {
			if err := r.DropImage(context.WithoutCancel(ctx), u); err != nil {
				t.Error(err)
			}
		}
	})
	hand, file := pool+"/byhand", filepath.Join(t.TempDir(), "image")
	sh := func(line string) {
		t.Helper()
		if out, err := exec.CommandContext(ctx, "bash", "-ec", line).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	compare := func(what, uuid, format string, b []byte, byHand string) {
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		spec := poolSpec(uuid, format, "zstd", b)
		var ours, theirs []float64
		for range importRounds {
			begun := time.Now()
			if err := r.ImportImage(ctx, spec, bytes.NewReader(b), nil); err != nil {
				t.Fatal(err)
			}
			ours = append(ours, time.Since(begun).Seconds())
			begun = time.Now()
			sh(byHand)
			theirs = append(theirs, time.Since(begun).Seconds())
			sh("zfs destroy -r " + hand)
			if format == api.FormatTar && len(ours) == importRounds {
				continue // what the stream is made of
			}
			if err := r.DropImage(ctx, uuid); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(ours)
		slices.Sort(theirs)
		a, h := ours[importRounds/2], theirs[importRounds/2]
		fmt.Printf("image of %d MiB as %s: imported in %.2f s, by hand %.2f s; %.2f of the speed by hand\n", len(b)>>20, what, a, h, h/a)
	}
	dir := t.TempDir()
	compare("tar", poolTar, api.FormatTar, tarred,
		"zfs create -o mountpoint=legacy -o canmount=noauto -o xattr=sa -o acltype=posixacl -o dnodesize=auto "+hand+"; mount -t zfs "+hand+" "+dir+
			"; mkdir "+dir+"/root; zstd -dcq "+file+" | tar -x --numeric-owner --xattrs --xattrs-include='*' -C "+dir+"/root; umount "+dir+"; zfs snapshot "+hand+"@final; zfs set readonly=on "+hand)
	stream, err := exec.CommandContext(ctx, "bash", "-c", "zfs send "+pool+"/"+poolTar+"@final | zstd -3 -q -T0 -c").Output()
	if err != nil {
		t.Fatal(err)
	}
	compare("ZFS stream", poolZFS, api.FormatZFS, stream,
		"zstd -dcq "+file+" | zfs receive -u -o mountpoint=legacy -o canmount=noauto "+hand+"; zfs set readonly=on "+hand)
}
