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
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/outbound"
)

// maxResponseBody is how much of a response is read, so that its connection can be
// used again.
const maxResponseBody = 16 << 10

// Endpoint is a receiver of events (https://www.standardwebhooks.com).
type Endpoint struct {
	URL   *url.URL              // may contain a secret: only its host is ever shown; required
	Types []credstore.EventType // of the events to send; none means all public ones

	// Secrets returns the secrets to sign with, see [CheckSecrets]. Required.
	Secrets func() credstore.Secret

	Transport http.RoundTripper // required
}

// subscriptionName identifies the endpoint in the store. It depends on the URL:
// after a change, queued deliveries are dropped.
func (e Endpoint) subscriptionName() string {
	sum := sha256.Sum256([]byte(e.URL.String()))
	return fmt.Sprintf("webhook %s (%x)", e.URL.Host, sum[:4])
}

func (e Endpoint) types() []credstore.EventType {
	if len(e.Types) == 0 {
		return credstore.PublicEvents()
	}
	return e.Types
}

// endpointSender sends events to an endpoint.
type endpointSender struct {
	Endpoint
	describe func(credstore.Connection) any
	timeout  time.Duration // of one attempt
}

// message is the body of a delivery, the same in each attempt.
type message struct {
	Type      credstore.EventType `json:"type"`
	Timestamp time.Time           `json:"timestamp"` // of the event
	Data      any                 `json:"data"`      // the connection right after the event
}

func (s *endpointSender) send(ctx context.Context, d credstore.Delivery) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	req, err := s.request(ctx, d)
	if err != nil {
		return err
	}
	// Without an http.Client, which would follow redirects.
	resp, err := s.Transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()                               // only the status matters
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxResponseBody)) // likewise
	return responseError(resp, time.Now())
}

func (s *endpointSender) request(ctx context.Context, d credstore.Delivery) (*http.Request, error) {
	body, err := json.Marshal(message{Type: d.Event.Type, Timestamp: d.Event.At.UTC(), Data: s.describe(d.Connection)})
	if err != nil {
		return nil, fmt.Errorf("encoding a webhook: %w", err)
	}
	now := time.Now()
	signature, err := sign(s.Secrets(), d.Event.ID, now, body)
	if err != nil {
		return nil, fmt.Errorf("signing a webhook: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL.String(), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("sending a webhook to %s: the request is not valid", s.URL.Host) // err shows the URL
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", outbound.UserAgent)
	req.Header.Set(standardwebhooks.HeaderWebhookID, d.Event.ID)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, signature)
	return req, nil
}

// responseError returns nil for a 2xx response, errGone for 410, and otherwise an
// error with the status.
func responseError(resp *http.Response, now time.Time) error {
	switch {
	case resp.StatusCode/100 == 2:
		return nil
	case resp.StatusCode == http.StatusGone:
		return errGone
	case resp.StatusCode/100 == 3:
		return fmt.Errorf("the receiver returned status %d, and redirects are not followed", resp.StatusCode)
	}
	err := fmt.Errorf("the receiver returned status %d", resp.StatusCode)
	if after := outbound.RetryAfter(resp.Header, now); after > 0 {
		return &retryAfterError{err: err, after: after}
	}
	return err
}
