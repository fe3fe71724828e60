package storage

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"nereid/api"
)

// value is a number or a string: zpool prints either, by version and option.
type value string

func (v *value) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var s string
		if err := json.Unmarshal(b, &s); err != nil {
			return err
		}
		*v = value(s)
		return nil
	}
	*v = value(b)
	return nil
}

// bytes is the value as a size, 0 when it is none ("-").
func (v value) bytes() int64 {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// property is one property in the output of list and get.
type property struct {
	Value value `json:"value"`
}

// text is the property's value; zfs prints a dash for one that is not set.
func (p property) text() string {
	if p.Value == "-" || p.Value == "null" {
		return ""
	}
	return string(p.Value)
}

// parsePools reads "zpool list -j -p -o size,allocated,health,guid".
func parsePools(out []byte) ([]api.Pool, error) {
	if noJSON(out) {
		return nil, nil
	}
	var list struct {
		Pools map[string]struct {
			Name       string              `json:"name"`
			State      string              `json:"state"`
			GUID       value               `json:"pool_guid"`
			Properties map[string]property `json:"properties"`
		} `json:"pools"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("parse zpool list: %w", err)
	}
	var pools []api.Pool
	for key, p := range list.Pools {
		pool := api.Pool{
			Name:           cmp.Or(p.Name, key),
			GUID:           cmp.Or(p.Properties["guid"].text(), string(p.GUID)),
			Health:         cmp.Or(p.Properties["health"].text(), p.State),
			SizeBytes:      p.Properties["size"].Value.bytes(),
			AllocatedBytes: p.Properties["allocated"].Value.bytes(),
		}
		if _, err := strconv.ParseUint(pool.GUID, 10, 64); err != nil {
			return nil, fmt.Errorf("parse zpool list: pool %s has no guid", pool.Name)
		}
		pools = append(pools, pool)
	}
	slices.SortFunc(pools, func(a, b api.Pool) int { return cmp.Compare(a.Name, b.Name) })
	return pools, nil
}

// noJSON reports whether a command had nothing to list: it then prints nothing
// or a sentence.
func noJSON(out []byte) bool {
	out = bytes.TrimSpace(out)
	return len(out) == 0 || bytes.HasPrefix(out, []byte("no pools available")) || bytes.HasPrefix(out, []byte("no datasets available"))
}

// parseProperties reads "zfs get -j -p" or "zfs list -j -p": properties by dataset.
func parseProperties(out []byte) (map[string]map[string]string, error) {
	if noJSON(out) {
		return nil, nil
	}
	var list struct {
		Datasets map[string]struct {
			Properties map[string]property `json:"properties"`
		} `json:"datasets"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("parse zfs properties: %w", err)
	}
	all := map[string]map[string]string{}
	for name, d := range list.Datasets {
		all[name] = map[string]string{}
		for k, p := range d.Properties {
			all[name][k] = p.text()
		}
	}
	return all, nil
}

// parseVdevs reads "zpool status -j -P": the paths of all disks by pool, logs,
// caches and spares included, sorted.
func parseVdevs(out []byte) (map[string][]string, error) {
	if noJSON(out) {
		return nil, nil
	}
	var list struct {
		Pools map[string]json.RawMessage `json:"pools"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("parse zpool status: %w", err)
	}
	all := map[string][]string{}
	for name, raw := range list.Pools {
		var tree any
		if err := json.Unmarshal(raw, &tree); err != nil {
			return nil, fmt.Errorf("parse zpool status: %w", err)
		}
		var paths []string
		// Vdevs nest to any depth, below keys that differ by class; a leaf is
		// an object with a path.
		var walk func(v any, depth int)
		walk = func(v any, depth int) {
			o, ok := v.(map[string]any)
			if !ok || depth > 16 {
				return
			}
			if p, ok := o["path"].(string); ok && strings.HasPrefix(p, "/") {
				paths = append(paths, p)
			}
			for _, c := range o {
				walk(c, depth+1)
			}
		}
		walk(tree, 0)
		slices.Sort(paths)
		all[name] = slices.Compact(paths)
	}
	return all, nil
}

// candidate is a pool that "zpool import" found.
type candidate struct {
	name, guid, state, status string
}

// importable reports whether the import may be tried without force.
func (c candidate) importable() bool {
	return (c.state == "ONLINE" || c.state == "DEGRADED") && !c.elsewhere()
}

// elsewhere reports whether another system had the pool last and did not export it.
func (c candidate) elsewhere() bool {
	return strings.Contains(c.status, "last accessed by another system") || strings.Contains(c.status, "currently imported by another system")
}

// parseImport reads the text of "zpool import", which has no JSON form: blocks
// of "key: value" lines, right-aligned keys, values continued on further lines,
// a blank line, and the tree of vdevs.
func parseImport(out []byte) ([]candidate, error) {
	var all []candidate
	var key string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "\t") {
			if k, _, ok := strings.Cut(line, ":"); ok && slices.Contains([]string{"pool", "id", "state", "status", "action", "comment", "see", "config"}, strings.TrimSpace(k)) {
				key = strings.TrimSpace(k)
				line = line[len(k)+1:]
			}
		}
		text := strings.TrimSpace(line)
		if key == "pool" && text != "" {
			all = append(all, candidate{name: text})
			key = ""
			continue
		}
		if len(all) == 0 {
			continue
		}
		c := &all[len(all)-1]
		switch key {
		case "id":
			c.guid, key = text, ""
		case "state":
			// "UNAVAIL (DESTROYED)" is listed with -D only, but must not pass for importable.
			c.state, key = text, ""
		case "status":
			c.status = strings.TrimSpace(c.status + " " + text)
		}
	}
	for _, c := range all {
		if _, err := strconv.ParseUint(c.guid, 10, 64); err != nil || c.state == "" {
			return nil, errors.New("parse zpool import: pool " + strconv.Quote(c.name) + " without id or state")
		}
	}
	return all, nil
}
