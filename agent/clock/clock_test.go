package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a clock that notes what is done to it.
type fake struct {
	now  time.Time
	log  []string
	deny bool
}

func (f *fake) Now() time.Time { return f.now }

func (f *fake) Step(by time.Duration) error {
	if f.deny {
		return errors.ErrUnsupported
	}
	f.now = f.now.Add(by)
	f.log = append(f.log, "step "+by.String())
	return nil
}

func (f *fake) Slew(by time.Duration) error {
	f.log = append(f.log, "slew "+by.String())
	return nil
}

func TestAdjust(t *testing.T) {
	base := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		off    time.Duration
		within time.Duration
		want   string
	}{
		{"below the threshold, rough", 1900 * time.Millisecond, time.Second, ""},
		{"below the threshold, precise", 1900 * time.Millisecond, time.Millisecond, "slew 1.9s"},
		{"nothing to do", 100 * time.Microsecond, time.Millisecond, ""},
		{"ahead", -3 * time.Second, time.Second, "step -3s"},
		{"years ago", 20 * 365 * 24 * time.Hour, time.Millisecond, "step 175200h0m0s"},
		{"within a rough reading's error", 50 * time.Second, time.Minute, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &fake{now: base}
			c := &Clock{System: f}
			if _, _, err := c.Adjust(base.Add(tt.off), tt.within); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(f.log, ","); got != tt.want {
				t.Errorf("did %q, want %q", got, tt.want)
			}
			f.log = nil
			if strings.HasPrefix(tt.want, "step") {
				if _, stepped, err := c.Adjust(base.Add(tt.off), tt.within); stepped || err != nil || f.log != nil {
					t.Errorf("the second time: %v %v %q", stepped, err, f.log)
				}
			}
		})
	}
}

func TestClockThatCannotBeSet(t *testing.T) {
	base := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	right := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	c := &Clock{System: &fake{now: base, deny: true}}
	if _, _, err := c.Adjust(right, time.Second); !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("error %v", err)
	}
	if got := c.Now(); !got.Equal(right) {
		t.Errorf("now %s, want %s", got, right)
	}
	if diff, stepped, err := c.Adjust(right, time.Second); err != nil || stepped || diff != 0 {
		t.Errorf("again: %s %v %v", diff, stepped, err)
	}
	if c.Unset() == 0 {
		t.Error("the difference is forgotten")
	}
	// The first reading was wrong, or somebody else set the clock.
	if _, _, err := c.Adjust(base.Add(300*time.Millisecond), time.Second); err != nil || c.Unset() != 0 || !c.Now().Equal(base) {
		t.Errorf("a clock that is right: %v, unset %s, now %s", err, c.Unset(), c.Now())
	}
}

// answer makes a server's packet.
func answer(req []byte, at time.Time) []byte {
	p := make([]byte, packetSize)
	p[0], p[1] = 4<<3|4, 2
	copy(p[24:], req[40:48])
	binary.BigEndian.PutUint64(p[32:], toNTP(at))
	binary.BigEndian.PutUint64(p[40:], toNTP(at))
	return p
}

func toNTP(t time.Time) uint64 {
	return uint64(t.Unix()+2208988800)<<32 | uint64(t.Nanosecond())<<32/uint64(time.Second)
}

// serve answers each request with what f makes of it, on loopback.
func serve(t *testing.T, f func(req []byte) [][]byte) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, p := range f(buf[:n]) {
				if _, err := conn.WriteTo(p, from); err != nil {
					return
				}
			}
		}
	}()
	return conn.LocalAddr().String()
}

func TestQuery(t *testing.T) {
	const off = -5 * time.Hour
	good := func(req []byte) [][]byte { return [][]byte{answer(req, time.Now().Add(off))} }
	addr := serve(t, func(req []byte) [][]byte {
		forged := answer(req, time.Now())
		forged[24] ^= 1
		return append([][]byte{[]byte("short"), forged}, good(req)...)
	})
	s, err := Query(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	if (s.Offset - off).Abs() > time.Second {
		t.Errorf("offset %s, want %s", s.Offset, off)
	}
	kiss := serve(t, func(req []byte) [][]byte {
		p := answer(req, time.Now())
		p[1] = 0
		copy(p[12:], "RATE")
		return [][]byte{p}
	})
	if _, err := Query(t.Context(), kiss); !errors.Is(err, errKiss) || !strings.Contains(err.Error(), "RATE") {
		t.Errorf("kiss of death: %v", err)
	}
	// One of two is enough, and the dead one does not add its timeout.
	if _, err := Best(t.Context(), []string{kiss, serve(t, good)}); err != nil {
		t.Errorf("best: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Best(ctx, []string{addr}); err == nil {
		t.Error("an ended context asks nobody")
	}
	if _, err := Best(t.Context(), nil); !errors.Is(err, ErrNoServers) {
		t.Errorf("no servers: %v", err)
	}
}

func TestEra(t *testing.T) {
	for _, want := range []time.Time{
		time.Date(2026, 11, 22, 10, 0, 0, 500_000_000, time.UTC),
		time.Date(2036, 2, 7, 6, 28, 15, 0, time.UTC),
		time.Date(2036, 2, 7, 6, 28, 16, 0, time.UTC),
		time.Date(2060, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got := fromNTP(toNTP(want)).UTC(); got.Sub(want).Abs() > time.Microsecond {
			t.Errorf("%s became %s", want, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	req := make([]byte, packetSize)
	req[47] = 7
	f.Add(answer(req, at))
	f.Add(answer(req, at)[:20])
	f.Add(make([]byte, packetSize))
	f.Fuzz(func(t *testing.T, p []byte) {
		s, err := parse(p, 7, at, 10*time.Millisecond)
		if err == nil && (s.Delay < 0 || s.Delay > 10*time.Millisecond) {
			t.Fatalf("delay %s", s.Delay)
		}
		_ = fmt.Sprint(s, err)
	})
}
