package trust

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net/http"
	"regexp"

	"nereid/api"
	"nereid/headnode/store"
)

const platformKeyPrefix = "token/platform-key/"

var keyNameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// AddPlatformKey accepts a key's signature on platforms. The same key under the
// same name again changes nothing; another under that name is refused.
func AddPlatformKey(tx store.Tx, k api.PlatformKey) error {
	if !keyNameRE.MatchString(k.Name) {
		return problem(http.StatusUnprocessableEntity, api.CodeInvalid, fmt.Sprintf("%q cannot be the name of a key", k.Name), "use 1 to 64 letters, digits, dots, dashes and underscores")
	}
	raw, err := base64.StdEncoding.DecodeString(k.Key)
	if err != nil || len(raw) != ed25519.PublicKeySize {
		return problem(http.StatusUnprocessableEntity, api.CodeInvalid, "the key is not the base64 of the 32 bytes of an ed25519 public key", "take the one the platform build printed")
	}
	old, found, err := store.Lookup[api.PlatformKey](tx, platformKeyPrefix+k.Name)
	if err != nil {
		return err
	}
	if found && old.Key == k.Key {
		return nil
	}
	if found {
		return problem(http.StatusConflict, api.CodeConflict, fmt.Sprintf("there is another key named %s", k.Name), "choose another name, or delete that key")
	}
	return store.Put(tx, platformKeyPrefix+k.Name, k)
}

// PlatformKeys lists the accepted keys by name.
func PlatformKeys(tx store.Tx) ([]api.PlatformKey, error) {
	out, _, err := store.Scan[api.PlatformKey](tx, platformKeyPrefix, "", 0)
	return out, err
}

// PlatformKey reads a key by name.
func PlatformKey(tx store.Tx, name string) (api.PlatformKey, error) {
	return store.Get[api.PlatformKey](tx, platformKeyPrefix+name)
}

// DeletePlatformKey accepts a key's signature no longer.
func DeletePlatformKey(tx store.Tx, name string) error {
	found, err := store.Has(tx, platformKeyPrefix+name)
	if err != nil {
		return err
	}
	if name == "" || !found {
		return problem(http.StatusNotFound, api.CodeNotFound, fmt.Sprintf("there is no key named %q", name), "list them with: nereid platform key list")
	}
	return tx.Delete(platformKeyPrefix + name)
}
