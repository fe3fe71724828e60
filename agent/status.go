package agent

import (
	"encoding/json"
	"fmt"
	"os"
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

// write replaces the status at once, but does not wait for a disk: it is written again
// after each turn, and of no use after a power cut.
func (s Status) write(path string) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	next := path + ".next"
	if err := os.WriteFile(next, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, path)
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
	if err := s.write(filepath.Join(a.Dir, statusFile)); err != nil {
		a.Log.Warn("write status", "err", err)
	}
	if s.State != l.told {
		l.told = s.State
		if err := a.notify("STATUS=" + s.State); err != nil {
			a.Log.Warn("tell the service manager", "err", err)
		}
	}
}
