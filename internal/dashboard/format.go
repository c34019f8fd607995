package dashboard

import (
	"fmt"
	"time"
)

// relativeTime returns how long before now t was, or how long after.
func relativeTime(t, now time.Time) string {
	d := now.Sub(t)
	if d < 0 {
		return timeUntil(t, now)
	}
	if d < time.Minute {
		return "just now"
	}
	return formatSpan(d) + " ago"
}

// timeUntil returns how long after now t is. It rounds to minutes, so that 7 days
// do not become 6 on a page that is rendered a moment later.
func timeUntil(t, now time.Time) string {
	d := t.Sub(now)
	if d >= time.Minute {
		d = d.Round(time.Minute)
	}
	switch {
	case d <= 0:
		return relativeTime(t, now)
	case d < time.Minute:
		return "within a minute"
	}
	return "in " + formatSpan(d)
}

// formatSpan returns a duration of a minute or more in its largest unit.
func formatSpan(d time.Duration) string {
	for _, unit := range []struct {
		of   time.Duration
		name string
	}{{365 * 24 * time.Hour, "year"}, {24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / unit.of); n > 0 {
			return pluralize(n, unit.name)
		}
	}
	return "less than a minute"
}

// formatDuration returns a response time.
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

func pluralize(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return formatCount(n) + " " + thing + "s"
}

// formatCount returns a number with thousands separators.
func formatCount(n int) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", formatCount(n/1000), n%1000)
}
