package headnode

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/store"
)

// Side effects are what a change changes of other things than the one that it names:
// firewall tags of an instance's other NICs, a NIC tag that moves here from a bond.
// Nothing of the change is done until the request agrees to them.

// noting is the transaction of a change, with its side effects and its events.
type noting struct {
	store.Tx
	effects []string
	events  []api.Event
}

// also notes a side effect of the change that a transaction is for, a sentence without
// its full stop. Changes that no operator asked for note nothing.
func also(tx store.Tx, format string, args ...any) {
	if n, ok := tx.(*noting); ok {
		if e := fmt.Sprintf(format, args...); !slices.Contains(n.effects, e) {
			n.effects = append(n.effects, e)
		}
	}
}

type confirmKey struct{}

// confirms is an operation that may have side effects.
func confirms(op *huma.Operation) {
	op.Parameters = append(op.Parameters, &huma.Param{Name: "confirm", In: "query", Schema: &huma.Schema{Type: huma.TypeString},
		Description: "agrees to the side effects that a refusal with the code side_effects listed, by its confirm; " + api.ConfirmAll + " agrees to whatever there are"})
}

// agreed refuses side effects that a request does not agree to.
func agreed(ctx context.Context, effects []string) error {
	if len(effects) == 0 {
		return nil
	}
	sum := sha256.Sum256([]byte(strings.Join(effects, "\n")))
	these := hex.EncodeToString(sum[:6])
	confirm, _ := ctx.Value(confirmKey{}).(string)
	if confirm == these || confirm == api.ConfirmAll {
		return nil
	}
	return &api.Problem{Title: http.StatusText(http.StatusConflict), Status: http.StatusConflict, Code: api.CodeSideEffects,
		Detail: "this also changes " + api.Plural(len(effects), "other thing"), Errors: effects, Confirm: these, Next: "to agree to that, send it again with ?confirm=" + these}
}
