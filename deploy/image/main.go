// Image builds the images of a Dockerfile without a container engine, for
// machines that have none. BuildKit's own frontend turns the Dockerfile into
// steps; this program carries them out, running what a build stage runs on this
// machine in the place of the stage's base image.
//
// It knows the steps that our Dockerfile takes, and refuses all others. The
// result is an OCI image layout.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		stop()
		os.Exit(1)
	}
}

// options is what the flags say.
type options struct {
	context   string
	out       string
	target    string
	platforms string
	args      buildArgs
}

// buildArgs are the values of --build-arg.
type buildArgs map[string]string

func (a buildArgs) String() string { return "" }

// Set reads one NAME=VALUE.
func (a buildArgs) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("wants NAME=VALUE")
	}
	a[name] = value
	return nil
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{args: buildArgs{}}
	f := flag.NewFlagSet("image", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.context, "context", ".", "the `directory` that holds the Dockerfile")
	f.StringVar(&o.out, "out", "", "the `directory` of the OCI image layout, which is made anew")
	f.StringVar(&o.target, "target", "", "the `stage` to build; the last one if empty")
	f.StringVar(&o.platforms, "platforms", "linux/amd64", "the platforms, with commas between")
	f.Var(o.args, "build-arg", "a `NAME=VALUE` for the Dockerfile; may be repeated")
	if err := f.Parse(args); err != nil {
		return options{}, err
	}
	if o.out == "" {
		return options{}, fmt.Errorf("--out is needed")
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if err := o.setEpoch(ctx); err != nil {
		return err
	}
	index, err := o.build(ctx, stderr)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(o.out); err != nil {
		return fmt.Errorf("clearing %s: %w", o.out, err)
	}
	if _, err := layout.Write(o.out, index); err != nil {
		return fmt.Errorf("writing the layout: %w", err)
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, digest)
	return err
}

const epochArg = "SOURCE_DATE_EPOCH"

// setEpoch settles the time of everything in the image: that of the commit,
// unless an argument or the environment gives another.
func (o *options) setEpoch(ctx context.Context) error {
	if o.args[epochArg] != "" {
		return nil
	}
	if o.args[epochArg] = os.Getenv(epochArg); o.args[epochArg] != "" {
		return nil
	}
	out, err := exec.CommandContext(ctx, "git", "-C", o.context, "log", "-1", "--format=%ct").Output()
	if err != nil {
		return fmt.Errorf("asking git for the time of the commit (or set %s): %w", epochArg, err)
	}
	o.args[epochArg] = strings.TrimSpace(string(out))
	return nil
}

func (o *options) epoch() (time.Time, error) {
	seconds, err := strconv.ParseInt(o.args[epochArg], 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading %s: %w", epochArg, err)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

// build builds the image of each platform and puts them under one index.
func (o *options) build(ctx context.Context, log io.Writer) (v1.ImageIndex, error) {
	var index v1.ImageIndex = empty.Index
	for name := range strings.SplitSeq(o.platforms, ",") {
		system, architecture, ok := strings.Cut(name, "/")
		if !ok {
			return nil, fmt.Errorf("%q is no platform such as linux/amd64", name)
		}
		image, err := o.buildFor(ctx, ocispecs.Platform{OS: system, Architecture: architecture}, log)
		if err != nil {
			return nil, fmt.Errorf("building for %s: %w", name, err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: system, Architecture: architecture}},
		})
	}
	return index, nil
}
