package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"time"

	"nereid/agent/storage"
	"nereid/api"
	"nereid/headnode"
)

// machine is a server without hardware: it boots by the head node's own boot
// decisions, enrols, syncs over TLS and does what its spec says.
type machine struct {
	head      *headnode.Server
	mac, uuid string
	disks     []api.Disk
	problems  []string // that it reports

	key     *ecdsa.PrivateKey // kept on the pool, once there is one
	pool    *api.Pool
	handled string // power request
}

// run boots until the machine is shut down or ctx ends.
func (m *machine) run(ctx context.Context) error {
	for {
		cfg, err := m.boot(ctx)
		if err != nil {
			return fmt.Errorf("boot: %w", err)
		}
		again, err := m.live(ctx, cfg)
		if err != nil || !again {
			return err
		}
	}
}

// boot goes from firmware to the point where the agent starts.
func (m *machine) boot(ctx context.Context) (api.BootConfig, error) {
	var cfg api.BootConfig
	r := api.BootRequest{MAC: m.mac, UUID: m.uuid, VendorClass: "PXEClient:Arch:00000:UNDI:002001"}
	var a api.BootAnswer
	ask := func(class string) error {
		r.UserClass = class
		for _, r.Kind = range []api.BootKind{api.KindDiscover, api.KindRequest} {
			var err error
			if a, err = m.head.Boot(ctx, r); err != nil {
				return err
			}
			if a.Verdict != api.VerdictAnswer {
				return fmt.Errorf("%s: %s: %s", r.Kind, a.Verdict, a.Reason)
			}
			r.Requested = a.Address.Addr()
		}
		return nil
	}
	if err := ask(""); err != nil {
		return cfg, err
	}
	from := a.Address.Addr()
	record := func(evs ...api.BootEvent) error {
		for _, ev := range evs {
			ev.Time = time.Now()
			if err := m.head.Record(ctx, a.BootID, from, ev); err != nil {
				return err
			}
		}
		return nil
	}
	if err := record(api.BootEvent{Stage: api.StageTFTP, Detail: "undionly.kpxe", Bytes: 70 << 10, Seconds: 0.1}); err != nil {
		return cfg, err
	}
	if err := ask("iPXE"); err != nil {
		return cfg, err
	}
	plan, err := m.head.Plan(ctx, a.BootID, from)
	if err != nil {
		return cfg, fmt.Errorf("plan: %w", err)
	}
	if plan.Hold != "" {
		return cfg, fmt.Errorf("plan: held: %s", plan.Hold)
	}
	if err := record(api.BootEvent{Stage: api.StageScript, Bytes: 600},
		api.BootEvent{Stage: api.StageKernel, Bytes: plan.Manifest.Kernel.Size, Seconds: 0.1},
		api.BootEvent{Stage: api.StageInitrd, Bytes: plan.Manifest.Initrd.Size, Seconds: 0.1}); err != nil {
		return cfg, err
	}
	if cfg, err = m.head.Config(ctx, a.BootID, from); err != nil {
		return cfg, err
	}
	return cfg, record(api.BootEvent{Stage: api.StageConfig}, api.BootEvent{Stage: api.StageStub, Seconds: 1.5},
		api.BootEvent{Stage: api.StageRoot, Seconds: 4}, api.BootEvent{Stage: api.StageSwitchRoot, Seconds: 4.1})
}

// post sends in as JSON and reads out from a 200 or 202; it gives the status.
func post(ctx context.Context, c *http.Client, url string, in, out any) (int, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(b))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusNoContent {
		return res.StatusCode, nil
	}
	if res.StatusCode > 299 {
		var p api.Problem
		if err := json.NewDecoder(res.Body).Decode(&p); err != nil {
			return res.StatusCode, fmt.Errorf("%s: %s", url, res.Status)
		}
		return res.StatusCode, &p
	}
	return res.StatusCode, json.NewDecoder(res.Body).Decode(out)
}

// live is the agent: it enrols, syncs and obeys until it has to boot again.
func (m *machine) live(ctx context.Context, cfg api.BootConfig) (again bool, err error) {
	if m.key == nil || m.pool == nil {
		if m.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return false, err
		}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: m.uuid}}, m.key)
	if err != nil {
		return false, err
	}
	sysinfo := api.Sysinfo{UUID: m.uuid, Manufacturer: "test", Product: "machine", MemoryBytes: 2 << 30, Firmware: "bios", Hypervisor: api.Hypervisor{QEMU: "10.0.13", NoKVM: "its processor has no VT-x."},
		CPU: api.CPU{Sockets: 1, Cores: 1, Threads: 1}, NICs: []api.NIC{{Name: "eth0", MAC: m.mac, LinkUp: true}}, Disks: m.disks}
	tlsConfig := &tls.Config{InsecureSkipVerify: true} // the pin is what the client's own tests are about
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	defer client.CloseIdleConnections()
	enrol := api.EnrolRequest{Token: cfg.Token, BootID: cfg.BootID, Sysinfo: sysinfo,
		CSR: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))}
	var granted api.EnrolResponse
	for status := 0; status != http.StatusOK; {
		if status, err = post(ctx, client, "https://"+m.head.HTTPS().String()+"/v1/enrol", enrol, &granted); err != nil {
			return false, fmt.Errorf("enrol: %w", err)
		}
	}
	block, _ := pem.Decode([]byte(granted.Certificate))
	if block == nil {
		return false, fmt.Errorf("enrol: no certificate in %q", granted.Certificate)
	}
	tlsConfig = &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: m.key}}}
	client = &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig}}
	defer client.CloseIdleConnections()

	inventory, err := json.Marshal(sysinfo)
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(inventory)
	req := api.SyncRequest{InventoryDigest: hex.EncodeToString(sum[:]), Inventory: &sysinfo, Usage: api.Usage{UptimeSeconds: 15, MemoryFreeBytes: 1 << 30}}
	req.Report = api.Report{BootID: cfg.BootID, Platform: cfg.Platform, Hostname: cfg.Hostname, AgentVersion: "v0.1.0",
		Boot: api.BootTimings{Stub: 1.5, SwitchRoot: 4.1, Systemd: 4.2, Agent: 7, FirstSync: 7.5}}
	m.observe(&req.Report)
	ports, rules, zones := api.Follow{Set: api.PortSet(m.uuid)}, api.Follow{Set: api.RuleSet("")}, newZones(m.uuid)
	nat := api.Follow{Set: api.ServerNATSet(m.uuid)}
	for {
		var res api.SyncResponse
		req.Follow, req.Instances = []api.Follow{ports, rules, nat, zones.follow, zones.past}, zones.report()
		status, err := post(ctx, client, "https://"+m.head.HTTPS().String()+"/v1/servers/"+m.uuid+"/sync", req, &res)
		if status == http.StatusNotFound {
			return false, nil // forgotten
		}
		if err != nil {
			return false, fmt.Errorf("sync: %w", err)
		}
		if status != http.StatusOK {
			continue
		}
		zones.heard(res.InstancesSeen)
		for _, d := range res.Deltas {
			if d.Set == ports.Set {
				ports = ports.Take(d)
			} else if d.Set == rules.Set {
				rules = rules.Take(d)
			} else if d.Set == nat.Set {
				nat = nat.Take(d)
			} else if err := zones.take(d); err != nil {
				return false, err
			}
		}
		if res.Spec == nil {
			continue
		}
		req.Seen, req.Inventory = res.Revision, nil
		if res.NeedInventory {
			req.Inventory = &sysinfo
		}
		spec := res.Spec
		req.Report.Hostname = spec.Hostname
		if p := spec.Power; p != nil && p.BootID == cfg.BootID && p.ID != m.handled {
			m.handled = p.ID
			req.Report.Power = &api.PowerReport{ID: p.ID}
			status, err := post(ctx, client, "https://"+m.head.HTTPS().String()+"/v1/servers/"+m.uuid+"/sync", req, &res)
			if status == http.StatusNotFound {
				return false, nil
			}
			if err != nil {
				return false, fmt.Errorf("sync: %w", err)
			}
			if p.Action == "reset" {
				m.pool = nil
			}
			return p.Action != "shutdown", nil
		}
		if spec.Setup != nil && m.pool == nil {
			if err := m.setUp(*spec.Setup, &req.Report); err != nil {
				req.Report.Setup = &api.SetupReport{ID: spec.Setup.ID, Phase: "failed", Error: err.Error()}
			}
		}
		m.observe(&req.Report)
		req.Report.AppliedSpec = res.Revision
	}
}

// observe puts what there is into the report.
func (m *machine) observe(r *api.Report) {
	r.Problems = m.problems
	if m.pool != nil {
		r.Pools = []api.Pool{*m.pool}
		r.Setup = &api.SetupReport{ID: m.pool.SetupID, Phase: "complete", Complete: true}
	}
}

// setUp is the agent's own plan, checked as the agent does, and no disks.
func (m *machine) setUp(spec api.SetupSpec, r *api.Report) error {
	plan, err := storage.Plan(spec, m.disks)
	if err != nil {
		return err
	}
	if plan.Digest != spec.PlanDigest {
		return fmt.Errorf("the disks give plan %s, not %s", plan.Digest, spec.PlanDigest)
	}
	m.pool = &api.Pool{Name: spec.Pool, GUID: "77", Health: "ONLINE", SizeBytes: plan.CapacityBytes, AllocatedBytes: 1 << 20, System: true, SetupID: spec.ID}
	return nil
}
