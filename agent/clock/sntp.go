package clock

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"
)

// packetSize is an NTP header without extensions (RFC 5905, section 7.3).
const packetSize = 48

// queryTimeout is how long one server has to answer.
const queryTimeout = 2 * time.Second

// Sample is one measurement against a time server.
type Sample struct {
	Server string
	Offset time.Duration // to be added to the local clock
	Delay  time.Duration // round trip without the server's own time
}

// Best asks all servers at once and returns the sample with the least delay of
// those that answered within 2 s. Server is a host or host:port; port 123 unless
// given. With no server the error is ErrNoServers.
func Best(ctx context.Context, servers []string) (Sample, error) {
	if len(servers) == 0 {
		return Sample{}, ErrNoServers
	}
	type result struct {
		s   Sample
		err error
	}
	servers = servers[:min(len(servers), 8)]
	ch := make(chan result, len(servers))
	for _, s := range servers {
		go func() {
			sample, err := Query(ctx, s)
			ch <- result{sample, err}
		}()
	}
	var (
		best Sample
		errs []error
		got  bool
	)
	for range servers {
		r := <-ch
		switch {
		case r.err != nil:
			errs = append(errs, r.err)
		case !got || r.s.Delay < best.Delay:
			best, got = r.s, true
		}
	}
	if !got {
		return Sample{}, errors.Join(errs...)
	}
	return best, nil
}

// ErrNoServers says that there is no time server to ask.
var ErrNoServers = errors.New("no time servers are configured")

// Query asks one server.
func Query(ctx context.Context, server string) (Sample, error) {
	fail := func(err error) (Sample, error) { return Sample{}, fmt.Errorf("ask time server %s: %w", server, err) }
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	addr := server
	if _, _, err := net.SplitHostPort(addr); err != nil {
		addr = net.JoinHostPort(server, "123")
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", addr)
	if err != nil {
		return fail(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var req [packetSize]byte
	req[0] = 4<<3 | 3 // version 4, mode client
	// The transmit timestamp is only ever echoed; a random one is a cookie and
	// does not tell the server what time it is here.
	if _, err := rand.Read(req[40:48]); err != nil {
		return fail(err)
	}
	cookie := binary.BigEndian.Uint64(req[40:48])
	sent := time.Now()
	if _, err := conn.Write(req[:]); err != nil {
		return fail(err)
	}
	var (
		buf  [512]byte
		last error
	)
	for {
		n, err := conn.Read(buf[:])
		if err != nil {
			if last != nil {
				return fail(last)
			}
			return fail(err)
		}
		elapsed := time.Since(sent)
		// A packet that is not the answer does not end the wait for it.
		s, err := parse(buf[:n], cookie, sent, elapsed)
		if err != nil {
			last = err
			if errors.Is(err, errKiss) {
				return fail(err)
			}
			continue
		}
		s.Server = server
		return s, nil
	}
}

var errKiss = errors.New("the server refuses to answer")

// parse judges an answer. sent is the local clock when the question left,
// elapsed the monotonic time until the answer came.
func parse(p []byte, cookie uint64, sent time.Time, elapsed time.Duration) (Sample, error) {
	if len(p) < packetSize {
		return Sample{}, fmt.Errorf("%d bytes: too short for NTP", len(p))
	}
	leap, mode, stratum := p[0]>>6, p[0]&7, p[1]
	if mode != 4 {
		return Sample{}, fmt.Errorf("mode %d: not an answer", mode)
	}
	if binary.BigEndian.Uint64(p[24:]) != cookie {
		return Sample{}, errors.New("not an answer to this question")
	}
	if stratum == 0 {
		return Sample{}, fmt.Errorf("%w: kiss code %q", errKiss, p[12:16])
	}
	if stratum > 15 || leap == 3 {
		return Sample{}, errors.New("the server's clock is not synchronized")
	}
	rx, tx := binary.BigEndian.Uint64(p[32:]), binary.BigEndian.Uint64(p[40:])
	if rx == 0 || tx == 0 {
		return Sample{}, errors.New("the answer has no time")
	}
	t2, t3 := fromNTP(rx), fromNTP(tx)
	t1, t4 := sent, sent.Add(elapsed)
	busy := t3.Sub(t2)
	if busy < 0 || busy > elapsed+time.Second {
		return Sample{}, errors.New("the answer's times contradict each other")
	}
	return Sample{
		Offset: t2.Sub(t1)/2 + t3.Sub(t4)/2,
		Delay:  max(0, elapsed-busy),
	}, nil
}

// fromNTP reads a 64-bit timestamp: seconds since 1900 and a binary fraction.
// With the top bit clear it is of the era that begins in 2036 (RFC 4330,
// section 3).
func fromNTP(v uint64) time.Time {
	const toUnix = 2208988800
	sec := int64(v >> 32)
	if v>>63 == 0 {
		sec += 1 << 32
	}
	frac := (v & 0xffffffff) * uint64(time.Second) >> 32
	return time.Unix(sec-toUnix, int64(frac))
}
