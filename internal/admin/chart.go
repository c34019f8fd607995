package admin

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// The plane on which charts are drawn, in units of their viewBox.
const (
	chartWidth  = 600.0
	chartHeight = 120.0
)

// chart is a small picture that templates draw as SVG. Its legend says in words
// and numbers what it shows.
type chart struct {
	Title  string
	Bars   []chartBar
	Lines  []chartLine
	Top    string // what the upper edge stands for
	From   string // what the left edge stands for; the right one is now
	Legend []legendEntry
	Empty  bool // there is nothing to show yet
}

// chartBar is a filled rectangle. Class is what the style sheet colours it by.
type chartBar struct {
	Class      string
	X, Y, W, H float64
}

// chartLine is a curve through points, in the form of SVG.
type chartLine struct{ Class, Points string }

type legendEntry struct{ Class, Label, Value string }

// chartPeriod is how far back charts look.
type chartPeriod struct {
	Name      string // as in the address
	Label     string // as in "the last hour"
	BarUnit   string // what the height of a bar is of
	intervals int
	interval  time.Duration
}

// chartPeriods are those that one can choose from.
func chartPeriods() []chartPeriod {
	return []chartPeriod{
		{Name: "1h", Label: "hour", BarUnit: "a minute", intervals: 60, interval: time.Minute},
		{Name: "24h", Label: "24 hours", BarUnit: "in 15 minutes", intervals: 96, interval: 15 * time.Minute},
	}
}

// charts draws what the program has done in a period.
func (s *timeSeries) charts(p chartPeriod) []chart {
	steps := s.intervals(p.intervals, p.interval)
	answers := make([][3]float64, len(steps))
	refreshes := make([][3]float64, len(steps))
	for i, step := range steps {
		answers[i], refreshes[i] = step.requests, step.refreshes
	}
	from := "one hour ago"
	if p.interval*time.Duration(p.intervals) > time.Hour {
		from = "24 hours ago"
	}
	all := []chart{
		stackedBars("Requests", answers, [3]legendEntry{
			{Class: "good", Label: "answered"}, {Class: "fair", Label: "refused (4xx)"}, {Class: "bad", Label: "failed (5xx)"},
		}),
		responseTimes("Time to answer", steps, s.intervals(1, p.interval*time.Duration(p.intervals))[0]),
		stackedBars("Refreshes", refreshes, [3]legendEntry{
			{Class: "good", Label: "brought new tokens"}, {Class: "fair", Label: "failed, tried again"}, {Class: "bad", Label: "refused"},
		}),
	}
	for i := range all {
		all[i].From = from
		if len(all[i].Bars) > 0 {
			all[i].Top += " " + p.BarUnit
		}
	}
	return all
}

// stackedBars draws a bar for each step, with the classes on top of each other.
func stackedBars(title string, steps [][3]float64, names [3]legendEntry) chart {
	c := chart{Title: title}
	var most float64
	var totals [3]float64
	for _, step := range steps {
		most = max(most, step[0]+step[1]+step[2])
		for class, n := range step {
			totals[class] += n
		}
	}
	top := roundUpScale(most)
	width := chartWidth / float64(len(steps))
	for i, step := range steps {
		y := chartHeight
		for class, n := range step {
			if n == 0 {
				continue
			}
			height := math.Max(n/top*chartHeight, 1) // so that one among many shows
			y -= height
			c.Bars = append(c.Bars, chartBar{Class: names[class].Class, X: round(float64(i) * width), Y: round(max(y, 0)), W: round(width * 0.8), H: round(height)})
		}
	}
	for class, total := range totals {
		names[class].Value = formatCount(int(math.Round(total)))
	}
	c.Legend, c.Top, c.Empty = names[:], formatCount(int(top)), most == 0
	return c
}

// responseTimes draws the median and the slow end of the times to answer, and says those
// of the whole time.
func responseTimes(title string, steps []interval, whole interval) chart {
	c := chart{Title: title}
	var most time.Duration
	for _, s := range steps {
		most = max(most, s.p99)
	}
	top := roundUpScale(most.Seconds() * 1000)
	c.Lines = append(c.Lines,
		drawLine("good", steps, top, func(s interval) time.Duration { return s.p50 }),
		drawLine("fair", steps, top, func(s interval) time.Duration { return s.p99 }))
	c.Legend = []legendEntry{
		{Class: "good", Label: "half of the requests within", Value: formatDuration(whole.p50)},
		{Class: "fair", Label: "99 of 100 within", Value: formatDuration(whole.p99)},
	}
	c.Top, c.Empty = formatDuration(time.Duration(top*float64(time.Millisecond))), most == 0
	return c
}

// drawLine makes the curve of one value. Steps without requests are bridged, and one
// that is alone is as wide as its time.
func drawLine(class string, steps []interval, top float64, of func(interval) time.Duration) chartLine {
	var points []string
	var alone string
	width := chartWidth / float64(len(steps))
	for i, s := range steps {
		if s.p99 == 0 {
			continue
		}
		x, y := float64(i)*width, round(chartHeight-of(s).Seconds()*1000/top*chartHeight)
		points = append(points, fmt.Sprintf("%g,%g", round(x+width/2), y))
		alone = fmt.Sprintf("%g,%g %g,%g", round(x), y, round(x+width), y)
	}
	if len(points) == 1 {
		return chartLine{Class: class, Points: alone}
	}
	return chartLine{Class: class, Points: strings.Join(points, " ")}
}

// statusBar draws the shares of the statuses as one bar, in the order of
// [credstore.Statuses].
func statusBar(counts map[credstore.Status]int) chart {
	c := chart{Title: "Connections by status"}
	all := 0
	for _, n := range counts {
		all += n
	}
	least := float64(all) / 200 // find what is drawn, so that one among many shows
	drawn := 0.0
	for _, n := range counts {
		if n > 0 {
			drawn += math.Max(float64(n), least)
		}
	}
	x := 0.0
	for _, status := range credstore.Statuses() {
		if counts[status] == 0 {
			continue
		}
		width := math.Max(float64(counts[status]), least) / drawn * chartWidth
		c.Bars = append(c.Bars, chartBar{Class: "status-" + string(status), X: round(x), Y: 0, W: round(width), H: 16})
		x += width
	}
	c.Empty = all == 0
	return c
}

// roundUpScale returns the next of 1, 2 and 5 times a power of ten.
func roundUpScale(v float64) float64 {
	if v <= 1 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 5} {
		if v <= n*power {
			return n * power
		}
	}
	return 10 * power
}

// round keeps drawings short.
func round(v float64) float64 { return math.Round(v*10) / 10 }

func formatDuration(d time.Duration) string {
	switch {
	case d == 0:
		return "–"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
