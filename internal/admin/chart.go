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
	Bars   []bar
	Lines  []line
	Top    string // what the upper edge stands for
	From   string // what the left edge stands for; the right one is now
	Legend []legend
	Empty  bool // there is nothing to show yet
}

// bar is a filled rectangle. Class is what the style sheet colours it by.
type bar struct {
	Class      string
	X, Y, W, H float64
}

// line is a curve through points, in the form of SVG.
type line struct{ Class, Points string }

type legend struct{ Class, Label, Value string }

// period is how far back charts look.
type period struct {
	Name  string // as in the address
	Label string // as in "the last hour"
	Step  string // what the height of a bar is of
	steps int
	each  time.Duration
}

// periods are those that one can choose from.
func periods() []period {
	return []period{
		{Name: "1h", Label: "hour", Step: "a minute", steps: 60, each: time.Minute},
		{Name: "24h", Label: "24 hours", Step: "in 15 minutes", steps: 96, each: 15 * time.Minute},
	}
}

// charts draws what the program has done in a period.
func (s *series) charts(p period) []chart {
	steps := s.last(p.steps, p.each)
	answers := make([][3]float64, len(steps))
	refreshes := make([][3]float64, len(steps))
	for i, step := range steps {
		answers[i], refreshes[i] = step.answers, step.refreshes
	}
	from := "one hour ago"
	if p.each*time.Duration(p.steps) > time.Hour {
		from = "24 hours ago"
	}
	all := []chart{
		stacked("Requests", answers, [3]legend{
			{Class: "good", Label: "answered"}, {Class: "fair", Label: "refused (4xx)"}, {Class: "bad", Label: "failed (5xx)"},
		}),
		curves("Time to answer", steps, s.last(1, p.each*time.Duration(p.steps))[0]),
		stacked("Refreshes", refreshes, [3]legend{
			{Class: "good", Label: "brought new tokens"}, {Class: "fair", Label: "failed, tried again"}, {Class: "bad", Label: "refused"},
		}),
	}
	for i := range all {
		all[i].From = from
		if len(all[i].Bars) > 0 {
			all[i].Top += " " + p.Step
		}
	}
	return all
}

// stacked draws a bar for each step, with the classes on top of each other.
func stacked(title string, steps [][3]float64, names [3]legend) chart {
	c := chart{Title: title}
	var most float64
	var totals [3]float64
	for _, step := range steps {
		most = max(most, step[0]+step[1]+step[2])
		for class, n := range step {
			totals[class] += n
		}
	}
	top := roundUp(most)
	width := chartWidth / float64(len(steps))
	for i, step := range steps {
		y := chartHeight
		for class, n := range step {
			if n == 0 {
				continue
			}
			height := math.Max(n/top*chartHeight, 1) // so that one among many shows
			y -= height
			c.Bars = append(c.Bars, bar{Class: names[class].Class, X: round(float64(i) * width), Y: round(max(y, 0)), W: round(width * 0.8), H: round(height)})
		}
	}
	for class, total := range totals {
		names[class].Value = grouped(int(math.Round(total)))
	}
	c.Legend, c.Top, c.Empty = names[:], grouped(int(top)), most == 0
	return c
}

// curves draws the median and the slow end of the times to answer, and says those
// of the whole time.
func curves(title string, steps []step, whole step) chart {
	c := chart{Title: title}
	var most time.Duration
	for _, s := range steps {
		most = max(most, s.slow)
	}
	top := roundUp(most.Seconds() * 1000)
	c.Lines = append(c.Lines,
		drawn("good", steps, top, func(s step) time.Duration { return s.median }),
		drawn("fair", steps, top, func(s step) time.Duration { return s.slow }))
	c.Legend = []legend{
		{Class: "good", Label: "half of the requests within", Value: inMillis(whole.median)},
		{Class: "fair", Label: "99 of 100 within", Value: inMillis(whole.slow)},
	}
	c.Top, c.Empty = inMillis(time.Duration(top*float64(time.Millisecond))), most == 0
	return c
}

// drawn makes the curve of one value. Steps without requests are bridged, and one
// that is alone is as wide as its time.
func drawn(class string, steps []step, top float64, of func(step) time.Duration) line {
	var points []string
	var alone string
	width := chartWidth / float64(len(steps))
	for i, s := range steps {
		if s.slow == 0 {
			continue
		}
		x, y := float64(i)*width, round(chartHeight-of(s).Seconds()*1000/top*chartHeight)
		points = append(points, fmt.Sprintf("%g,%g", round(x+width/2), y))
		alone = fmt.Sprintf("%g,%g %g,%g", round(x), y, round(x+width), y)
	}
	if len(points) == 1 {
		return line{Class: class, Points: alone}
	}
	return line{Class: class, Points: strings.Join(points, " ")}
}

// statusChart draws the shares of the statuses as one bar, in the order of
// [credstore.Statuses].
func statusChart(counts map[credstore.Status]int) chart {
	c := chart{Title: "Connections by status"}
	all := 0
	for _, n := range counts {
		all += n
	}
	least := float64(all) / 200 // of what is drawn, so that one among many shows
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
		c.Bars = append(c.Bars, bar{Class: "status-" + string(status), X: round(x), Y: 0, W: round(width), H: 16})
		x += width
	}
	c.Empty = all == 0
	return c
}

// roundUp returns the next of 1, 2 and 5 times a power of ten.
func roundUp(v float64) float64 {
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

func inMillis(d time.Duration) string {
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
