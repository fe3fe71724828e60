package platforms

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"nereid/api"
	"nereid/headnode/store"
)

const (
	keepNewest   = 2              // complete platforms Collect keeps, used or not
	uploadTime   = 24 * time.Hour // how long Collect leaves an incomplete one alone
	bootingTime  = time.Hour      // how long a platform handed out counts as booting
	asAssigned   = "assigned to"
	asRunning    = "running on"
	asPrevious   = "known good platform of"
	asBooting    = "being booted by"
	shownServers = 10 // servers named in a refusal
)

// users gives, by stamp and kind of use, the servers that use a platform.
func users(tx store.Tx, now time.Time) (map[string]map[string][]string, error) {
	used := make(map[string]map[string][]string)
	for e, err := range store.Each[State](tx, serverPrefix) {
		if err != nil {
			return nil, err
		}
		s := e.Value
		uses := map[string]string{asAssigned: s.Assigned, asRunning: s.Running, asPrevious: s.Previous}
		if now.Sub(s.BootingAt) < bootingTime {
			uses[asBooting] = s.Booting
		}
		for as, stamp := range uses {
			if stamp == "" {
				continue
			}
			if used[stamp] == nil {
				used[stamp] = make(map[string][]string)
			}
			used[stamp][as] = append(used[stamp][as], e.Key[len(serverPrefix):])
		}
	}
	return used, nil
}

// Delete removes a platform and returns the digests of the files nothing needs any
// more. It is refused, with an *api.Problem that lists the users, while a server is
// assigned it, runs it, boots it or may fall back to it, and while it is the
// default. name, which may be nil, turns the key of a server into its name.
func Delete(tx store.Tx, stamp string, now time.Time, name func(server string) string) ([]string, error) {
	_, m, err := Get(tx, stamp)
	if err != nil {
		return nil, err
	}
	used, err := users(tx, now)
	if err != nil {
		return nil, fmt.Errorf("delete platform: %w", err)
	}
	def, err := Default(tx)
	if err != nil {
		return nil, fmt.Errorf("delete platform: %w", err)
	}
	var why []string
	if stamp == def {
		why = append(why, "it is the default")
	}
	for _, as := range []string{asAssigned, asRunning, asPrevious, asBooting} {
		if servers := used[stamp][as]; len(servers) > 0 {
			why = append(why, as+" "+names(servers, name))
		}
	}
	if len(why) > 0 {
		return nil, &api.Problem{Title: "Platform is in use", Status: 409, Code: api.CodeInUse,
			Detail: fmt.Sprintf("platform %s cannot be deleted: %s", stamp, strings.Join(why, "; ")),
			Next:   "make another one the default, or assign another one and let those servers boot it, then delete",
			Errors: why}
	}
	digests, err := remove(tx, m)
	if err != nil {
		return nil, fmt.Errorf("delete platform: %w", err)
	}
	return digests, nil
}

// names lists servers for people.
func names(servers []string, name func(string) string) string {
	var out []string
	for i, s := range servers {
		if i == shownServers {
			out = append(out, fmt.Sprintf("and %d more", len(servers)-i))
			break
		}
		if name != nil {
			s = name(s)
		}
		out = append(out, s)
	}
	return strings.Join(out, ", ")
}

// remove deletes a platform's keys and tells which files nobody needs now.
func remove(tx store.Tx, m api.Manifest) ([]string, error) {
	var digests []string
	for _, key := range []string{stampPrefix + m.Stamp, completePrefix + m.Stamp} {
		if err := tx.Delete(key); err != nil {
			return nil, err
		}
	}
	for _, f := range m.Files() {
		if err := tx.Delete(fileKey(f.SHA256, m.Stamp)); err != nil {
			return nil, err
		}
		needed := false
		for _, err := range tx.Scan(filePrefix+f.SHA256+"/", "") {
			if err != nil {
				return nil, err
			}
			needed = true
			break
		}
		if !needed && !slices.Contains(digests, f.SHA256) {
			digests = append(digests, f.SHA256)
		}
	}
	return digests, nil
}

// Collect removes the platforms nobody uses, but for the default, the newest two
// complete ones, and incomplete ones that may still be being uploaded. It returns
// the stamps removed and the digests of the files nothing needs any more.
func Collect(tx store.Tx, now time.Time) (removed, digests []string, err error) {
	list, err := List(tx, now)
	if err != nil {
		return nil, nil, fmt.Errorf("collect platforms: %w", err)
	}
	kept := 0
	for _, p := range list {
		if p.Complete {
			kept++
		}
		if p.Default || len(p.UsedBy) > 0 || p.Complete && kept <= keepNewest || !p.Complete && now.Sub(p.Imported) < uploadTime {
			continue
		}
		d, err := remove(tx, p.Manifest)
		if err != nil {
			return nil, nil, fmt.Errorf("collect platforms: %w", err)
		}
		removed, digests = append(removed, p.Manifest.Stamp), append(digests, d...)
	}
	return removed, digests, nil
}
