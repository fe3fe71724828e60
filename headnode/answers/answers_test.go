package answers

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

const fixtures = "../../fixtures/answers"

// Each file of fixtures that is wrong has its list of faults beside it.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(fixtures, "*.toml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no fixtures: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse(bytes.NewReader(data), filepath.Base(file))
			got := ""
			if err != nil {
				var f *Faults
				if !errors.As(err, &f) {
					t.Fatalf("error is no *Faults: %v", err)
				}
				got = err.Error() + "\n"
			}
			golden := strings.TrimSuffix(file, ".toml") + ".faults"
			if *update {
				if got == "" {
					return
				}
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil && !(got == "" && errors.Is(err, os.ErrNotExist)) {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("faults (-want +got):\n%s", d)
			}
		})
	}
}

func TestParse(t *testing.T) {
	f, err := os.Open(filepath.Join(fixtures, "good.toml"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := Parse(f, "good.toml")
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr
	want := Answers{
		Datacenter: "coal", DNSDomain: "coal.example.com",
		Admin: Admin{
			Interface: "admin0", Address: netip.MustParsePrefix("10.99.99.7/24"),
			First: a("10.99.99.100"), Last: a("10.99.99.250"), Gateway: a("10.99.99.1"),
			DNS: []netip.Addr{a("10.99.99.2")}, NTP: []netip.Addr{a("10.99.99.3"), a("10.99.99.4")},
			Lease: 90 * time.Minute, Clients: ClientsAll,
		},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(x, y netip.Addr) bool { return x == y }), cmp.Comparer(func(x, y netip.Prefix) bool { return x == y })); d != "" {
		t.Errorf("answers (-want +got):\n%s", d)
	}
}

func TestSampleParses(t *testing.T) {
	a, err := Parse(strings.NewReader(Sample), "sample.toml")
	if err != nil {
		t.Fatal(err)
	}
	for key := range known() {
		name := key[strings.LastIndex(key, ".")+1:]
		if !strings.Contains(Sample, "\n"+name+" = ") {
			t.Errorf("the sample does not show %s", key)
		}
	}
	if a.Datacenter != "coal" {
		t.Errorf("datacenter %q", a.Datacenter)
	}
}

func TestAskTakesDefaultsAndAsksAgain(t *testing.T) {
	// Everything by default but a wrong lease, which is asked again alone.
	in := strings.NewReader(strings.Repeat("\n", 4) + "10.99.99.20, 10.99.99.30\n" + "10.99.99.1\n" + "\n\n" + "soon\n" + "\n" + "6h\n")
	var out bytes.Buffer
	a, err := Ask(context.Background(), in, &out, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if a.Admin.Lease != 6*time.Hour || a.Admin.First.String() != "10.99.99.20" || a.Admin.Gateway.String() != "10.99.99.1" {
		t.Errorf("answers %+v", a)
	}
	if got := strings.Count(out.String(), "DHCP lease time"); got != 2 {
		t.Errorf("lease was asked %d times, want 2:\n%s", got, out.String())
	}
	if got := strings.Count(out.String(), "Datacenter name"); got != 1 {
		t.Errorf("the name was asked %d times, want 1", got)
	}
	if !strings.HasSuffix(out.String(), "DHCP lease time [12h]: ") {
		t.Errorf("a wrong reply became the default:\n%s", out.String())
	}
	if !strings.Contains(out.String(), `"soon" is no duration`) {
		t.Errorf("the fault is not shown:\n%s", out.String())
	}
}

func TestAskEndOfInput(t *testing.T) {
	_, err := Ask(context.Background(), strings.NewReader("coal\n"), &bytes.Buffer{}, nil)
	if err == nil || !strings.Contains(err.Error(), "nothing was written") {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob(filepath.Join(fixtures, "*.toml"))
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := Parse(bytes.NewReader(b), "fuzz")
		if err == nil && (!a.Admin.Address.IsValid() || a.Admin.Last.Less(a.Admin.First) || a.Admin.Lease < MinLease) {
			t.Errorf("accepted %+v", a)
		}
	})
}
