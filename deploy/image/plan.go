package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/pb"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// plan is what BuildKit makes of a Dockerfile: steps, each after those that it
// builds on, and the configuration of the image.
type plan struct {
	steps  []step
	config dockerspec.DockerOCIImage
}

// step is one of BuildKit's operations.
type step struct {
	id digest.Digest
	op *pb.Op
}

// baseImages stands for the registry: base images have nothing to say, since
// this machine takes their place.
type baseImages struct{}

// ResolveImageConfig returns a configuration that says nothing, of an image with
// one layer: BuildKit takes an image without layers for scratch.
func (baseImages) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	config, err := json.Marshal(ocispecs.Image{
		Platform: thisMachine(),
		RootFS:   ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString("this machine")}},
	})
	return ref, "", config, err
}

func thisMachine() ocispecs.Platform {
	return ocispecs.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
}

// newPlan has BuildKit read the Dockerfile.
func newPlan(ctx context.Context, o *options, platform ocispecs.Platform) (*plan, error) {
	text, err := os.ReadFile(filepath.Join(o.context, "Dockerfile"))
	if err != nil {
		return nil, err
	}
	result, err := dockerfile2llb.Dockerfile2LLB(ctx, text, dockerfile2llb.ConvertOpt{
		Config:         dockerui.Config{BuildArgs: o.args, Target: o.target, BuildPlatforms: []ocispecs.Platform{thisMachine()}},
		TargetPlatform: &platform,
		MetaResolver:   baseImages{},
	})
	if err != nil {
		return nil, fmt.Errorf("reading the Dockerfile: %w", err)
	}
	definition, err := result.State.Marshal(ctx, llb.Platform(platform))
	if err != nil {
		return nil, fmt.Errorf("planning the build: %w", err)
	}
	p := &plan{config: *result.Image}
	for _, raw := range definition.Def {
		op := new(pb.Op)
		if err := op.UnmarshalVT(raw); err != nil {
			return nil, fmt.Errorf("reading the plan: %w", err)
		}
		p.steps = append(p.steps, step{id: digest.FromBytes(raw), op: op})
	}
	return p, nil
}

// buildFor carries out the plan for one platform.
func (o *options) buildFor(ctx context.Context, platform ocispecs.Platform, log io.Writer) (img image, err error) {
	p, err := newPlan(ctx, o, platform)
	if err != nil {
		return nil, err
	}
	at, err := o.epoch()
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "image-")
	if err != nil {
		return nil, fmt.Errorf("making a place to build in: %w", err)
	}
	defer func() { _ = os.RemoveAll(work) }()
	b := &builder{context: o.context, work: work, at: at, log: log, made: map[digest.Digest]*tree{}}
	var last *tree
	for _, s := range p.steps {
		made, err := b.take(ctx, s)
		if err != nil {
			return nil, err
		}
		last = made
	}
	return last.image(p.config, at)
}
