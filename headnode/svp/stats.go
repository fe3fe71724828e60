package svp

import (
	"errors"
	"sync/atomic"
	"syscall"
)

// Stats is what a Server did since it was made.
type Stats struct {
	Conns      int    // open now
	Refused    uint64 // connections that were not let in
	BadCRC     uint64 // connections closed for a wrong CRC
	Unknown    uint64 // requests that were not understood
	NotFound   uint64 // look-ups without a result
	Shootdowns uint64 // nodes said that an address was not where it was said to be
	Requests   map[Op]uint64
}

type counters struct {
	refused, badCRC, unknown, notFound atomic.Uint64
	requests                           [OpShootdown + 1]atomic.Uint64
}

// Stats gives the present counts.
func (s *Server) Stats() Stats {
	st := Stats{
		Conns:      s.door().Held(),
		Refused:    s.counters.refused.Load(),
		BadCRC:     s.counters.badCRC.Load(),
		Unknown:    s.counters.unknown.Load(),
		NotFound:   s.counters.notFound.Load(),
		Shootdowns: s.counters.requests[OpShootdown].Load(),
		Requests:   make(map[Op]uint64),
	}
	for op := range s.counters.requests {
		if n := s.counters.requests[op].Load(); n > 0 {
			st.Requests[Op(op)] = n
		}
	}
	return st
}

// isExhausted says whether a listener failed for want of something that comes back.
func isExhausted(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
