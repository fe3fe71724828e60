package packages

import (
	"net/http"
	"regexp"
	"slices"
	"strings"

	"fmt"

	"nereid/api"
)

var (
	uuidRE  = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	nameRE  = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)
	traitRE = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,62}$`)
)

// Bounds of what a package says besides its limits.
const (
	maxText   = 512 // bytes of a description and of a trait's value
	maxOwners = 1000
	maxTraits = 64
)

// limit is a bound of one of an instance's limits.
type limit struct {
	name, unit string
	value      func(*api.Limits) *int
	least      int
	most       int
	zero       string // what 0 means, where it may be given
}

// limits are those of api.Limits. maxCPU is 512 processors in percent.
func limits() []limit {
	const maxMiB, maxCPU = 16 << 20, 512 * 100
	return []limit{
		{"memory_mib", "MiB", func(l *api.Limits) *int { return &l.MemoryMiB }, 16, maxMiB, ""},
		{"swap_mib", "MiB", func(l *api.Limits) *int { return &l.SwapMiB }, 1, maxMiB, "no swap"},
		{"vcpus", "processors", func(l *api.Limits) *int { return &l.VCPUs }, 1, 512, ""},
		{"cpu_cap_percent", "percent of one processor", func(l *api.Limits) *int { return &l.CPUCapPercent }, 1, maxCPU, "100 for each of vcpus"},
		{"cpu_weight", "", func(l *api.Limits) *int { return &l.CPUWeight }, 1, 10000, "100"},
		{"quota_mib", "MiB", func(l *api.Limits) *int { return &l.QuotaMiB }, 64, 1 << 30, ""},
		{"processes", "tasks", func(l *api.Limits) *int { return &l.Processes }, 32, 4 << 20, "4000"},
		{"io_weight", "", func(l *api.Limits) *int { return &l.IOWeight }, 1, 10000, "100"},
	}
}

// CheckLimits names each limit that is out of its range, with its unit.
func CheckLimits(l api.Limits) error {
	var faults []error
	for _, b := range limits() {
		v := *b.value(&l)
		if v >= b.least && v <= b.most || v == 0 && b.zero != "" {
			continue
		}
		want := fmt.Sprintf("%d to %d", b.least, b.most)
		if b.unit != "" {
			want += " " + b.unit
		}
		if b.zero != "" {
			want += ", or 0 for " + b.zero
		}
		faults = append(faults, invalid("give it another value", "%s is %d; want %s", b.name, v, want))
	}
	return api.Faults(faults...)
}

// check names all that is wrong with a package, and puts it in canonical form.
func check(p *api.Package) error {
	var faults []error
	bad := func(next, format string, args ...any) { faults = append(faults, invalid(next, format, args...)) }
	switch {
	case !nameRE.MatchString(p.Name):
		bad("take another name", "name %.64q of the package: want 1 to 63 letters, digits, '.', '_' and '-', a letter or digit first", p.Name)
	case uuidRE.MatchString(strings.ToLower(p.Name)):
		bad("take another name", "name %.64q of the package has the form of a UUID", p.Name)
	}
	if !slices.Contains([]string{"", api.BrandLX, api.BrandKVM}, p.Brand) {
		bad("leave it out for any", "brand %.64q of the package: want lx or kvm", p.Brand)
	}
	faults = append(faults, checkOwners(p.Owners), CheckLimits(p.Limits))
	if len(p.Traits) > maxTraits {
		bad("name fewer", "the package has %d traits; at most %d are allowed", len(p.Traits), maxTraits)
	}
	for k, v := range p.Traits {
		if !traitRE.MatchString(k) || v == "" || len(v) > maxText {
			bad("correct it", "trait %.64q=%.64q: want a name of 1 to 63 of a-z, 0-9, '.', '_' and '-', and a value of 1 to %d bytes", k, v, maxText)
		}
	}
	for what, v := range map[string]string{"description": p.Description, "group": p.Group} {
		if len(v) > maxText {
			bad("shorten it", "%s of the package has %d bytes; at most %d are allowed", what, len(v), maxText)
		}
	}
	return api.Faults(faults...)
}

func checkOwners(owners []string) error {
	var faults []error
	if len(owners) > maxOwners {
		faults = append(faults, invalid("leave it out for all", "the package is for %d accounts; at most %d are allowed", len(owners), maxOwners))
	}
	for i, o := range owners {
		owners[i] = strings.ToLower(o)
		if !uuidRE.MatchString(owners[i]) {
			faults = append(faults, invalid("give the account's UUID", "owner %.64q of the package is not a UUID", o))
		}
	}
	return api.Faults(faults...)
}

// refuse makes a problem.
func refuse(status int, code api.Code, next, format string, args ...any) error {
	return &api.Problem{Title: http.StatusText(status), Status: status, Code: code, Detail: fmt.Sprintf(format, args...), Next: next}
}

func invalid(next, format string, args ...any) error {
	return refuse(http.StatusUnprocessableEntity, api.CodeInvalid, next, format, args...)
}
