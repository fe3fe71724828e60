package tree

import (
	"archive/tar"
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func TestParseACL(t *testing.T) {
	for text, want := range map[string]string{
		// As getfattr -e hex shows it for setfacl -m u:1000:r,g:7:rwx.
		"user::rw-\nuser:1000:r--\ngroup::r--\ngroup:7:rwx\nmask::rwx\nother::---\n":  "02000000" + "01000600ffffffff" + "02000400e8030000" + "04000400ffffffff" + "0800070007000000" + "10000700ffffffff" + "20000000ffffffff",
		"other::r--,group::r-x,user::rwx":                                             "02000000" + "01000700ffffffff" + "04000500ffffffff" + "20000400ffffffff",
		"user::rw-,user:lisa:r--:502,group::r--,mask::r--,other::r--  #effective:r--": "02000000" + "01000600ffffffff" + "02000400f6010000" + "04000400ffffffff" + "10000400ffffffff" + "20000400ffffffff",

		"user::rw-,user:lisa:r--,group::r--,mask::r--,other::r--":  `names "lisa" without its number`,
		"user::rw-,user:65536:r--,group::r--,mask::r--,other::r--": "0 to 65535",
		"user::rw-,user:1:r--,group::r--,other::r--":               "lacks an entry",
		"": "lacks an entry",
		"user::rw-,user::r--,group::r--,other::r--": "twice",
		"user::rwxx,group::r--,other::r--":          "cannot be read",
		"user::rw,group::r--,other::r--":            "cannot be read",
		"mask:1:rwx":                                "cannot be read",
		"lord::rwx":                                 "cannot be read",
	} {
		value, wrong := parseACL(text)
		if got := hex.EncodeToString([]byte(value)) + wrong; !strings.Contains(got, want) || want == "" {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

// An ACL comes with its file, and one that cannot be kept ends the tar.
func TestReaderACL(t *testing.T) {
	acl := "user::rw-,group::r--,other::r--"
	records := map[string]string{"SCHILY.acl.access": acl, "SCHILY.acl.default": acl}
	for name, want := range map[string]int{"f": 1, "d/": 2} {
		h := file(name)
		h.PAXRecords = records
		e, err := NewReader(bytes.NewReader(tarOf(t, h)), DefaultLimits()).Next()
		if err != nil || len(e.Xattrs) != want || len(e.Xattrs["system.posix_acl_access"]) != 28 {
			t.Errorf("%s: %+v %v", name, e, err)
		}
	}
	bad := tar.Header{Name: "f", PAXRecords: map[string]string{"SCHILY.acl.access": "user:lisa:rwx"}}
	if _, err := NewReader(bytes.NewReader(tarOf(t, bad)), DefaultLimits()).Next(); err == nil || !strings.Contains(err.Error(), `entry "f"`) {
		t.Errorf("got %v", err)
	}
}

func FuzzParseACL(f *testing.F) {
	f.Add("user::rw-\nuser:1000:r--\ngroup::r--\nmask::rwx\nother::---")
	f.Add("user::rw-,user:lisa:r--:502,group::r--,mask::r--,other::r--")
	f.Fuzz(func(t *testing.T, text string) {
		value, wrong := parseACL(text)
		if (value == "") != (wrong != "") || wrong == "" && (len(value)-4)%8 != 0 {
			t.Errorf("%q: %x %q", text, value, wrong)
		}
	})
}
