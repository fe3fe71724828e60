package vm

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestFill: a volume that was never used, or whose filling was cut, gets what a new machine
// has; one that was used stays as it is.
func TestFill(t *testing.T) {
	dir := t.TempDir()
	template, volume := filepath.Join(dir, "template"), filepath.Join(dir, "volume")
	fresh := bytes.Repeat([]byte{7}, VarsBytes)
	copy(fresh[40:], "_FVH")
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(template, fresh)
	cut := make([]byte, VarsMiB<<20)
	copy(cut[4096:], fresh[4096:9000])
	used := bytes.Clone(cut)
	copy(used, fresh[:4096])
	whole := make([]byte, VarsMiB<<20)
	copy(whole, fresh)
	for name, tt := range map[string]struct{ had, want []byte }{
		"new": {make([]byte, VarsMiB<<20), whole}, "cut": {cut, whole}, "used": {used, used}, "whole": {whole, whole},
	} {
		write(volume, tt.had)
		for range 2 {
			if err := fill(volume, template); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(volume); err != nil || !bytes.Equal(got, tt.want) {
			t.Errorf("%s: it is another one, %v", name, err)
		}
	}
	write(template, fresh[:100])
	if err := fill(volume, template); err == nil || !strings.Contains(err.Error(), "has 100 bytes: want a variable store of 540672") {
		t.Errorf("a template that is none: %v", err)
	}
}
