package headnode

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"nereid/api"
	"nereid/headnode/inventory"
	"nereid/headnode/platforms"
	"nereid/headnode/store"
	"nereid/headnode/trust"
	"nereid/images"
)

type stampPath struct {
	Stamp string `path:"stamp" doc:"as 20261122T101500Z"`
}

func (s *Server) routePlatforms(h huma.API) {
	route(s, h, operators, http.MethodGet, "/v1/platforms", "List platforms", func(ctx context.Context, _ *none) (*body[list[api.Platform]], error) {
		var out []api.Platform
		err := s.store.View(ctx, func(tx store.Tx) (err error) {
			out, err = platforms.List(tx, s.now())
			if err != nil {
				return err
			}
			return s.complete(tx, out)
		})
		return items(out), err
	})
	route(s, h, operators, http.MethodPost, "/v1/platforms", "Register a platform; its files are uploaded after that", s.addPlatform, func(op *huma.Operation) {
		op.DefaultStatus = http.StatusCreated
		op.MaxBodyBytes = 3 * images.MaxManifest
	})
	route(s, h, operators, http.MethodGet, "/v1/platforms/{stamp}", "Show a platform", func(ctx context.Context, in *stampPath) (*body[api.Platform], error) {
		p, err := s.platform(ctx, in.Stamp)
		return answer(p), err
	})
	route(s, h, operators, http.MethodDelete, "/v1/platforms/{stamp}", "Delete a platform no server needs", func(ctx context.Context, in *stampPath) (*none, error) {
		s.files.Lock()
		defer s.files.Unlock()
		var digests []string
		err := s.store.Update(ctx, func(tx store.Tx) (err error) {
			digests, err = platforms.Delete(tx, in.Stamp, s.now(), func(server string) string { return nameOf(tx, server) })
			return err
		})
		if err != nil {
			return nil, err
		}
		s.platformChanged(in.Stamp)
		return nil, s.removeFiles(ctx, digests)
	}, status(http.StatusNoContent))
	route(s, h, operators, http.MethodPut, "/v1/platforms/{stamp}/default", "Make a platform the default", func(ctx context.Context, in *stampPath) (*body[api.Platform], error) {
		if err := s.store.Update(ctx, func(tx store.Tx) error { return platforms.SetDefault(tx, in.Stamp) }); err != nil {
			return nil, err
		}
		s.platformChanged(in.Stamp)
		p, err := s.platform(ctx, in.Stamp)
		return answer(p), err
	})
	route(s, h, operators, http.MethodPost, "/v1/platforms/{stamp}/verify", "Read a platform's files and check signature and digests", s.verifyPlatform, long)
	route(s, h, operators, http.MethodPost, "/v1/platforms/collect", "Remove platforms and files nothing needs", s.collect, long)
}

func (s *Server) platformChanged(stamp string) {
	s.events.Publish(api.Event{Kind: "platform", Name: stamp})
}

// nameOf is what a refusal calls a server: its hostname where it has one.
func nameOf(tx store.Tx, server string) string {
	if r, err := inventory.Get(tx, server); err == nil {
		return r.Hostname
	}
	return server
}

func (s *Server) platform(ctx context.Context, stamp string) (api.Platform, error) {
	var p api.Platform
	err := s.store.View(ctx, func(tx store.Tx) (err error) {
		if p, err = platforms.Describe(tx, stamp, s.now()); err != nil {
			return noPlatform(err, stamp)
		}
		one := []api.Platform{p}
		err = s.complete(tx, one)
		p = one[0]
		return err
	})
	return p, err
}

func noPlatform(err error, stamp string) error {
	if isNotFound(err) {
		return refuse(http.StatusNotFound, api.CodeNotFound, "list them with: nereid platform list", "there is no platform %s", stamp)
	}
	return err
}

// complete fills in what the file store knows: which files are missing. Servers
// are named as people name them.
func (s *Server) complete(tx store.Tx, ps []api.Platform) error {
	var users []string
	for i := range ps {
		p := &ps[i]
		p.Missing = nil
		for _, f := range p.Manifest.Files() {
			if !s.images.Has(f.SHA256) {
				p.Missing = append(p.Missing, f.SHA256)
			}
		}
		if len(p.Missing) > 0 {
			p.Complete = false
		}
		users = append(users, p.UsedBy...)
	}
	slices.Sort(users)
	names, err := inventory.Hostnames(tx, slices.Compact(users))
	if err != nil {
		return err
	}
	for i := range ps {
		for k, u := range ps[i].UsedBy {
			ps[i].UsedBy[k] = cmp.Or(names[u], u)
		}
	}
	return nil
}

// addPlatform checks the signature before anything else of the manifest.
func (s *Server) addPlatform(ctx context.Context, in *body[api.SignedManifest]) (*body[api.Platform], error) {
	s.files.RLock()
	defer s.files.RUnlock()
	var keys []api.PlatformKey
	err := s.store.View(ctx, func(tx store.Tx) (err error) {
		keys, err = trust.PlatformKeys(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, refuse(http.StatusUnprocessableEntity, api.CodeSignature, "add the key it was signed with: nereid platform key add NAME FILE", "this head node accepts no key's signature on platforms yet")
	}
	m, key, err := verifiedBy(in.Body, keys)
	if err != nil {
		return nil, err
	}
	err = s.store.Update(ctx, func(tx store.Tx) error {
		_, _, err := platforms.Register(tx, in.Body, key, s.now())
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.finish(ctx, m.Stamp); err != nil {
		return nil, err
	}
	s.platformChanged(m.Stamp)
	p, err := s.platform(ctx, m.Stamp)
	return answer(p), err
}

// verifiedBy finds the key that signed a manifest.
func verifiedBy(signed api.SignedManifest, keys []api.PlatformKey) (api.Manifest, string, error) {
	for _, k := range keys {
		pub, err := images.ParsePublicKey(k.Key)
		if err != nil {
			return api.Manifest{}, "", err
		}
		m, err := images.VerifyManifest(signed, pub)
		if errors.Is(err, images.ErrSignature) {
			continue
		}
		if err != nil {
			return m, "", refuse(http.StatusUnprocessableEntity, api.CodeInvalid, "build the platform again", "the manifest is signed by %s and cannot be used: %v", k.Name, err)
		}
		return m, k.Name, nil
	}
	return api.Manifest{}, "", refuse(http.StatusUnprocessableEntity, api.CodeSignature, "if it should be trusted, add the key it was signed with: nereid platform key add NAME FILE",
		"no accepted key, of %d, signed this manifest, or it was changed after it was signed", len(keys))
}

// finish marks a platform complete when its last file is there. The first
// complete platform becomes the default.
func (s *Server) finish(ctx context.Context, stamp string) error {
	return s.store.Update(ctx, func(tx store.Tx) error {
		rec, m, err := platforms.Get(tx, stamp)
		if err != nil {
			return noPlatform(err, stamp)
		}
		for _, f := range m.Files() {
			if !s.images.Has(f.SHA256) {
				return nil
			}
		}
		if !rec.Complete {
			if err := platforms.SetComplete(tx, stamp, true); err != nil {
				return err
			}
		}
		d, err := platforms.Default(tx)
		if err != nil || d != "" {
			return err
		}
		return platforms.SetDefault(tx, stamp)
	})
}

// verifyPlatform reads every byte. A file that is not what its name says is
// removed, so that an import can bring it again, and the platform is incomplete
// until then.
func (s *Server) verifyPlatform(ctx context.Context, in *stampPath) (*body[api.Platform], error) {
	var (
		rec platforms.Record
		m   api.Manifest
		key api.PlatformKey
	)
	err := s.store.View(ctx, func(tx store.Tx) (err error) {
		if rec, m, err = platforms.Get(tx, in.Stamp); err != nil {
			return noPlatform(err, in.Stamp)
		}
		key, err = trust.PlatformKey(tx, rec.Key)
		return err
	})
	if err != nil {
		return nil, err
	}
	if _, _, err := verifiedBy(api.SignedManifest{Manifest: rec.Manifest, Signature: rec.Signature}, []api.PlatformKey{key}); err != nil {
		return nil, err
	}
	var bad []error
	for _, f := range m.Files() {
		err := s.images.Verify(ctx, f.SHA256)
		var wrong *images.DigestError
		switch {
		case err == nil:
		case errors.As(err, &wrong):
			s.log.Error("platform file is damaged; removed", "platform", in.Stamp, "file", f.Name, "err", err)
			bad = append(bad, err, s.images.Remove(ctx, f.SHA256))
		case errors.Is(err, images.ErrNotFound):
			bad = append(bad, err)
		default:
			return nil, err
		}
	}
	if len(bad) > 0 {
		if err := s.store.Update(ctx, func(tx store.Tx) error { return platforms.SetComplete(tx, in.Stamp, false) }); err != nil {
			return nil, err
		}
		s.platformChanged(in.Stamp)
	} else if err := s.finish(ctx, in.Stamp); err != nil {
		return nil, err
	}
	p, err := s.platform(ctx, in.Stamp)
	return answer(p), err
}

// collectEvery is how often unused platforms are removed without being asked.
const collectEvery = 24 * time.Hour

// collectUnused collects on every tick until ctx ends. What it removes nobody runs, is
// assigned or may fall back to; it can be imported again. Of images it takes those that
// failed or whose import was given up.
func (s *Server) collectUnused(ctx context.Context, tick <-chan time.Time) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick:
		}
		out, err := s.collect(ctx, nil)
		switch {
		case err != nil:
			s.log.Error("collect unused platforms; tried again in a day", "err", err)
		case len(out.Body.Platforms)+out.Body.Files > 0:
			s.log.Info("unused platforms collected", "platforms", out.Body.Platforms, "files", out.Body.Files, "freed_bytes", out.Body.FreedBytes)
		}
		if err := s.cleanInstances(ctx); err != nil && ctx.Err() == nil {
			s.log.Error("forget deleted instances; tried again in a day", "err", err)
		}
		gone, err := s.collectImages(ctx, false)
		switch {
		case err != nil:
			s.log.Error("collect images that failed or were given up; tried again in a day", "err", err)
		case len(gone.Images)+gone.Files > 0:
			s.log.Info("images that failed or were given up are collected", "images", gone.Images, "files", gone.Files, "freed_bytes", gone.FreedBytes)
		}
	}
}

// collect removes unused platforms, and files no platform consists of, as an
// import that was given up leaves them.
func (s *Server) collect(ctx context.Context, _ *none) (*body[api.Collected], error) {
	s.files.Lock()
	defer s.files.Unlock()
	out := api.Collected{Platforms: []string{}}
	var needed map[string][]string
	err := s.store.Update(ctx, func(tx store.Tx) error {
		removed, _, err := platforms.Collect(tx, s.now())
		if err != nil {
			return err
		}
		out.Platforms = append([]string{}, removed...)
		needed, err = platforms.Files(tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	all, err := s.images.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if _, ok := needed[e.SHA256]; ok {
			continue
		}
		if err := s.images.Remove(ctx, e.SHA256); err != nil {
			return nil, err
		}
		out.Files++
		out.FreedBytes += e.Size
	}
	for _, p := range out.Platforms {
		s.platformChanged(p)
	}
	return answer(out), nil
}

func (s *Server) removeFiles(ctx context.Context, digests []string) error {
	var errs []error
	for _, d := range digests {
		errs = append(errs, s.images.Remove(ctx, d))
	}
	return errors.Join(errs...)
}
