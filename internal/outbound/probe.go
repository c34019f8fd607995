package outbound

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// UnreachableError is a server that sent no HTTP response.
type UnreachableError struct {
	Err  error  // see [DescribeError]
	Hint string // what an operator can do about it
}

func (e *UnreachableError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnreachableError) Unwrap() error { return e.Err }

// Probe requests the path / of u without any credential. It returns the time in
// the Date field of the response, zero if there is none, and the header. The
// status does not matter. The error is an *[UnreachableError].
func Probe(ctx context.Context, transport http.RoundTripper, u *url.URL) (time.Time, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath("/").String(), nil)
	if err != nil {
		return time.Time{}, nil, &UnreachableError{Err: errors.New("the URL is not valid"), Hint: "correct the URL in the configuration"}
	}
	req.Header.Set("User-Agent", UserAgent)
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return time.Time{}, nil, &UnreachableError{Err: fmt.Errorf("reaching %s: %w", u.Host, DescribeError(ctx, err)), Hint: diagnose(err).hint}
	}
	_ = resp.Body.Close() // the header is all that is needed
	date, err := http.ParseTime(resp.Header.Get("Date"))
	if err != nil {
		return time.Time{}, resp.Header, nil //nolint:nilerr // a server without a clock can be reached all the same
	}
	return date, resp.Header, nil
}
