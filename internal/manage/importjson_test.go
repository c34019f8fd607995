package manage

import (
	"bufio"
	"bytes"
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

// TestImportStopsWhenStoreUnavailable: not with as many refusals as there are
func TestImportStopsWhenStoreUnavailable(t *testing.T) {
	two := strings.Repeat(`{"name":"one","kind":"oauth"}`+"\n", 2)
	for _, end := range []error{credstore.ErrUnavailable, context.Canceled} {
		ctx, cancel := context.WithCancel(t.Context())
		tries := 0
		report, err := Importer{Add: func(context.Context, credstore.NewConnection) (string, error) {
			tries++
			if errors.Is(end, context.Canceled) {
				cancel()
			}
			return "", end
		}}.Run(ctx, bytes.NewReader([]byte(two)))
		cancel()
		if !errors.Is(err, end) || tries != 1 || len(report.Lines) != 0 {
			t.Errorf("after %v: %d tries, %+v, %v; want one try, and the error", end, tries, report, err)
		}
	}
}
