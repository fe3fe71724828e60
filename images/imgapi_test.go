package images

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A manifest as IMGAPI serves it (its documentation's sample, with made-up digests).
const imgapiManifest = `{
  "v": 2,
  "uuid": "7b5981c4-1889-11e7-b4c5-3f3bdfc9b88b",
  "owner": "00000000-0000-0000-0000-000000000000",
  "name": "ubuntu-16.04",
  "version": "20170403",
  "state": "active",
  "disabled": false,
  "public": true,
  "published_at": "2017-04-03T16:40:00Z",
  "type": "lx-dataset",
  "os": "linux",
  "files": [{"sha1": "3d2d5d2b7e6cc2a5ee2ad1e1d0ab2ad6b0fc5c7b", "size": 179970424, "compression": "gzip"}],
  "description": "Container-native Ubuntu 16.04 64-bit image.",
  "homepage": "https://docs.joyent.com/images/container-native-linux",
  "requirements": {"networks": [{"name": "net0", "description": "public"}], "min_platform": {"7.0": "20160225T122859Z"}, "brand": "lx", "min_ram": 256},
  "tags": {"role": "os", "kernel_version": "4.3.0", "n": 1, "b": true},
  "traits": {"ssd": true},
  "generate_passwords": "true",
  "billing_tags": ["x"]
}`

// What IMGAPI says of an image survives import and export, also what Nereid does not act
// on.
func TestImageManifestRoundTrips(t *testing.T) {
	i, err := ParseImage([]byte(imgapiManifest))
	if err != nil {
		t.Fatal(err)
	}
	if i.Requirements.MinMemory != 256 || i.Tags["n"] != 1.0 || i.Other["generate_passwords"] != "true" || i.Files[0].SHA1 == "" {
		t.Errorf("%+v", i)
	}
	i.State, i.Revision, i.Source = "active", "r1", "there"
	b, err := FormatImage(i)
	if err != nil {
		t.Fatal(err)
	}
	var want, got map[string]any
	if err := json.Unmarshal([]byte(imgapiManifest), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	delete(want, "disabled") // state says it
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestParseImageRefuses(t *testing.T) {
	for in, want := range map[string]string{
		``: "EOF", `[]`: "array", `null`: "no object", `{"v":1}`: `v is "1"`, `{}`: `v is ""`, `{"v":2}x`: "behind the object",
		`{"v":2,"files":{}}`: "files", `{"v":2,"requirements":[]}`: "requirements", strings.Repeat(" ", 300<<10): "at most",
	} {
		if _, err := ParseImage([]byte(in)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v; want %s", in, err, want)
		}
	}
}

// Whatever a manifest says: what was read can be written, and is then read the same.
func FuzzParseImage(f *testing.F) {
	f.Add([]byte(imgapiManifest))
	f.Add([]byte(`{"v":2,"requirements":{"x":{}},"run":{"init":["/bin/sh"]},"other":{"v":3},"files":[{"format":"tar"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		i, err := ParseImage(b)
		if err != nil {
			return
		}
		out, err := FormatImage(i)
		if err != nil {
			t.Fatalf("%+v: %v", i, err)
		}
		again, err := ParseImage(out)
		if err != nil && len(out) <= maxImageManifest {
			t.Fatalf("%s: %v", out, err)
		}
		second, err2 := FormatImage(again)
		if err == nil && (err2 != nil || string(second) != string(out)) {
			t.Fatalf("%s\nthen %s, %v", out, second, err2)
		}
	})
}
