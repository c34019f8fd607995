package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/buildkit/solver/pb"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// image is a v1.Image, by a name that the result of buildFor can have.
type image = v1.Image

// layer makes a layer of what a step copies into an image.
func (b *builder) layer(op *pb.Op, below *tree) (v1.Layer, error) {
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, action := range op.GetFile().GetActions() {
		c := action.GetCopy()
		if c == nil {
			return nil, fmt.Errorf("an image changes files in a way (%T) that needs an engine", action.GetAction())
		}
		p := packer{w: w, at: b.at}
		if err := p.setOwner(c.GetOwner()); err != nil {
			return nil, err
		}
		if err := p.pack(b.input(op, action.GetSecondaryInput()), c, below); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(packed.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer),
	)
}

// packer writes files into a layer, all with one owner and one time.
type packer struct {
	w        *tar.Writer
	at       time.Time
	uid, gid int
}

func (p *packer) setOwner(o *pb.ChownOpt) error {
	if o == nil {
		return nil // root
	}
	if o.GetUser().GetByName() != nil || o.GetGroup().GetByName() != nil {
		return errors.New("COPY --chown wants numbers, since the image has no names for users")
	}
	p.uid, p.gid = int(o.GetUser().GetByID()), int(o.GetGroup().GetByID())
	return nil
}

// pack writes what one COPY copies. The directory that it copies into must be
// there already: whom BuildKit makes the owner of missing ones is not worth
// relying on.
func (p *packer) pack(from *tree, c *pb.FileActionCopy, below *tree) error {
	parent := path.Dir(path.Clean(c.GetDest()))
	if there, err := below.holds(parent); err != nil || !there {
		return errors.Join(err, fmt.Errorf("COPY to %s: %s is not in an earlier layer", c.GetDest(), parent))
	}
	source := from.path(c.GetSrc())
	if info, err := os.Stat(source); err != nil || !info.IsDir() {
		return errors.Join(err, fmt.Errorf("COPY of %s: an image is made of directories", c.GetSrc()))
	}
	return from.walk(source, func(file, relative string, info fs.FileInfo) error {
		name := strings.TrimPrefix(path.Join(c.GetDest(), filepath.ToSlash(relative)), "/")
		if name == "" {
			return nil // the root, which every image has
		}
		return p.add(file, name, info)
	})
}

func (p *packer) add(file, name string, info fs.FileInfo) error {
	h := &tar.Header{
		Name: name, Mode: int64(info.Mode().Perm()), Uid: p.uid, Gid: p.gid, ModTime: p.at, Format: tar.FormatPAX,
	}
	if info.IsDir() {
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return p.w.WriteHeader(h)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is neither a file nor a directory", file)
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	_, err = io.Copy(p.w, f)
	return err
}

// holds reports whether the layers have a directory.
func (t *tree) holds(directory string) (found bool, err error) {
	if directory == "/" {
		return true, nil
	}
	for _, l := range t.layers {
		r, err := l.Uncompressed()
		if err != nil {
			return false, err
		}
		content := tar.NewReader(r)
		for {
			h, err := content.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return false, err
			}
			found = found || path.Clean("/"+h.Name) == directory
		}
		if err := r.Close(); err != nil {
			return false, err
		}
	}
	return found, nil
}

// image makes an image of the layers, with the configuration that BuildKit has
// worked out.
func (t *tree) image(config dockerspec.DockerOCIImage, at time.Time) (v1.Image, error) {
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err := mutate.AppendLayers(img, t.layers...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = config.OS, config.Architecture
	file.Created = v1.Time{Time: at}
	file.Config = runConfig(config.Config)
	for i := range file.History {
		file.History[i] = v1.History{Created: v1.Time{Time: at}}
	}
	return mutate.ConfigFile(img, file)
}

// runConfig is the same configuration in the other module's type.
func runConfig(c dockerspec.DockerOCIImageConfig) v1.Config {
	run := v1.Config{
		User: c.User, ExposedPorts: c.ExposedPorts, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd,
		WorkingDir: c.WorkingDir, Labels: c.Labels, StopSignal: c.StopSignal,
	}
	if h := c.Healthcheck; h != nil {
		run.Healthcheck = &v1.HealthConfig{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, Retries: h.Retries,
		}
	}
	return run
}
