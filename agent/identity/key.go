package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
)

// keyType is the PEM type of a PKCS#8 private key (RFC 7468, section 10).
const keyType = "PRIVATE KEY"

// NewKey makes an ECDSA P-256 key.
func NewKey() (*ecdsa.PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return k, nil
}

// MarshalKey writes the key as PEM, PKCS#8.
func MarshalKey(k *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, fmt.Errorf("marshal key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: der}), nil
}

// ParseKey reads what MarshalKey wrote. Other curves and kinds of key are
// refused. No part of the input appears in the error.
func ParseKey(data []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != keyType {
		return nil, errors.New("parse key: no PEM block of type " + keyType)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("parse key: data after the key")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("parse key: not a PKCS#8 key")
	}
	ec, ok := k.(*ecdsa.PrivateKey)
	if !ok || ec.Curve != elliptic.P256() {
		return nil, errors.New("parse key: not an ECDSA P-256 key")
	}
	return ec, nil
}

// CSR asks for a certificate: a PKCS#10 request (RFC 2986) as PEM, with the
// server's UUID as common name.
func CSR(k *ecdsa.PrivateKey, uuid string) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:            pkix.Name{CommonName: uuid},
		SignatureAlgorithm: x509.ECDSAWithSHA256,
	}, k)
	if err != nil {
		return "", fmt.Errorf("make certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}
