package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func results() []*result {
	us := func(values ...int) []time.Duration {
		var all []time.Duration
		for _, v := range values {
			all = append(all, time.Duration(v)*time.Microsecond)
		}
		return all
	}
	return []*result{
		{name: proxySubject, cpu: us(110, 120, 100), throughput: []float64{9000}, rate: 4000, p50: 300 * time.Microsecond, p99: 2500 * time.Microsecond, reconnects: 5000},
		{name: reverseProxySubject, cpu: us(100, 100, 100), throughput: []float64{8000}, rate: 4000, reconnects: 4000},
		{name: nginxSubject, cpu: us(50, 55, 45), throughput: []float64{20000}, rate: 4000, reconnects: 8000},
		{name: directSubject, throughput: []float64{30000}, rate: 4000, reconnects: 1000},
	}
}

func TestTable(t *testing.T) {
	got := report{plan: plan{rounds: 3, requests: 10, concurrency: 2}, results: results(), machine: "a machine"}.table()
	for _, want := range []string{
		"| pleo-auth-proxy | 110 µs (100 µs to 120 µs) | 1.10 | 2.20 | 9000 | 300 µs | 2.50 ms | 5000 | 1.25 |\n",
		"| no proxy | - | - | - | 30000 |",
		"Measured on a machine: 3 rounds",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("table lacks %q:\n%s", want, got)
		}
	}
}

func TestCheckLimit(t *testing.T) {
	for limit, ok := range map[float64]bool{0: true, 1.05: false, 1.25: true} {
		if err := (report{plan: plan{limit: limit}, results: results()}).check(); errors.Is(err, errLimitExceeded) == ok {
			t.Errorf("check at %v = %v, want ok: %v", limit, err, ok)
		}
	}
}

func TestPlot(t *testing.T) {
	d := xml.NewDecoder(strings.NewReader(report{results: results()}.svg()))
	bars := 0
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	// One is the ground, 3 are CPU times, 1 is the p99 that is given, 4 reconnect.
	if bars != 1+3+1+4 {
		t.Errorf("plot has %d rectangles, want 9", bars)
	}
}

func TestSlowestThroughput(t *testing.T) {
	if got := slowestThroughput(results()); got != 8000 {
		t.Errorf("saturation = %v, want 8000", got)
	}
}

func TestReplaceTable(t *testing.T) {
	got, err := replaceTable([]byte("a\n"+tableBegin+"old\n"+tableEnd+"b\n"), "new\n")
	if diff := cmp.Diff("a\n"+tableBegin+"new\n"+tableEnd+"b\n", string(got)); diff != "" || err != nil {
		t.Errorf("place = %v (-want +got):\n%s", err, diff)
	}
	if _, err := replaceTable([]byte("a\n"), "new\n"); !errors.Is(err, errNoTableMarks) {
		t.Errorf("place without marks = %v, want errNoPlace", err)
	}
}

func TestQuantile(t *testing.T) {
	var sorted []time.Duration
	for i := range 100 {
		sorted = append(sorted, time.Duration(i+1))
	}
	if p50, p99, none := quantile(sorted, .5), quantile(sorted, .99), quantile(nil, .5); p50 != 51 || p99 != 100 || none != 0 {
		t.Errorf("quantiles = %d, %d, %d, want 51, 100, 0", p50, p99, none)
	}
}

func TestParseStat(t *testing.T) {
	const line = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 1 2 3"
	got, err := parseStat(line)
	if want := (stat{42, 7, 2 * time.Second}); got != want || err != nil {
		t.Errorf("parseStat = %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "42", "42 (x) S", "x (x) S 7 42 42 0 -1 4194560 1 0 0 0 150 50 0 0"} {
		if _, err := parseStat(bad); err == nil {
			t.Errorf("parseStat(%q) = no error, want one", bad)
		}
	}
}
