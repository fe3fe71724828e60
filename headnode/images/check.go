package images

import (
	"encoding/json"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"nereid/api"
)

// NoOwner is whom an image without an owner belongs to.
const NoOwner = "00000000-0000-0000-0000-000000000000"

// Bounds of a manifest.
const (
	MaxSize     = 20 << 30 // bytes of a file, compressed, as in IMGAPI
	MaxDiskMiB  = 64 << 20 // MiB of the disk of an image
	maxName     = 512      // characters
	maxVersion  = 128
	maxText     = 512
	maxURL      = 1024
	maxACL      = 1000
	maxManifest = 256 << 10 // bytes of its JSON
	maxRun      = 32 << 10  // bytes of arguments and environment
)

var (
	uuidRE   = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	digestRE = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	sha1RE   = regexp.MustCompile(`^[0-9a-f]{40}$`)
	guidRE   = regexp.MustCompile(`^[1-9][0-9]{0,19}$`)
	userRE   = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?$`)
	signalRE = regexp.MustCompile(`^(SIG[A-Z0-9]{2,6}|SIGRTM(IN|AX)([+-][0-9]{1,2})?|[1-9][0-9]?)$`)
)

// normal is a manifest as it is stored. All that is wrong with it is one error.
func normal(i api.Image) (api.Image, error) {
	var faults []error
	wrong := func(is bool, format string, args ...any) {
		if is {
			faults = append(faults, invalid(format, args...))
		}
	}
	if i.V == 0 {
		i.V = 2
	}
	wrong(i.V != 2, "v is %d; manifests of version 2 are read", i.V)
	i.UUID, i.Owner, i.Origin = strings.ToLower(i.UUID), strings.ToLower(i.Owner), strings.ToLower(i.Origin)
	if i.UUID == "" {
		i.UUID = newUUID()
	}
	if i.Owner == "" {
		i.Owner = NoOwner
	}
	wrong(!uuidRE.MatchString(i.UUID) || i.UUID == NoOwner, "uuid %.64q is no UUID", i.UUID)
	wrong(!uuidRE.MatchString(i.Owner), "owner %.64q is no account's UUID", i.Owner)
	wrong(i.Origin != "" && (!uuidRE.MatchString(i.Origin) || i.Origin == i.UUID), "origin %.64q is no other image's UUID", i.Origin)
	wrong(!line(i.Name, 1, maxName) || strings.ContainsRune(i.Name, '@'), "name %.64q: want 1 to %d characters without @ and control characters", i.Name, maxName)
	wrong(!line(i.Version, 1, maxVersion), "version %.64q: want 1 to %d characters without control characters", i.Version, maxVersion)
	wrong(!slices.Contains([]string{api.ImageLXDataset, api.ImageDocker, api.ImageZvol}, i.Type), "type %.64q: want lx-dataset, docker or zvol; other kinds of images do not run here", i.Type)
	if i.OS == "" {
		i.OS = "linux"
	}
	wrong(!slices.Contains([]string{"linux", "smartos", "illumos", "windows", "bsd", "other"}, i.OS), "os %.64q: want linux, smartos, illumos, windows, bsd or other", i.OS)
	wrong(!text(i.Description), "description: want at most %d characters without control characters", maxText)
	wrong(!link(i.Homepage), "homepage %.64q: want an http or https URL", i.Homepage)
	wrong(!link(i.EULA), "eula %.64q: want an http or https URL", i.EULA)
	wrong(!line(i.Source, 0, maxURL), "source: want at most %d characters without control characters", maxURL)
	acl, bad := accounts(i.ACL)
	i.ACL = acl
	wrong(bad != "", "acl: %.64q is no account's UUID", bad)
	wrong(len(i.ACL) > maxACL, "acl: it has %s; want at most %d", api.Plural(len(i.ACL), "account"), maxACL)
	for k, v := range i.Tags {
		switch v.(type) {
		case string, float64, bool, int:
		default:
			wrong(true, "tags: %.64q is no string, number or boolean", k)
		}
	}
	r := i.Requirements
	brand := api.BrandLX
	if i.Type == api.ImageZvol {
		brand = api.BrandKVM
		wrong(i.SizeMiB < 1 || i.SizeMiB > MaxDiskMiB, "image_size %d: want the MiB of the disk, 1 to %d", i.SizeMiB, MaxDiskMiB)
		wrong(len(i.Run.Init) > 0 || len(i.Run.Env) > 0 || i.Run.User+i.Run.WorkingDir+i.Run.StopSignal != "", "run: what is on a disk starts by itself")
	} else {
		wrong(i.SizeMiB != 0, "image_size %d: only an image of type zvol has one", i.SizeMiB)
	}
	wrong(r.Brand != "" && r.Brand != brand, "requirements.brand %.64q: want %s for an image of type %.64q", r.Brand, brand, i.Type)
	wrong(r.MinMemory < 0 || r.MaxMemory < 0 || r.MinQuotaMiB < 0, "requirements: want no number below 0")
	wrong(r.MaxMemory > 0 && r.MaxMemory < r.MinMemory, "requirements: max_ram %d is less than min_ram %d", r.MaxMemory, r.MinMemory)
	faults = append(faults, runs(i.Run)...)
	switch {
	case len(i.Files) != 1:
		wrong(true, "files: there are %d of them; want one", len(i.Files))
	default:
		i.Files = slices.Clone(i.Files)
		faults = append(faults, normalFile(&i.Files[0], i)...)
	}
	b, err := json.Marshal(i)
	wrong(err != nil || len(b) > maxManifest, "the manifest has more than %d bytes", maxManifest)
	return i, api.Faults(faults...)
}

// normalFile is normal for what a manifest says of its file.
func normalFile(f *api.ImageFile, i api.Image) (faults []error) {
	wrong := func(is bool, format string, args ...any) {
		if is {
			faults = append(faults, invalid(format, args...))
		}
	}
	if f.Format == "" {
		f.Format = api.FormatZFS
	}
	formats := []string{api.FormatTar, api.FormatZFS}
	if i.Type == api.ImageZvol {
		formats = []string{api.FormatRaw, api.FormatQCOW2, api.FormatZFS}
	}
	wrong(!slices.Contains(formats, f.Format), "files[0].format %.64q: want one of %s for an image of type %.64q", f.Format, strings.Join(formats, ", "), i.Type)
	wrong(i.Origin != "" && f.Format != api.FormatZFS, "files[0].format: an image with an origin is an incremental ZFS stream, not %s", f.Format)
	wrong(!slices.Contains([]string{"none", "gzip", "xz", "zstd"}, f.Compression), "files[0].compression %.64q: want none, gzip, xz or zstd", f.Compression)
	wrong(f.Size < 1 || f.Size > MaxSize, "files[0].size %d: want 1 to %d bytes", f.Size, int64(MaxSize))
	wrong(!digestRE.MatchString(f.Digest), "files[0].digest %.80q: want sha256: and 64 hexadecimal digits", f.Digest)
	wrong(f.SHA1 != "" && !sha1RE.MatchString(f.SHA1), "files[0].sha1 %.64q: want 40 hexadecimal digits", f.SHA1)
	wrong(f.UncompressedSize < 0, "files[0].uncompressed_size %d: want no number below 0", f.UncompressedSize)
	wrong(f.UncompressedDigest != "" && !digestRE.MatchString(f.UncompressedDigest), "files[0].uncompressedDigest %.80q: want sha256: and 64 hexadecimal digits", f.UncompressedDigest)
	wrong(f.DatasetGUID != "" && !guidRE.MatchString(f.DatasetGUID), "files[0].dataset_guid %.64q: want a decimal number", f.DatasetGUID)
	return faults
}

// runs says what is wrong with how an image's first process is started.
func runs(r api.ImageRun) (faults []error) {
	wrong := func(is bool, format string, args ...any) {
		if is {
			faults = append(faults, invalid(format, args...))
		}
	}
	size := 0
	for _, s := range slices.Concat(r.Init, r.Env) {
		size += len(s) + 1
		wrong(strings.IndexByte(s, 0) >= 0, "run: %.64q has a NUL byte", s)
	}
	wrong(size > maxRun, "run: init and env have %d bytes; want at most %d", size, maxRun)
	wrong(len(r.Init) > 0 && r.Init[0] == "", "run.init: the program has no name")
	for _, e := range r.Env {
		name, _, ok := strings.Cut(e, "=")
		wrong(!ok || name == "", "run.env: %.64q is not NAME=VALUE", e)
	}
	wrong(r.User != "" && !userRE.MatchString(r.User), "run.user %.64q: want USER or UID, and :GROUP or :GID", r.User)
	wrong(r.WorkingDir != "" && (!path.IsAbs(r.WorkingDir) || len(r.WorkingDir) > 4095 || strings.IndexByte(r.WorkingDir, 0) >= 0), "run.working_dir %.64q: want an absolute path", r.WorkingDir)
	wrong(r.StopSignal != "" && !signalRE.MatchString(r.StopSignal), "run.stop_signal %.64q: want a signal, as SIGTERM or SIGRTMIN+3", r.StopSignal)
	return faults
}

// accounts sorts UUIDs, each once; bad is one that is none.
func accounts(list []string) (out []string, bad string) {
	for _, a := range list {
		a = strings.ToLower(a)
		if !uuidRE.MatchString(a) {
			bad = a
		}
		out = append(out, a)
	}
	slices.Sort(out)
	return slices.Compact(out), bad
}

// line says whether a text fits on one line and has so many characters.
func line(s string, least, most int) bool {
	n := utf8.RuneCountInString(s)
	return utf8.ValidString(s) && n >= least && n <= most && !strings.ContainsFunc(s, unicode.IsControl)
}

// text is line for one that may have line breaks.
func text(s string) bool {
	return line(strings.NewReplacer("\n", " ", "\r", " ", "\t", " ").Replace(s), 0, maxText)
}

func link(s string) bool {
	if s == "" {
		return true
	}
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && line(s, 1, maxURL)
}
