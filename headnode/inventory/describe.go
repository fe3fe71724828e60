package inventory

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"

	"nereid/api"
	"nereid/headnode/store"
)

// Bounds of what an operator notes of a server.
const (
	maxTraits     = 64
	maxTraitValue = 255 // bytes
)

var (
	rackRE  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)
	traitRE = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,62}$`)
)

// Describe notes what placement is to know of a server; nil: it stays as it is. All that
// is wrong is named.
func Describe(tx store.Tx, r *Record, rack *string, traits *map[string]string, reserved *bool) error {
	if rack == nil && traits == nil && reserved == nil {
		return nil
	}
	var faults []error
	bad := func(format string, args ...any) {
		faults = append(faults, problem(http.StatusUnprocessableEntity, api.CodeInvalid, fmt.Sprintf(format, args...), "correct it"))
	}
	if rack != nil {
		if *rack != "" && !rackRE.MatchString(*rack) {
			bad("rack %.64q: want 1 to 63 letters, digits, '.', '_' and '-'", *rack)
		}
		r.Rack = *rack
	}
	if traits != nil {
		if len(*traits) > maxTraits {
			bad("the server has %d traits; at most %d are allowed", len(*traits), maxTraits)
		}
		for _, k := range slices.Sorted(maps.Keys(*traits)) {
			if v := (*traits)[k]; !traitRE.MatchString(k) || v == "" || len(v) > maxTraitValue {
				bad("trait %.64q=%.64q: want a name of 1 to 63 of a-z, 0-9, '.', '_' and '-', and a value of 1 to %d bytes", k, v, maxTraitValue)
			}
		}
		r.Traits = maps.Clone(*traits)
	}
	if reserved != nil {
		r.Reserved = *reserved
	}
	if err := api.Faults(faults...); err != nil {
		return err
	}
	return Touch(tx, r)
}
