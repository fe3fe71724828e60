package trust

import (
	"cmp"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

const operatorPrefix = "token/operator/"

// usedEvery is how exactly the last use of an operator's token is kept: a busy
// token costs one write in this time.
const usedEvery = time.Minute

type operatorToken struct {
	api.Token
	Hash string `json:"hash"`
}

// CreateToken makes an operator's token. Its secret is in the answer and nowhere
// else.
func CreateToken(tx store.Tx, now time.Time, c api.TokenCreate) (api.Token, error) {
	name := strings.TrimSpace(c.Name)
	if name == "" || len(name) > 64 {
		return api.Token{}, problem(http.StatusUnprocessableEntity, api.CodeInvalid, "a token needs a name of 1 to 64 characters", "say whose it is")
	}
	t := operatorToken{Token: api.Token{ID: newID(), Name: name, Created: now, Scope: cmp.Or(c.Scope, api.ScopeAdmin)}}
	switch t.Scope {
	case api.ScopeRead, api.ScopeOperate, api.ScopeAdmin:
	default:
		return api.Token{}, problem(http.StatusUnprocessableEntity, api.CodeInvalid, fmt.Sprintf("%.32q is no scope of tokens", t.Scope), "take read, operate or admin")
	}
	if c.TTL != "" {
		d, err := time.ParseDuration(c.TTL)
		if err != nil || d <= 0 {
			return api.Token{}, problem(http.StatusUnprocessableEntity, api.CodeInvalid, fmt.Sprintf("ttl %q is no duration above 0", c.TTL), "write it as 720h, or leave it out for a token without end")
		}
		end := now.Add(d)
		t.Expires = &end
	}
	secret := "nereid_" + t.ID + "_" + newSecret()
	t.Hash = hash(secret)
	if err := store.Put(tx, operatorPrefix+t.ID, t); err != nil {
		return api.Token{}, fmt.Errorf("write token: %w", err)
	}
	out := t.Token
	out.Secret = secret
	return out, nil
}

// Tokens lists the operators' tokens, without secrets.
func Tokens(tx store.Tx) ([]api.Token, error) {
	out := []api.Token{}
	for e, err := range store.Each[operatorToken](tx, operatorPrefix) {
		if err != nil {
			return nil, err
		}
		t := e.Value.Token
		t.Scope = cmp.Or(t.Scope, api.ScopeAdmin) // those of before there were scopes
		out = append(out, t)
	}
	return out, nil
}

// RevokeToken removes an operator's token.
func RevokeToken(tx store.Tx, id string) error {
	found, err := store.Has(tx, operatorPrefix+id)
	if err != nil {
		return err
	}
	if id == "" || !found {
		return problem(http.StatusNotFound, api.CodeNotFound, fmt.Sprintf("there is no token %q", id), "list them with: nereid token list")
	}
	return tx.Delete(operatorPrefix + id)
}

// CheckToken says whose a secret is. stale: its last use should be written with
// MarkUsed. Unknown and expired ones are *api.Problem.
func CheckToken(tx store.Tx, now time.Time, secret string) (t api.Token, stale bool, err error) {
	unknown := problem(http.StatusUnauthorized, api.CodeUnauthorized, "the token is unknown or was revoked", "get one on the head node with: nereid token create")
	rest, ok := strings.CutPrefix(secret, "nereid_")
	id, _, ok2 := strings.Cut(rest, "_")
	if !ok || !ok2 || id == "" || len(id) > 64 {
		return api.Token{}, false, unknown
	}
	ot, found, err := store.Lookup[operatorToken](tx, operatorPrefix+id)
	if err != nil {
		return api.Token{}, false, fmt.Errorf("read token: %w", err)
	}
	same := subtle.ConstantTimeCompare([]byte(ot.Hash), []byte(hash(secret))) == 1
	if !found || !same {
		return api.Token{}, false, unknown
	}
	if ot.Expires != nil && now.After(*ot.Expires) {
		return api.Token{}, false, problem(http.StatusUnauthorized, api.CodeTokenExpired, fmt.Sprintf("the token %s ended at %s", ot.Name, ot.Expires.UTC().Format(time.RFC3339)), "get another on the head node with: nereid token create")
	}
	return ot.Token, ot.Used == nil || now.Sub(*ot.Used) >= usedEvery, nil
}

// MarkUsed writes a token's last use. A token revoked meanwhile stays so.
func MarkUsed(tx store.Tx, now time.Time, id string) error {
	t, found, err := store.Lookup[operatorToken](tx, operatorPrefix+id)
	if err != nil || !found {
		return err
	}
	t.Used = &now
	return store.Put(tx, operatorPrefix+id, t)
}

func newID() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // it never fails (crypto/rand, Go 1.24)
	return hex.EncodeToString(b)
}
