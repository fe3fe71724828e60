//go:build netns

package bootserver_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
)

// clientNS makes a namespace with one interface c0 on the admin network.
func clientNS(t *testing.T, mac string) string {
	t.Helper()
	ns := fmt.Sprintf("nereid-bs-%d-%s", os.Getpid(), strings.ReplaceAll(mac[12:], ":", ""))
	ip(t, "netns add "+ns)
	t.Cleanup(func() {
		// dhcpcd's helpers outlive it; SIGTERM does not end them.
		end(t, ns, "-KILL")
		ip(t, "netns del "+ns)
	})
	port := "p" + strings.ReplaceAll(mac[9:], ":", "")
	ip(t, "link add "+port+" type veth peer name c0 netns "+ns)
	t.Cleanup(func() { ip(t, "link del "+port) }) // at once; a namespace ends later
	ip(t, "link set "+port+" master admin0 up")
	ip(t, "-n "+ns+" link set c0 address "+mac+" up")
	ip(t, "-n "+ns+" link set lo up")
	return ns
}

// inNS runs a program in a namespace and returns what it printed.
func inNS(t *testing.T, ns string, limit time.Duration, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", ns, name}, args...)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// envScript writes a DHCP client's hook that appends its environment to a file
// and configures nothing. It is also a blank configuration file to those clients
// that would read the host's.
func envScript(t *testing.T) (script, output string) {
	t.Helper()
	dir := t.TempDir()
	script, output = filepath.Join(dir, "hook"), filepath.Join(dir, "env")
	text := "#!/bin/sh\necho \"event=$1\" >> " + output + "\nenv >> " + output + "\nexit 0\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	return script, output
}

func contains(t *testing.T, what, text string, wants ...string) {
	t.Helper()
	for _, w := range wants {
		if !strings.Contains(text, w) {
			t.Errorf("%s lacks %q:\n%s", what, w, text)
		}
	}
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dhcpClients are foreign clients: what to run, and what the hook must have seen.
// class is the vendor class to send, empty for the client's own.
var dhcpClients = map[string]struct {
	run  func(t *testing.T, ns, script, class string) (string, error)
	want []string
}{
	"udhcpc": {func(t *testing.T, ns, script, class string) (string, error) {
		args := []string{"-i", "c0", "-f", "-q", "-n", "-t", "3", "-T", "1", "-s", script, "-O", "ntpsrv"}
		if class != "" {
			args = append(args, "-V", class)
		}
		return inNS(t, ns, 20*time.Second, "udhcpc", args...)
	}, []string{"ip=10.99.99.100", "subnet=255.255.255.0", "serverid=10.99.99.7", "lease=43200", "domain=coal.example.com"}},
	"dhclient": {func(t *testing.T, ns, script, class string) (string, error) {
		dir := t.TempDir()
		conf := filepath.Join(dir, "conf")
		text := "timeout 6;\n"
		if class != "" {
			text += "send vendor-class-identifier \"" + class + "\";\n"
		}
		if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return inNS(t, ns, 30*time.Second, "dhclient", "-4", "-1", "-d", "-v", "-sf", script, "-cf", conf,
			"-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid"), "--no-pid", "c0")
	}, []string{"reason=BOUND", "new_ip_address=10.99.99.100", "new_subnet_mask=255.255.255.0", "new_domain_name=coal.example.com", "new_dhcp_server_identifier=10.99.99.7"}},
	"dhcpcd": {func(t *testing.T, ns, script, class string) (string, error) {
		args := []string{"-4", "-T", "-t", "8", "-f", "/dev/null", "-o", "domain_name", "--script", script}
		if class != "" {
			args = append(args, "-i", class)
		}
		return inNS(t, ns, 20*time.Second, "dhcpcd", append(args, "c0")...)
	}, []string{"reason=TEST", "new_ip_address=10.99.99.100", "new_subnet_mask=255.255.255.0", "new_dhcp_server_identifier=10.99.99.7"}},
}

// TestNetNSForeignDHCPClients: udhcpc, dhclient and dhcpcd get a lease as any
// client, and as a platform; without a class they get none from a server for
// firmware only.
func TestNetNSForeignDHCPClients(t *testing.T) {
	for name, client := range dhcpClients {
		for _, tc := range []struct {
			clients, class string
			answered       bool
		}{{"all", "", true}, {"pxe", "nereid-platform", true}, {"pxe", "", false}} {
			t.Run(fmt.Sprintf("%s for %s class %q", name, tc.clients, tc.class), func(t *testing.T) {
				b := newBooter(t, []byte("kernel"), []byte("initrd"))
				start(t, b, tc.clients)
				ns := clientNS(t, "52:54:00:00:01:01")
				script, output := envScript(t)
				ended := make(chan struct{})
				var out string
				go func() {
					defer close(ended)
					// dhclient in the foreground stays; it is ended by its limit.
					out, _ = client.run(t, ns, script, tc.class)
				}()
				if !tc.answered {
					<-ended
					if len(b.Asked()) != 0 {
						t.Errorf("the Booter was asked %+v", b.Asked())
					}
					if text, err := os.ReadFile(output); err == nil && strings.Contains(string(text), "10.99.99.100") {
						t.Errorf("%s got a lease:\n%s", name, text)
					}
					return
				}
				got := func() bool {
					text, err := os.ReadFile(output)
					return err == nil && strings.Contains(string(text), client.want[0]) && strings.Contains(string(text), client.want[1])
				}
				for tick := time.NewTicker(50 * time.Millisecond); !got(); {
					select {
					case <-tick.C: // the hook writes a file; nothing announces that
						continue
					case <-ended:
					}
					tick.Stop()
					break
				}
				text, _ := os.ReadFile(output)
				contains(t, name+"'s hook", string(text), client.want...)
				if strings.Contains(string(text), "undionly") {
					t.Error("an operating system was told a boot file")
				}
				if t.Failed() {
					t.Logf("%s printed:\n%s", name, out)
				}
				if name == "dhclient" {
					end(t, ns, "-TERM")
				}
				<-ended
			})
		}
	}
}

// end sends a signal to what still runs in a namespace.
func end(t *testing.T, ns, signal string) {
	t.Helper()
	out, err := exec.Command("ip", "netns", "pids", ns).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range strings.Fields(string(out)) {
		if err := exec.Command("kill", signal, pid).Run(); err != nil {
			t.Logf("kill %s %s: %v", signal, pid, err)
		}
	}
}

// TestNetNSInitReboot: a client that comes back with another network's address,
// and one with another machine's, hear NAK and get their own.
func TestNetNSInitReboot(t *testing.T) {
	for _, old := range []string{"192.168.77.5", "10.99.99.222"} {
		t.Run(old, func(t *testing.T) {
			b := newBooter(t, []byte("kernel"), []byte("initrd"))
			start(t, b, "all")
			ns := clientNS(t, "52:54:00:00:01:02")
			script, output := envScript(t)
			dir := t.TempDir()
			conf, leases := filepath.Join(dir, "conf"), filepath.Join(dir, "leases")
			lease := "lease {\n  interface \"c0\";\n  fixed-address " + old + ";\n  option subnet-mask 255.255.255.0;\n" +
				"  option dhcp-server-identifier 10.99.99.9;\n  renew 4 2099/01/01 00:00:00;\n  rebind 4 2099/01/01 00:00:00;\n  expire 4 2099/01/01 00:00:00;\n}\n"
			for path, text := range map[string]string{conf: "timeout 10;\n", leases: lease} {
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			// Without -d dhclient goes to the background once it has a lease.
			out, err := inNS(t, ns, 30*time.Second, "dhclient", "-4", "-1", "-v", "-sf", script, "-cf", conf, "-lf", leases, "-pf", filepath.Join(dir, "pid"), "c0")
			t.Cleanup(func() { end(t, ns, "-TERM") })
			if err != nil {
				t.Fatalf("dhclient: %v\n%s", err, out)
			}
			contains(t, "dhclient", out, "DHCPREQUEST for "+old, "DHCPNAK from 10.99.99.7", "bound to 10.99.99.100")
			contains(t, "the hook", readAll(t, output), "new_ip_address=10.99.99.100")
		})
	}
}

// TestNetNSRelease: dhclient gives its lease back, and the Booter hears.
func TestNetNSRelease(t *testing.T) {
	b := newBooter(t, []byte("kernel"), []byte("initrd"))
	start(t, b, "all")
	ns := clientNS(t, "52:54:00:00:01:03")
	dir := t.TempDir()
	// A RELEASE is unicast from the leased address, so the hook sets it.
	script, conf := filepath.Join(dir, "hook"), filepath.Join(dir, "conf")
	text := "#!/bin/sh\n[ \"$reason\" = BOUND ] && ip addr add $new_ip_address/24 dev c0\nexit 0\n"
	for path, text := range map[string]string{script: text, conf: "timeout 10;\n"} {
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	files := []string{"-4", "-v", "-sf", script, "-cf", conf, "-lf", filepath.Join(dir, "leases"), "-pf", filepath.Join(dir, "pid")}
	t.Cleanup(func() { end(t, ns, "-TERM") })
	for _, what := range []string{"-1", "-r"} {
		out, err := inNS(t, ns, 20*time.Second, "dhclient", append(append([]string{what}, files...), "c0")...)
		if err != nil {
			t.Fatalf("dhclient %s: %v\n%s", what, err, out)
		}
	}
	limit := time.After(10 * time.Second)
	for tick := time.NewTicker(20 * time.Millisecond); ; {
		asked := b.Asked()
		last := asked[len(asked)-1]
		if last.Kind == api.KindRelease {
			if last.Requested.String() != "10.99.99.100" {
				t.Errorf("released %s", last.Requested)
			}
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("no RELEASE; asked %+v", asked)
		}
	}
}

// TestNetNSCurl: curl resumes, asks for ranges, and gets nothing from outside.
func TestNetNSCurl(t *testing.T) {
	layer := make([]byte, 3<<20)
	for i := range layer {
		layer[i] = byte(i * 31 >> 4)
	}
	b := newBooter(t, []byte("kernel"), []byte("initrd"), layer)
	start(t, b, "pxe")
	f := b.Platform.Layers[0]
	url := "http://10.99.99.7/files/" + f.SHA256 + "/" + f.Name
	out := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(out, layer[:1_000_001], 0o600); err != nil {
		t.Fatal(err)
	}
	curl := func(args ...string) string {
		t.Helper()
		b, err := exec.CommandContext(t.Context(), "curl", append([]string{"-sS", "--max-time", "20"}, args...)...).CombinedOutput()
		if err != nil {
			t.Errorf("curl %v: %v %s", args, err, b)
		}
		return string(b)
	}
	curl("--fail", "-C", "-", "-o", out, url)
	if got := readAll(t, out); got != string(layer) {
		t.Errorf("resumed file has %d bytes or differs", len(got))
	}
	if got := curl("--fail", "-r", "100-199", url); got != string(layer[100:200]) {
		t.Errorf("range: %q", got)
	}
	if got := curl("--fail", "-r", "-5", url); got != string(layer[len(layer)-5:]) {
		t.Errorf("suffix range: %q", got)
	}
	contains(t, "HEAD", curl("--fail", "-I", url), "Content-Length: 3145728", "Accept-Ranges: bytes", "Etag: \""+f.SHA256)
	for _, path := range []string{"/../../etc/passwd", "/files/../../../etc/passwd", "/ipxe/../../../etc/passwd", "/ipxe/%2e%2e/%2e%2e/etc/passwd", "/files/%2e%2e%2f%2e%2e%2fetc%2fpasswd/x"} {
		got := curl("--path-as-is", "-w", "%{http_code}", "http://10.99.99.7"+path)
		if !strings.HasSuffix(got, "404") || strings.Contains(got, "root:") {
			t.Errorf("%s: %s", path, got)
		}
	}
}
