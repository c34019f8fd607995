package main

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

// A line too long to be read is one line that is refused: those behind it count.
func TestReadLineGetsPastAnEndlessLine(t *testing.T) {
	in := bufio.NewReaderSize(strings.NewReader("first\n"+strings.Repeat("x", 3*lineMax)+"\nlast"), lineMax)
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
	if len(lengths) != 3 || lengths[0] != 5 || lengths[1] > lineMax || lengths[2] != 4 {
		t.Errorf("lines of %v bytes, want 5, at most %d, and 4", lengths, lineMax)
	}
}
