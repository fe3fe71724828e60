package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// onePerson is how many servers a second are powered on without a storm.
const onePerson = 20

// look is how often the picture is looked at. It is printed when it changed.
const look = 2 * time.Second

// options are the flags.
type options struct {
	head, tokenFile, ca, keys string
	servers, nics             int
	storm, admit              bool
}

// Command is the command line of nereid-fleet.
func Command(getenv func(string) string) *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "nereid-fleet",
		Short: "Simulated servers, by the thousand, against a real head node",
		Long: `Simulated servers, by the thousand, against a real head node.

Each server has a MAC (02:f1:ee:...), a UUID, a key and a certificate of its
own. It boots as the head node decides, enrols, reports the hardware of a
captured server, takes orders and follows what is wanted of it. No packet of a
guest is moved, and nothing here needs root: the boots go over HTTPS with an
operator's token, or over the head node's socket.

Over a network, give this machine the addresses that the servers lease, or the
head node refuses most of them: it takes few connections from one address.
On Linux: ip route add local 10.99.128.0/17 dev lo

Use a head node made for the rehearsal: the servers take leases and stay in its
inventory, and each needs an address of the admin range. The fleet lives until
it is interrupted, and then says what it saw. A server takes about 200 kB.`,
		Example: `  # 1,000 servers are powered on at once; they are let in and set up
  nereid-fleet --head /run/nereid/headnode.sock --servers 1000 \
      --power-on-storm --admit

  # from another machine; the same servers come again another time
  nereid-fleet --head https://10.99.99.7:8443 --token-file token \
      --ca-sha256 4b1d...e2 --keys fleet.keys --servers 200

  # how many NICs a second are made, and how soon their servers know
  nereid-fleet --servers 1000 --admit --nics 10000`,
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(c *cobra.Command, _ []string) error {
			o.head = cmp.Or(o.head, getenv("NEREID_SERVER"), "/run/nereid/headnode.sock")
			o.tokenFile = cmp.Or(o.tokenFile, getenv("NEREID_TOKEN_FILE"))
			o.ca = cmp.Or(o.ca, getenv("NEREID_CA_SHA256"))
			return rehearse(c.Context(), o, c.OutOrStdout())
		},
	}
	f := c.Flags()
	f.StringVar(&o.head, "head", "", "head node: its socket or https://HOST:8443\n(env NEREID_SERVER)")
	f.StringVar(&o.tokenFile, "token-file", "", "file that holds an operator's token\n(env NEREID_TOKEN_FILE)")
	f.StringVar(&o.ca, "ca-sha256", "", "SHA-256 of the head node's CA certificate\n(env NEREID_CA_SHA256)")
	f.StringVar(&o.keys, "keys", "", "file with what the servers' keys are made of,\nwritten when missing; without it the keys are new,\nand servers set up before are refused")
	f.IntVar(&o.servers, "servers", 100, "how many servers")
	f.BoolVar(&o.storm, "power-on-storm", false, fmt.Sprintf("power all on at once (default %d a second)", onePerson))
	f.BoolVar(&o.admit, "admit", false, "approve the servers and set them up")
	f.IntVar(&o.nics, "nics", 0, "make so many NICs once all servers sync, measure,\nand delete them")
	return c
}

// rehearse runs a fleet until ctx ends, and says what it sees.
func rehearse(ctx context.Context, o options, out io.Writer) error {
	cfg := Config{Headnode: o.head, CASHA256: o.ca, Servers: o.servers, Approve: o.admit, SetUp: o.admit}
	if !o.storm {
		cfg.Within = time.Duration(o.servers) * time.Second / onePerson
	}
	if o.nics < 0 {
		return fmt.Errorf("--nics %d: want 0 or more", o.nics)
	}
	if o.tokenFile != "" {
		b, err := os.ReadFile(o.tokenFile)
		if err != nil {
			return fmt.Errorf("read token: %w", err)
		}
		cfg.Token = strings.TrimSpace(string(b))
	}
	var err error
	if cfg.Seed, err = seed(o.keys); err != nil {
		return err
	}
	f, err := New(cfg)
	if err != nil {
		return err
	}
	defer f.Close()
	begun := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.Run(ctx) })
	g.Go(func() error { return show(ctx, f, o, begun, out) })
	if o.admit {
		g.Go(func() error {
			if err := f.WaitRunning(ctx); err != nil {
				return ended(ctx, err)
			}
			fmt.Fprintf(out, "%7.1f s  all %d servers run, as the head node sees it\n", time.Since(begun).Seconds(), o.servers)
			return nil
		})
	}
	err = g.Wait()
	p := f.See()
	fmt.Fprintf(out, "\nfrom power-on to sync     %s\nNICs made                 %s\nservers told of their NIC %s\n", p.Booted, p.Create, p.Tell)
	if p.Last != "" {
		fmt.Fprintf(out, "failed last               %s\n", p.Last)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	fmt.Fprintf(out, "memory                    %d MB, %d kB a server\n", m.Sys>>20, m.Sys>>10/uint64(o.servers))
	return err
}

// show prints the picture when it changed, and has the NICs made when all servers
// sync.
func show(ctx context.Context, f *Fleet, o options, begun time.Time, out io.Writer) error {
	t := time.NewTicker(look)
	defer t.Stop()
	left := o.nics
	for last := ""; ; {
		p := f.See()
		if text := p.String(); text != last {
			last = text
			fmt.Fprintf(out, "%7.1f s  %s\n", time.Since(begun).Seconds(), text)
		}
		if left > 0 && p.In[Syncing] == o.servers {
			if err := measure(ctx, f, left, out); err != nil {
				return err
			}
			left = 0
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// measure has NICs made and deleted.
func measure(ctx context.Context, f *Fleet, count int, out io.Writer) error {
	if err := f.PrepareNICs(ctx); err != nil {
		return ended(ctx, err)
	}
	macs, took := f.NICs(ctx, count, 64)
	p := f.See()
	fmt.Fprintf(out, "%d of %d NICs made by 64 clients in %s: %.0f/s\n  the request    %s\n  the server knows %s\n",
		len(macs), count, took.Round(time.Millisecond), float64(len(macs))/took.Seconds(), p.Create, p.Tell)
	return ended(ctx, f.DeleteNICs(ctx, macs))
}

// ended forgets an error that is the end of ctx.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// seed is what keys are made from: what a file holds, or what it is made to hold.
func seed(path string) ([]byte, error) {
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // it never fails (crypto/rand, Go 1.24)
	if path == "" {
		return fresh, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b, err = fresh, os.WriteFile(path, fresh, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("keep what keys are made of: %w", err)
	}
	return b, nil
}
