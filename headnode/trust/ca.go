package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

// Lifetimes of certificates.
const (
	CALife     = 10 * 365 * 24 * time.Hour
	ServerLife = 90 * 24 * time.Hour
	ClientLife = 24 * time.Hour

	// backdate lets a server whose clock is behind accept what was just made.
	backdate = time.Hour
)

// CA signs the certificates of this head node and its servers. It may be used by
// several goroutines.
type CA struct {
	// Now is the clock; nil: time.Now. Set it before the first use.
	Now func() time.Time

	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// LoadCA reads the CA from path, or makes one there, named for the datacenter,
// when there is no such file. A file that others may read is refused.
func LoadCA(path, datacenter string, now time.Time) (*CA, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeCA(path, datacenter, now)
	}
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read CA: %s has mode %04o and others may read the key in it; find out who could, then chmod 0600", path, st.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	ca := &CA{}
	for {
		var b *pem.Block
		b, data = pem.Decode(data)
		if b == nil {
			break
		}
		switch b.Type {
		case "CERTIFICATE":
			ca.cert, err = x509.ParseCertificate(b.Bytes)
		case "PRIVATE KEY":
			var k any
			k, err = x509.ParsePKCS8PrivateKey(b.Bytes)
			ca.key, _ = k.(*ecdsa.PrivateKey)
		}
		if err != nil {
			return nil, fmt.Errorf("read CA: %s: %w", path, err)
		}
	}
	if ca.cert == nil || ca.key == nil || !ca.key.PublicKey.Equal(ca.cert.PublicKey) {
		return nil, fmt.Errorf("read CA: %s does not hold a certificate and its ECDSA key; restore it from a backup", path)
	}
	return ca, nil
}

func makeCA(path, datacenter string, now time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{Organization: []string{"Nereid"}, CommonName: "Nereid CA of " + datacenter},
		NotBefore:             now.Add(-24 * time.Hour),
		NotAfter:              now.Add(CALife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a Buffer takes everything
	_ = pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	if err := renameio.WriteFile(path, b.Bytes(), 0o600, renameio.IgnoreUmask()); err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make CA: %w", err)
	}
	return &CA{cert: cert, key: key}, nil
}

func (c *CA) now() time.Time {
	if c.Now != nil {
		return c.Now()
	}
	return time.Now()
}

// SHA256 is the digest of the CA's certificate in DER, hexadecimal.
func (c *CA) SHA256() string {
	sum := sha256.Sum256(c.cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Pool holds the CA's certificate, to verify client certificates with.
func (c *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.cert)
	return p
}

// TLSConfig is for an HTTPS server on the addresses: TLS 1.3, client
// certificates verified where one is sent. The server's own certificate is
// renewed when a third of its life is left.
func (c *CA) TLSConfig(addrs []netip.Addr, names []string) *tls.Config {
	var (
		mu   sync.Mutex
		have *tls.Certificate
	)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  c.Pool(),
		NextProtos: []string{"h2", "http/1.1"},
		Time:       c.now,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			if have != nil && c.now().Before(have.Leaf.NotAfter.Add(-ServerLife/3)) && c.now().After(have.Leaf.NotBefore) {
				return have, nil
			}
			cert, err := c.serverCert(addrs, names)
			if err != nil {
				return nil, err
			}
			have = cert
			return have, nil
		},
	}
}

func (c *CA) serverCert(addrs []netip.Addr, names []string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make HTTPS certificate: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"Nereid"}, CommonName: "nereid-headnode"},
		DNSNames:     names,
		NotBefore:    c.now().Add(-backdate),
		NotAfter:     c.now().Add(ServerLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, a := range addrs {
		t.IPAddresses = append(t.IPAddresses, net.IP(a.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.cert, key.Public(), c.key)
	if err != nil {
		return nil, fmt.Errorf("make HTTPS certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make HTTPS certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, c.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// Request is a CSR that was checked.
type Request struct {
	UUID string // its common name
	Key  string // Fingerprint of its public key

	pub *ecdsa.PublicKey
}

// ParseCSR checks a PEM certificate request: its own signature, ECDSA P-256, and
// a common name. What extensions it asks for is ignored.
func ParseCSR(s string) (Request, error) {
	b, rest := pem.Decode([]byte(s))
	if b == nil || b.Type != "CERTIFICATE REQUEST" || len(bytes.TrimSpace(rest)) != 0 {
		return Request{}, errors.New("the certificate request is not one PEM block of type CERTIFICATE REQUEST")
	}
	csr, err := x509.ParseCertificateRequest(b.Bytes)
	if err != nil {
		return Request{}, fmt.Errorf("the certificate request cannot be read: %w", err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return Request{}, errors.New("the certificate request's key is not ECDSA P-256")
	}
	if err := csr.CheckSignature(); err != nil {
		return Request{}, fmt.Errorf("the certificate request is not signed by its own key: %w", err)
	}
	if csr.Subject.CommonName == "" {
		return Request{}, errors.New("the certificate request has no common name")
	}
	return Request{UUID: csr.Subject.CommonName, Key: fingerprint(csr.RawSubjectPublicKeyInfo), pub: pub}, nil
}

// Sign makes a client certificate for a request: PEM, and when it ends.
func (c *CA) Sign(r Request) (string, time.Time, error) {
	t := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: r.UUID},
		NotBefore:    c.now().Add(-backdate),
		NotAfter:     c.now().Add(ClientLife).Truncate(time.Second),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.cert, r.pub, c.key)
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign certificate of %s: %w", r.UUID, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), t.NotAfter, nil
}

// Client gives UUID and key of the client certificate of a connection. TLS has
// verified it when the connection was made; that it has not ended since is
// checked here, because a long poll's connection may outlive it.
func (c *CA) Client(s *tls.ConnectionState) (uuid, key string, ok bool) {
	if s == nil || len(s.VerifiedChains) == 0 || len(s.PeerCertificates) == 0 {
		return "", "", false
	}
	cert := s.PeerCertificates[0]
	now := c.now()
	if now.After(cert.NotAfter) || now.Before(cert.NotBefore) {
		return "", "", false
	}
	return cert.Subject.CommonName, fingerprint(cert.RawSubjectPublicKeyInfo), true
}

// fingerprint is the SHA-256 of a public key in DER (SubjectPublicKeyInfo).
func fingerprint(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// serial is 127 random bits (RFC 5280, section 4.1.2.2: positive, at most 20 octets).
func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}
