package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) serverCommand() *cobra.Command {
	return noun("server", "Servers: list, approve, set up, power, boot records",
		lines("nereid server list", "nereid server get cn0", "nereid server boot-log cn0"),
		a.serverList(), a.serverGet(), a.serverWatch(),
		a.serverApprove(), a.serverAcceptKey(), a.serverReject(), a.serverRename(), a.serverUpdate(), a.serverForget(),
		a.serverSetup(), a.serverReboot(), a.serverShutdown(), a.serverReset(),
		a.serverBootLog(), a.serverNICs())
}

const serverIDs = "SERVER is a UUID, the beginning of one, a hostname or a MAC address."

var (
	fullUUID   = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	partOfUUID = regexp.MustCompile(`^[0-9a-f][0-9a-f-]{3,34}$`)
)

// find gives the server that id means. A machine that has not enrolled is none.
func (a *app) find(ctx context.Context, c *api.Client, id string) (api.Server, error) {
	s, err := a.look(ctx, c, id)
	if err == nil && s.State == api.StateNew {
		return s, notFoundf("%s has not enrolled, so it is no server yet (%s); see: nereid server boot-log %s", id, s.StateReason, s.MACs[0])
	}
	return s, err
}

// look gives the server, or the machine that has not enrolled, that id means. What
// the head node does not know may be the beginning of a UUID, as "server list"
// prints it.
func (a *app) look(ctx context.Context, c *api.Client, id string) (api.Server, error) {
	if id == "" {
		return api.Server{}, usagef("no server given; %s", serverIDs)
	}
	low := strings.ToLower(id)
	if mac, err := net.ParseMAC(id); err == nil && len(mac) == 6 {
		id = mac.String()
	} else if fullUUID.MatchString(low) {
		id = low
	}
	s, err := c.Server(ctx, id)
	var p *api.Problem
	if err == nil || !errors.As(err, &p) || p.Status != 404 {
		return s, err
	}
	if !strings.Contains(err.Error(), id) { // say which one is meant
		err = fmt.Errorf("%s: %w", id, err)
	}
	if fullUUID.MatchString(low) || !partOfUUID.MatchString(low) {
		return s, err
	}
	var found []api.Server
	for s, lerr := range c.Servers(ctx) {
		if lerr != nil {
			return api.Server{}, lerr
		}
		if strings.HasPrefix(s.UUID, low) {
			found = append(found, s)
		}
	}
	switch len(found) {
	case 0:
		return api.Server{}, err
	case 1:
		return found[0], nil
	}
	names := []string{}
	for _, s := range found {
		names = append(names, fmt.Sprintf("%s (%s)", s.UUID, s.Hostname))
	}
	return api.Server{}, usagef("%q begins the UUIDs of %d servers: %s; give more of it", id, len(found), strings.Join(names, ", "))
}

// completeServers offers hostnames, with state and UUID beside them.
func (a *app) completeServers(many bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && !many {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c, err := a.api()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), completionLimit)
		defer cancel()
		var out []cobra.Completion
		for s, err := range c.Servers(ctx) {
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			if s.State == api.StateNew {
				continue
			}
			out = append(out, cobra.CompletionWithDesc(firstOf(s.Hostname, s.UUID), oneLine(string(s.State)+" "+s.UUID)))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

func (a *app) serverGet() *cobra.Command {
	return &cobra.Command{
		Use:   "get SERVER",
		Short: "Show everything known of a server",
		Long:  "Shows a server's state, hardware, disks, network interfaces, pools, platform and why it gets that one.\n\n" + serverIDs,
		Example: lines("nereid server get cn0",
			"nereid server get 52:54:00:00:00:10",
			"nereid server get cn0 -o json | jq -r '.sysinfo.disks[].name'"),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			s, err := a.look(ctx, c, args[0])
			if err != nil {
				return err
			}
			return a.emit(s, func(w io.Writer) error { return a.serverCard(w, s) })
		}),
	}
}

func (a *app) serverRename() *cobra.Command {
	return &cobra.Command{
		Use:               "rename SERVER HOSTNAME",
		Short:             "Give a server another hostname",
		Long:              "Gives a server another hostname. It takes it over at once; nothing restarts.\n\n" + serverIDs,
		Example:           lines("nereid server rename 52-54-00-00-00-10 cn0"),
		Args:              wants("SERVER", "HOSTNAME"),
		ValidArgsFunction: a.completeServers(false),
		RunE: a.withServer(func(ctx context.Context, c *api.Client, s api.Server, args []string) error {
			old := s.Hostname
			s, err := c.UpdateServer(ctx, s.UUID, api.ServerUpdate{Hostname: &args[1]}, s.Revision)
			if err != nil {
				return err
			}
			return a.done(s, "%s is now %s", old, s.Hostname)
		}),
	}
}

func (a *app) serverForget() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "forget SERVER",
		Short: "Delete what is known of a server",
		Long: "Deletes a server's record, its reservation and its approval. Nothing is done to the server: its pool stays, and when it " +
			"boots again it waits for approval as a new one.\n\n" + serverIDs,
		Example:           lines("nereid server forget cn7", "nereid server forget cn7 --yes"),
		Args:              wants("SERVER"),
		ValidArgsFunction: a.completeServers(false),
		RunE: a.withServer(func(ctx context.Context, c *api.Client, s api.Server, _ []string) error {
			if err := a.confirm(ctx, yes, "forget %s (%s, %s)", s.Hostname, s.UUID, s.State); err != nil {
				return err
			}
			if err := a.agree(ctx, yes, func(ctx context.Context) error { return c.ForgetServer(ctx, s.UUID) }); err != nil {
				return err
			}
			return a.done(s, "%s (%s) is forgotten; its disks are as they were", s.Hostname, s.UUID)
		}),
	}
	yesFlag(cmd, &yes)
	return cmd
}

// named is how a server is called in a sentence.
func named(s api.Server) string { return firstOf(s.Hostname, s.UUID) }

// jsonLine prints v on one line, for streams.
func jsonLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// yamlDocument prints one of several documents.
func yamlDocument(w io.Writer, v any) error {
	var b strings.Builder
	b.WriteString("---\n")
	if err := writeYAML(&b, v); err != nil {
		return err
	}
	_, err := io.WriteString(w, b.String())
	return err
}
