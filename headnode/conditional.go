package headnode

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
)

// tagged is an answer with an object and its revision.
type tagged[T any] struct {
	ETag string `header:"ETag" doc:"revision of the object, for If-Match"`
	Body T
}

func withTag[T any](v T) *tagged[T] { return &tagged[T]{ETag: `"` + revisionOf(v) + `"`, Body: v} }

// revisionOf is an object's Revision; of one that has none it is a digest of all that
// is shown of it.
func revisionOf(v any) string {
	if f := reflect.ValueOf(v).FieldByName("Revision"); f.IsValid() {
		return f.String()
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "" // it is none that can be shown either
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// conditional says that an operation compares If-Match.
func conditional(op *huma.Operation) {
	formOf(op).conditional = true
	op.Parameters = append(op.Parameters, &huma.Param{Name: "If-Match", In: "header", Schema: &huma.Schema{Type: huma.TypeString},
		Description: `ETags that the change is meant for, as "a", "b" or *; with none of them the answer is 412. A weak one (W/"a") is none of them`})
}

// precondition is what If-Match (RFC 9110, section 13.1.1) asks for: one of some
// revisions. The zero one is met by all.
type precondition struct {
	given     bool
	any       bool
	revisions []string
}

type preconditionKey struct{}

// parseIfMatch reads the header's lines. It is false when they are no list of entity
// tags. Weak ones are left out: If-Match compares strongly, and they match nothing.
func parseIfMatch(lines []string) (precondition, bool) {
	p := precondition{given: len(lines) > 0}
	rest := strings.Trim(strings.Join(lines, ","), " \t")
	if rest == "*" {
		p.any = true
		return p, true
	}
	for tags := 0; ; {
		rest = strings.TrimLeft(rest, " \t,")
		if rest == "" {
			return p, tags > 0 || !p.given
		}
		rest2, weak := strings.CutPrefix(rest, "W/")
		quoted, ok := strings.CutPrefix(rest2, `"`)
		tag, after, closed := strings.Cut(quoted, `"`)
		if !ok || !closed {
			return p, false
		}
		if !weak {
			p.revisions = append(p.revisions, tag)
		}
		tags++
		rest = strings.TrimLeft(after, " \t")
		if rest != "" && rest[0] != ',' {
			return p, false
		}
	}
}

// ifMatch refuses a request whose If-Match names other revisions of a thing than the
// one it has.
func ifMatch(ctx context.Context, thing, revision string) error {
	p, _ := ctx.Value(preconditionKey{}).(precondition)
	if !p.given || p.any || slices.Contains(p.revisions, revision) {
		return nil
	}
	return refuse(http.StatusPreconditionFailed, api.CodeStale, "read it again and decide anew",
		"%s was changed meanwhile, or If-Match is of another: its revision is %s", thing, revision)
}
