package trust

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

const uuid = "11111111-2222-3333-4444-555555555555"

var t0 = time.Now().Truncate(time.Second)

func newCA(t *testing.T) *CA {
	t.Helper()
	ca, err := LoadCA(filepath.Join(t.TempDir(), "ca.pem"), "coal", t0)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func newStore(t *testing.T) store.Store {
	t.Helper()
	st, err := store.OpenBolt(context.Background(), filepath.Join(t.TempDir(), "db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func update(t *testing.T, st store.Store, fn func(store.Tx) error) error {
	t.Helper()
	return st.Update(context.Background(), fn)
}

func code(err error) api.Code {
	var p *api.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return ""
}

func TestCAIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.pem")
	a, err := LoadCA(path, "coal", t0)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", st.Mode(), err)
	}
	if left := a.cert.NotAfter.Sub(t0); left < 9*365*24*time.Hour || !a.cert.IsCA {
		t.Errorf("CA until %v", a.cert.NotAfter)
	}
	b, err := LoadCA(path, "coal", t0)
	if err != nil || a.SHA256() != b.SHA256() {
		t.Errorf("read again: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(path, "coal", t0); err == nil || !strings.Contains(err.Error(), "others may read") {
		t.Errorf("readable by others: %v", err)
	}
	for _, damaged := range []string{"", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadCA(path, "coal", t0); err == nil {
			t.Errorf("damaged CA %q was accepted", damaged)
		}
	}
}

func makeCSR(t *testing.T, key any, cn string, ext ...pkix.Extension) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, ExtraExtensions: ext, DNSNames: []string{"evil.example.com"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func p256(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignIgnoresWhatTheCSRAsksFor(t *testing.T) {
	ca := newCA(t)
	basicCA := pkix.Extension{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}
	r, err := ParseCSR(makeCSR(t, p256(t), uuid, basicCA))
	if err != nil {
		t.Fatal(err)
	}
	text, until, err := ca.Sign(r)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode([]byte(text))
	c, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if c.IsCA || len(c.DNSNames) != 0 || c.Subject.CommonName != uuid || len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || !c.NotAfter.Equal(until) {
		t.Errorf("certificate: CA %v, names %v, CN %s, usage %v, until %v", c.IsCA, c.DNSNames, c.Subject.CommonName, c.ExtKeyUsage, c.NotAfter)
	}
	if d := time.Until(until); d < 23*time.Hour || d > 24*time.Hour {
		t.Errorf("valid for %v", d)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: ca.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
}

func TestParseCSR(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := makeCSR(t, p256(t), uuid)
	block, _ := pem.Decode([]byte(good))
	forged := append([]byte{}, block.Bytes...)
	forged[len(forged)-1] ^= 1
	for what, in := range map[string]string{
		"empty": "", "RSA": makeCSR(t, rsaKey, uuid), "P-384": makeCSR(t, p384, uuid), "no name": makeCSR(t, p256(t), ""),
		"two": good + good, "forged": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged})),
		"other type": strings.ReplaceAll(good, "CERTIFICATE REQUEST", "CERTIFICATE"),
	} {
		if _, err := ParseCSR(in); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	if r, err := ParseCSR(good); err != nil || r.UUID != uuid || len(r.Key) != 64 {
		t.Errorf("good: %+v %v", r, err)
	}
}

func TestServerCertificateIsRenewed(t *testing.T) {
	ca := newCA(t)
	now := t0
	ca.Now = func() time.Time { return now }
	cfg := ca.TLSConfig([]netip.Addr{netip.MustParseAddr("10.99.99.7")}, []string{"nereid-headnode"})
	get := func() *tls.Certificate {
		c, err := cfg.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := get()
	if get() != first {
		t.Error("a good certificate was replaced")
	}
	if len(first.Certificate) != 2 {
		t.Error("the CA is not in the chain")
	}
	if err := first.Leaf.VerifyHostname("10.99.99.7"); err != nil {
		t.Error(err)
	}
	now = now.Add(ServerLife*2/3 + time.Minute)
	second := get()
	if second == first || !second.Leaf.NotAfter.After(first.Leaf.NotAfter) {
		t.Error("an old certificate was not renewed")
	}
	now = t0.Add(-3 * time.Hour) // the clock was set back
	if get() == second {
		t.Error("a certificate of the future is still used")
	}
}

func TestTLSWithClientCertificates(t *testing.T) {
	ca, other := newCA(t), newCA(t)
	client := func(ca *CA) *tls.Certificate {
		key := p256(t)
		r, err := ParseCSR(makeCSR(t, key, uuid))
		if err != nil {
			t.Fatal(err)
		}
		text, _, err := ca.Sign(r)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := pem.Decode([]byte(text))
		return &tls.Certificate{Certificate: [][]byte{b.Bytes}, PrivateKey: key}
	}
	for _, tt := range []struct {
		name string
		cert *tls.Certificate
		want string
		ok   bool
	}{{"ours", client(ca), uuid, true}, {"none", nil, "", true}, {"of another CA", client(other), "", false}} {
		a, b := net.Pipe()
		srv := tls.Server(a, ca.TLSConfig([]netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil))
		cfg := &tls.Config{RootCAs: ca.Pool(), ServerName: "127.0.0.1"}
		if tt.cert != nil {
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.cert, nil }
		}
		cli := tls.Client(b, cfg)
		done := make(chan error, 1)
		go func() {
			err := cli.Handshake()
			if err == nil {
				_, err = cli.Read(make([]byte, 1))
			}
			done <- err
		}()
		err := srv.Handshake()
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil {
			s := srv.ConnectionState()
			if got, _, _ := ca.Client(&s); got != tt.want {
				t.Errorf("%s: UUID %q", tt.name, got)
			}
		}
		a.Close()
		<-done
		b.Close()
	}
}

func TestBootToken(t *testing.T) {
	st := newStore(t)
	same := func(claimed string) bool { return claimed == uuid }
	mint := func(b Binding) string {
		var s string
		if err := update(t, st, func(tx store.Tx) (err error) { s, err = MintBoot(tx, t0, b); return err }); err != nil {
			t.Fatal(err)
		}
		return s
	}
	use := func(now time.Time, secret, boot, key string) api.Code {
		return code(update(t, st, func(tx store.Tx) error { _, err := UseBoot(tx, now, secret, boot, key, same); return err }))
	}
	one := mint(Binding{BootID: "one", MAC: "m1", UUID: uuid})
	two := mint(Binding{BootID: "two", MAC: "m2", UUID: "another"})
	free := mint(Binding{BootID: "free", MAC: "m3"})
	late := t0.Add(BootTokenLife + time.Second)
	for i, tt := range []struct {
		now               time.Time
		secret, boot, key string
		want              api.Code
	}{
		{t0, "", "one", "k", api.CodeTokenInvalid}, {t0, one, "three", "k", api.CodeTokenInvalid}, {t0, two, "one", "k", api.CodeTokenInvalid},
		{t0, two, "two", "k", api.CodeTokenInvalid}, // claimed by another UUID
		{late, one, "one", "k", api.CodeTokenExpired}, {t0, one, "one", "k", ""}, {t0, one, "one", "other", api.CodeTokenUsed},
		{late, one, "one", "k", ""}, {late, free, "free", "k", api.CodeTokenExpired}, {t0, free, "free", "k", ""},
	} {
		if got := use(tt.now, tt.secret, tt.boot, tt.key); got != tt.want {
			t.Errorf("%d: %q, want %q", i, got, tt.want)
		}
	}
	if err := update(t, st, func(tx store.Tx) error { _, err := MintBoot(tx, t0, Binding{BootID: "one"}); return err }); code(err) != api.CodeTokenUsed {
		t.Errorf("another token for a boot that used one: %v", err)
	}
	again := mint(Binding{BootID: "four"})
	if mint(Binding{BootID: "four"}); use(t0, again, "four", "k") != api.CodeTokenInvalid {
		t.Error("the token made before is still good")
	}
	// Secrets are not in the store, and old tokens go.
	err := st.View(context.Background(), func(tx store.Tx) error {
		for it, err := range tx.Scan("", "") {
			if err != nil {
				return err
			}
			if strings.Contains(string(it.Value), one) {
				t.Errorf("the secret is stored in %s", it.Key)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	month := t0.Add(30 * 24 * time.Hour)
	if err := update(t, st, func(tx store.Tx) error {
		_, err := MintBoot(tx, month, Binding{BootID: "five", MAC: "m3"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what, secret, boot string
		want               api.Code
	}{
		{"a token no key used", two, "two", api.CodeTokenInvalid},
		{"the token of an earlier boot of the MAC", free, "free", api.CodeTokenInvalid},
		{"the token of a boot that goes on", one, "one", ""},
	} {
		if got := use(month, tt.secret, tt.boot, "k"); got != tt.want {
			t.Errorf("%s after a month: %q, want %q", tt.what, got, tt.want)
		}
	}
}

func TestOperatorToken(t *testing.T) {
	st := newStore(t)
	var tok api.Token
	create := func(c api.TokenCreate) error {
		return update(t, st, func(tx store.Tx) (err error) { tok, err = CreateToken(tx, t0, c); return err })
	}
	for _, bad := range []api.TokenCreate{{}, {Name: " "}, {Name: strings.Repeat("x", 65)}, {Name: "x", TTL: "-1h"}, {Name: "x", TTL: "soon"}} {
		if got := code(create(bad)); got != api.CodeInvalid {
			t.Errorf("%+v: %q", bad, got)
		}
	}
	if err := create(api.TokenCreate{Name: "me", TTL: "1h"}); err != nil {
		t.Fatal(err)
	}
	check := func(now time.Time, secret string) (stale bool, c api.Code) {
		var err error
		if vErr := st.View(context.Background(), func(tx store.Tx) error { _, stale, err = CheckToken(tx, now, secret); return nil }); vErr != nil {
			t.Fatal(vErr)
		}
		return stale, code(err)
	}
	if stale, c := check(t0, tok.Secret); !stale || c != "" {
		t.Errorf("first use: %v %q", stale, c)
	}
	if err := update(t, st, func(tx store.Tx) error { return MarkUsed(tx, t0, tok.ID) }); err != nil {
		t.Fatal(err)
	}
	if stale, _ := check(t0.Add(time.Second), tok.Secret); stale {
		t.Error("a use a second later costs another write")
	}
	if _, c := check(t0.Add(2*time.Hour), tok.Secret); c != api.CodeTokenExpired {
		t.Errorf("after its end: %q", c)
	}
	for _, bad := range []string{"", "nereid_", "nereid_" + tok.ID, "nereid_" + tok.ID + "_", tok.Secret + "x", tok.Secret[:len(tok.Secret)-1]} {
		if _, c := check(t0, bad); c != api.CodeUnauthorized {
			t.Errorf("%q: %q", bad, c)
		}
	}
	if err := update(t, st, func(tx store.Tx) error { return RevokeToken(tx, tok.ID) }); err != nil {
		t.Fatal(err)
	}
	if _, c := check(t0, tok.Secret); c != api.CodeUnauthorized {
		t.Errorf("revoked: %q", c)
	}
	if err := update(t, st, func(tx store.Tx) error { return RevokeToken(tx, tok.ID) }); code(err) != api.CodeNotFound {
		t.Errorf("revoked twice: %v", err)
	}
}

func TestPlatformKeys(t *testing.T) {
	st := newStore(t)
	add := func(name, key string) api.Code {
		return code(update(t, st, func(tx store.Tx) error { return AddPlatformKey(tx, api.PlatformKey{Name: name, Key: key}) }))
	}
	a, b := strings.Repeat("A", 43)+"=", strings.Repeat("B", 42)+"A="
	for i, tt := range []struct {
		name, key string
		want      api.Code
	}{{"k", a, ""}, {"k", a, ""}, {"k", b, api.CodeConflict}, {"", a, api.CodeInvalid}, {"../k", a, api.CodeInvalid}, {"l", "AAAA", api.CodeInvalid}, {"l", "?", api.CodeInvalid}} {
		if got := add(tt.name, tt.key); got != tt.want {
			t.Errorf("%d: %q, want %q", i, got, tt.want)
		}
	}
}
