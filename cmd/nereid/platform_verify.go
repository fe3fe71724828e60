package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
	"nereid/images"
)

var stampRE = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)

func (a *app) platformVerify() *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use: "verify STAMP|DIR", Short: "Check a platform image's signature and digests again",
		Long: `Reads every byte of a platform again and compares it with the signed manifest: on the head node, given a stamp; on this machine, given
the directory a build made. For a directory, the signature must be that of --key, or of one of the head node's keys.`,
		Example: lines("nereid platform verify 20261122T101500Z",
			"nereid platform verify ./platform",
			"nereid platform verify ./platform --key ./platform/manifest.pub"),
		Args: wants("STAMP|DIR"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, part string) ([]cobra.Completion, cobra.ShellCompDirective) {
			out, _ := a.oneStamp(cmd, args, part)
			return out, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if _, err := os.Stat(args[0]); err == nil && !stampRE.MatchString(args[0]) {
				return a.verifyDir(ctx, args[0], key)
			} else if !stampRE.MatchString(args[0]) {
				return notFoundf("verify %s: neither a directory nor a platform's stamp; see: nereid platform list", args[0])
			}
			if key != "" {
				return usagef("--key is for a directory; the head node uses its own keys (nereid platform key list)")
			}
			c, err := a.api()
			if err != nil {
				return err
			}
			p, err := c.VerifyPlatform(ctx, args[0])
			if err != nil {
				return err
			}
			if !p.Complete {
				return fmt.Errorf("platform %s is not whole: %s missing or damaged (%s); import it again", args[0], api.Plural(len(p.Missing), "file"), strings.Join(p.Missing, " "))
			}
			return a.done(p, "platform %s: signature and every digest are right", args[0])
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "the public key, base64 or a file with it (default: any of the head node's)")
	return cmd
}

// verifyDir checks a platform directory, and names everything that is wrong.
func (a *app) verifyDir(ctx context.Context, dir, key string) error {
	signed, m, err := images.ReadPlatform(dir)
	if err != nil {
		return err
	}
	signer, err := a.signerOf(ctx, signed, key)
	if err != nil {
		return err
	}
	var wrong []string
	for _, f := range m.Files() {
		if ctx.Err() != nil {
			return ended(ctx)
		}
		got, err := images.HashFile(filepath.Join(dir, f.Name))
		if err != nil {
			return err
		}
		if got.SHA256 != f.SHA256 {
			wrong = append(wrong, fmt.Sprintf("%s has digest %s, signed is %s", f.Name, got.SHA256, f.SHA256))
		}
	}
	if len(wrong) > 0 {
		return refusedf("platform %s in %s is damaged: %s; build or copy it again", m.Stamp, dir, strings.Join(wrong, "; "))
	}
	return a.done(m, "platform %s in %s: signature (%s) and every digest are right", m.Stamp, dir, signer)
}

// signerOf checks a signature against the key given, or else against the head
// node's keys; it says whose it is.
func (a *app) signerOf(ctx context.Context, signed api.SignedManifest, key string) (string, error) {
	keys := []api.PlatformKey{}
	if key != "" {
		k, err := readPublicKey(key)
		if err != nil {
			return "", err
		}
		keys = append(keys, api.PlatformKey{Name: "the key given", Key: k})
	} else {
		c, err := a.api()
		if err != nil {
			return "", err
		}
		if keys, err = c.PlatformKeys(ctx); err != nil {
			return "", fmt.Errorf("get the head node's keys (or give --key): %w", err)
		}
	}
	errs := []error{}
	for _, k := range keys {
		pub, err := images.ParsePublicKey(k.Key)
		if err == nil {
			_, err = images.VerifyManifest(signed, pub)
		}
		if err == nil {
			return k.Name, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", k.Name, err))
	}
	return "", refusedf("no key tried (%d) made its signature; give the right one with --key, or add it: nereid platform key add NAME KEY\n%w", len(keys), errors.Join(errs...))
}
