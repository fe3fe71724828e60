package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"nereid/api"
)

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 400 * time.Millisecond: "0s", 59 * time.Second: "59s", time.Minute: "1m", 250 * time.Second: "4m10s",
		3*time.Hour + 5*time.Minute: "3h5m", 24 * time.Hour: "1d", 52 * time.Hour: "2d4h", 59*time.Second + 600*time.Millisecond: "1m",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %s, want %s", d, got, want)
		}
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"cn0": "cn0", "a\x1b[2Jb": "a?[2Jb", "bell\x07": "bell?", "\u009b31m": "?31m", "rtl\u202eevil": "rtl?evil", "Größe": "Größe", "two\nlines": "two\nlines",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestWaterfallFits draws odd legs on odd terminals: no line may be wider than
// the terminal, and no bar invisible.
func TestWaterfallFits(t *testing.T) {
	for _, legs := range [][]api.BootLeg{
		{{Name: "firmware+DHCP", Start: 0, Seconds: 0}},
		{{Name: "script", Start: 0, Seconds: 0.0001}, {Name: "root filesystem", Start: 0.0001, Seconds: 86400}, {Name: "last", Start: 86400, Seconds: 0.001}},
		{{Name: "a name that is much longer than any leg's should be", Start: 1, Seconds: 2}},
		{{Name: "negative", Start: -3, Seconds: 1}, {Name: "x\x1b[2J", Start: 2, Seconds: 1}},
	} {
		for _, width := range []int{60, 80, 81, 120, 200} {
			for _, unicode := range []bool{false, true} {
				got := waterfall(legs, width, unicode)
				rows := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
				if len(rows) != len(legs)+1 {
					t.Fatalf("%d rows for %d legs:\n%s", len(rows), len(legs), got)
				}
				for i, row := range rows {
					if n := utf8.RuneCountInString(row); n > width {
						t.Errorf("width %d: row of %d:\n%s", width, n, got)
					}
					if i > 0 && !strings.ContainsAny(row, "#█▏▎▍▌▋▊▉") {
						t.Errorf("no bar:\n%s", got)
					}
					if strings.Contains(row, "\x1b") {
						t.Errorf("a leg's name drives the terminal: %q", row)
					}
				}
			}
		}
	}
}

func TestShortUUID(t *testing.T) {
	server := func(uuid string) api.Server { return api.Server{UUID: uuid} }
	for _, tt := range []struct {
		servers []api.Server
		want    int
	}{
		{nil, 8},
		{[]api.Server{server(""), server(""), server("4c4c4544-0042-3510-8052-b4c04f4e4d32")}, 8},
		{[]api.Server{server("4c4c4544-0042-3510-8052-b4c04f4e4d32"), server("4e455245-4944-4000-8000-000000000010")}, 8},
		{[]api.Server{server("4c4c4544-0042-3510-8052-b4c04f4e4d32"), server("4c4c4544-0043-3510-8052-b4c04f4e4d32")}, 13},
		{[]api.Server{server("4c4c4544-0042-3510-8052-b4c04f4e4d32"), server("4c4c4544-0042-3510-8052-b4c04f4e4d32")}, 36},
	} {
		if got := shortUUID(tt.servers); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.servers, got, tt.want)
		}
	}
}

// TestBar follows one transfer, on a terminal and in a log.
func TestBar(t *testing.T) {
	for _, tt := range []struct {
		name          string
		live, unicode bool
		want          string
	}{
		{"terminal", true, true, ""},
		{"log", false, false, "base.squashfs: 100 MiB\nbase.squashfs: 50 MiB of 100 MiB, 4.5 MiB/s, 11s left\nbase.squashfs: 100 MiB of 100 MiB, 8.3 MiB/s\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			now := time.Unix(0, 0)
			b := &bar{w: &out, live: tt.live, unicode: tt.unicode, width: func() int { return 80 }, now: func() time.Time { return now }, name: "base.squashfs", total: 100 << 20}
			b.at(0)
			now = now.Add(50 * time.Millisecond)
			b.at(1 << 20) // too soon to be shown
			now = now.Add(11 * time.Second)
			b.at(50 << 20)
			now = now.Add(time.Second)
			b.at(100 << 20)
			b.end()
			if !tt.live {
				if out.String() != tt.want {
					t.Errorf("got\n%s\nwant\n%s", out.String(), tt.want)
				}
				return
			}
			frames := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\r\x1b[K")[1:]
			if len(frames) != 2 {
				t.Fatalf("%d frames: %q", len(frames), frames)
			}
			for i, want := range []string{" 50%  50 MiB, 4.5 MiB/s, 11s left", "100%  100 MiB, 8.3 MiB/s"} {
				if !strings.Contains(frames[i], want) || utf8.RuneCountInString(frames[i]) >= 80 || !strings.Contains(frames[i], "█") {
					t.Errorf("frame %d: %q, want %q in it, below 80 columns", i, frames[i], want)
				}
			}
		})
	}
}

// TestStatus shows a wait: one line on a terminal, only changes in a log.
func TestStatus(t *testing.T) {
	show := func(live bool) string {
		var out bytes.Buffer
		now := time.Unix(0, 0)
		p := &status{w: &out, live: live, width: func() int { return 40 }, name: "cn0", now: func() time.Time { return now }, begun: now}
		for _, s := range []string{"booting", "booting", "setting up: creating datasets on a pool with a long name"} {
			p.show(s)
			now = now.Add(2 * time.Second)
		}
		p.end()
		return out.String()
	}
	if got, want := show(false), "cn0: booting\ncn0: setting up: creating datasets on a pool with a long name\n"; got != want {
		t.Errorf("log: %q, want %q", got, want)
	}
	want := "\r\x1b[Kcn0: booting (0s)\r\x1b[Kcn0: booting (2s)\r\x1b[Kcn0: setting up: creating datasets o...\r\x1b[K"
	if got := show(true); got != want {
		t.Errorf("terminal: %q, want %q", got, want)
	}
}

// TestRedraw draws a list over a longer one: every line's rest, and every line
// below, is cleared, in one write.
func TestRedraw(t *testing.T) {
	var out bytes.Buffer
	a := newApp(strings.NewReader(""), &out, &out)
	a.now = func() time.Time { return time.Date(2026, 11, 22, 10, 15, 0, 0, time.UTC) }
	if err := a.redraw([]api.Server{{UUID: "4e455245-4944-4000-8000-000000000010", Hostname: "cn0", State: api.StateRunning}}, false); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[H2026-11-22 10:15:00 UTC   1 server   Ctrl-C ends\x1b[K\n\x1b[K\n" +
		"UUID      HOSTNAME  STATE    LAST SEEN  ADDRESS  PLATFORM  MEMORY  POOL  NOTES\x1b[K\n" +
		"4e455245  cn0       running  never      -        -         -       -\x1b[K\n\x1b[J"
	if out.String() != want {
		t.Errorf("got\n%q\nwant\n%q", out.String(), want)
	}
}

// TestServerListAt80 is what an operator sees who has three servers and a
// terminal of 80 columns: each server known by its name, and each decision whole.
func TestServerListAt80(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 15, 0, 0, time.UTC)
	seen := now.Add(-4 * time.Second)
	a := newApp(strings.NewReader(""), io.Discard, io.Discard)
	a.now = func() time.Time { return now }
	server := func(last byte, hostname string, state api.ServerState, why string) api.Server {
		return api.Server{
			UUID: "4e455245-4944-4000-8000-0000000000" + string([]byte{last, '0'}), Hostname: hostname, State: state, StateReason: why,
			LastSeen: &seen, Address: "10.99.99.101", Platform: api.PlatformChoice{Running: "20261122T101500Z", Next: "20261122T101500Z"},
			Sysinfo: &api.Sysinfo{MemoryBytes: 64 << 30}, Report: &api.Report{Pools: []api.Pool{{Health: "ONLINE", SizeBytes: 100, AllocatedBytes: 13}}},
		}
	}
	running := server('1', "cn0", api.StateRunning, "")
	pending := server('2', "52-54-00-00-00-11", api.StatePending, "waits for approval: nereid server approve 4e455245-4944-4000-8000-000000000020")
	pending.Platform.Trial, pending.Report = true, nil
	for _, tt := range []struct {
		name    string
		servers []api.Server
		want    string
	}{
		{"a new server", []api.Server{running, pending}, `
HOSTNAME           STATE    LAST SEEN  ADDRESS       PLATFORM
cn0                running  4s ago     10.99.99.101  20261122T101500Z
52-54-00-00-00-11  pending  4s ago     10.99.99.101  20261122T101500Z trial
    waits for approval:
    nereid server approve 4e455245-4944-4000-8000-000000000020
(no room for MEMORY, UUID, POOL; --wide shows all)
`},
		{"all is well", []api.Server{running}, `
HOSTNAME  STATE    LAST SEEN  ADDRESS       PLATFORM          POOL
cn0       running  4s ago     10.99.99.101  20261122T101500Z  ONLINE 13%
(no room for MEMORY, UUID; --wide shows all)
`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tab := a.serverTable(tt.servers, false)
			tab.width = 80
			var b bytes.Buffer
			if err := tab.write(&b); err != nil {
				t.Fatal(err)
			}
			if got := "\n" + b.String(); got != tt.want {
				t.Errorf("got%s\nwant%s", got, tt.want)
			}
		})
	}
}

// TestFirstLines holds a drawing to the lines that the screen has, less the one
// the cursor is on.
func TestFirstLines(t *testing.T) {
	text := "1\n2\n3\n4\n5\n"
	for height, want := range map[int]string{
		0: text, 7: text, 6: text,
		5: "1\n2\n3\nand 2 more lines, for which the screen has no room: nereid server list\n",
		3: "1\nand 4 more lines, for which the screen has no room: nereid server list\n",
	} {
		if got := firstLines(text, height, "nereid server list"); got != want {
			t.Errorf("height %d: %q, want %q", height, got, want)
		}
	}
}
