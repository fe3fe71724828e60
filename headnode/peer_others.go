//go:build !linux

package headnode

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// peerUID is Linux's alone; without it the socket takes operators' tokens only.
func peerUID(*net.UnixConn) (uint32, error) {
	return 0, fmt.Errorf("peer credentials: %w", errors.ErrUnsupported)
}

// uid is the user the daemon runs as.
func (s *Server) uid() int { return os.Geteuid() }
