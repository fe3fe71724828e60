package platforms

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// Keys of this package, beside serverPrefix.
const (
	stampPrefix    = "platform/stamp/"
	completePrefix = "platform/complete/"
	filePrefix     = "platform/file/"
	defaultKey     = "platform/default"
)

// Record is a registered platform.
type Record struct {
	Manifest  []byte    `json:"manifest"` // exact bytes that were signed
	Signature []byte    `json:"signature"`
	Key       string    `json:"key"` // name of the key that signed
	Imported  time.Time `json:"imported"`
	Complete  bool      `json:"-"` // every file is there and verified
}

// defaultRecord is the default platform. Gen grows each time one is set, also when
// it is the same: every server then tries it anew.
type defaultRecord struct {
	Stamp string `json:"stamp"`
	Gen   int    `json:"gen"`
}

func fileKey(digest, stamp string) string { return filePrefix + digest + "/" + stamp }

func unknown(stamp string) error {
	return &api.Problem{Title: "No such platform", Status: 404, Code: api.CodeNotFound,
		Detail: fmt.Sprintf("there is no platform %.64q", stamp), Next: "see nereid platform list"}
}

// decode reads and checks a manifest.
func decode(b []byte) (api.Manifest, error) {
	var m api.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("decode manifest: %w", err)
	}
	return m, m.Validate()
}

// Register adds a platform whose signature was verified, incomplete until
// SetComplete. The same manifest again changes nothing but the signature and the
// key's name; another one under a known stamp is refused with an *api.Problem, and
// so is one that is not valid.
func Register(tx store.Tx, s api.SignedManifest, key string, now time.Time) (Record, api.Manifest, error) {
	m, err := decode(s.Manifest)
	if err != nil {
		return Record{}, m, &api.Problem{Title: "Manifest is not valid", Status: 422, Code: api.CodeInvalid,
			Detail: err.Error(), Next: "build the platform again"}
	}
	r, _, err := Get(tx, m.Stamp)
	var p *api.Problem
	switch {
	case errors.As(err, &p) && p.Code == api.CodeNotFound:
		r = Record{Manifest: s.Manifest, Imported: now.UTC()}
	case err != nil:
		return Record{}, m, err
	case !bytes.Equal(r.Manifest, s.Manifest):
		return Record{}, m, &api.Problem{Title: "Platform differs", Status: 409, Code: api.CodeConflict,
			Detail: fmt.Sprintf("platform %s is registered with another manifest", m.Stamp),
			Next:   "build under a new stamp"}
	}
	r.Signature, r.Key = s.Signature, key
	err = store.Put(tx, stampPrefix+m.Stamp, r)
	if err == nil {
		err = store.Put(tx, completePrefix+m.Stamp, r.Complete)
	}
	for _, f := range m.Files() {
		if err == nil {
			err = store.Put(tx, fileKey(f.SHA256, m.Stamp), f)
		}
	}
	if err != nil {
		return Record{}, m, fmt.Errorf("register platform: %w", err)
	}
	return r, m, nil
}

// Get reads a platform; an *api.Problem with status 404 when there is none.
func Get(tx store.Tx, stamp string) (Record, api.Manifest, error) {
	r, found, err := store.Lookup[Record](tx, stampPrefix+stamp)
	if err != nil {
		return Record{}, api.Manifest{}, fmt.Errorf("read platform: %w", err)
	}
	if !found {
		return Record{}, api.Manifest{}, unknown(stamp)
	}
	complete, _, err := store.Lookup[bool](tx, completePrefix+stamp)
	if err != nil {
		return Record{}, api.Manifest{}, fmt.Errorf("read platform: %w", err)
	}
	return r.decoded(stamp, complete)
}

// decoded is a record as it is read, with its manifest.
func (r Record) decoded(stamp string, complete bool) (Record, api.Manifest, error) {
	r.Complete = complete
	m, err := decode(r.Manifest)
	if err != nil {
		return Record{}, m, fmt.Errorf("read platform %s: %w", stamp, err)
	}
	return r, m, nil
}

// SetComplete notes whether every file of a platform is there and verified.
func SetComplete(tx store.Tx, stamp string, complete bool) error {
	was, found, err := store.Lookup[bool](tx, completePrefix+stamp)
	switch {
	case err != nil:
		return fmt.Errorf("complete platform: %w", err)
	case !found:
		return unknown(stamp)
	case was == complete:
		return nil
	}
	if err := store.Put(tx, completePrefix+stamp, complete); err != nil {
		return fmt.Errorf("complete platform: %w", err)
	}
	return nil
}

// SetDefault makes a platform the one that servers without an assignment boot. It
// is on trial on each of them, also when it failed there before. An *api.Problem
// when it is not there or not complete.
func SetDefault(tx store.Tx, stamp string) error {
	if err := bootable(tx, stamp); err != nil {
		return err
	}
	d, _, err := store.Lookup[defaultRecord](tx, defaultKey)
	if err == nil {
		err = store.Put(tx, defaultKey, defaultRecord{Stamp: stamp, Gen: d.Gen + 1})
	}
	if err != nil {
		return fmt.Errorf("set default platform: %w", err)
	}
	return nil
}

// Default is the stamp of the default platform, or empty.
func Default(tx store.Tx) (string, error) {
	d, _, err := store.Lookup[defaultRecord](tx, defaultKey)
	if err != nil {
		return "", fmt.Errorf("read default platform: %w", err)
	}
	return d.Stamp, nil
}

// Expected finds a file by digest that an incomplete platform consists of: one
// that may be uploaded.
func Expected(tx store.Tx, sha256 string) (f api.File, found bool, err error) {
	if len(sha256) != 64 {
		return api.File{}, false, nil
	}
	for e, err := range store.Each[api.File](tx, filePrefix+sha256+"/") {
		if err != nil {
			return api.File{}, false, fmt.Errorf("look up file: %w", err)
		}
		complete, known, err := store.Lookup[bool](tx, completePrefix+e.Key[len(filePrefix)+65:])
		if err != nil {
			return api.File{}, false, fmt.Errorf("look up file: %w", err)
		}
		if known && !complete {
			return e.Value, true, nil
		}
	}
	return api.File{}, false, nil
}

// Files gives the digest of every file of every platform, with the stamps of those
// that need it.
func Files(tx store.Tx) (map[string][]string, error) {
	files := make(map[string][]string)
	for it, err := range tx.Scan(filePrefix, "") {
		if err != nil {
			return nil, fmt.Errorf("list files: %w", err)
		}
		digest, stamp, _ := strings.Cut(it.Key[len(filePrefix):], "/")
		files[digest] = append(files[digest], stamp)
	}
	return files, nil
}

// List gives all platforms, newest first, with Default and UsedBy (keys of
// servers: UUIDs, or MACs of machines not enrolled), without Missing.
func List(tx store.Tx, now time.Time) ([]api.Platform, error) {
	used, err := users(tx, now)
	if err != nil {
		return nil, fmt.Errorf("list platforms: %w", err)
	}
	def, err := Default(tx)
	if err != nil {
		return nil, err
	}
	var stamps, keys []string
	var complete []bool
	for e, err := range store.Each[bool](tx, completePrefix) {
		if err != nil {
			return nil, fmt.Errorf("list platforms: %w", err)
		}
		stamp := e.Key[len(completePrefix):]
		stamps, keys, complete = append(stamps, stamp), append(keys, stampPrefix+stamp), append(complete, e.Value)
	}
	recs, err := store.GetAll[Record](tx, keys...)
	if err != nil {
		return nil, fmt.Errorf("list platforms: %w", err)
	}
	var list []api.Platform
	for i, r := range recs {
		r, m, err := r.decoded(stamps[i], complete[i])
		if err != nil {
			return nil, err
		}
		list = append(list, describe(r, m, def, used[m.Stamp]))
	}
	slices.Reverse(list)
	return list, nil
}

// Newest gives the stamp of the newest complete platform; empty: there is none.
func Newest(tx store.Tx) (string, error) {
	newest := ""
	for e, err := range store.Each[bool](tx, completePrefix) {
		if err != nil {
			return "", fmt.Errorf("find the newest platform: %w", err)
		}
		if e.Value {
			newest = max(newest, e.Key[len(completePrefix):])
		}
	}
	return newest, nil
}

// Describe is List for one platform; an *api.Problem when there is none.
func Describe(tx store.Tx, stamp string, now time.Time) (api.Platform, error) {
	used, err := users(tx, now)
	if err != nil {
		return api.Platform{}, fmt.Errorf("describe platform: %w", err)
	}
	r, m, err := Get(tx, stamp)
	if err != nil {
		return api.Platform{}, err
	}
	def, err := Default(tx)
	if err != nil {
		return api.Platform{}, err
	}
	return describe(r, m, def, used[stamp]), nil
}

// describe is a platform as it is shown; def is the default, used its servers by use.
func describe(r Record, m api.Manifest, def string, used map[string][]string) api.Platform {
	p := api.Platform{Manifest: m, Imported: r.Imported, Complete: r.Complete, Default: m.Stamp == def}
	for _, servers := range used {
		p.UsedBy = append(p.UsedBy, servers...)
	}
	slices.Sort(p.UsedBy)
	p.UsedBy = slices.Compact(p.UsedBy)
	seen := make(map[string]bool)
	for _, f := range m.Files() {
		if !seen[f.SHA256] {
			p.SizeBytes += f.Size
		}
		seen[f.SHA256] = true
	}
	return p
}
