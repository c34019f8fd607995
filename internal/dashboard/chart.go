package dashboard

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// The size of charts, in units of their viewBox.
const (
	chartWidth  = 600.0
	chartHeight = 120.0
)

// chart is a small chart that templates draw as SVG. Screen readers get its legend,
// which has the totals.
type chart struct {
	Title  string
	Bars   []chartBar
	Lines  []chartLine
	Top    string // value at the upper edge
	From   string // time at the left edge; the right edge is now
	Legend []legendEntry
	Empty  bool // there is no data
}

// chartBar is a filled rectangle with a class of the style sheet.
type chartBar struct {
	Class      string
	X, Y, W, H float64
}

// chartLine is a line through points, in the syntax of SVG.
type chartLine struct{ Class, Points string }

type legendEntry struct{ Class, Label, Value string }

// chartPeriod is the period that charts show.
type chartPeriod struct {
	Name      string // as in the address
	Label     string
	From      string // time at the left edge
	BarUnit   string // what the height of a bar counts
	intervals int
	interval  time.Duration
}

// chartPeriods returns the periods that operators can choose from.
func chartPeriods() []chartPeriod {
	return []chartPeriod{
		{Name: "1h", Label: "Last hour", From: "1 hour ago", BarUnit: "per minute", intervals: 60, interval: time.Minute},
		{Name: "24h", Label: "Last 24 hours", From: "24 hours ago", BarUnit: "per 15 minutes", intervals: 96, interval: 15 * time.Minute},
	}
}

// charts returns the charts of a period.
func (s *timeSeries) charts(p chartPeriod) []chart {
	intervals := s.intervals(p.intervals, p.interval)
	requests := make([][3]float64, len(intervals))
	refreshes := make([][3]float64, len(intervals))
	for i, interval := range intervals {
		requests[i], refreshes[i] = interval.requests, interval.refreshes
	}
	all := []chart{
		stackedBars("Requests", requests, [3]legendEntry{
			{Class: "good", Label: "Succeeded"}, {Class: "fair", Label: "Rejected (4xx)"}, {Class: "bad", Label: "Failed (5xx)"},
		}),
		responseTimes("Response time", intervals, s.intervals(1, p.interval*time.Duration(p.intervals))[0]),
		stackedBars("Token refreshes", refreshes, [3]legendEntry{
			{Class: "good", Label: "Succeeded"}, {Class: "fair", Label: "Failed, will be retried"}, {Class: "bad", Label: "Rejected"},
		}),
	}
	for i := range all {
		all[i].From = p.From
		if len(all[i].Bars) > 0 {
			all[i].Top += " " + p.BarUnit
		}
	}
	return all
}

// stackedBars draws a bar for each interval, with the classes on top of each other.
func stackedBars(title string, intervals [][3]float64, legend [3]legendEntry) chart {
	c := chart{Title: title}
	var highest float64
	var totals [3]float64
	for _, interval := range intervals {
		highest = max(highest, interval[0]+interval[1]+interval[2])
		for class, n := range interval {
			totals[class] += n
		}
	}
	top := roundUpScale(highest)
	width := chartWidth / float64(len(intervals))
	for i, interval := range intervals {
		y := chartHeight
		for class, n := range interval {
			if n == 0 {
				continue
			}
			height := math.Max(n/top*chartHeight, 1) // at least 1, to be visible
			y -= height
			c.Bars = append(c.Bars, chartBar{Class: legend[class].Class, X: round(float64(i) * width), Y: round(max(y, 0)), W: round(width * 0.8), H: round(height)})
		}
	}
	for class, total := range totals {
		legend[class].Value = formatCount(int(math.Round(total)))
	}
	c.Legend, c.Top, c.Empty = legend[:], formatCount(int(top)), highest == 0
	return c
}

// responseTimes draws the response times of intervals. Its legend has those of the
// whole period.
func responseTimes(title string, intervals []interval, whole interval) chart {
	c := chart{Title: title}
	var highest time.Duration
	for _, i := range intervals {
		highest = max(highest, i.p99)
	}
	top := roundUpScale(highest.Seconds() * 1000)
	c.Lines = append(c.Lines,
		drawLine("good", intervals, top, func(i interval) time.Duration { return i.p50 }),
		drawLine("fair", intervals, top, func(i interval) time.Duration { return i.p99 }))
	c.Legend = []legendEntry{
		{Class: "good", Label: "p50", Value: formatDuration(whole.p50)},
		{Class: "fair", Label: "p99", Value: formatDuration(whole.p99)},
	}
	c.Top, c.Empty = formatDuration(time.Duration(top*float64(time.Millisecond))), highest == 0
	return c
}

// drawLine draws the line of one value, without gaps for intervals that have no
// requests. If only one interval has requests, the line is as wide as the interval:
// a single point would be invisible.
func drawLine(class string, intervals []interval, top float64, value func(interval) time.Duration) chartLine {
	var points []string
	var single string
	width := chartWidth / float64(len(intervals))
	for i, interval := range intervals {
		if interval.p99 == 0 {
			continue
		}
		x, y := float64(i)*width, round(chartHeight-value(interval).Seconds()*1000/top*chartHeight)
		points = append(points, fmt.Sprintf("%g,%g", round(x+width/2), y))
		single = fmt.Sprintf("%g,%g %g,%g", round(x), y, round(x+width), y)
	}
	if len(points) == 1 {
		return chartLine{Class: class, Points: single}
	}
	return chartLine{Class: class, Points: strings.Join(points, " ")}
}

// statusBar draws one bar with the shares of the statuses, in the order of
// [credstore.Statuses].
func statusBar(counts map[credstore.Status]int) chart {
	c := chart{Title: "Connections by status"}
	total := 0
	for _, n := range counts {
		total += n
	}
	// Each status is drawn as at least half a percent, to be visible.
	smallest := float64(total) / 200
	drawn := 0.0
	for _, n := range counts {
		if n > 0 {
			drawn += math.Max(float64(n), smallest)
		}
	}
	x := 0.0
	for _, status := range credstore.Statuses() {
		if counts[status] == 0 {
			continue
		}
		width := math.Max(float64(counts[status]), smallest) / drawn * chartWidth
		c.Bars = append(c.Bars, chartBar{Class: "status-" + string(status), X: round(x), Y: 0, W: round(width), H: 16})
		x += width
	}
	c.Empty = total == 0
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

// round rounds a coordinate, which keeps pages small.
func round(v float64) float64 { return math.Round(v*10) / 10 }
