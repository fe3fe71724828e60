package mdata

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"nereid/api"
)

// values is a source of what it has.
type values map[string]string

func (v values) Get(key string) (string, bool, error) { s, ok := v[key]; return s, ok, nil }
func (v values) Keys() ([]string, error)              { return slices.Sorted(maps.Keys(v)), nil }
func (v values) Put(key, value string) error {
	if strings.HasPrefix(key, "sdc:") {
		return errors.New(`Cannot update the "sdc" Namespace`)
	}
	v[key] = value
	return nil
}
func (v values) Delete(key string) error { delete(v, key); return nil }

// request is a frame as a client sends it.
func request(id, word, data string) string {
	return string(Frame{ID: id, Word: word, Data: []byte(data)}.Append(nil))
}

// TestAnswer: the bytes of each answer, of both versions. Frames with a comment are of
// issues of cloud-init's (3151, 3109), whose sums others computed.
func TestAnswer(t *testing.T) {
	full := values{"a": "1", "b": ".x\ny", "empty": ""}
	for _, tt := range []struct {
		what string
		src  values
		line string
		want string
	}{
		{"no keys", values{}, "V2 13 d8094091 1055c865 KEYS", "V2 16 b23eb5d0 1055c865 SUCCESS\n"}, // cloud-init 3151
		{"an empty list", values{"sdc:routes": "[]"}, "V2 29 459961e2 d133c055 GET c2RjOnJvdXRlcw==", "V2 21 0e6e7ec8 d133c055 SUCCESS W10=\n"},
		{"an empty value", full, strings.TrimSpace(request("00000001", Get, "empty")), request("00000001", Success, "")},
		{"no such key", full, strings.TrimSpace(request("00000001", Get, "x")), request("00000001", NotFound, "")},
		{"keys", full, strings.TrimSpace(request("00000001", Keys, "")), request("00000001", Success, "a\nb\nempty")},
		{"put", values{}, strings.TrimSpace(request("0000000a", Put, "aw== dg==")), request("0000000a", Success, "OK")},
		{"put of the datacenter's", values{}, strings.TrimSpace(request("0000000a", Put, "c2RjOmE= dg==")), request("0000000a", Failure, `Cannot update the "sdc" Namespace`)},
		{"put of half", values{}, strings.TrimSpace(request("0000000a", Put, "aw==")), request("0000000a", Failure, "want the key and the value in base64, with a space between them")},
		{"delete of what is not there", values{}, strings.TrimSpace(request("0000000a", Delete, "k")), request("0000000a", Success, "OK")},
		{"another command", values{}, strings.TrimSpace(request("0000000a", "DROP", "k")), request("0000000a", Failure, "invalid command")},
		{"a wrong sum", full, "V2 13 d8094092 1055c865 KEYS", ""},
		{"a wrong length", full, "V2 12 d8094091 1055c865 KEYS", ""},
		{"a signed length", full, "V2 +13 d8094091 1055c865 KEYS", ""},
		{"half a frame", full, "V2 13 d80940", ""},
		{"negotiate", full, "NEGOTIATE V2", "V2_OK\n"},
		{"negotiate another", full, "NEGOTIATE V3", "FAILURE\n"},
		{"nothing", full, "", "invalid command\n"},
		{"a carriage return", full, "\r", "invalid command\n"},
		{"garbage", full, "\x00\xff HELO", "invalid command\n"},
		{"get, version 1", full, "GET b", "SUCCESS\n..x\ny\n.\n"},
		{"none, version 1", full, "GET x", "NOTFOUND\n"},
		{"nothing to get", full, "GET", "invalid command\n"},
		{"keys, version 1", full, "KEYS", "SUCCESS\na\nb\nempty\n.\n"},
		{"put, version 1", full, "PUT a", "invalid command\n"},
	} {
		if d := cmp.Diff(tt.want, string(Answer(tt.src, []byte(tt.line)))); d != "" {
			t.Errorf("%s: %s", tt.what, d)
		}
	}
}

// TestGuest: a guest reads what its operators, its customer and the datacenter say of
// it, with types as text, and changes none but the customer's.
func TestGuest(t *testing.T) {
	g := Guest{Server: "s", InstanceSpec: api.InstanceSpec{UUID: "u", Owner: "o", Name: "web0", Hostname: "web0", DNSDomain: "example.com", Datacenter: "coal", Brand: api.BrandLX,
		Image: "i", Package: "p", Limits: api.Limits{MemoryMiB: 512, SwapMiB: 512, VCPUs: 2, QuotaMiB: 1536}, Resolvers: []string{"10.0.0.53"},
		Tags:     map[string]any{"role": "web", "a.b": true},
		Metadata: map[string]any{"n": 3.0, "big": 1e21, "t": true, "s": "x y\n", "root_authorized_keys": "ssh-ed25519 A\n", "ns:k": "mine", "free:k": "f"},
		Internal: map[string]any{"ns:k": "theirs", "root_pw": "secret", "operator-script": "#!/bin/sh\n", "hidden": "h"},
		NICs: []api.InstanceNIC{{Interface: "net0", MAC: "02:00:00:00:00:01", Network: "w", MTU: 1400, Primary: true,
			Addresses: []api.PortAddress{{Address: "10.0.0.9/20", Gateway: "10.0.0.1", Routes: map[string]string{"10.9.0.0/16": "10.0.0.2"}}, {Address: "fd00::9/64"}}}}}}
	for key, want := range map[string]string{
		"n": "3", "big": "1e+21", "t": "true", "s": "x y\n", "root_authorized_keys": "ssh-ed25519 A\n",
		"ns:k": "theirs", "free:k": "f", "root_pw": "secret", "hidden": "none", "operator-script": "none",
		"sdc:uuid": "u", "sdc:server_uuid": "s", "sdc:owner_uuid": "o", "sdc:alias": "web0", "sdc:hostname": "web0", "sdc:dns_domain": "example.com",
		"sdc:datacenter_name": "coal", "sdc:image_uuid": "i", "sdc:billing_id": "p", "sdc:max_physical_memory": "512", "sdc:ram": "512",
		"sdc:vcpus": "2", "sdc:quota": "1.5", "sdc:brand": "lx", "sdc:resolvers": `["10.0.0.53"]`, "sdc:volumes": "[]",
		"sdc:routes": `[{"dst":"10.9.0.0/16","gateway":"10.0.0.2","linklocal":false}]`,
		"sdc:nics": `[{"gateway":"10.0.0.1","gateways":["10.0.0.1"],"interface":"net0","ip":"10.0.0.9","ips":["10.0.0.9/20","fd00::9/64"],` +
			`"mac":"02:00:00:00:00:01","mtu":1400,"netmask":"255.255.240.0","network_uuid":"w","primary":true}]`,
		"sdc:nics.0.ip": "10.0.0.9", "sdc:nics.1.ip": "none", "sdc:nics.x": "none", "sdc:tags.role": "web", "sdc:tags.a.b": "true", "sdc:tags.x": "none",
		"sdc:operator-script": "#!/bin/sh\n", "sdc:vendor-data": "none", "sdc:": "none", "sdc:uuid.x": "none", "x": "none", "": "none",
	} {
		if got, ok := g.Get(key); got != want && (ok || want != "none") {
			t.Errorf("%s: %q, %v; want %q", key, got, ok, want)
		}
	}
	if got := strings.Join(g.Keys(), " "); got != "big free:k n ns:k root_authorized_keys root_pw s t" {
		t.Errorf("keys: %s", got)
	}
	for key, ok := range map[string]bool{"k": true, "free:k": true, "sdc:uuid": false, "sdc:x": false, "ns:new": false, "x_pw": false, "": false,
		"a b": false, "a\nb": false, "\xff": false, strings.Repeat("k", 256): false, strings.Repeat("k", 255): true} {
		if err := g.Writable(key); (err == nil) != ok {
			t.Errorf("%.20q: %v", key, err)
		}
	}
	if err := g.Fits("k", strings.Repeat("x", maxTotal)); err == nil {
		t.Error("more than all metadata may have is taken")
	}
	if g.Fits("k", "\xff") == nil || g.Fits("k", "v") != nil {
		t.Error("want text alone")
	}
}

// pair is a served line and its other end.
func pair(t *testing.T, l Line, src Source) (c net.Conn, ended <-chan error) {
	near, far := net.Pipe()
	l.Conn = far
	done := make(chan error, 1)
	go func() { done <- Serve(t.Context(), l, src) }()
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, done
}

// TestServe: requests that come in pieces are answered, each with its own id; what was
// cut is forgotten by the next line, or after a while.
func TestServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, done := pair(t, Line{Serial: true}, values{"a": "1"})
		send := func(s string) {
			t.Helper()
			if _, err := c.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		buf := make([]byte, 4096)
		expect := func(want string) {
			t.Helper()
			n, err := c.Read(buf)
			if err != nil || string(buf[:n]) != want {
				t.Fatalf("%q, %v; want %q", buf[:n], err, want)
			}
		}
		get := request("00000007", Get, "a")
		send("NEGOTI")
		time.Sleep(time.Second)
		send("ATE V2\n")
		expect("V2_OK\n")
		send(get[:9])
		send("\n") // another guest program begins
		synctest.Wait()
		send(get)
		expect(request("00000007", Success, "1"))
		send(get[:9])
		time.Sleep(lineLimit + time.Second) // and died
		send(get)
		expect(request("00000007", Success, "1"))
		send(strings.Repeat("x", MaxLine) + "xx")
		send("x\n")
		expect("invalid command\n")
		c.Close()
		if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	})
}

// TestServeStuck: a guest that does not read holds up its own line for a while, and is
// answered again when it does.
func TestServeStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unread atomic.Int32
		c, _ := pair(t, Line{Serial: true, Stuck: func(u bool) {
			if u {
				unread.Add(1)
			}
		}}, values{"a": "1"})
		if _, err := c.Write([]byte("GET a\n")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(writeLimit + time.Second)
		if unread.Load() != 1 {
			t.Fatalf("unread answers: %d", unread.Load())
		}
		if _, err := c.Write([]byte("GET a\n")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64)
		if n, err := c.Read(buf); err != nil || string(buf[:n]) != "SUCCESS\n1\n.\n" {
			t.Errorf("%q, %v", buf[:n], err)
		}
	})
}

// TestServeFlood: requests without an end are answered at a bounded rate, and long lines
// without an end have no more memory than there are slots for.
func TestServeFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		large := make(chan struct{}, 1)
		c, _ := pair(t, Line{Serial: true, Large: large}, values{})
		var answers atomic.Int32
		go func() {
			buf := make([]byte, 4096)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				answers.Add(int32(bytes.Count(buf[:n], []byte("\n"))))
			}
		}()
		go func() {
			for {
				if _, err := c.Write([]byte(strings.Repeat("GET a\n", 100))); err != nil {
					return
				}
			}
		}()
		time.Sleep(10 * time.Second)
		if n := answers.Load(); n < 1000 || n > int32(burst+10*time.Second/pace) {
			t.Errorf("%d answers in 10 s", n)
		}
		a, _ := pair(t, Line{Serial: true, Large: large}, values{})
		b, _ := pair(t, Line{Serial: true, Large: large}, values{})
		for _, c := range []net.Conn{a, b} {
			if _, err := c.Write(bytes.Repeat([]byte("x"), 2*small)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if len(large) != 1 {
			t.Errorf("%d slots are taken", len(large))
		}
		time.Sleep(lineLimit + time.Second)
		if len(large) != 0 {
			t.Errorf("%d slots are taken of lines that were forgotten", len(large))
		}
	})
}

// TestClient: our client gets what our server has.
func TestClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, done := pair(t, Line{}, values{"a": "1\n2"})
		m, err := Dial(c)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := m.Get("a"); v != "1\n2" || err != nil {
			t.Errorf("%q, %v", v, err)
		}
		if _, err := m.Get("b"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		var refused RefusedError
		if err := m.Put("sdc:x", "y"); !errors.As(err, &refused) {
			t.Error(err)
		}
		if err := errors.Join(m.Put("k", "v"), m.Delete("a")); err != nil {
			t.Error(err)
		}
		if keys, err := m.Keys(); err != nil || fmt.Sprint(keys) != "[k]" {
			t.Errorf("%v, %v", keys, err)
		}
		c.Close()
		if err := <-done; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Error(err)
		}
	})
}

// FuzzAnswer: whatever comes is answered by nothing, by lines, or by one frame that
// checks and has the request's id.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{"", "NEGOTIATE V2", "GET a", "KEYS", "V2 13 d8094091 1055c865 KEYS", "V2 29 459961e2 d133c055 GET c2RjOnJvdXRlcw=="} {
		f.Add([]byte(s))
	}
	f.Add([]byte(strings.TrimSpace(request("1", Put, "aw== dg=="))))
	f.Fuzz(func(t *testing.T, line []byte) {
		line = bytes.ReplaceAll(line, []byte("\n"), nil)
		out := Answer(values{"a": "1"}, line)
		if len(out) == 0 {
			return
		}
		if out[len(out)-1] != '\n' {
			t.Fatalf("%q has no end", out)
		}
		if q, err := ParseFrame(bytes.TrimSuffix(line, []byte("\r"))); err == nil {
			if a, err := ParseFrame(out[:len(out)-1]); err != nil || a.ID != q.ID {
				t.Fatalf("%q: %q: %v", line, out, err)
			}
		}
	})
}

// FuzzSplit: lines are the same however they come in pieces.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("GET a\nKEYS\n\nx"), 3)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		n = max(n, 1)
		var got []string
		var s splitter
		for piece := range slices.Chunk(data, n) {
			s.feed(piece, func(line []byte) { got = append(got, string(line)) })
		}
		want := strings.Split(string(data), "\n")
		if d := cmp.Diff(want[:len(want)-1], got); d != "" && len(want)+len(got) > 1 && len(data) < MaxLine {
			t.Fatal(d)
		}
	})
}
