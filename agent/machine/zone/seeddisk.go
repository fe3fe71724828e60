package zone

import (
	"encoding/base64"
	"path"
)

// Seed are the files of a NoCloud seed for a virtual machine, by their names. script is
// what the customer wants run at each boot; empty: nothing. The guest has no program of
// ours: cloud-init runs the script as it is.
func (in Inside) Seed(script string) map[string]string {
	in.Script = false
	all := map[string]string{}
	files, err := in.seed()
	if err != nil { // there is nothing in it that cannot be encoded
		return all
	}
	for _, f := range files {
		all[path.Base(f.path)] = f.text
	}
	if script != "" {
		all["vendor-data"] = bootScript(script)
	}
	return all
}

// bootScript has cloud-init run a script at each boot (cloud-init's documentation,
// "User-data formats", cloud-boothook; and "scripts-per-boot").
func bootScript(script string) string {
	return `#cloud-boothook
#!/bin/sh
mkdir -p /var/lib/cloud/scripts/per-boot
base64 -d >/var/lib/cloud/scripts/per-boot/01-nereid-user-script <<'END'
` + lines(base64.StdEncoding.EncodeToString([]byte(script))) + `END
chmod 0700 /var/lib/cloud/scripts/per-boot/01-nereid-user-script
`
}

// lines cuts a text into lines of 76 characters (RFC 2045, section 6.8).
func lines(s string) string {
	out := ""
	for len(s) > 76 {
		out, s = out+s[:76]+"\n", s[76:]
	}
	return out + s + "\n"
}
