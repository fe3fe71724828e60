package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"nereid/api"
)

func imageKind() kind[api.Image, api.ImageUpdate] {
	return kind[api.Image, api.ImageUpdate]{
		noun: "image", thing: "image", id: "IMAGE", example: []string{"debian"},
		open: func(c *api.Client, _ []string) (api.Objects[api.Image, api.ImageUpdate], error) {
			return c.Images(), nil
		},
		header: []string{"NAME", "VERSION", "TYPE", "SIZE", "STATE", "FOR", "UUID"},
		row: func(i api.Image) []cell {
			var bytes int64
			if len(i.Files) > 0 {
				bytes = i.Files[0].Size
			}
			st := plain
			switch i.State {
			case api.ImageFailed:
				st = red
			case api.ImageCreating, api.ImageUnactivated:
				st = yellow
			}
			return []cell{styled(i.Name, bold), text(i.Version), text(i.Type), {text: size(bytes), right: true}, styled(i.State, st), text(imageFor(i)), text(i.UUID)}
		},
		name: func(i api.Image) string { return i.Name + "@" + i.Version },
		delete: `Deletes an image and its file on the head node, when no instance uses it and no other image is a change of it. Servers drop their
copies when they need the room.`,
	}
}

// imageFor says who may use an image.
func imageFor(i api.Image) string {
	switch {
	case i.Public:
		return "everybody"
	case len(i.ACL) > 0:
		return "its owner and " + api.Plural(len(i.ACL), "account")
	}
	return "its owner"
}

const imageIDs = "IMAGE is a UUID, NAME or NAME@VERSION. Of several images with a name it is the active one that was published last."

func (a *app) imageCommand() *cobra.Command {
	k := imageKind()
	return noun("image", "Images: what instances are cloned from",
		lines("nereid image build debian --out ./debian", "nereid image import ./debian", "nereid image list", "nereid image export debian --out ./debian"),
		a.imageBuild(), a.imageImport(), list(a, k, filter{"account", "account", "only those that this account may use"}, filter{"owner", "owner", "only those of this owner"},
			filter{"state", "state", "only creating, unactivated, active, disabled or failed ones"}, filter{"name", "name", "only those with this name"},
			filter{"type", "type", "only lx-dataset, docker or zvol"}),
		get(a, k), a.imageUpdate(k), a.imageShare(k), a.imageState(k, true), a.imageState(k, false), a.imageExport(k), remove(a, k), a.imageCollect(), a.imageVerify(k))
}

func (a *app) imageUpdate(k kind[api.Image, api.ImageUpdate]) *cobra.Command {
	var i api.Image
	var tags map[string]string
	cmd := &cobra.Command{
		Use: "update IMAGE", Short: "Change what is said of an image",
		Long:              "Changes what is said of an image; what is not named stays. Its bytes, and what belongs to them, never change.\n\n" + imageIDs,
		Example:           lines("nereid image update debian --description Debian-with-systemd --tag role=os", "nereid image update debian --public=false"),
		Args:              wants("IMAGE"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.api()
			if err != nil {
				return err
			}
			all := map[string]any{}
			for name, v := range tags {
				all[name] = v
			}
			out, err := c.Images().Update(cmd.Context(), args[0], api.ImageUpdate{Name: given(cmd, "name", i.Name), Version: given(cmd, "version", i.Version),
				Public: given(cmd, "public", i.Public), Description: given(cmd, "description", i.Description), Homepage: given(cmd, "homepage", i.Homepage),
				EULA: given(cmd, "eula", i.EULA), Tags: given(cmd, "tag", all)}, "")
			if err != nil {
				return err
			}
			return a.done(out, "image %s@%s (%s) is changed", out.Name, out.Version, out.UUID)
		},
	}
	f := cmd.Flags()
	f.StringVar(&i.Name, "name", "", "another name")
	f.StringVar(&i.Version, "version", "", "another version")
	f.BoolVar(&i.Public, "public", false, "whether every account may use it")
	f.StringVar(&i.Description, "description", "", "what it is, in at most 512 characters")
	f.StringVar(&i.Homepage, "homepage", "", "URL of a page about it")
	f.StringVar(&i.EULA, "eula", "", "URL of its licence")
	f.StringToStringVar(&tags, "tag", nil, "its tags, as a whole, as role=os; can be repeated")
	return cmd
}

func (a *app) imageShare(k kind[api.Image, api.ImageUpdate]) *cobra.Command {
	var end bool
	cmd := &cobra.Command{
		Use: "share IMAGE ACCOUNT...", Short: "Let further accounts use a private image",
		Long: "Lets further accounts, by UUID, use an image beside its owner; --end takes that back. Instances that were made stay.\n\n" + imageIDs,
		Example: lines("nereid image share debian 930896af-bf8c-48d4-885c-6573a94b1853",
			"nereid image share debian 930896af-bf8c-48d4-885c-6573a94b1853 --end"),
		Args:              wants("IMAGE", "ACCOUNT..."),
		ValidArgsFunction: completeObjects(a, k),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			i, err := c.Images().Get(ctx, args[0])
			if err != nil {
				return err
			}
			named := map[string]bool{}
			for _, account := range args[1:] {
				named[strings.ToLower(account)] = true
			}
			acl := []string{}
			for _, account := range i.ACL {
				if !named[account] {
					acl = append(acl, account)
				}
			}
			if !end {
				acl = append(acl, args[1:]...)
			}
			out, err := c.Images().Update(ctx, i.UUID, api.ImageUpdate{ACL: &acl}, i.Revision)
			if err != nil {
				return err
			}
			return a.done(out, "image %s@%s is for %s", out.Name, out.Version, imageFor(out))
		}),
	}
	cmd.Flags().BoolVar(&end, "end", false, "do not let these accounts use it any more")
	return cmd
}

// imageState makes the command that activates images, or that disables them.
func (a *app) imageState(k kind[api.Image, api.ImageUpdate], activate bool) *cobra.Command {
	cmd := &cobra.Command{
		Use: "disable IMAGE", Short: "Let no new instance be made from an image",
		Long:              "Lets no new instance be made from an image. Those that there are run on.\n\n" + imageIDs,
		Example:           lines("nereid image disable debian"),
		Args:              wants("IMAGE"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			change := c.DisableImage
			if activate {
				change = c.ActivateImage
			}
			out, err := change(ctx, args[0])
			if err != nil {
				return err
			}
			return a.done(out, "image %s@%s (%s) is %s", out.Name, out.Version, out.UUID, out.State)
		}),
	}
	if activate {
		cmd.Use, cmd.Short = "activate IMAGE", "Offer an image to those who may use it"
		cmd.Long = "Offers an image that was imported with --no-activate, or that was disabled.\n\n" + imageIDs
		cmd.Example = lines("nereid image activate debian@13")
	}
	return cmd
}

func (a *app) imageVerify(k kind[api.Image, api.ImageUpdate]) *cobra.Command {
	return &cobra.Command{
		Use: "verify IMAGE", Short: "Have the head node read an image's file again and compare digests",
		Long: `Has the head node read all of an image's file and compare its digest. An image whose file was damaged is failed; import it again under
the same UUID to mend it.

` + imageIDs,
		Example:           lines("nereid image verify debian"),
		Args:              wants("IMAGE"),
		ValidArgsFunction: completeObjects(a, k),
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, args []string) error {
			out, err := c.VerifyImage(ctx, args[0])
			if err != nil {
				return err
			}
			return a.done(out, "image %s@%s: all %s are as they were imported", out.Name, out.Version, size(out.Files[0].Size))
		}),
	}
}

func (a *app) imageCollect() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "collect", Short: "Delete images that are of no more use",
		Long: `Deletes failed images, imports that stood still for a day, and disabled images that nothing uses; and files on the head node that belong
to no image. The head node does the same once a day, but leaves disabled images alone.`,
		Example:           lines("nereid image collect", "nereid image collect --yes"),
		Args:              wants(),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: a.withAPI(func(ctx context.Context, c *api.Client, _ []string) error {
			if err := a.confirm(ctx, yes, "delete failed images, imports given up, and disabled images that nothing uses"); err != nil {
				return err
			}
			out, err := c.CollectImages(ctx)
			if err != nil {
				return err
			}
			what := ""
			if len(out.Images) > 0 {
				what = fmt.Sprintf(" (%s)", strings.Join(out.Images, ", "))
			}
			return a.done(out, "deleted %s%s and %s, %s freed", api.Plural(len(out.Images), "image"), what, api.Plural(out.Files, "file"), size(out.FreedBytes))
		}),
	}
	yesFlag(cmd, &yes)
	return cmd
}
