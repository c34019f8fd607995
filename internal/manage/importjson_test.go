package manage

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

func TestReadLineSkipsOverlongLine(t *testing.T) {
	in := bufio.NewReaderSize(strings.NewReader("first\n"+strings.Repeat("x", 3*maxLineSize)+"\nlast"), maxLineSize)
	var lengths []int
	for {
		line, err := readLine(in)
		if len(line) > 0 {
			lengths = append(lengths, len(line))
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(lengths) != 3 || lengths[0] != 5 || lengths[1] > maxLineSize || lengths[2] != 4 {
		t.Errorf("lines of %v bytes, want 5, at most %d, and 4", lengths, maxLineSize)
	}
}

// TestImportStopsWhenStoreUnavailable: an import that cannot go on must not report
// every line as failed.
func TestImportStopsWhenStoreUnavailable(t *testing.T) {
	two := strings.Repeat(`{"name":"one","kind":"oauth"}`+"\n", 2)
	for _, end := range []error{credstore.ErrUnavailable, context.Canceled} {
		ctx, cancel := context.WithCancel(t.Context())
		store := &fakeStore{create: func(credstore.NewConnection) error {
			if errors.Is(end, context.Canceled) {
				cancel()
			}
			return end
		}}
		o := &Operator{Store: store}
		report, err := o.Import(ctx, strings.NewReader(two), ImportOptions{})
		cancel()
		if !errors.Is(err, end) || store.created != 1 || len(report.Lines) != 0 {
			t.Errorf("after %v: %d tries, %+v, %v; want one try, and the error", end, store.created, report, err)
		}
	}
}
