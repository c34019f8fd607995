package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// maxResponseBody is how much of an answer is read, so that its connection can be used
// again.
const maxResponseBody = 16 << 10

// Endpoint is a receiver of events (https://www.standardwebhooks.com).
type Endpoint struct {
	URL   *url.URL              // may hold a secret, so that only its host is ever shown; required
	Types []credstore.EventType // of the events that it is told; none: all public ones

	// Secrets returns the text of [CheckSecrets]: what each delivery is signed
	// with. Required.
	Secrets func() credstore.Secret

	Transport http.RoundTripper // required
}

// subscriptionName is what the webhook's subscription is called in the store. It is another
// one when the URL changes: then what was queued is dropped.
func (w Endpoint) subscriptionName() string {
	sum := sha256.Sum256([]byte(w.URL.String()))
	return fmt.Sprintf("webhook %s (%x)", w.URL.Host, sum[:4])
}

func (w Endpoint) types() []credstore.EventType {
	if len(w.Types) == 0 {
		return credstore.PublicEvents()
	}
	return w.Types
}

// endpointSender sends events to a webhook.
type endpointSender struct {
	Endpoint
	describe func(credstore.Connection) any
	timeout  time.Duration // for one try
}

// message is the body of a delivery. It is the same at each try.
type message struct {
	Type      credstore.EventType `json:"type"`
	Timestamp time.Time           `json:"timestamp"` // of the event
	Data      any                 `json:"data"`      // the connection right after the event
}

func (w *endpointSender) send(ctx context.Context, d credstore.Delivery) error {
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	req, err := w.request(ctx, d)
	if err != nil {
		return err
	}
	// Not by an http.Client: it would follow redirects.
	resp, err := w.Transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()                               // the status is all that counts
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxResponseBody)) // as above
	return responseError(resp, time.Now())
}

func (w *endpointSender) request(ctx context.Context, d credstore.Delivery) (*http.Request, error) {
	body, err := json.Marshal(message{Type: d.Event.Type, Timestamp: d.Event.At.UTC(), Data: w.describe(d.Connection)})
	if err != nil {
		return nil, fmt.Errorf("writing a webhook: %w", err)
	}
	now := time.Now()
	signature, err := sign(w.Secrets(), d.Event.ID, now, body)
	if err != nil {
		return nil, fmt.Errorf("signing a webhook: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("sending a webhook to %s: the request cannot be formed", w.URL.Host)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "pleo-auth-proxy")
	req.Header.Set(standardwebhooks.HeaderWebhookID, d.Event.ID)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	return req, nil
}

// responseError says what an answer means that came now.
func responseError(resp *http.Response, now time.Time) error {
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusGone:
		return errGone
	case resp.StatusCode/100 == 3:
		return fmt.Errorf("the receiver answered %d, and redirects are not followed", resp.StatusCode)
	}
	err := fmt.Errorf("the receiver answered %d", resp.StatusCode)
	if after := retryAfter(resp.Header.Get("Retry-After"), now); after > 0 {
		return &retryAfterError{err: err, after: after}
	}
	return err
}

// retryAfter returns how long a receiver asks to be left alone for, in seconds or
// until a date (RFC 9110 section 10.2.3), at most maxRetryAfter; 0 if it does not.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if date, err := http.ParseTime(value); err == nil {
		return min(max(date.Sub(now), 0), maxRetryAfter)
	}
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
}
