package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"nereid/api"
)

// ServerSpec says what a server without a machine is.
type ServerSpec struct {
	Name string
	UUID string
	NICs []ServerNIC // eth0, eth1...; the first one boots
}

// ServerNIC is a NIC and the bridge of the rack that it is plugged into.
type ServerNIC struct {
	MAC    string
	Bridge string // admin0, data0 or one of Rack.AddBridge
}

// Server is a server without a machine: namespaces of this system's kernel with the
// real agent in them. It boots by asking the real boot server as iPXE would, and has
// NICs but no disks. It can lose power, and its agent can be killed, at any time.
type Server struct {
	Spec  ServerSpec
	rack  *Rack
	agent string // path of the nereid-agent program

	host    *process // process 1 of the server; nil: it is off
	running *process // the agent, and who waits for it
}

// serverScript is process 1 of a server. A /sys of its own tells the agent, which
// looks for hardware there, of the server's UUID and its NICs, whose values are the
// live ones. What is in /run is gone with the server, as in a platform.
const serverScript = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/nereid /run/netns /run/sysfs
mount -t sysfs sysfs /run/sysfs
mount -t tmpfs tmpfs /sys
mkdir -p /sys/class/dmi/id
echo "$1" >/sys/class/dmi/id/product_uuid
for nic in $2; do
	mkdir -p /sys/class/net/$nic /sys/devices/$nic
	ln -s /sys/devices/$nic /sys/class/net/$nic/device
	for f in address mtu carrier type speed; do ln -s /run/sysfs/class/net/$nic/$f /sys/class/net/$nic/$f; done
done
hostname localhost
ip link set lo up
echo ready
exec sleep infinity
`

// AddServer adds a server without a machine and leaves it off. agent is the path of
// the nereid-agent program.
func (r *Rack) AddServer(agent string, spec ServerSpec) *Server {
	s := &Server{Spec: spec, rack: r, agent: agent}
	r.mu.Lock()
	r.servers = append(r.servers, s)
	r.mu.Unlock()
	return s
}

// PowerOn boots the server and starts its agent.
func (s *Server) PowerOn(ctx context.Context) error {
	if err := s.powerOn(ctx); err != nil {
		s.PowerOff()
		return fmt.Errorf("power on %s: %w", s.Spec.Name, err)
	}
	return nil
}

func (s *Server) powerOn(ctx context.Context) error {
	if s.host != nil {
		return errors.New("it is on")
	}
	out, in, err := os.Pipe()
	if err != nil {
		return err
	}
	defer out.Close()
	defer in.Close()
	var names []string
	for i := range s.Spec.NICs {
		names = append(names, fmt.Sprintf("eth%d", i))
	}
	cmd := exec.Command("/bin/sh", "-c", serverScript, "server", s.Spec.UUID, strings.Join(names, " "))
	var faults bytes.Buffer
	cmd.Stdout, cmd.Stderr = in, &faults
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if s.host, err = start(cmd); err != nil {
		return err
	}
	in.Close()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		_ = s.host.kill(syscall.SIGKILL)
		return fmt.Errorf("make its namespaces: %s", strings.TrimSpace(faults.String()))
	}
	pid := strconv.Itoa(s.host.cmd.Process.Pid)
	for i, nic := range s.Spec.NICs {
		port, size := s.port(i), mtu(nic.Bridge)
		if err := s.rack.ip(ctx, "link", "add", port, "mtu", size, "type", "veth",
			"peer", "name", names[i], "address", nic.MAC, "mtu", size, "netns", pid); err != nil {
			return err
		}
		if err := s.rack.ip(ctx, "link", "set", port, "master", nic.Bridge, "up"); err != nil {
			return err
		}
	}
	if out, err := s.Exec(ctx, "ip", "link", "set", "eth0", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("bring eth0 up: %w: %s", err, bytes.TrimSpace(out))
	}
	conf, err := borrow(ctx, filepath.Join(s.rack.opts.Dir, s.Spec.Name+".udhcpc"), s.enter()...)
	if err != nil {
		return err
	}
	if err := s.writeBoot(ctx, conf); err != nil {
		return err
	}
	return s.StartAgent(ctx)
}

func (s *Server) writeBoot(ctx context.Context, conf api.BootConfig) error {
	b, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	cmd := s.Exec(ctx, "sh", "-c", "umask 077; cat >/run/nereid/boot.json")
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("write boot configuration: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// StartAgent starts the agent in a server that is on.
func (s *Server) StartAgent(ctx context.Context) error {
	log, err := os.OpenFile(s.Log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	defer log.Close()
	// It may do to this system's kernel what a server's agent must, but not set its
	// clock or reboot it.
	args := append(s.enter()[1:], "setpriv", "--bounding-set=-sys_time,-sys_boot", "--pdeathsig=KILL",
		s.agent, "run", "--stateless-firewall", "--log-level", "debug")
	cmd := exec.Command(s.enter()[0], args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if s.running, err = start(cmd); err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	return nil
}

// KillAgent ends the agent with SIGKILL and waits until it is gone. The server, its
// links and its instances' namespaces stay.
func (s *Server) KillAgent() error {
	if s.running == nil {
		return nil
	}
	pid, err := s.AgentPID()
	if err != nil {
		return fmt.Errorf("kill agent: %w", err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill agent: %w", err)
	}
	<-s.running.done // nsenter waits for it
	s.running = nil
	return nil
}

// AgentPID is the agent's process id, as seen from outside of the server.
func (s *Server) AgentPID() (int, error) {
	if s.running == nil {
		return 0, errors.New("the agent does not run")
	}
	id := strconv.Itoa(s.running.cmd.Process.Pid)
	b, err := os.ReadFile("/proc/" + id + "/task/" + id + "/children") // proc_pid_task_children(5)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("the agent of %s ended: see %s", s.Spec.Name, s.Log())
	}
	return pid, nil
}

// PowerOff takes the power away: everything in the server ends at once and nothing
// of it stays.
func (s *Server) PowerOff() {
	if s.host == nil {
		return
	}
	// The kernel takes namespaces away only some time after their processes, and until
	// then packets go through them.
	for i := range s.Spec.NICs {
		_ = s.rack.ip(context.Background(), "link", "delete", s.port(i))
	}
	_ = s.host.kill(syscall.SIGKILL) // process 1 takes all others with it
	if s.running != nil {
		<-s.running.done
	}
	s.host, s.running = nil, nil
}

// port is the rack's end of a NIC's cable.
func (s *Server) port(nic int) string { return fmt.Sprintf("%s-%d", s.Spec.Name, nic) }

// Squeeze makes the rack's switch drop frames to and from a NIC that carry packets of
// more than mtu bytes, without a word to anybody.
func (s *Server) Squeeze(ctx context.Context, nic, mtu int) error {
	return s.rack.ip(ctx, "link", "set", s.port(nic), "mtu", strconv.Itoa(mtu))
}

// Replug makes the switch put a NIC into another network, with nothing to see of it at
// the server: a port in the wrong VLAN.
func (s *Server) Replug(ctx context.Context, nic int, bridge string) error {
	return s.rack.ip(ctx, "link", "set", s.port(nic), "master", bridge)
}

// Cable plugs the cable of a NIC in or out. Out, neither end has a carrier.
func (s *Server) Cable(ctx context.Context, nic int, in bool) error {
	return s.rack.ip(ctx, "link", "set", s.port(nic), map[bool]string{true: "up", false: "down"}[in])
}

// Exec is a command inside the server.
func (s *Server) Exec(ctx context.Context, name string, args ...string) *exec.Cmd {
	all := append(s.enter(), name)
	cmd := exec.CommandContext(ctx, all[0], append(all[1:], args...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

// Namespace gives a network namespace in the server as a path: the one of an
// instance's NIC by its name there, the server's own for an empty name.
func (s *Server) Namespace(name string) string {
	proc := fmt.Sprintf("/proc/%d", s.host.cmd.Process.Pid)
	if name == "" {
		return proc + "/ns/net"
	}
	return proc + "/root/run/netns/" + name
}

// enter is the command that runs another inside the server.
func (s *Server) enter() []string {
	return []string{"nsenter", "--target", strconv.Itoa(s.host.cmd.Process.Pid),
		"--mount", "--uts", "--ipc", "--net", "--pid", "--"}
}

// Log is the file the agent's log goes to.
func (s *Server) Log() string { return filepath.Join(s.rack.opts.Dir, s.Spec.Name+".log") }
