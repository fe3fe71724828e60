package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const uuid = "4c4c4544-0044-4b10-8052-b4c04f385931"

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{c, k}
}

func (a authority) sum() string {
	s := sha256.Sum256(a.cert.Raw)
	return hex.EncodeToString(s[:])
}

func (a authority) issue(t *testing.T, pub *ecdsa.PublicKey, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: uuid},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature,
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, pub, a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestVerify(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	server := func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		c.IPAddresses = []net.IP{net.ParseIP("10.99.99.7"), net.ParseIP("fd00::7")}
	}
	leaf := ca.issue(t, &key.PublicKey, server)
	client := ca.issue(t, &key.PublicKey, func(c *x509.Certificate) {
		server(c)
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	})
	strange := other.issue(t, &key.PublicKey, server)
	for _, tt := range []struct {
		name  string
		trust Trust
		chain []*x509.Certificate
		at    time.Time
		ok    bool
		is    error
		time  bool
	}{
		{name: "good", chain: []*x509.Certificate{leaf, ca.cert}, ok: true},
		{name: "good, IPv6", trust: Trust{Host: "fd00::7"}, chain: []*x509.Certificate{leaf, ca.cert}, ok: true},
		{name: "without the CA", chain: []*x509.Certificate{leaf}, is: ErrWrongCA},
		{name: "another CA", chain: []*x509.Certificate{strange, other.cert}, is: ErrWrongCA},
		{name: "another CA's leaf beside the pinned CA", chain: []*x509.Certificate{strange, ca.cert, other.cert}},
		{name: "pin of the leaf itself", trust: Trust{CASHA256: sum(leaf)}, chain: []*x509.Certificate{leaf, ca.cert}, is: ErrWrongCA},
		{name: "another address", trust: Trust{Host: "10.99.99.8"}, chain: []*x509.Certificate{leaf, ca.cert}},
		{name: "a client's certificate", chain: []*x509.Certificate{client, ca.cert}},
		{name: "1970", chain: []*x509.Certificate{leaf, ca.cert}, at: time.Unix(0, 0), time: true},
		{name: "next week", chain: []*x509.Certificate{leaf, ca.cert}, at: now.Add(7 * 24 * time.Hour), time: true},
		{name: "nothing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tr := tt.trust
			if tr.CASHA256 == "" {
				tr.CASHA256 = ca.sum()
			}
			if tr.Host == "" {
				tr.Host = "10.99.99.7"
			}
			at := tt.at
			if at.IsZero() {
				at = now
			}
			tr.Now = func() time.Time { return at }
			err := tr.Verify(tt.chain)
			if (err == nil) != tt.ok || WrongTime(err) != tt.time || (tt.is != nil && !errors.Is(err, tt.is)) {
				t.Errorf("error %v, wrong time %v", err, WrongTime(err))
			}
			// The weaker check forgives dates and nothing else.
			if err := tr.VerifyAnyTime(tt.chain); (err == nil) != (tt.ok || tt.time) {
				t.Errorf("at any time: %v", err)
			}
		})
	}
}

func sum(c *x509.Certificate) string {
	s := sha256.Sum256(c.Raw)
	return hex.EncodeToString(s[:])
}

func TestKeyRoundTrip(t *testing.T) {
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	data, err := MarshalKey(k)
	if err != nil {
		t.Fatal(err)
	}
	back, err := ParseKey(data)
	if err != nil || !back.Equal(k) {
		t.Fatalf("%v", err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := MarshalKey(p384)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "text": []byte("key"), "other curve": foreign,
		"two": append(append([]byte{}, data...), data...), "cut": data[:len(data)/2],
	} {
		if _, err := ParseKey(bad); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}

func TestCSR(t *testing.T) {
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := CSR(k, uuid)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := pem.Decode([]byte(s))
	r, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckSignature(); err != nil || r.Subject.CommonName != uuid {
		t.Errorf("%v, CN %q", err, r.Subject.CommonName)
	}
}

func TestParseCertificate(t *testing.T) {
	ca := newAuthority(t)
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	thief, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	client := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }
	enc := func(c *x509.Certificate) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	good := enc(ca.issue(t, &k.PublicKey, client))
	c, err := ParseCertificate(good, k, uuid)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Valid(now) || c.Valid(now.Add(25*time.Hour)) || c.Valid(now.Add(-time.Hour)) || (*Certificate)(nil).Valid(now) {
		t.Error("validity")
	}
	if want := now.Add(12*time.Hour - 30*time.Second); c.RenewAt().Sub(want).Abs() > time.Minute {
		t.Errorf("renewed at %s, want about %s", c.RenewAt(), want)
	}
	for name, bad := range map[string][]byte{
		"empty":       nil,
		"other key":   enc(ca.issue(t, &thief.PublicKey, client)),
		"other name":  enc(ca.issue(t, &k.PublicKey, func(c *x509.Certificate) { client(c); c.Subject.CommonName = "other" })),
		"for servers": enc(ca.issue(t, &k.PublicKey, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })),
		"garbage":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}),
	} {
		if _, err := ParseCertificate(bad, k, uuid); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseCertificate(f *testing.F) {
	k, err := NewKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := ParseCertificate(b, k, uuid); err == nil {
			t.Fatal("nobody signed for this key")
		}
		if k, err := ParseKey(b); err == nil && k.Curve != elliptic.P256() {
			t.Fatal("curve")
		}
	})
}
