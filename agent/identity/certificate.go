package identity

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"
)

// Certificate is the server's client certificate with its key.
type Certificate struct {
	PEM []byte // as the head node sent it
	TLS tls.Certificate
}

// ParseCertificate reads the certificate the head node issued, and refuses one
// that is for another key, another server or another use.
func ParseCertificate(data []byte, key *ecdsa.PrivateKey, uuid string) (*Certificate, error) {
	c := &Certificate{PEM: data, TLS: tls.Certificate{PrivateKey: key}}
	for rest := data; ; {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("parse certificate: PEM block of type %q among the certificates", block.Type)
		}
		c.TLS.Certificate = append(c.TLS.Certificate, block.Bytes)
	}
	if len(c.TLS.Certificate) == 0 {
		return nil, errors.New("parse certificate: no PEM block of type CERTIFICATE")
	}
	leaf, err := x509.ParseCertificate(c.TLS.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	c.TLS.Leaf = leaf
	if pub, ok := leaf.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(&key.PublicKey) {
		return nil, errors.New("parse certificate: it is for another key than this server's")
	}
	if leaf.Subject.CommonName != uuid {
		return nil, fmt.Errorf("parse certificate: it is for server %q, and this is %q", leaf.Subject.CommonName, uuid)
	}
	for _, u := range leaf.ExtKeyUsage {
		if u == x509.ExtKeyUsageClientAuth || u == x509.ExtKeyUsageAny {
			return c, nil
		}
	}
	return nil, errors.New("parse certificate: it is not for client authentication")
}

// Valid says whether the certificate can be used at the given time.
func (c *Certificate) Valid(now time.Time) bool {
	return c != nil && !now.Before(c.TLS.Leaf.NotBefore) && now.Before(c.TLS.Leaf.NotAfter)
}

// RenewAt is half of the certificate's life, when a new one is asked for.
func (c *Certificate) RenewAt() time.Time {
	l := c.TLS.Leaf
	return l.NotBefore.Add(l.NotAfter.Sub(l.NotBefore) / 2)
}
