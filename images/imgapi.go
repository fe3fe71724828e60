package images

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"nereid/api"
)

// maxImageManifest bounds a manifest of an image, in bytes.
const maxImageManifest = 256 << 10

// ParseImage reads an image's manifest: IMGAPI's, version 2, or one that FormatImage wrote.
// What Nereid does not act on goes to Other. What the head node alone says (state, error,
// revision, created) is left out. Values are not checked: the head node does.
func ParseImage(b []byte) (api.Image, error) {
	var i api.Image
	if len(b) > maxImageManifest {
		return i, fmt.Errorf("image manifest has %d bytes; want at most %d", len(b), maxImageManifest)
	}
	top, err := object(b)
	if err != nil {
		return i, fmt.Errorf("read image manifest: %w", err)
	}
	if v := string(top["v"]); v != "2" {
		return i, fmt.Errorf("read image manifest: v is %q; manifests of version 2 are read", v)
	}
	for _, name := range []string{"state", "error", "revision", "created", "disabled", "other", "source"} {
		delete(top, name)
	}
	other := map[string]any{}
	for name, raw := range top {
		if !slices.Contains(imageProperties(), name) {
			var v any
			if err := json.Unmarshal(raw, &v); err != nil {
				return i, fmt.Errorf("read image manifest: %s: %w", name, err)
			}
			other[name] = v
			delete(top, name)
		}
	}
	rest, err := json.Marshal(top)
	if err == nil {
		err = json.Unmarshal(rest, &i)
	}
	if err != nil {
		return api.Image{}, fmt.Errorf("read image manifest: %w", err)
	}
	if more, err := otherRequirements(top["requirements"]); err != nil {
		return api.Image{}, err
	} else if len(more) > 0 {
		other["requirements"] = more
	}
	if len(other) > 0 {
		i.Other = other
	}
	return i, nil
}

// imageProperties are those of a manifest that an api.Image has.
func imageProperties() []string {
	return []string{"v", "uuid", "owner", "name", "version", "public", "acl", "published_at", "type", "os", "image_size", "origin", "description", "homepage", "eula",
		"files", "requirements", "run", "tags"}
}

// otherRequirements are those that ImageRequirements does not have.
func otherRequirements(raw json.RawMessage) (map[string]any, error) {
	if raw == nil {
		return nil, nil
	}
	var all map[string]any
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("read image manifest: requirements: %w", err)
	}
	for _, name := range []string{"brand", "min_ram", "max_ram", "min_quota_mib"} {
		delete(all, name)
	}
	return all, nil
}

// FormatImage writes the manifest of an image as IMGAPI has it, with what ParseImage put
// into Other in its place again.
func FormatImage(i api.Image) ([]byte, error) {
	other := i.Other
	i.Other, i.Revision, i.Error, i.Source = nil, "", "", ""
	i.Files = slices.Clone(i.Files)
	for k := range i.Files {
		if i.Files[k].Format == api.FormatZFS {
			i.Files[k].Format = "" // as IMGAPI, which has no other
		}
	}
	b, err := json.Marshal(i)
	if err != nil {
		return nil, fmt.Errorf("write image manifest: %w", err)
	}
	top, err := object(b)
	if err != nil {
		return nil, fmt.Errorf("write image manifest: %w", err)
	}
	delete(top, "created")
	for _, name := range slices.Sorted(maps.Keys(other)) {
		if name == "requirements" {
			if err := addRequirements(top, other[name]); err != nil {
				return nil, err
			}
			continue
		}
		if _, is := top[name]; is {
			return nil, fmt.Errorf("write image manifest: other.%s is a property of images", name)
		}
		if top[name], err = json.Marshal(other[name]); err != nil {
			return nil, fmt.Errorf("write image manifest: other.%s: %w", name, err)
		}
	}
	if b, err = json.MarshalIndent(top, "", "  "); err != nil {
		return nil, fmt.Errorf("write image manifest: %w", err)
	}
	return append(b, '\n'), nil
}

// addRequirements puts further requirements beside those that are there.
func addRequirements(top map[string]json.RawMessage, more any) error {
	all, ok := more.(map[string]any)
	if !ok {
		return errors.New("write image manifest: other.requirements is no object")
	}
	all = maps.Clone(all)
	if raw := top["requirements"]; raw != nil {
		if err := json.Unmarshal(raw, &all); err != nil {
			return fmt.Errorf("write image manifest: requirements: %w", err)
		}
	}
	b, err := json.Marshal(all)
	top["requirements"] = b
	return err
}

// object reads one JSON object, and nothing behind it.
func object(b []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	var out map[string]json.RawMessage
	if err := dec.Decode(&out); err != nil {
		return nil, err
	}
	if out == nil {
		return nil, errors.New("it is no object")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something is behind the object")
	}
	return out, nil
}
