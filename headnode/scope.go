package headnode

import (
	"net/http"
	"strings"

	"nereid/api"
)

// scopeOf says what an operator's token must allow for a request. It is the one place
// that decides so: whatever it does not name needs the scope admin, but for reading.
func scopeOf(method, path string) api.Scope {
	under := func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }
	reads := method == http.MethodGet || method == http.MethodHead
	switch {
	case under("/v1/boots") && path != "/v1/boots": // one-boot tokens are in the answers
		return api.ScopeAdmin
	case under("/v1/instances") && strings.HasSuffix(path, "/session"): // a GET that runs a program
		return api.ScopeOperate
	case reads:
		return api.ScopeRead
	case path == "/v1/explain", path == "/v1/network-trace":
		return api.ScopeRead
	case under("/v1/instances"), under("/v1/unexpected-instances"):
		return api.ScopeOperate
	}
	return api.ScopeAdmin
}
