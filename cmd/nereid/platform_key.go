package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
	"nereid/images"
)

func (a *app) platformKey() *cobra.Command {
	return noun("key", "Keys whose signatures on platform images the head node accepts",
		lines("nereid platform key add mine ./platform/manifest.pub", "nereid platform key list"),
		a.platformKeyAdd(), a.platformKeyList(), a.platformKeyDelete())
}

func (a *app) platformKeyAdd() *cobra.Command {
	return &cobra.Command{
		Use: "add NAME KEY|FILE", Short: "Accept platforms signed with a key",
		Long: `Has the head node accept platforms that are signed with a key: an ed25519 public key in base64, or a file that holds one.
"nereid platform build" prints it, and writes it beside the platform as manifest.pub.`,
		Example: lines("nereid platform key add mine ./platform/manifest.pub",
			"nereid platform key add mine 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="),
		Args: wants("NAME", "KEY|FILE"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := readPublicKey(args[1])
			if err != nil {
				return err
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			k := api.PlatformKey{Name: args[0], Key: key}
			if err := c.AddPlatformKey(cmd.Context(), k); err != nil {
				return err
			}
			return a.done(k, "platforms signed with key %s are accepted", k.Name)
		},
	}
}

// readPublicKey gives a public key in base64, from a file that holds one or as
// it was typed.
func readPublicKey(arg string) (string, error) {
	key, typed := images.ParsePublicKey(arg)
	if typed == nil {
		return images.FormatPublicKey(key), nil
	}
	f, err := os.Open(arg)
	if err != nil {
		return "", usagef("key %q: neither an ed25519 public key in base64 nor a file with one: %w", arg, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	if err != nil {
		return "", fmt.Errorf("read key: %w", err)
	}
	if key, err = images.ParsePublicKey(strings.TrimSpace(string(b))); err != nil {
		return "", usagef("key file %s: %w; want the public key that \"nereid platform build\" printed", arg, err)
	}
	return images.FormatPublicKey(key), nil
}

func (a *app) platformKeyList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the keys",
		Example:           lines("nereid platform key list"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			keys, err := c.PlatformKeys(ctx)
			if err != nil {
				return err
			}
			if keys == nil {
				keys = []api.PlatformKey{}
			}
			return a.emit(keys, func(w io.Writer) error {
				t := a.table("NAME", "KEY")
				for _, k := range keys {
					t.add(text(k.Name), text(k.Key))
				}
				return t.write(w)
			})
		}),
	}
}

func (a *app) platformKeyDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Accept no more platforms signed with a key",
		Example:           lines("nereid platform key delete mine"),
		Args:              wants("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			if err := c.DeletePlatformKey(ctx, args[0]); err != nil {
				return err
			}
			return a.done(map[string]string{"deleted": args[0]}, "key %s is deleted", args[0])
		}),
	}
}
