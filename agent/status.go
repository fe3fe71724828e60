package agent

import (
	"fmt"
	"path/filepath"
	"time"

	"nereid/api"
)

// Status is what "nereid-agent status" shows: what the agent last told the head
// node, and how it stands with it.
type Status struct {
	UUID        string     `json:"uuid"`
	HeadNode    string     `json:"head_node"`
	State       string     `json:"state"`
	LastSync    time.Time  `json:"last_sync,omitzero"`
	Certificate time.Time  `json:"certificate_until,omitzero"`
	Seen        string     `json:"spec_seen,omitempty"`
	Report      api.Report `json:"report"`
	Usage       api.Usage  `json:"usage"`
}

// ReadStatus reads what a running agent wrote.
func ReadStatus(dir string) (Status, error) {
	var s Status
	path := filepath.Join(dir, statusFile)
	ok, err := readJSON(path, &s)
	if err != nil {
		return s, fmt.Errorf("read status: %w", err)
	}
	if !ok {
		return s, fmt.Errorf("read status: there is no %s; is the agent running (systemctl status nereid-agent)?", path)
	}
	return s, nil
}

// writeStatus is called by the syncer after each turn. It costs a write to RAM.
func (a *Agent) writeStatus(l *link) {
	report, _ := l.board.peek()
	s := Status{
		UUID: l.uuid, HeadNode: l.base.String(), State: l.say.current(),
		LastSync: l.lastGood, Seen: l.seen, Report: report, Usage: usage(a.ProcRoot),
	}
	if l.cert != nil {
		s.Certificate = l.cert.TLS.Leaf.NotAfter
	}
	if err := writeJSON(filepath.Join(a.Dir, statusFile), s); err != nil {
		a.Log.Warn("write status", "err", err)
	}
	if s.State != l.told {
		l.told = s.State
		if err := a.notify("STATUS=" + s.State); err != nil {
			a.Log.Warn("tell the service manager", "err", err)
		}
	}
}
