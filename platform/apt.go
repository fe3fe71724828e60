package platform

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	debArch         = "amd64"
	archiveMain     = "debian"
	archiveSecurity = "debian-security"
	archiveKeyring  = "/usr/share/keyrings/debian-archive-keyring.gpg"
	refreshAfter    = 24 * time.Hour // how old apt's lists may be before the mirror is asked again
)

// archives are the base URLs of Debian's archives, with a slash at the end.
type archives map[string]string

// machineArchives reads from apt which mirrors the machine itself uses, so that
// a build needs no mirror of its own and honours the site's.
func machineArchives(ctx context.Context, r *runner) (archives, error) {
	out, err := r.output(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)|$(LABEL)", "Created-By: Packages")
	if err != nil {
		return nil, fmt.Errorf("read the machine's apt sources: %w", err)
	}
	a := parseTargets(out)
	if a[archiveMain] == "" {
		return nil, fmt.Errorf("read the machine's apt sources: no Debian mirror among them; run apt-get update, or say --mirror URL")
	}
	return a, nil
}

// parseTargets picks Debian's archives from apt-get indextargets.
func parseTargets(out string) archives {
	labels := map[string]string{"Debian|Debian": archiveMain, "Debian|Debian-Security": archiveSecurity}
	a := archives{}
	for line := range strings.Lines(out) {
		uri, label, _ := strings.Cut(strings.TrimSpace(line), " ")
		name := labels[label]
		if name == "" || a[name] != "" {
			continue
		}
		if u, err := url.Parse(uri); err != nil || (u.Scheme != "http" && u.Scheme != "https") {
			continue
		}
		a[name] = strings.TrimRight(uri, "/") + "/"
	}
	return a
}

// sources lists apt source lines of a suite, for main and contrib (ZFS).
func (a archives) sources(suite string) []string {
	line := func(base, suite, comps string) string {
		return fmt.Sprintf("deb [arch=%s signed-by=%s] %s %s %s", debArch, archiveKeyring, base, suite, comps)
	}
	const comps = "main contrib non-free-firmware"
	lines := []string{line(a[archiveMain], suite, comps), line(a[archiveMain], suite+"-updates", comps)}
	if a[archiveSecurity] != "" {
		lines = append(lines, line(a[archiveSecurity], suite+"-security", comps))
	}
	return lines
}

// aptDir is an apt of our own: nothing of the machine's packages, states or
// preferences plays a part in what it chooses.
type aptDir struct {
	dir  string
	r    *runner
	arch archives
}

// newApt makes or reuses the apt directory of these sources and fetches the lists
// when they are a day old or refresh says so.
func newApt(ctx context.Context, r *runner, cache string, a archives, suite string, refresh bool, now time.Time, show *progress) (*aptDir, error) {
	lines := strings.Join(a.sources(suite), "\n") + "\n"
	sum := sha256.Sum256([]byte(lines))
	x := &aptDir{dir: filepath.Join(cache, "apt", hex.EncodeToString(sum[:8])), r: r, arch: a}
	for _, d := range []string{"etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(x.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf(`Dir::State "%[1]s";
Dir::State::status "%[1]s/status";
Dir::State::lists "%[1]s/lists";
Dir::Cache "%[1]s";
Dir::Cache::archives "%[1]s/archives";
Dir::Etc::sourcelist "%[1]s/etc/apt/sources.list";
Dir::Etc::sourceparts "%[1]s/etc/apt/sources.list.d";
Dir::Etc::preferences "%[1]s/etc/apt/preferences";
Dir::Etc::preferencesparts "%[1]s/etc/apt/preferences.d";
Dir::Log "%[1]s";
APT::Architecture "%[2]s";
APT::Architectures { "%[2]s"; };
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::ForceHash "SHA256";
Acquire::Retries "3";
`, x.dir, debArch)
	for name, text := range map[string]string{"apt.conf": conf, "status": "", "etc/apt/sources.list": lines} {
		if err := os.WriteFile(filepath.Join(x.dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	x.r.env = append(x.r.env, "APT_CONFIG="+filepath.Join(x.dir, "apt.conf"))
	return x, x.update(ctx, refresh, now, show)
}

func (x *aptDir) update(ctx context.Context, refresh bool, now time.Time, show *progress) error {
	stamp := filepath.Join(x.dir, "updated")
	fi, err := os.Stat(stamp)
	have := err == nil
	if have && !refresh && now.Sub(fi.ModTime()) < refreshAfter {
		return nil
	}
	if err := x.r.run(ctx, "apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"); err != nil {
		if !have || ctx.Err() != nil {
			return fmt.Errorf("fetch package lists (is the mirror reachable? another one: --mirror URL): %w", err)
		}
		show.say("%-12s   the mirror does not answer; using its package lists of %s", "packages", fi.ModTime().UTC().Format(time.DateTime))
		return nil
	}
	if err := os.WriteFile(stamp, nil, 0o644); err != nil {
		return err
	}
	return os.Chtimes(stamp, now, now)
}

// resolve lets apt choose what installing the roots on nothing takes.
func (x *aptDir) resolve(ctx context.Context, roots ...string) ([]Package, error) {
	args := append([]string{"-qq", "-y", "--print-uris", "--no-install-recommends", "install"}, roots...)
	return x.uris(ctx, args)
}

// fetchOnly chooses the named packages without what they depend on.
func (x *aptDir) fetchOnly(ctx context.Context, names ...string) ([]Package, error) {
	return x.uris(ctx, append([]string{"-qq", "--print-uris", "download"}, names...))
}

func (x *aptDir) uris(ctx context.Context, args []string) ([]Package, error) {
	out, err := x.r.output(ctx, "apt-get", args...)
	if err != nil {
		return nil, fmt.Errorf("choose packages: %w", err)
	}
	return parseURIs(out, x.arch)
}

// kernelPackage says which concrete package the metapackage PREFIX-FLAVOUR stands for.
func (x *aptDir) kernelPackage(ctx context.Context, prefix, flavour string) (string, error) {
	meta := prefix + "-" + flavour
	out, err := x.r.output(ctx, "apt-cache", "show", "--no-all-versions", meta)
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", meta, err)
	}
	for line := range strings.Lines(out) {
		deps, ok := strings.CutPrefix(line, "Depends:")
		if !ok {
			continue
		}
		for dep := range strings.SplitSeq(deps, ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(dep), " ")
			if strings.HasPrefix(name, prefix+"-") && strings.HasSuffix(name, "-"+flavour) {
				return name, nil
			}
		}
	}
	return "", fmt.Errorf("look up %s: it depends on no kernel package", meta)
}

// parseURIs reads apt-get --print-uris: 'URI' FILE SIZE SHA256:HEX.
func parseURIs(out string, a archives) ([]Package, error) {
	var pkgs []Package
	sc := bufio.NewScanner(strings.NewReader(out))
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if !strings.HasPrefix(line, "'") {
			continue
		}
		p, err := parseURI(line, a)
		if err != nil {
			return nil, fmt.Errorf("read apt's answer %q: %w", line, err)
		}
		pkgs = append(pkgs, p)
	}
	slices.SortFunc(pkgs, func(x, y Package) int { return strings.Compare(x.Name, y.Name) })
	return pkgs, sc.Err()
}

func parseURI(line string, a archives) (Package, error) {
	var p Package
	f := strings.Fields(line)
	if len(f) != 4 {
		return p, fmt.Errorf("%d fields, want 4", len(f))
	}
	uri := strings.Trim(f[0], "'")
	for name, base := range a {
		if rest, ok := strings.CutPrefix(uri, base); ok {
			p.Archive, p.Path = name, rest
		}
	}
	parts := strings.Split(strings.TrimSuffix(f[1], ".deb"), "_")
	if len(parts) != 3 {
		return p, fmt.Errorf("file name %q is not NAME_VERSION_ARCH.deb", f[1])
	}
	version, err := url.PathUnescape(parts[1])
	if err != nil {
		return p, err
	}
	p.Name, p.Version, p.Arch = parts[0], version, parts[2]
	if p.Size, err = strconv.ParseInt(f[2], 10, 64); err != nil {
		return p, err
	}
	p.SHA256 = strings.TrimPrefix(f[3], "SHA256:")
	return p, p.validate()
}
