package main

import "runtime/debug"

// buildVersion is the module's version, or the commit the program was built from.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	var commit, when, dirty string
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value
		case "vcs.time":
			when = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = ", with changes"
			}
		}
	}
	v := info.Main.Version // go build makes one of tag, commit and time
	if v != "" && v != "(devel)" {
		return v
	}
	v = "devel"
	if len(commit) >= 12 {
		v += " (" + commit[:12] + " of " + when + dirty + ")"
	}
	return v
}
