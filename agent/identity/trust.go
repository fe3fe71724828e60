package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrWrongCA says that the other side's chain does not hold the pinned CA.
var ErrWrongCA = errors.New("the chain does not contain the pinned CA")

// Trust is what a server knows of its head node before the first contact.
type Trust struct {
	CASHA256 string           // digest of the CA certificate in DER, hexadecimal
	Host     string           // address or name that is dialled, without port
	Now      func() time.Time // the server's best idea of the time; nil: time.Now
}

// Verify judges a chain, leaf first, by the pin, the dates and the name.
func (t Trust) Verify(chain []*x509.Certificate) error {
	now := time.Now
	if t.Now != nil {
		now = t.Now
	}
	return t.verify(chain, now())
}

// VerifyAnyTime is Verify at a moment at which all certificates of the chain
// are valid, if there is one. See the package documentation for what it is
// good for.
func (t Trust) VerifyAnyTime(chain []*x509.Certificate) error {
	var at time.Time
	for _, c := range chain {
		if c.NotBefore.After(at) {
			at = c.NotBefore
		}
	}
	return t.verify(chain, at)
}

func (t Trust) verify(chain []*x509.Certificate, at time.Time) error {
	if len(chain) == 0 {
		return errors.New("verify head node: it presented no certificate")
	}
	opts := x509.VerifyOptions{
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   at,
		DNSName:       t.Host,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	var pinned bool
	for _, c := range chain {
		sum := sha256.Sum256(c.Raw)
		if strings.EqualFold(hex.EncodeToString(sum[:]), t.CASHA256) && c.IsCA {
			opts.Roots.AddCert(c)
			pinned = true
			continue
		}
		opts.Intermediates.AddCert(c)
	}
	if !pinned {
		return fmt.Errorf("verify head node: %w (SHA-256 %s)", ErrWrongCA, t.CASHA256)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return fmt.Errorf("verify head node: %w", err)
	}
	return nil
}

// WrongTime says whether verification refused a certificate for its dates.
func WrongTime(err error) bool {
	var inv x509.CertificateInvalidError
	return errors.As(err, &inv) && inv.Reason == x509.Expired
}

// TLS is a client configuration that trusts the pinned CA and nothing else.
// cert may be nil, as before enrolment.
func (t Trust) TLS(cert *Certificate) *tls.Config {
	return t.config(cert, t.Verify)
}

// AnyTimeTLS is a client configuration for asking the time, nothing else; it
// never presents a certificate.
func (t Trust) AnyTimeTLS() *tls.Config {
	return t.config(nil, t.VerifyAnyTime)
}

func (t Trust) config(cert *Certificate, verify func([]*x509.Certificate) error) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: t.Host,
		// The standard verification cannot pin a CA by digest; VerifyConnection
		// does all of it instead, on every handshake.
		InsecureSkipVerify: true,
		VerifyConnection:   func(cs tls.ConnectionState) error { return verify(cs.PeerCertificates) },
	}
	if cert != nil {
		// Whatever CAs the head node's request names, this is the certificate.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert.TLS, nil }
	}
	return c
}
