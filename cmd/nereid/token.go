package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"nereid/api"
)

func (a *app) tokenCommand() *cobra.Command {
	return noun("token", "Operators' tokens, for use away from the head node",
		lines("nereid token create alice --ttl 720h", "nereid token list"),
		a.tokenCreate(), a.tokenList(), a.tokenRevoke())
}

func (a *app) tokenCreate() *cobra.Command {
	var ttl time.Duration
	var out, scope string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token; its secret is shown once",
		Long: `Makes a token that lets its holder do what an operator may, or with --scope less: read is for looking at everything but secrets, operate
also for making, changing, entering and deleting instances. The head node keeps only a digest: the secret is in this command's
output and nowhere else. --write puts it into a new file that only you can read, for NEREID_TOKEN_FILE.`,
		Example: lines("nereid token create alice --ttl 720h",
			"nereid token create dashboard --scope read",
			"nereid token create ci --write ~/.nereid-token",
			"nereid token create alice -o json | jq -r .secret"),
		Args:              wants("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			in := api.TokenCreate{Name: args[0], Scope: api.Scope(scope)}
			if ttl < 0 {
				return usagef("--ttl %v: want more than 0", ttl)
			}
			if ttl > 0 {
				in.TTL = ttl.String()
			}
			var f *os.File
			if out != "" { // before there is a secret that has no place to go
				var err error
				if f, err = os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
					return fmt.Errorf("write token: %w; an old file is never replaced: delete it, or name another", err)
				}
			}
			t, err := a.createToken(cmd, in)
			if f == nil {
				if err != nil {
					return err
				}
				return a.tokenSecret(t)
			}
			if err == nil {
				_, err = fmt.Fprintln(f, t.Secret)
			}
			if cerr := f.Close(); err == nil && cerr != nil {
				err = cerr
			}
			if err != nil {
				_ = os.Remove(out)
				return fmt.Errorf("write token: %w", err)
			}
			t.Secret = ""
			return a.done(t, "token %s (%s) is in %s; use it with --token-file, or NEREID_TOKEN_FILE", t.ID, t.Name, out)
		},
	}
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it is valid, as 720h (default: until it is revoked)")
	cmd.Flags().StringVar(&scope, "scope", string(api.ScopeAdmin), "what it allows: read, operate or admin")
	_ = cmd.RegisterFlagCompletionFunc("scope", cobra.FixedCompletions([]string{"read", "operate", "admin"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.Flags().StringVar(&out, "write", "", "write the secret to this new file, mode 0600, instead of printing it")
	_ = cmd.MarkFlagFilename("write")
	return cmd
}

func (a *app) createToken(cmd *cobra.Command, in api.TokenCreate) (api.Token, error) {
	c, err := a.api()
	if err != nil {
		return api.Token{}, err
	}
	return c.CreateToken(cmd.Context(), in)
}

// tokenSecret prints the secret alone on standard output, so that it can be
// redirected, and what to do with it beside.
func (a *app) tokenSecret(t api.Token) error {
	if a.output == "table" {
		until := "until it is revoked"
		if t.Expires != nil {
			until = "until " + stamp(*t.Expires)
		}
		fmt.Fprintf(a.stderr, "token %s (%s), valid %s. Its secret, shown only now:\n", oneLine(t.ID), oneLine(t.Name), until)
	}
	return a.done(t, "%s", t.Secret)
}

func (a *app) tokenList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tokens, without their secrets",
		Example:           lines("nereid token list"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			tokens, err := c.Tokens(ctx)
			if err != nil {
				return err
			}
			if tokens == nil {
				tokens = []api.Token{}
			}
			return a.emit(tokens, func(w io.Writer) error {
				t := a.table("ID", "NAME", "SCOPE", "CREATED", "LAST USED", "EXPIRES")
				for _, k := range tokens {
					used, expires, st := "never", "never", plain
					if k.Used != nil {
						used = a.ago(*k.Used)
					}
					if k.Expires != nil {
						expires = stamp(*k.Expires)
						if k.Expires.Before(a.now()) {
							expires, st = expires+" (over)", red
						}
					}
					t.add(text(k.ID), text(k.Name), text(string(k.Scope)), text(stamp(k.Created)), text(used), styled(expires, st))
				}
				return t.write(w)
			})
		}),
	}
}

func (a *app) tokenRevoke() *cobra.Command {
	return &cobra.Command{
		Use: "revoke ID...", Short: "End tokens at once",
		Example:           lines("nereid token revoke k7f3q2"),
		Args:              wants("ID..."),
		ValidArgsFunction: a.completeTokens,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			for _, id := range args {
				if err := c.RevokeToken(ctx, id); err != nil {
					return fmt.Errorf("revoke %s: %w", id, err)
				}
				if a.output == "table" {
					if err := a.done(nil, "token %s is revoked", id); err != nil {
						return err
					}
				}
			}
			if a.output == "table" {
				return nil
			}
			return a.done(map[string][]string{"revoked": args}, "")
		}),
	}
}
