package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
	digest "github.com/opencontainers/go-digest"
)

// builder carries out the steps of a plan.
type builder struct {
	context string // the directory that is built
	work    string // where trees are made
	at      time.Time
	log     io.Writer
	made    map[digest.Digest]*tree // step → what it made
}

// take carries out one step.
func (b *builder) take(ctx context.Context, s step) (*tree, error) {
	made, err := b.carryOut(ctx, s.op)
	if err != nil {
		return nil, err
	}
	b.made[s.id] = made
	return made, nil
}

func (b *builder) carryOut(ctx context.Context, op *pb.Op) (*tree, error) {
	switch {
	case op.GetSource() != nil:
		return b.source(op.GetSource())
	case op.GetExec() != nil:
		return b.exec(ctx, op)
	case op.GetFile() != nil:
		return b.file(op)
	case op.GetOp() == nil:
		return b.input(op, 0), nil // the end of the plan
	}
	return nil, fmt.Errorf("a step of the Dockerfile (%T) is none that can be taken without an engine", op.GetOp())
}

// input returns what the step's nth input made.
func (b *builder) input(op *pb.Op, n int64) *tree {
	if n < 0 || n >= int64(len(op.GetInputs())) {
		return nil // scratch
	}
	return b.made[digest.Digest(op.GetInputs()[n].GetDigest())]
}

// source gives the build context, or the base image of a build stage.
func (b *builder) source(s *pb.SourceOp) (*tree, error) {
	switch kind, _, _ := strings.Cut(s.GetIdentifier(), "://"); kind {
	case "local":
		ignored, err := b.ignored()
		return &tree{dir: b.context, ignored: ignored}, err
	case "docker-image":
		dir, err := os.MkdirTemp(b.work, "stage-")
		return &tree{dir: dir, machine: true}, err
	}
	return nil, fmt.Errorf("the Dockerfile takes files from %s, which needs an engine", s.GetIdentifier())
}

// ignored reads what .dockerignore leaves out of the build context.
func (b *builder) ignored() (*patternmatcher.PatternMatcher, error) {
	f, err := os.Open(filepath.Join(b.context, ".dockerignore"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("reading .dockerignore: %w", err)
	}
	return patternmatcher.New(patterns)
}

// exec runs a command of a build stage on this machine. Its working directory is
// that of the stage; other paths in the command are those of this machine, so a
// Dockerfile that is to be built here uses relative ones for what it makes.
func (b *builder) exec(ctx context.Context, op *pb.Op) (*tree, error) {
	meta := op.GetExec().GetMeta()
	stage := b.input(op, 0)
	if stage == nil || !stage.machine {
		return nil, fmt.Errorf("running %q: only a build stage with a base image can run commands", meta.GetArgs())
	}
	fmt.Fprintf(b.log, "RUN %s\n", strings.Join(meta.GetArgs(), " "))
	cmd := exec.CommandContext(ctx, meta.GetArgs()[0], meta.GetArgs()[1:]...)
	cmd.Dir = filepath.Join(stage.dir, meta.GetCwd())
	cmd.Env = append(os.Environ(), meta.GetEnv()...)
	// The search path of the base image is not that of this machine.
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"))
	cmd.Stdout, cmd.Stderr = b.log, b.log
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("running %q: %w", meta.GetArgs(), err)
	}
	return stage, nil
}

// file copies and makes files. In a build stage they go into its tree; in an
// image they become a layer.
func (b *builder) file(op *pb.Op) (*tree, error) {
	into := b.input(op, op.GetFile().GetActions()[0].GetInput())
	if into == nil {
		into = &tree{}
	}
	if into.machine {
		return into, b.stageFiles(op, into)
	}
	l, err := b.layer(op, into)
	if err != nil {
		return nil, err
	}
	return &tree{layers: append(into.layers, l)}, nil
}

func (b *builder) stageFiles(op *pb.Op, into *tree) error {
	for _, action := range op.GetFile().GetActions() {
		switch {
		case action.GetMkdir() != nil:
			if err := os.MkdirAll(filepath.Join(into.dir, action.GetMkdir().GetPath()), 0o755); err != nil {
				return err
			}
		case action.GetCopy() != nil:
			from := b.input(op, action.GetSecondaryInput())
			if err := from.copyTo(into, action.GetCopy()); err != nil {
				return err
			}
		default:
			return fmt.Errorf("a build stage changes files in a way (%T) that needs an engine", action.GetAction())
		}
	}
	return nil
}
