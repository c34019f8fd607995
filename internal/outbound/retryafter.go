package outbound

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a server can ask for, so that a wrong date does not
// stop retries for years.
const maxRetryAfter = 24 * time.Hour

// RetryAfter returns the delay that the Retry-After field asks for, in either form
// of RFC 9110 section 10.2.3: at most 24 hours, and 0 without the field.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	date, err := http.ParseTime(value)
	if err != nil {
		return Seconds(value, maxRetryAfter)
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}

// Seconds returns a decimal number of seconds as a duration of at most limit. It
// returns 0 for a text that is not a finite positive number.
func Seconds(text string, limit time.Duration) time.Duration {
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsInf(seconds, 0) || !(seconds > 0) { // the last is also true of NaN
		return 0
	}
	if seconds >= limit.Seconds() {
		return limit
	}
	return time.Duration(seconds * float64(time.Second))
}
