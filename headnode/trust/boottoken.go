package trust

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

// BootTokenLife is how long after its making a one-boot token can be used for
// the first time.
const BootTokenLife = 15 * time.Minute

// keepExpired is how long an expired token is still told from an unknown one.
const keepExpired = 7 * 24 * time.Hour

const (
	bootPrefix   = "token/boot/"
	expiryPrefix = "token/expiry/" // TIME/BOOT of a token that no key used: when it is removed
	usedPrefix   = "token/used/"   // MAC/TIME/BOOT of one that a key used: from when on another boot of the MAC removes it
	indexedKey   = "token/indexed" // there: every token has its key of the two above
)

// prunedAtOnce is how many tokens of each kind one MintBoot removes at most: more
// than it makes, so that none pile up.
const prunedAtOnce = 3

// Binding is what a one-boot token is good for.
type Binding struct {
	BootID string `json:"boot_id"`
	MAC    string `json:"mac"`
	UUID   string `json:"uuid,omitempty"` // what the firmware claimed; empty: nothing
}

type bootToken struct {
	Binding
	Hash    string    `json:"hash"`
	Expires time.Time `json:"expires"`
	Key     string    `json:"key,omitempty"` // public key of the first CSR
}

// index is the key under which pruneBoot finds a token. Keys sort by their time.
func (t bootToken) index() string {
	goes := t.Expires.Add(keepExpired).UTC().Format(indexTime) + "/" + t.BootID
	if t.Key == "" {
		return expiryPrefix + goes
	}
	return usedPrefix + t.MAC + "/" + goes
}

const indexTime = "20060102T150405Z"

// put writes a token and its index in place of old, which may be zero.
func (t bootToken) put(tx store.Tx, old bootToken) error {
	err := store.Put(tx, bootPrefix+t.BootID, t)
	if err == nil && old.BootID != "" && old.index() != t.index() {
		err = tx.Delete(old.index())
	}
	if err == nil {
		err = store.Put(tx, t.index(), t.BootID)
	}
	if err != nil {
		return fmt.Errorf("write boot token: %w", err)
	}
	return nil
}

// MintBoot makes the token of a boot. An earlier one of the same boot is void
// from then on, unless a key has used it: then there is no other.
func MintBoot(tx store.Tx, now time.Time, b Binding) (string, error) {
	if err := pruneBoot(tx, now, b); err != nil {
		return "", fmt.Errorf("remove old boot tokens: %w", err)
	}
	old, found, err := store.Lookup[bootToken](tx, bootPrefix+b.BootID)
	if err != nil {
		return "", err
	}
	if found && old.Key != "" {
		return "", problem(http.StatusGone, api.CodeTokenUsed, "the configuration of this boot was used already", "reboot the server to get another")
	}
	secret := newSecret()
	t := bootToken{Binding: b, Hash: hash(secret), Expires: now.Add(BootTokenLife)}
	return secret, t.put(tx, old)
}

// UseBoot checks a one-boot token for a key and binds it to that key. sameUUID
// says whether the UUID the firmware claimed is that of the request. A refusal is
// an *api.Problem: token_invalid (unknown, or another server's), token_expired
// (not used in time), token_used (by another key).
func UseBoot(tx store.Tx, now time.Time, secret, bootID, key string, sameUUID func(claimed string) bool) (Binding, error) {
	t, found, err := store.Lookup[bootToken](tx, bootPrefix+bootID)
	if err != nil {
		return Binding{}, fmt.Errorf("read boot token: %w", err)
	}
	// The compare runs in every case, so that its time says nothing.
	same := subtle.ConstantTimeCompare([]byte(t.Hash), []byte(hash(secret))) == 1
	switch {
	case !found || !same:
		return Binding{}, problem(http.StatusForbidden, api.CodeTokenInvalid, "the token is not the one of this boot", "reboot the server to get a new one")
	case t.UUID != "" && !sameUUID(t.UUID):
		return Binding{}, problem(http.StatusForbidden, api.CodeTokenInvalid, "the token was made for another server, with the UUID "+t.UUID, "reboot the server to get its own")
	case t.Key != "" && t.Key != key:
		return Binding{}, problem(http.StatusForbidden, api.CodeTokenUsed, "the token was used with another key", "reboot the server to get a new one, and find out who else has this boot's configuration")
	case t.Key == "" && now.After(t.Expires):
		return Binding{}, problem(http.StatusForbidden, api.CodeTokenExpired, fmt.Sprintf("the token was not used within %s", BootTokenLife), "reboot the server to get a new one")
	}
	if t.Key == "" {
		old := t
		t.Key = key
		if err := t.put(tx, old); err != nil {
			return Binding{}, err
		}
	}
	return t.Binding, nil
}

// ForgetBoot removes the token of a boot.
func ForgetBoot(tx store.Tx, bootID string) error {
	t, found, err := store.Lookup[bootToken](tx, bootPrefix+bootID)
	if err != nil || !found {
		return err
	}
	if err := tx.Delete(t.index()); err != nil {
		return err
	}
	return tx.Delete(bootPrefix + bootID)
}

// pruneBoot removes some of the tokens nobody will ask about again: old ones that no
// key used, and those of the earlier boots of the MAC. The token of the boot a server
// runs in stays however long it runs: a certificate that ended while the head node
// was away is replaced with it.
func pruneBoot(tx store.Tx, now time.Time, b Binding) error {
	for _, prefix := range []string{expiryPrefix, usedPrefix + b.MAC + "/"} {
		n := 0
		for it, err := range tx.Scan(prefix, "") {
			if err != nil {
				return err
			}
			goes, boot, _ := strings.Cut(it.Key[len(prefix):], "/")
			if goes >= now.UTC().Format(indexTime) {
				break
			}
			if n++; boot != b.BootID {
				if err := tx.Delete(it.Key); err != nil {
					return err
				}
				if err := tx.Delete(bootPrefix + boot); err != nil {
					return err
				}
			}
			if n == prunedAtOnce {
				break
			}
		}
	}
	return nil
}

// IndexBoots gives the tokens that an earlier release made their index, once.
func IndexBoots(tx store.Tx) error {
	if done, err := store.Has(tx, indexedKey); err != nil || done {
		return err
	}
	for e, err := range store.Each[bootToken](tx, bootPrefix) {
		if err != nil {
			return err
		}
		if err := store.Put(tx, e.Value.index(), e.Value.BootID); err != nil {
			return err
		}
	}
	return store.Put(tx, indexedKey, true)
}

// newSecret is 32 random bytes, base64url without padding.
func newSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return base64.RawURLEncoding.EncodeToString(b)
}

func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func problem(status int, code api.Code, detail, next string) *api.Problem {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: detail, Next: next}
}
