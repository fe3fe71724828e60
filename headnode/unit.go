package headnode

import _ "embed"

// Unit is the systemd unit a packaged head node runs under.
//
//go:embed nereid-headnode.service
var Unit string
