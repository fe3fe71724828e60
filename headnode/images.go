package headnode

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	catalog "nereid/headnode/images"
	"nereid/headnode/instances"
	"nereid/headnode/store"
	"nereid/images"
	"nereid/images/tree"
)

// maxChecks is how many images are read as a whole at the same time.
const maxChecks = 2

type imagePath struct {
	ID string `path:"id" doc:"UUID, NAME or NAME@VERSION"`
}

func imageMade() map[string]string {
	return map[string]string{
		"state": "it follows from its file, and from activate and disable", "error": "the head node says it", "created": "the head node says it",
		"revision": "every change makes one",
	}
}

func imageFixed() map[string]string {
	const why = "it belongs to the bytes; import them as another image"
	out := map[string]string{}
	for _, name := range []string{"v", "uuid", "type", "os", "image_size", "origin", "source", "files", "requirements", "run", "published_at", "other"} {
		out[name] = why
	}
	out["owner"] = "an image keeps its owner; share it, or import it for the other account"
	return out
}

func (s *Server) routeImages(h huma.API, mux *http.ServeMux) {
	routeObjects(s, h, objects[api.Image, api.ImageUpdate]{
		path: "/v1/images", thing: "image", made: imageMade(), fixed: imageFixed(),
		filters: []string{"account", "owner", "state", "name", "type", "origin"},
		list: func(tx store.Tx, q listing) ([]api.Image, string, error) {
			f := q.filter
			return catalog.List(tx, catalog.Filter{Account: f["account"], Owner: f["owner"], State: f["state"], Name: f["name"], Type: f["type"], Origin: f["origin"]}, q.after, q.limit)
		},
		get:    func(tx store.Tx, a args) (api.Image, error) { return catalog.Find(tx, a["id"]) },
		create: func(tx store.Tx, _ args, v api.Image) (api.Image, error) { return catalog.Create(tx, v, s.now()) },
		update: func(tx store.Tx, a args, u api.ImageUpdate) (api.Image, error) {
			i, err := catalog.Find(tx, a["id"])
			if err != nil {
				return i, err
			}
			return catalog.Update(tx, i.UUID, u)
		},
	})
	route(s, h, operators, http.MethodDelete, "/v1/images/{id}", "Delete an image that nothing uses", func(ctx context.Context, in *imagePath) (*none, error) {
		i, err := s.changeImage(ctx, in.ID, func(tx store.Tx, i api.Image) (api.Image, error) { return s.deleteImage(tx, i.UUID) })
		if err != nil {
			return nil, err
		}
		return nil, s.disks.Remove(ctx, i.UUID)
	}, conditional, confirms, status(http.StatusNoContent))
	route(s, h, operators, http.MethodPost, "/v1/images/{id}/activate", "Offer an image to those who may use it", func(ctx context.Context, in *imagePath) (*tagged[api.Image], error) {
		i, err := s.changeImage(ctx, in.ID, func(tx store.Tx, i api.Image) (api.Image, error) { return catalog.Activate(tx, i.UUID, s.now()) })
		return withTag(i), err
	}, conditional)
	route(s, h, operators, http.MethodPost, "/v1/images/{id}/disable", "End that instances are made from an image", func(ctx context.Context, in *imagePath) (*tagged[api.Image], error) {
		i, err := s.changeImage(ctx, in.ID, func(tx store.Tx, i api.Image) (api.Image, error) { return catalog.Disable(tx, i.UUID) })
		return withTag(i), err
	}, conditional)
	route(s, h, operators, http.MethodPost, "/v1/images/{id}/verify", "Read an image's file and check it; after an upload this is what ends its creation", s.verifyImage, long)
	route(s, h, operators, http.MethodPost, "/v1/images/collect", "Delete failed images, imports given up, and disabled images that nothing uses", func(ctx context.Context, _ *none) (*body[api.CollectedImages], error) {
		out, err := s.collectImages(ctx, true)
		return answer(out), err
	}, long)
	s.routeImageFile(h, mux)
}

// changeImage is one change of an image that a request names, when its If-Match fits.
func (s *Server) changeImage(ctx context.Context, id string, change func(tx store.Tx, i api.Image) (api.Image, error)) (out api.Image, err error) {
	err = s.update(ctx, func(tx store.Tx) error {
		i, err := catalog.Find(tx, id)
		if err == nil {
			err = ifMatch(ctx, "image "+id, i.Revision)
		}
		if err == nil {
			out, err = change(tx, i)
		}
		return err
	})
	if err == nil {
		s.imageChanged(out.UUID)
	}
	return out, err
}

func (s *Server) imageChanged(uuid string) {
	s.events.Publish(api.Event{Kind: "image", Path: "/v1/images/" + uuid})
}

// deleteImage deletes an image that no instance uses. Its file is removed after that.
func (s *Server) deleteImage(tx store.Tx, uuid string) (api.Image, error) {
	users, err := imageUsers(tx, uuid)
	if err != nil {
		return api.Image{}, err
	}
	return catalog.Delete(tx, uuid, users)
}

// noImage says whether an error is that there is no such image.
func noImage(err error) bool {
	var p *api.Problem
	return errors.As(err, &p) && p.Code == api.CodeNotFound
}

// imageUsers names an instance that needs an image, if there is one.
func imageUsers(tx store.Tx, uuid string) ([]string, error) {
	instance, used, err := instances.UsesImage(tx, uuid)
	if err != nil || !used {
		return nil, err
	}
	return []string{"instance " + instance + " is made from it; see all with: nereid instance list --image " + uuid}, nil
}

// usableImage is an image that an account may make instances of, by its UUID, NAME or
// NAME@VERSION.
func usableImage(tx store.Tx, owner, id string) (api.Image, error) {
	i, err := catalog.FindFor(tx, owner, id)
	if err == nil {
		err = catalog.Usable(i, owner)
	}
	return i, err
}

// verifyImage reads all of an image's file. One that is creating is looked into, and is
// unactivated or failed after that. Of others the digest is compared: one whose file was
// damaged is failed, and its file removed, so that an import can bring it again.
func (s *Server) verifyImage(ctx context.Context, in *imagePath) (*tagged[api.Image], error) {
	var i api.Image
	err := s.store.View(ctx, func(tx store.Tx) (err error) {
		i, err = catalog.Find(tx, in.ID)
		return err
	})
	if err != nil {
		return nil, err
	}
	if i.State == api.ImageFailed {
		return nil, refuse(http.StatusConflict, api.CodeConflict, "import it again", "image %s@%s failed, and has no file to verify: %s", i.Name, i.Version, i.Error)
	}
	select {
	case s.checks <- struct{}{}:
		defer func() { <-s.checks }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	checked, why, err := s.readImage(ctx, i)
	if err != nil {
		return nil, err
	}
	if why != "" {
		return nil, s.failImage(ctx, i, why)
	}
	err = s.store.Update(ctx, func(tx store.Tx) (err error) {
		i, err = catalog.Checked(tx, i.UUID, i.Revision, checked)
		return err
	})
	if err == nil {
		s.imageChanged(i.UUID)
	}
	return withTag(i), err
}

// failImage makes an image failed, removes its file, and gives the refusal that says so.
func (s *Server) failImage(ctx context.Context, i api.Image, why string) error {
	var now api.Image
	err := s.store.Update(ctx, func(tx store.Tx) (err error) {
		now, err = catalog.Fail(tx, i.UUID, i.Revision, why)
		return err
	})
	if err == nil && now.State == api.ImageFailed {
		err = s.disks.Remove(ctx, i.UUID)
	}
	if err != nil {
		return err
	}
	s.imageChanged(i.UUID)
	s.log.Warn("image failed", "image", i.UUID, "name", i.Name, "version", i.Version, "reason", why)
	return refuse(http.StatusUnprocessableEntity, api.CodeDigest, "mend or fetch the file, and import it again", "image %s@%s cannot be used, and is failed: %s", i.Name, i.Version, why)
}

// readImage reads an image's file. why is what is wrong with it; err is the head node's
// own trouble, or a file that is not all here.
func (s *Server) readImage(ctx context.Context, i api.Image) (f api.ImageFile, why string, err error) {
	f = i.Files[0]
	digest := strings.TrimPrefix(f.Digest, "sha256:")
	if i.State != api.ImageCreating {
		err := s.disks.VerifyNamed(ctx, i.UUID, digest)
		var wrong *images.DigestError
		switch {
		case errors.As(err, &wrong):
			return f, fmt.Sprintf("its file was damaged on the head node's disk: %v", wrong), nil
		case errors.Is(err, images.ErrNotFound):
			return f, "its file is gone from the head node's disk", nil
		}
		return f, "", err
	}
	src, err := s.disks.Open(ctx, i.UUID)
	if errors.Is(err, images.ErrNotFound) {
		have, _ := s.disks.Stat(i.UUID) // nothing there: 0
		return f, "", refuse(http.StatusConflict, api.CodeConflict, "run the import again; it goes on where it was", "%d bytes of the %d of image %s@%s are here", have.Size, f.Size, i.Name, i.Version)
	}
	if err != nil {
		return f, "", err
	}
	defer src.Close()
	sum := sha1.New() // of older manifests, which have no other
	limits := tree.DefaultLimits()
	if f.Format == api.FormatRaw {
		limits.Bytes = int64(i.SizeMiB) << 20
	}
	c, err := tree.Check(ctx, io.TeeReader(src, sum), f.Compression, f.Format, limits)
	var (
		entry  *tree.EntryError
		limit  *tree.LimitError
		format *tree.FormatError
	)
	switch {
	case errors.As(err, &entry), errors.As(err, &limit), errors.As(err, &format):
		return f, err.Error(), nil
	case err != nil:
		return f, "", fmt.Errorf("read image %s: %w", i.UUID, err)
	}
	return merged(i, c, hex.EncodeToString(sum.Sum(nil)))
}

// merged compares what was said of a file with what it is, and gives both together.
func merged(i api.Image, c tree.Checked, sha1 string) (f api.ImageFile, why string, err error) {
	f = i.Files[0]
	switch {
	case c.Volume != (i.Type == api.ImageZvol) && c.Format == api.FormatZFS:
		why = fmt.Sprintf("its type is %s; the ZFS stream is of a %s", i.Type, map[bool]string{true: "volume, as one of type zvol", false: "file system, as one of type lx-dataset"}[c.Volume])
	case f.SHA1 != "" && f.SHA1 != sha1:
		why = fmt.Sprintf("its SHA-1 is %s, not %s as its manifest says", sha1, f.SHA1)
	case f.UncompressedSize != 0 && f.UncompressedSize != c.Size:
		why = fmt.Sprintf("it has %d bytes without compression, not %d as its manifest says", c.Size, f.UncompressedSize)
	case f.UncompressedDigest != "" && f.UncompressedDigest != c.Digest:
		why = fmt.Sprintf("without compression its digest is %s, not %s as its manifest says", c.Digest, f.UncompressedDigest)
	case f.DatasetGUID != "" && f.DatasetGUID != c.GUID:
		why = fmt.Sprintf("the snapshot in it has the GUID %s, not %s as its manifest says", c.GUID, f.DatasetGUID)
	case c.Disk > 0 && (c.Disk+1<<20-1)>>20 != int64(i.SizeMiB):
		why = fmt.Sprintf("its disk has %d bytes, and its manifest says %d MiB", c.Disk, i.SizeMiB)
	case c.Origin != "" && i.Origin == "":
		why = "it is an incremental ZFS stream, and its manifest names no origin"
	case c.Origin == "" && i.Origin != "":
		why = "its manifest names an origin, and it is no incremental ZFS stream"
	}
	f.UncompressedSize, f.UncompressedDigest, f.DatasetGUID = c.Size, c.Digest, c.GUID
	return f, why, nil
}

// collectImages deletes images that are of no more use, and files that belong to no image.
// Disabled images go only when they are asked for.
func (s *Server) collectImages(ctx context.Context, disabled bool) (api.CollectedImages, error) {
	out := api.CollectedImages{Images: []string{}}
	var found []api.Image
	moved := func(uuid string) time.Time {
		e, err := s.disks.Stat(uuid)
		if err != nil {
			return time.Time{}
		}
		return e.ModTime
	}
	err := s.store.View(ctx, func(tx store.Tx) (err error) {
		found, err = catalog.Collectable(tx, s.now(), moved, func(uuid string) ([]string, error) { return imageUsers(tx, uuid) })
		return err
	})
	if err != nil {
		return out, err
	}
	for _, i := range found {
		if i.State == api.ImageDisabled && !disabled {
			continue
		}
		gone := false
		err := s.store.Update(ctx, func(tx store.Tx) error {
			gone = false
			now, err := catalog.Get(tx, i.UUID)
			if err != nil || now.Revision != i.Revision {
				return err
			}
			_, err = s.deleteImage(tx, i.UUID)
			gone = err == nil
			return err
		})
		if p, expected := problemOf(err); err != nil && expected {
			s.log.Debug("image is not collected after all", "image", i.UUID, "reason", p.Detail)
			continue
		}
		if err != nil {
			return out, err
		}
		if gone {
			out.Images = append(out.Images, i.Name+"@"+i.Version+" ("+i.UUID+")")
			s.imageChanged(i.UUID)
		}
	}
	return out, s.sweepImages(ctx, &out)
}

// sweepImages removes the files that belong to no image.
func (s *Server) sweepImages(ctx context.Context, out *api.CollectedImages) error {
	all, err := s.disks.List(ctx)
	if err != nil {
		return err
	}
	for _, e := range all {
		var known bool
		err := s.store.View(ctx, func(tx store.Tx) error {
			i, err := catalog.Get(tx, e.SHA256)
			known = err == nil && i.State != api.ImageFailed
			if noImage(err) {
				err = nil
			}
			return err
		})
		if err != nil {
			return err
		}
		if known {
			continue
		}
		if err := s.disks.Remove(ctx, e.SHA256); err != nil {
			return err
		}
		out.Files++
		out.FreedBytes += e.Size
	}
	return nil
}
