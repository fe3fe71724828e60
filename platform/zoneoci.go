package platform

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"nereid/api"
)

// Media types of the OCI image specification 1.1.
const (
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociConfig   = "application/vnd.oci.image.config.v1+json"
	ociLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// ociDescriptor names a blob.
type ociDescriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Platform    *ociPlatform      `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type ociPlatform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
}

// zoneOCI makes an OCI image layout of one layer from the tree of an image
// (image-spec, image-layout.md). Its blobs lie beside index.json; placeImage sorts them.
func (b *build) zoneOCI(ctx context.Context, name string, image api.Image, tree made) (made, error) {
	file := image.Files[0]
	st := stage{
		name: "image-" + name + "-oci", what: "OCI image layout of " + name,
		inputs: []string{"recipe 1", "tar " + file.Digest, "manifest " + image.UUID, image.Version},
	}
	st.run = func(ctx context.Context, r *runner, _, out string) error {
		layer, err := ociPack(ctx, r, tree.file(ImageFileName), file, out)
		if err != nil {
			return err
		}
		entry := image.Run.Init
		if len(entry) == 0 {
			entry = []string{"/sbin/init"}
		}
		created := image.PublishedAt.Format(time.RFC3339)
		config, err := ociBlob(out, ociConfig, map[string]any{
			"created": created, "architecture": "amd64", "os": "linux",
			"config": map[string]any{
				"Entrypoint": entry, "StopSignal": image.Run.StopSignal,
				"Env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			},
			"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{file.UncompressedDigest}},
			"history": []any{map[string]string{"created": created, "created_by": "nereid image build " + name}},
		})
		if err != nil {
			return err
		}
		manifest, err := ociBlob(out, ociManifest, map[string]any{
			"schemaVersion": 2, "mediaType": ociManifest, "config": config, "layers": []ociDescriptor{layer},
		})
		if err != nil {
			return err
		}
		manifest.Platform = &ociPlatform{Architecture: "amd64", OS: "linux"}
		manifest.Annotations = map[string]string{"org.opencontainers.image.ref.name": image.Version}
		index := map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": []ociDescriptor{manifest}}
		if err := writeJSON(filepath.Join(out, "index.json"), index, 0o644); err != nil {
			return err
		}
		return writeJSON(filepath.Join(out, "oci-layout"), map[string]string{"imageLayoutVersion": "1.0.0"}, 0o644)
	}
	return b.stages.do(ctx, st)
}

// ociPack makes the layer: the same tar, by gzip, which every reader of images reads.
func ociPack(ctx context.Context, r *runner, tarball string, file api.ImageFile, out string) (ociDescriptor, error) {
	part := filepath.Join(out, "layer")
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return ociDescriptor{}, err
	}
	defer f.Close()
	plain, err := pipeThrough(ctx, r, func(w io.Writer) error { return r.exec(ctx, nil, w, "zstd", "-q", "-d", "-c", tarball) }, f, "gzip", "-n", "-6", "-c")
	if err == nil && "sha256:"+plain.digest != file.UncompressedDigest {
		err = fmt.Errorf("%s is not what its manifest says", tarball)
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return ociDescriptor{}, fmt.Errorf("pack layer: %w", err)
	}
	sum, err := hashFile(part)
	if err != nil {
		return ociDescriptor{}, err
	}
	return ociDescriptor{MediaType: ociLayer, Digest: "sha256:" + sum.SHA256, Size: sum.Size}, os.Rename(part, filepath.Join(out, sum.SHA256))
}

// ociBlob writes a blob of JSON.
func ociBlob(dir, media string, v any) (ociDescriptor, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return ociDescriptor{}, err
	}
	sum := sha256.Sum256(b)
	name := hex.EncodeToString(sum[:])
	return ociDescriptor{MediaType: media, Digest: "sha256:" + name, Size: int64(len(b))}, os.WriteFile(filepath.Join(dir, name), b, 0o644)
}
