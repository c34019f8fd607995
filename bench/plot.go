package main

import (
	"fmt"
	"strings"
	"time"
)

// The plot has a panel for each measure, and a bar for each subject.
const (
	panelWidth  = 250
	panelHeight = 230
	barHeight   = 26
	labelWidth  = 120
	plotFont    = `font-family="sans-serif" font-size="12"`
)

// panel is one measure of all subjects.
type panel struct {
	title string
	value func(*result) float64
	text  func(*result) string
}

func panels() []panel {
	return []panel{
		{"CPU time per request, µs", func(r *result) float64 { return float64(median(r.cpu)) / float64(time.Microsecond) }, func(r *result) string { return formatDuration(median(r.cpu)) }},
		{"p99 at a fixed rate, µs", func(r *result) float64 { return float64(r.p99) / float64(time.Microsecond) }, func(r *result) string { return formatDuration(r.p99) }},
		{"requests/s, reconnecting", func(r *result) float64 { return r.reconnects }, func(r *result) string { return fmt.Sprintf("%.0f", r.reconnects) }},
	}
}

// svg returns the plot.
func (r report) svg() string {
	var b strings.Builder
	all := panels()
	width := labelWidth + len(all)*panelWidth
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">`+"\n", width, panelHeight, width, panelHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, panelHeight)
	for i, one := range r.results {
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" %s fill="#222222">%s</text>`+"\n", labelWidth-8, barTop(i)+barHeight*2/3, plotFont, one.name)
	}
	for i, p := range all {
		r.drawPanel(&b, p, labelWidth+i*panelWidth)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func barTop(i int) int { return 44 + i*(barHeight+14) }

func (r report) drawPanel(b *strings.Builder, p panel, left int) {
	most := 0.0
	for _, one := range r.results {
		most = max(most, p.value(one))
	}
	fmt.Fprintf(b, `<text x="%d" y="24" %s font-weight="bold" fill="#222222">%s</text>`+"\n", left, plotFont, p.title)
	for i, one := range r.results {
		value := p.value(one)
		if value <= 0 {
			continue // not measured
		}
		width := value / most * (panelWidth - 80)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", left, barTop(i), width, barHeight, barColor(one.name))
		fmt.Fprintf(b, `<text x="%.1f" y="%d" %s fill="#222222">%s</text>`+"\n", float64(left)+width+6, barTop(i)+barHeight*2/3, plotFont, p.text(one))
	}
}

func barColor(name string) string {
	if name == proxySubject {
		return "#d9534f"
	}
	return "#9aa7b4"
}
