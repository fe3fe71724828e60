package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) serverApprove() *cobra.Command {
	var (
		all           bool
		hostname, mac string
	)
	cmd := &cobra.Command{
		Use:   "approve SERVER... | --all-pending",
		Short: "Let servers in that wait for approval",
		Long: `Lets servers in: each gets a client certificate and syncs from then on. Look at what it is first: nereid server get SERVER.

A machine that says it is a known server, and has another key and boots from another MAC, is held. Approved, it is a server of its own.
Where no key tells which of two is the server, both are held; --mac says which of them is meant, and the other one is rejected.

` + serverIDs,
		Example: lines("nereid server approve 4e455245-4944-4000-8000-000000000010 --hostname cn0",
			"nereid server approve --all-pending",
			"nereid server approve 4c4c4544-0042 --mac 52:54:00:00:00:11"),
		ValidArgsFunction: a.completeServers(true),
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case all && len(args) > 0:
				return errors.New("give servers or --all-pending, not both")
			case !all && len(args) == 0:
				return errors.New("no server given; name some, or give --all-pending")
			case len(args) != 1 && hostname != "":
				return errors.New("--hostname is for one server; approve them one by one, or rename them later")
			case len(args) != 1 && mac != "":
				return errors.New("--mac is for one server")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if mac != "" {
				m, err := normalMAC(mac)
				if err != nil {
					return err
				}
				mac = m
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			if all {
				return a.approveAll(ctx, c)
			}
			return a.each(args, func(id string) (api.Server, error) { return a.approve(ctx, c, id, hostname, mac) },
				func(s api.Server) string { return fmt.Sprintf("%s (%s) is approved", named(s), s.UUID) })
		},
	}
	cmd.Flags().BoolVar(&all, "all-pending", false, "every server that waits")
	cmd.Flags().StringVar(&hostname, "hostname", "", "name it")
	cmd.Flags().StringVar(&mac, "mac", "", "of two machines with one UUID: the MAC address of the one that is meant")
	return cmd
}

// approve names a server first, so that its first spec has the name, and a name
// that is taken stops the approval.
func (a *app) approve(ctx context.Context, c *api.Client, id, hostname, mac string) (api.Server, error) {
	s, err := a.find(ctx, c, id)
	if err != nil {
		return s, err
	}
	if hostname != "" && hostname != s.Hostname {
		if _, err := c.UpdateServer(ctx, s.UUID, api.ServerUpdate{Hostname: &hostname}, ""); err != nil {
			return s, fmt.Errorf("name %s %q: %w", s.Hostname, hostname, err)
		}
	}
	if err := c.ApproveServer(ctx, s.UUID, mac); err != nil {
		return s, err
	}
	return c.Server(ctx, s.UUID)
}

func (a *app) approveAll(ctx context.Context, c *api.Client) error {
	waiting, err := listServers(ctx, c, func(s api.Server) bool { return s.State == api.StatePending })
	if err != nil {
		return err
	}
	if len(waiting) == 0 {
		return a.done([]api.Server{}, "No server waits for approval.")
	}
	ids := []string{}
	for _, s := range waiting {
		ids = append(ids, s.UUID)
	}
	return a.each(ids, func(id string) (api.Server, error) { return a.approve(ctx, c, id, "", "") },
		func(s api.Server) string { return fmt.Sprintf("%s (%s) is approved", named(s), s.UUID) })
}

// each does something to servers one after another, goes on when it fails for
// one, and says of each what became of it.
func (a *app) each(ids []string, do func(id string) (api.Server, error), said func(api.Server) string) error {
	done, sentences := []api.Server{}, []string{}
	var errs []error
	for _, id := range ids {
		s, err := do(id)
		switch {
		case errors.Is(err, context.Canceled):
			errs = append(errs, err)
		case err != nil && len(ids) > 1:
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
		case err != nil:
			return err
		default:
			done = append(done, s)
			sentences = append(sentences, said(s))
		}
		if errors.Is(err, context.Canceled) {
			break
		}
	}
	if len(done) > 0 {
		if err := a.done(done, "%s", strings.Join(sentences, "\n")); err != nil {
			return err
		}
	}
	if len(errs) == 0 {
		return nil
	}
	for _, err := range errs[:len(errs)-1] {
		a.fail(err)
	}
	return errs[len(errs)-1]
}

func (a *app) serverAcceptKey() *cobra.Command {
	var mac string
	cmd := &cobra.Command{
		Use:   "accept-key SERVER",
		Short: "Accept the other key that a server presents",
		Long: `Accepts the key with which a server asked to be let in, instead of the one it had: its disks were replaced, or it was
switched off before it was set up, when its key was in RAM only. Nothing on the server is touched.

With --mac, the machine that boots from that MAC is the server from then on, with other hardware. While the server's own
key syncs, no other is accepted.

` + serverIDs,
		Example:           lines("nereid server accept-key cn0", "nereid server accept-key cn0 --mac 52:54:00:00:00:11"),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
		RunE: a.withServer(func(ctx context.Context, c *api.Client, s api.Server, _ []string) error {
			if mac != "" {
				m, err := normalMAC(mac)
				if err != nil {
					return err
				}
				mac = m
			}
			if err := c.AcceptKey(ctx, s.UUID, mac); err != nil {
				return err
			}
			s, err := c.Server(ctx, s.UUID)
			if err != nil {
				return err
			}
			return a.done(s, "%s is known by its new key", named(s))
		}),
	}
	cmd.Flags().StringVar(&mac, "mac", "", "the MAC address of the machine that is this server now")
	return cmd
}

func (a *app) serverReject() *cobra.Command {
	return &cobra.Command{
		Use:   "reject SERVER...",
		Short: "Refuse servers that wait for approval",
		Long: `Refuses servers: they get no certificate, and their next boots are told so. "server approve" takes it back, "server forget"
deletes the record.

` + serverIDs,
		Example:           lines("nereid server reject 52:54:00:00:00:99"),
		Args:              wants("SERVER..."),
		ValidArgsFunction: a.completeServers(true),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			return a.each(args, func(id string) (api.Server, error) {
				s, err := a.find(ctx, c, id)
				if err != nil {
					return s, err
				}
				if err := c.RejectServer(ctx, s.UUID); err != nil {
					return s, err
				}
				return c.Server(ctx, s.UUID)
			}, func(s api.Server) string { return fmt.Sprintf("%s (%s) is rejected", named(s), s.UUID) })
		}),
	}
}

// normalMAC gives a MAC address as the API writes it.
func normalMAC(s string) (string, error) {
	m, err := net.ParseMAC(s)
	if err != nil || len(m) != 6 {
		return "", usagef("MAC address %q: want six pairs of hexadecimal digits, as 52:54:00:00:00:10", s)
	}
	return m.String(), nil
}
