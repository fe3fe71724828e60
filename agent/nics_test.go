package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"nereid/api"
)

// portsFunc is Ports that set a port by a function.
type portsFunc struct {
	set  func(ctx context.Context, p api.PortSpec) error
	drop func(ctx context.Context, mac, instance string) error
}

func (f portsFunc) SetPort(ctx context.Context, p api.PortSpec) error { return f.set(ctx, p) }
func (f portsFunc) DropPort(ctx context.Context, mac, instance string) error {
	return f.drop(ctx, mac, instance)
}

// nicLab is workers of NICs whose gate is open, until the test ends.
func nicLab(t *testing.T, p portsFunc) *nics {
	a := &Agent{Net: Net{Ports: p}, health: newHealth()}
	a.Log = slog.New(slog.DiscardHandler)
	a.ports = newFollower(a, portKind())
	n := newNICs(a, newBoard(api.Report{}))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	n.gate.open(gateNetwork)
	return n
}

func nicSpecs(from, to int) (ports []api.PortSpec) {
	for i := from; i < to; i++ {
		ports = append(ports, api.PortSpec{MAC: fmt.Sprintf("02:00:00:00:00:%02x", i), Instance: fmt.Sprintf("i%d", i), MTU: 1500})
	}
	return ports
}

// notes is a list that several write.
type notes struct {
	mu    sync.Mutex
	lines []string
}

func (n *notes) add(line string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lines = append(n.lines, line)
}

// take is what was added since the last call.
func (n *notes) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.lines
	n.lines = nil
	return l
}

// A NIC that fails and one that does not come back delay no other; each failure is
// told by itself, tried again ever less often, and gone from the report when it works.
func TestNICsAreApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var did notes
		var broken sync.Map
		n := nicLab(t, portsFunc{set: func(ctx context.Context, p api.PortSpec) error {
			did.add(p.MAC)
			if _, bad := broken.Load(p.MAC); bad {
				return errors.New("no memory")
			}
			if p.Instance == "i1" {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}})
		broken.Store("02:00:00:00:00:02", true)
		begun := time.Now()
		n.want(nicSpecs(1, 100), nil)
		synctest.Wait()
		if got := did.take(); len(got) != 99 || time.Since(begun) != 0 {
			t.Errorf("%d NICs were made after %v", len(got), time.Since(begun))
		}
		r, _ := n.board.peek()
		if len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "set NIC 02:00:00:00:00:02 of instance i2: no memory.") || n.good() {
			t.Errorf("problems %q, good %v", r.Problems, n.good())
		}
		time.Sleep(10 * time.Minute)
		failed := 0
		for _, mac := range did.take() {
			if mac == "02:00:00:00:00:02" {
				failed++
			} else if mac != "02:00:00:00:00:01" {
				t.Errorf("%s was made again", mac)
			}
		}
		if failed < 9 || failed > 22 {
			t.Errorf("tried again %d times in 10 minutes", failed)
		}
		broken.Clear()
		p := nicSpecs(1, 2)[0]
		p.Instance = "of another that works"
		n.want([]api.PortSpec{p}, nil)
		time.Sleep(networkLimit + nicRetry)
		synctest.Wait()
		if r, _ := n.board.peek(); len(r.Problems) != 0 || !n.good() {
			t.Errorf("problems %q, good %v", r.Problems, n.good())
		}
	})
}

// What is wanted of a NIC has one slot, and the newest counts; what is wanted already
// and what is not named any more is left alone.
func TestNICSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var did notes
		release := make(chan struct{})
		n := nicLab(t, portsFunc{set: func(_ context.Context, p api.PortSpec) error {
			did.add(fmt.Sprint("set ", p.MTU))
			<-release
			return nil
		}, drop: func(_ context.Context, mac, instance string) error {
			did.add("drop " + instance)
			return nil
		}})
		p := nicSpecs(1, 2)
		for mtu := 1500; mtu < 1510; mtu++ {
			p[0].MTU = mtu
			n.want(slices.Clone(p), nil)
			synctest.Wait()
		}
		close(release)
		synctest.Wait()
		if got := did.take(); !slices.Equal(got, []string{"set 1500", "set 1509"}) {
			t.Errorf("did %q", got)
		}
		n.want(p, nil)
		n.want(nil, nil)
		synctest.Wait()
		if got := did.take(); got != nil || !n.wants(p[0].MAC) {
			t.Errorf("did %q", got)
		}
		n.disturbed(strings.ToUpper(p[0].MAC))
		n.disturbed("02:00:00:00:00:99")
		synctest.Wait()
		if got := did.take(); !slices.Equal(got, []string{"set 1509"}) {
			t.Errorf("when it was disturbed did %q", got)
		}

		// Another instance's NIC with the MAC is gone, and then this one.
		n.want(p, []api.GoneNIC{{ID: "a", MAC: p[0].MAC, Instance: "i7"}})
		synctest.Wait()
		if got := did.take(); !slices.Equal(got, []string{"drop i7", "set 1509"}) {
			t.Errorf("did %q", got)
		}
		gone := []api.GoneNIC{{ID: "a", MAC: p[0].MAC, Instance: "i7"}, {ID: "b", MAC: p[0].MAC, Instance: "i1"}}
		for range 2 {
			n.want(nil, gone)
			synctest.Wait()
		}
		if got := did.take(); !slices.Equal(got, []string{"drop i1"}) || !slices.Equal(n.gone, []string{"a", "b"}) || len(n.all)+len(n.nics) != 0 {
			t.Errorf("did %q, told %q, remembered %v", got, n.gone, n.nics)
		}
	})
}

// So many are made at once and no more; none before the gate is open, nor after it was
// closed.
func TestNICGateAndSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := make(chan string, 100)
		release := make(chan struct{})
		n := nicLab(t, portsFunc{set: func(_ context.Context, p api.PortSpec) error {
			begun <- p.MAC
			<-release
			return nil
		}})
		n.gate.close(gateNetwork)
		n.gate.close(gateDown)
		n.want(nicSpecs(0, 50), nil)
		synctest.Wait()
		n.gate.open(gateNetwork)
		synctest.Wait()
		if len(begun) != 0 {
			t.Errorf("%d NICs were begun behind a closed gate", len(begun))
		}
		n.gate.open(gateDown)
		synctest.Wait()
		if len(begun) != nicSlots {
			t.Errorf("%d NICs are made at once", len(begun))
		}
		close(release)
		synctest.Wait()
		if len(begun) != 50 || !n.good() {
			t.Errorf("%d NICs were made, good %v", len(begun), n.good())
		}
	})
}

// Of many NICs that are wrong the report names the first; what is not about NICs is
// always in it. Saying it again is no change.
func TestManyProblems(t *testing.T) {
	b := newBoard(api.Report{})
	for i := range 30 {
		b.problem(fmt.Sprintf("%s%02d", aboutNIC, i), fmt.Sprintf("NIC %d is wrong.", i))
	}
	b.problem("pools", "The pools are wrong.")
	r, v := b.peek()
	if len(r.Problems) != maxNICs+2 || r.Problems[0] != "NIC 0 is wrong." || r.Problems[maxNICs] != "The pools are wrong." ||
		r.Problems[maxNICs+1] != "Not as the head node wants them are, besides those that are named, 10 NICs of instances." {
		t.Errorf("problems %q", r.Problems)
	}
	b.problem("pools", "The pools are wrong.")
	if b.update(func(r *api.Report) bool { return put(&r.Hostname, "") }) != v {
		t.Error("what was said already is a change")
	}
}

// Each field of what is wanted of a NIC makes another one of it.
func TestSamePort(t *testing.T) {
	fields := 0
	var visit func(p *api.PortSpec, v reflect.Value)
	visit = func(p *api.PortSpec, v reflect.Value) {
		for i := range v.NumField() {
			f := v.Field(i)
			was := reflect.New(f.Type()).Elem()
			was.Set(f)
			switch f.Kind() {
			case reflect.Struct:
				visit(p, f)
				continue
			case reflect.String:
				f.SetString("x")
			case reflect.Bool:
				f.SetBool(true)
			case reflect.Int:
				f.SetInt(7)
			case reflect.Uint32:
				f.SetUint(7)
			case reflect.Map:
				f.Set(reflect.ValueOf(map[string]string{"x": ""}))
			case reflect.Slice:
				f.Set(reflect.MakeSlice(f.Type(), 1, 1))
			default:
				t.Fatalf("field %s of a new kind", v.Type().Field(i).Name)
			}
			if fields++; samePort(p, &api.PortSpec{}) || samePort(&api.PortSpec{}, p) {
				t.Errorf("another %s makes no difference", v.Type().Field(i).Name)
			}
			f.Set(was)
		}
	}
	var p api.PortSpec
	visit(&p, reflect.ValueOf(&p).Elem())
	if fields < 16 || !samePort(&p, &api.PortSpec{}) {
		t.Errorf("%d fields, or what is the same is not", fields)
	}
}
