package instances

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"nereid/api"
	"nereid/headnode/store"
)

// Bounds of what an instance carries. A set's answer is cut at a megabyte, and a
// server keeps the spec beside the dataset.
const (
	maxTags     = 256
	maxTag      = 255 // bytes of a tag's name, and of its value: a firewall rule names them
	maxKeys     = 256
	maxKey      = 255           // bytes of the name of a metadata key
	maxMetadata = 128 << 10     // bytes of all metadata as JSON
	MaxNICs     = 16            // of one instance
	shortID     = "{{shortId}}" // in a name: the first 8 digits of the UUID
)

// Name is the name of a new instance.
func Name(asked, uuid string) string {
	if asked == "" {
		return uuid[:8]
	}
	return strings.ReplaceAll(asked, shortID, uuid[:8])
}

// CheckName says what is wrong with a name, and refuses one that another instance of
// the account has.
func CheckName(tx store.Tx, owner, name, uuid string) error {
	switch {
	case !nameRE.MatchString(name):
		return invalid("take another name", "name %.80q of the instance: want 1 to 63 of a-z, 0-9 and '-', no '-' at either end", name)
	case uuidRE.MatchString(name):
		return invalid("take another name", "name %s of the instance has the form of a UUID", name)
	}
	other, found, err := store.Lookup[string](tx, namePrefix+name+"/"+owner)
	if err == nil && found && other != uuid {
		err = conflict("take another name, or delete that one: nereid instance get "+other, "instance %s of the same account has the name %s", other, name)
	}
	return err
}

// CheckRestart says what is wrong with what is to be done when an instance has ended.
func CheckRestart(policy string) error {
	switch policy {
	case "", api.RestartNo, api.RestartOnFailure, api.RestartAlways:
		return nil
	}
	return invalid("take one of no, on-failure, always", "restart of the instance is %.32q", policy)
}

// CheckTags names all that is wrong with tags: rules see them, so their values are
// short.
func CheckTags(tags map[string]any) error {
	var faults []error
	if len(tags) > maxTags {
		faults = append(faults, invalid("set fewer", "the instance has %d tags; at most %d are allowed", len(tags), maxTags))
	}
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		text, ok := scalar(tags[k])
		switch {
		case !ok:
			faults = append(faults, invalid("give it one of those", "tag %.64q: want a string, a number, or true or false", k))
		case k == "" || len(k) > maxTag || len(text) > maxTag:
			faults = append(faults, invalid("shorten it", "tag %.64q: want a name of 1 to %d bytes and a value of at most %d", k, maxTag, maxTag))
		case !printable(k) || !printable(text):
			faults = append(faults, invalid("use printable characters", "tag %.64q has control characters, or is not UTF-8", k))
		}
	}
	return api.Faults(faults...)
}

// CheckMetadata names all that is wrong with metadata.
func CheckMetadata(md map[string]any) error { return checkMetadata("metadata", md) }

// CheckInternal names all that is wrong with operators' metadata.
func CheckInternal(md map[string]any) error { return checkMetadata("internal metadata", md) }

func checkMetadata(what string, md map[string]any) error {
	var faults []error
	if len(md) > maxKeys {
		faults = append(faults, invalid("set fewer", "the instance has %d %s keys; at most %d are allowed", len(md), what, maxKeys))
	}
	for _, k := range slices.Sorted(maps.Keys(md)) {
		text, ok := scalar(md[k])
		switch {
		case !ok:
			faults = append(faults, invalid("give it one of those", "%s %.64q: want a string, a number, or true or false", what, k))
		case k == "" || len(k) > maxKey || !printable(k) || strings.ContainsAny(k, " \t\n"):
			faults = append(faults, invalid("take another name", "%s %.64q: want a name of 1 to %d printable bytes without spaces", what, k, maxKey))
		case strings.HasPrefix(k, "sdc:"):
			faults = append(faults, invalid("take another name", "%s %.64q: names that begin with sdc: are what the datacenter says of the instance", what, k))
		case !utf8.ValidString(text):
			faults = append(faults, invalid("encode it, as in base64", "%s %.64q is not UTF-8", what, k))
		}
	}
	if b, err := json.Marshal(md); err == nil && len(b) > maxMetadata {
		faults = append(faults, invalid("let the instance fetch what is large", "the instance's %s has %d bytes; at most %d are allowed", what, len(b), maxMetadata))
	}
	return api.Faults(faults...)
}

// scalar is a value as text; ok is false for lists, objects and null.
func scalar(v any) (text string, ok bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return fmt.Sprint(v), true
	case float64:
		return number(v), true
	case int:
		return fmt.Sprint(v), true
	}
	return "", false
}

// number writes 3 and not 3e+00, and what is no whole number as JSON does.
func number(v float64) string {
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		return fmt.Sprintf("%d", int64(v))
	}
	b, err := json.Marshal(v)
	if err != nil { // JSON has no such number
		return fmt.Sprint(v)
	}
	return string(b)
}

// FirewallTags are the tags of an instance as rules see them.
func FirewallTags(tags map[string]any) map[string]string {
	out := map[string]string{}
	for k, v := range tags {
		if text, ok := scalar(v); ok {
			out[k] = text
		}
	}
	return out
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// changed applies what an update says of tags or metadata.
func changed(have map[string]any, whole *map[string]any, set map[string]any, remove []string) map[string]any {
	out := map[string]any{}
	maps.Copy(out, have)
	if whole != nil {
		clear(out)
		maps.Copy(out, *whole)
	}
	maps.Copy(out, set)
	for _, k := range remove {
		delete(out, k)
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
