package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"nereid/api"
	"nereid/images"
)

func (f *fake) listPlatforms(http.ResponseWriter, *http.Request) (any, error) {
	out := []api.Platform{}
	for _, p := range f.platforms {
		out = append(out, *p)
	}
	return items(out), nil
}

func (f *fake) platform(r *http.Request) (*api.Platform, error) {
	p := f.platforms[r.PathValue("stamp")]
	if p == nil {
		return nil, problem(404, api.CodeNotFound, fmt.Sprintf("there is no platform %q", r.PathValue("stamp")), "see which there are: nereid platform list")
	}
	p.Missing = nil
	for _, file := range p.Manifest.Files() {
		if int64(len(f.files[file.SHA256])) != file.Size && !slices.Contains(p.Missing, file.SHA256) {
			p.Missing = append(p.Missing, file.SHA256)
		}
	}
	p.Complete = len(p.Missing) == 0
	return p, nil
}

func (f *fake) addPlatform(_ http.ResponseWriter, r *http.Request) (any, error) {
	signed, err := read[api.SignedManifest](r)
	if err != nil {
		return nil, err
	}
	f.log[len(f.log)-1] = "POST /v1/platforms"
	for _, k := range f.keys {
		pub, err := images.ParsePublicKey(k.Key)
		if err != nil {
			return nil, err
		}
		m, err := images.VerifyManifest(signed, pub)
		if err != nil {
			continue
		}
		p := &api.Platform{Manifest: m, Imported: time.Now().Add(-3 * time.Hour)}
		for _, file := range m.Files() {
			p.SizeBytes += file.Size
		}
		f.platforms[m.Stamp] = p
		r.SetPathValue("stamp", m.Stamp)
		return f.platform(r)
	}
	return nil, problem(422, api.CodeSignature, "the manifest's signature is of no key this head node knows", "add the key: nereid platform key add NAME KEY")
}

func (f *fake) getPlatform(_ http.ResponseWriter, r *http.Request) (any, error) { return f.platform(r) }

func (f *fake) deletePlatform(_ http.ResponseWriter, r *http.Request) (any, error) {
	p, err := f.platform(r)
	if err != nil {
		return nil, err
	}
	if len(p.UsedBy) > 0 || p.Default {
		return nil, problem(409, api.CodeInUse, "platform "+p.Manifest.Stamp+" is used by "+firstOf(strings.Join(p.UsedBy, ", "), "the default"), "assign another first")
	}
	delete(f.platforms, p.Manifest.Stamp)
	return nil, nil
}

func (f *fake) defaultPlatform(_ http.ResponseWriter, r *http.Request) (any, error) {
	p, err := f.platform(r)
	if err != nil {
		return nil, err
	}
	for _, o := range f.platforms {
		o.Default = o == p
	}
	return nil, nil
}

func (f *fake) verifyPlatform(_ http.ResponseWriter, r *http.Request) (any, error) {
	return f.platform(r)
}

func (f *fake) collect(http.ResponseWriter, *http.Request) (any, error) {
	out := api.Collected{Platforms: []string{}}
	for stamp, p := range f.platforms {
		if len(p.UsedBy) == 0 && !p.Default {
			out.Platforms, out.Files, out.FreedBytes = append(out.Platforms, stamp), out.Files+4, out.FreedBytes+p.SizeBytes
			delete(f.platforms, stamp)
		}
	}
	return out, nil
}

func (f *fake) wanted(sha string) (api.File, bool) {
	for _, p := range f.platforms {
		for _, file := range p.Manifest.Files() {
			if file.SHA256 == sha {
				return file, true
			}
		}
	}
	return api.File{}, false
}

func (f *fake) headFile(w http.ResponseWriter, r *http.Request) (any, error) {
	sha := r.PathValue("sha")
	file, ok := f.wanted(sha)
	if !ok {
		return nil, problem(404, api.CodeNotFound, "no such file", "")
	}
	if have := int64(len(f.files[sha])); have < file.Size {
		w.Header().Set("Upload-Offset", strconv.FormatInt(have, 10))
	} else {
		w.Header().Set("Content-Length", strconv.FormatInt(file.Size, 10))
	}
	return nil, nil
}

func (f *fake) putFile(w http.ResponseWriter, r *http.Request) (any, error) {
	sha := r.PathValue("sha")
	file, ok := f.wanted(sha)
	if !ok {
		return nil, problem(404, api.CodeNotFound, "no registered platform misses this file", "import its manifest first")
	}
	var from, to, total int64
	if _, err := fmt.Sscanf(r.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &total); err != nil {
		return nil, err
	}
	have := int64(len(f.files[sha]))
	f.log = append(f.log, fmt.Sprintf("PUT %s %s", file.Name, r.Header.Get("Content-Range")))
	if from != have {
		w.Header().Set("Upload-Offset", strconv.FormatInt(have, 10))
		return nil, problem(409, api.CodeConflict, fmt.Sprintf("the file has %d bytes, not %d", have, from), "go on there")
	}
	body := io.Reader(r.Body)
	if f.cut > 0 {
		body = io.LimitReader(body, f.cut)
	}
	b, _ := io.ReadAll(body)
	f.files[sha] = append(f.files[sha], b...)
	if f.cut > 0 {
		f.cut = 0
		panic(http.ErrAbortHandler)
	}
	if int64(len(f.files[sha])) == total {
		if sum := sha256.Sum256(f.files[sha]); hex.EncodeToString(sum[:]) != sha {
			delete(f.files, sha)
			return nil, problem(422, api.CodeDigest, file.Name+" does not have the digest it was named by", "build or copy it again")
		}
	}
	return nil, nil
}
