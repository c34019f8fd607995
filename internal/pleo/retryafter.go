package pleo

import (
	"math"
	"net/http"
	"strconv"
	"time"
)

// maxRetryAfter bounds what a server can ask for: a mistaken date must not put
// a connection to sleep for years.
const maxRetryAfter = 24 * time.Hour

// retryAfter returns how long the server asked to wait, in either form of RFC
// 9110 section 10.2.3, from 0 to 24 hours; 0 when it did not say.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := h.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		return secondsAtMost(seconds, maxRetryAfter)
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(date.Sub(now), 0), maxRetryAfter)
}

// secondsAtMost returns the seconds as a duration from 0 to most. What is no
// finite number counts as 0.
func secondsAtMost(seconds float64, most time.Duration) time.Duration {
	if math.IsNaN(seconds) || math.IsInf(seconds, 0) || seconds <= 0 {
		return 0
	}
	if seconds >= most.Seconds() {
		return most
	}
	return time.Duration(seconds * float64(time.Second))
}
