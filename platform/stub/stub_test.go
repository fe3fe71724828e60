package stub

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"nereid/api"
	"nereid/images"
)

var errEntered = errors.New("entered")

// world is a server, its kernel and the boot server in one, all made up but HTTP
// and files.
type world struct {
	t       *testing.T
	dir     string
	server  *httptest.Server
	console bytes.Buffer
	stub    *Stub
	clock   float64 // seconds of uptime; waits move it
	set     time.Time
	layers  map[string][]byte
	signed  api.SignedManifest
	cancel  context.CancelFunc

	mu     sync.Mutex
	events []api.BootEvent
	asked  []string
	wrong  map[string][]http.HandlerFunc // by last path element: what goes wrong first

	steps                               []string
	driversErr, networkErr, assembleErr []error
	reboots                             int
}

func (w *world) pop(errs *[]error) error {
	if len(*errs) == 0 {
		return nil
	}
	e := (*errs)[0]
	*errs = (*errs)[1:]
	return e
}

func (w *world) Drivers(context.Context) error {
	return w.pop(&w.driversErr)
}

func (w *world) Network(_ context.Context, n api.BootNetwork) error {
	w.steps = append(w.steps, "network "+n.MAC)
	return w.pop(&w.networkErr)
}

func (w *world) Assemble(_ context.Context, layers []string, _ int64) (string, error) {
	for _, l := range layers {
		b, err := os.ReadFile(l)
		if err != nil {
			return "", err
		}
		w.steps = append(w.steps, fmt.Sprintf("layer %d bytes", len(b)))
	}
	root := filepath.Join(w.dir, "root")
	return root, errors.Join(w.pop(&w.assembleErr), os.MkdirAll(root, 0o755))
}

func (w *world) Enter(root string) error {
	w.steps = append(w.steps, "enter "+filepath.Base(root))
	w.cancel()
	return errEntered
}

func (w *world) Reboot() error {
	w.reboots++
	w.cancel()
	return nil
}

func digest(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, dir: t.TempDir(), wrong: map[string][]http.HandlerFunc{}, clock: 5}
	w.layers = map[string][]byte{"base.squashfs": bytes.Repeat([]byte("base"), 200_000), "nereid.squashfs": bytes.Repeat([]byte("agent"), 1000)}
	file := func(name string, b []byte) api.File {
		return api.File{Name: name, SHA256: digest(b), Size: int64(len(b))}
	}
	m := api.Manifest{
		Stamp: "20261122T101500Z", Arch: "x86_64", Kernel: file("vmlinuz", []byte("k")), Initrd: file("initrd.img", []byte("i")), Packages: file("packages.json", []byte("p")),
		Layers: []api.File{file("base.squashfs", w.layers["base.squashfs"]), file("nereid.squashfs", w.layers["nereid.squashfs"])},
	}
	w.sign(m, testKey())
	w.server = httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(w.server.Close)
	if err := os.Mkdir(filepath.Join(w.dir, "layers"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.writeConfig(testConfig(w.server.URL))
	w.stub = &Stub{
		Kernel: w, Console: NewConsole(Screen{Writer: &w.console}), Client: &plainHTTP{header: 10 * time.Second}, Cmdline: "quiet",
		Paths: Paths{Config: filepath.Join(w.dir, "boot.json"), Layers: filepath.Join(w.dir, "layers"), Run: filepath.Join(w.dir, "run")},
		Sleep: func(ctx context.Context, d time.Duration) error {
			w.clock += d.Seconds()
			return ctx.Err()
		},
		Machine: Machine{
			Uptime:   func() float64 { return w.clock },
			Meminfo:  func() (string, error) { return "MemTotal: 1000000 kB\nMemAvailable: 800000 kB\n", nil },
			UUID:     func() string { return "4c4c4544-0042-3510-8056-b4c04f4d5332" },
			SetClock: func(t time.Time) error { w.set = t; return nil },
			Space:    func(int64) error { return nil },
			OpenDisk: func(path string) (Disk, error) { return Disk{}, os.ErrNotExist },
		},
	}
	return w
}

func (w *world) sign(m api.Manifest, key ed25519.PrivateKey) {
	b, err := json.Marshal(m)
	if err == nil {
		w.signed, err = images.Sign(b, key)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) writeConfig(c api.BootConfig) {
	if err := os.WriteFile(filepath.Join(w.dir, "boot.json"), encodeJSON(w.t, c), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) serve(rw http.ResponseWriter, r *http.Request) {
	name := filepath.Base(r.URL.Path)
	w.mu.Lock()
	w.asked = append(w.asked, strings.TrimSpace(name+" "+r.Header.Get("Range")))
	var wrong http.HandlerFunc
	if q := w.wrong[name]; len(q) > 0 {
		wrong, w.wrong[name] = q[0], q[1:]
	}
	w.mu.Unlock()
	if wrong != nil {
		wrong(rw, r)
		return
	}
	switch {
	case name == "event":
		var ev api.BootEvent
		if err := json.NewDecoder(r.Body).Decode(&ev); err != nil {
			w.t.Errorf("event: %v", err)
		}
		w.mu.Lock()
		w.events = append(w.events, ev)
		w.mu.Unlock()
		rw.WriteHeader(http.StatusNoContent)
	case r.URL.Path == "/platforms/20261122T101500Z/manifest.json":
		_, _ = rw.Write(w.signed.Manifest)
	case r.URL.Path == "/platforms/20261122T101500Z/manifest.sig":
		_, _ = rw.Write(w.signed.Signature)
	case strings.HasPrefix(r.URL.Path, "/files/") && r.URL.Query().Get("boot") == "mfrggzdfmztwq2lknnwg23tpoa":
		rw.Header().Set("ETag", `"`+name+`"`)
		http.ServeContent(rw, r, name, time.Time{}, bytes.NewReader(w.layers[name]))
	default:
		http.Error(rw, "no such thing", http.StatusNotFound)
	}
}

// run boots until the root is entered or the server restarts.
func (w *world) run() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	defer cancel()
	w.cancel = cancel
	err := w.stub.Run(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		w.t.Fatalf("the boot did not end; console:\n%s", w.console.String())
	}
	if strings.Contains(w.console.String(), "very-secret-token") {
		w.t.Error("the token is on the console")
	}
}

func (w *world) stages() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var s []string
	for _, e := range w.events {
		s = append(s, string(e.Stage))
		if e.Time.IsZero() {
			w.t.Errorf("event %s has no time", e.Stage)
		}
	}
	return strings.Join(s, " ")
}

func (w *world) wantConsole(parts ...string) {
	w.t.Helper()
	for _, p := range parts {
		if !strings.Contains(w.console.String(), p) {
			w.t.Errorf("not on the console: %q; it has\n%s", p, w.console.String())
		}
	}
}

func TestBoot(t *testing.T) {
	w := newWorld(t)
	c := testConfig(w.server.URL)
	c.Time = time.Now().Add(time.Hour)
	w.writeConfig(c)
	w.run()
	if got := strings.Join(w.steps, "; "); got != "network 52:54:00:12:34:56; layer 800000 bytes; layer 5000 bytes; enter root" {
		t.Errorf("steps: %s", got)
	}
	if got := w.stages(); got != "stub root switch-root" {
		t.Errorf("events: %s", got)
	}
	if w.reboots != 0 || !w.set.Equal(c.Time) {
		t.Errorf("%d restarts, clock set to %v", w.reboots, w.set)
	}
	if b, err := os.ReadFile(filepath.Join(w.dir, "root/etc/hostname")); err != nil || string(b) != "cn-1\n" {
		t.Errorf("hostname: %q %v", b, err)
	}
	if b, err := os.ReadFile(filepath.Join(w.dir, "run/manifest.json")); err != nil || !bytes.Equal(b, w.signed.Manifest) {
		t.Errorf("manifest: %v", err)
	}
	w.wantConsole("nereid: base.squashfs 800 kB", "nereid: Entering platform 20261122T101500Z")
}

func cutAfter(n int, w *world, name string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		b := w.layers[name]
		rw.Header().Set("ETag", `"`+name+`"`)
		rw.Header().Set("Content-Length", fmt.Sprint(len(b)))
		_, _ = rw.Write(b[:n])
		rw.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func status(code int, text string) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, text, code) }
}

// What goes wrong is told in words, on the console and to the boot server, and
// the boot goes on once it is mended.
func TestBootMends(t *testing.T) {
	body := func(b []byte) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(b) }
	}
	for _, tt := range []struct {
		name    string
		fault   func(w *world)
		console string
	}{
		{"cut in a layer", func(w *world) { w.wrong["base.squashfs"] = []http.HandlerFunc{cutAfter(300_000, w, "base.squashfs")} },
			"Getting base.squashfs from http://127.0.0.1"},
		{"403", func(w *world) {
			w.wrong["manifest.json"] = []http.HandlerFunc{status(403, "10.9.9.9 is not leased to this boot; boot again")}
		},
			"does not give this server manifest.json: 10.9.9.9 is not leased to this boot; boot again."},
		{"404", func(w *world) {
			w.wrong["base.squashfs"] = []http.HandlerFunc{status(404, "file is not in the store; import the platform")}
		},
			"does not have base.squashfs: file is not in the store; import the platform."},
		{"410", func(w *world) { w.wrong["manifest.sig"] = []http.HandlerFunc{status(410, "a newer boot began")} },
			"no longer gives manifest.sig: a newer boot began."},
		{"503", func(w *world) {
			w.wrong["manifest.json"] = []http.HandlerFunc{status(503, "starting"), status(503, "still starting")}
		},
			"cannot give manifest.json now: still starting."},
		{"wrong bytes", func(w *world) {
			b := bytes.Clone(w.layers["base.squashfs"])
			b[70] ^= 1
			w.wrong["base.squashfs"] = []http.HandlerFunc{body(b)}
		}, "The bytes of base.squashfs are not those the signed manifest names: SHA-256 is "},
		{"truncated layer", func(w *world) { w.wrong["base.squashfs"] = []http.HandlerFunc{body(w.layers["base.squashfs"][:1000])} },
			"The length of base.squashfs is not what the signed manifest says: size is 1000 bytes, not 800000"},
		{"wrong signature", func(w *world) { w.wrong["manifest.sig"] = []http.HandlerFunc{body(make([]byte, 64))} },
			"is not signed with the key this boot was given"},
		{"short signature", func(w *world) { w.wrong["manifest.sig"] = []http.HandlerFunc{body(nil)} },
			"is not signed with the key this boot was given"},
		{"changed manifest", func(w *world) {
			w.wrong["manifest.json"] = []http.HandlerFunc{body(bytes.Replace(w.signed.Manifest, []byte("base"), []byte("BASE"), 1))}
		}, "is not signed with the key this boot was given"},
		{"endless manifest", func(w *world) {
			w.wrong["manifest.json"] = []http.HandlerFunc{body(make([]byte, images.MaxManifest+1))}
		},
			"more bytes than"},
		{"no NIC", func(w *world) { w.networkErr = []error{(&nicMissing{}).err()} }, "did not appear: the kernel shows no NIC at all"},
		{"overlay", func(w *world) { w.assembleErr = []error{errors.New("mount squashfs: invalid argument")} },
			"do not make a root filesystem: mount squashfs: invalid argument"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.fault(w)
			w.run()
			w.wantConsole(tt.console, "Trying again in ", "Entering platform")
			stages := w.stages()
			if !strings.HasSuffix(stages, "root switch-root") || w.reboots != 0 {
				t.Errorf("events %s, %d restarts", stages, w.reboots)
			}
			if tt.name != "no NIC" && !strings.Contains(stages, "failed") {
				t.Errorf("the failure was not reported: %s", stages)
			}
			if tt.name == "cut in a layer" && !strings.Contains(strings.Join(w.asked, ";"), "base.squashfs bytes=300000-") {
				t.Errorf("not resumed: %q", w.asked)
			}
		})
	}
}

type nicMissing struct{}

func (*nicMissing) err() error {
	return problem("The NIC did not appear", "the kernel shows no NIC at all", "", nil)
}

// A manifest that is properly signed but of another platform is not used: an old
// platform with known holes must not come back.
func TestBootWrongStamp(t *testing.T) {
	w := newWorld(t)
	var m api.Manifest
	if err := json.Unmarshal(w.signed.Manifest, &m); err != nil {
		t.Fatal(err)
	}
	m.Stamp = "20200101T000000Z"
	w.sign(m, testKey())
	w.run()
	w.wantConsole("The manifest is of platform 20200101T000000Z, but this boot was promised 20261122T101500Z", "The server restarts in")
	if w.reboots != 1 || len(w.steps) != 1 {
		t.Errorf("%d restarts, steps %q; want one restart after ten minutes and nothing mounted", w.reboots, w.steps)
	}
	if w.clock < giveUp || w.clock > giveUp+130 {
		t.Errorf("restarted after %.0f s", w.clock)
	}
}

// The boot server stays away: the stub restarts the server after ten minutes.
func TestBootGivesUp(t *testing.T) {
	w := newWorld(t)
	w.server.Close()
	w.run()
	w.wantConsole("refuses connections, so manifest.json did not come: nothing listens there; is nereid-headnode running?", "The server restarts in")
	if w.reboots != 1 || w.clock < giveUp || w.clock > giveUp+130 {
		t.Errorf("%d restarts, at %.0f s", w.reboots, w.clock)
	}
}

// What a retry cannot mend restarts the server at once.
func TestBootFinal(t *testing.T) {
	for _, tt := range []struct {
		name, console string
		fault         func(w *world)
	}{
		{"no configuration", "config.cpio was not loaded by iPXE", func(w *world) { w.stub.Paths.Config += "x" }},
		{"bad configuration", "The boot configuration cannot be used", func(w *world) {
			if err := os.WriteFile(w.stub.Paths.Config, []byte("{"), 0o600); err != nil {
				w.t.Fatal(err)
			}
		}},
		{"bad argument", "want nereid.root=disk:vdb", func(w *world) { w.stub.Cmdline = "nereid.root=disk:/x" }},
		{"no init", "could not be entered", func(w *world) { w.stub.Kernel = noInit{w} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			tt.fault(w)
			w.run()
			w.wantConsole(tt.console, "The server restarts in 30 s.")
			if w.reboots != 1 {
				t.Errorf("%d restarts", w.reboots)
			}
		})
	}
}

type noInit struct{ *world }

func (noInit) Enter(string) error { return os.ErrNotExist }

func TestBootMemory(t *testing.T) {
	w := newWorld(t)
	w.stub.Machine.Meminfo = func() (string, error) { return "MemTotal: 200000 kB\nMemAvailable: 100000 kB\n", nil }
	w.run()
	w.wantConsole("Platform 20261122T101500Z does not fit into this server's memory: its layers take 805 kB", "add memory or assign a platform with fewer layers")
	if w.reboots != 1 || strings.Contains(strings.Join(w.asked, " "), "squashfs") {
		t.Errorf("%d restarts; asked for %q", w.reboots, w.asked)
	}
}

// TestBootDisk boots from a tar on a disk, then from damaged ones.
func TestBootDisk(t *testing.T) {
	for _, tt := range []struct {
		name, console string
		change        func(files map[string][]byte)
	}{
		{"good", "Entering platform", func(map[string][]byte) {}},
		{"changed layer", "The bytes of base.squashfs on /dev/vdb are not those the signed manifest names", func(f map[string][]byte) {
			f["base.squashfs"] = bytes.Replace(f["base.squashfs"], []byte("base"), []byte("BASE"), 1)
		}},
		{"short layer", "The length of base.squashfs on /dev/vdb", func(f map[string][]byte) { f["base.squashfs"] = f["base.squashfs"][1:] }},
		{"no layer", "The disk has no layer nereid.squashfs", func(f map[string][]byte) { delete(f, "nereid.squashfs") }},
		{"no configuration", "The disk has no boot.json", func(f map[string][]byte) { delete(f, "boot.json") }},
		{"other signature", "is not signed with the key", func(f map[string][]byte) { f["manifest.sig"] = make([]byte, 64) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			files := map[string][]byte{"boot.json": encodeJSON(t, testConfig(w.server.URL)), "manifest.json": w.signed.Manifest, "manifest.sig": w.signed.Signature}
			for n, b := range w.layers {
				files[n] = bytes.Clone(b)
			}
			tt.change(files)
			var disk bytes.Buffer
			tw := tar.NewWriter(&disk)
			for n, b := range files {
				if err := tw.WriteHeader(&tar.Header{Name: n, Size: int64(len(b)), Mode: 0o600, Format: tar.FormatUSTAR}); err != nil {
					t.Fatal(err)
				}
				if _, err := tw.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			if err := tw.Close(); err != nil {
				t.Fatal(err)
			}
			disk.Write(make([]byte, 1<<20)) // disks are larger than what is on them
			w.stub.Cmdline = "nereid.root=disk:vdb"
			w.stub.Machine.OpenDisk = func(path string) (Disk, error) {
				if path != "/dev/vdb" {
					return Disk{}, os.ErrNotExist
				}
				return Disk{ReaderAt: bytes.NewReader(disk.Bytes()), Closer: http.NoBody, Size: int64(disk.Len())}, nil
			}
			w.run()
			w.wantConsole(tt.console)
			if entered := w.reboots == 0; entered != (tt.name == "good") {
				t.Errorf("%d restarts", w.reboots)
			}
			if strings.Contains(strings.Join(w.asked, " "), "squashfs") {
				t.Errorf("asked the boot server for %q", w.asked)
			}
		})
	}
}

func FuzzTarball(f *testing.F) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	_ = tw.WriteHeader(&tar.Header{Name: "boot.json", Size: 2})
	_, _ = tw.Write([]byte("{}"))
	_ = tw.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		tb, err := readTarball(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for name := range tb.files {
			if data, err := tb.small(name, 4096); err == nil && len(data) > 4096 {
				t.Errorf("%q: %d bytes", name, len(data))
			}
		}
	})
}
