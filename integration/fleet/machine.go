package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"nereid/api"
	"nereid/fixtures"
)

// hardware is the captured server that all of a fleet look like.
func hardware() (api.Sysinfo, error) {
	var info api.Sysinfo
	if err := json.Unmarshal(fixtures.Server2Sockets, &info); err != nil {
		return info, fmt.Errorf("read the captured server: %w", err)
	}
	return info, nil
}

// macOf is the MAC of a server's NIC: locally administered, and of fleets alone.
func macOf(n, nic int) string {
	return fmt.Sprintf("02:f1:ee:%02x:%02x:%02x", n>>8&255, n&255, nic)
}

// uuidOf is the SMBIOS UUID of a server.
func uuidOf(n int) string { return fmt.Sprintf("f1ee7000-0000-4000-8000-%012x", n+1) }

// sysinfo is the hardware of server n: the captured server's, with MACs, UUID and
// serial numbers of its own.
func sysinfo(n int, captured api.Sysinfo) api.Sysinfo {
	info := captured
	info.UUID, info.Serial = uuidOf(n), fmt.Sprintf("FLEET%05d", n)
	info.NICs, info.Disks = slices.Clone(info.NICs), slices.Clone(info.Disks)
	for i := range info.NICs {
		info.NICs[i].MAC = macOf(n, i)
	}
	for i := range info.Disks {
		d := &info.Disks[i]
		d.Serial = fmt.Sprintf("%s-%d", d.Serial, n)
		d.ID, d.WWN = "", ""
	}
	return info
}

// digest is that of an inventory.
func digest(info api.Sysinfo) (string, error) {
	b, err := json.Marshal(info)
	if err != nil {
		return "", fmt.Errorf("write inventory: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

// keyOf is the key of server n. The same seed gives the same key.
func keyOf(seed []byte, n int) (*ecdsa.PrivateKey, error) {
	for try := range 8 { // nearly every number of 256 bits is a key
		sum := sha256.Sum256(fmt.Appendf(slices.Clone(seed), " server %d, try %d", n, try))
		if k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), sum[:]); err == nil {
			return k, nil
		}
	}
	return nil, errors.New("make a key: the seed gives none")
}

// CSR is a certificate request of a server, as PEM.
func CSR(key *ecdsa.PrivateKey, uuid string) (string, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: uuid}}, key)
	if err != nil {
		return "", fmt.Errorf("make certificate request: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})), nil
}

// Certificate is what a head node sent as PEM, with its key.
func Certificate(text string, key *ecdsa.PrivateKey) (*tls.Certificate, error) {
	b, _ := pem.Decode([]byte(text))
	if b == nil || b.Type != "CERTIFICATE" {
		return nil, errors.New("the head node's answer has no certificate")
	}
	leaf, err := x509.ParseCertificate(b.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{b.Bytes}, PrivateKey: key, Leaf: leaf}, nil
}
