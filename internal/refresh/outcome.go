package refresh

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/pleo"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh/breaker"
)

// How long to wait before the next attempt, by what went wrong.
const (
	minNotSentRetryDelay     = time.Second // doubles up to maxNotSentRetryDelay
	maxNotSentRetryDelay     = time.Minute
	clientRejectedRetryDelay = time.Minute // the file with the client secret is read again by then
	rateLimitedRetryDelay    = 30 * time.Second
	unexpectedRetryDelay     = time.Hour
	maxRetryAfter            = 24 * time.Hour

	// A token is rejected after maxUnexpectedResponses in a row, if the first was at
	// least unexpectedResponseSpan ago.
	maxUnexpectedResponses = 3
	unexpectedResponseSpan = 24 * time.Hour
)

// unknownOutcomeRetryDelay is how long to wait before a token whose outcome is
// unknown is sent again, by how often it has been sent. No process can have its
// successor, so sending it again risks nothing, and giving up costs a person.
func unknownOutcomeRetryDelay(attempts int) time.Duration {
	delays := [...]time.Duration{time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}
	if attempts < 1 || attempts > len(delays) {
		return time.Hour
	}
	return delays[attempts-1]
}

// retryDelay is the server's Retry-After, where it gave one.
func retryDelay(retryAfter, otherwise time.Duration) time.Duration {
	if retryAfter > 0 {
		return min(retryAfter, maxRetryAfter)
	}
	return otherwise
}

// Codes of a connection's last error.
const (
	codeUnreachable        = "authorization_server_unreachable"
	codeRateLimited        = "authorization_server_busy"
	codeClientRejected     = "oauth_client_rejected"
	codeTokenRejected      = "refresh_token_rejected"
	codeInactive           = "refresh_token_inactive"
	codeUnexpectedResponse = "unexpected_response"
	codeUnknown            = "refresh_outcome_unknown"
	codeBreakerOpen        = "circuit_breaker_open"
	codeAccessTokenMissing = "access_token_missing"
)

// outcome is what a refresh that brought no tokens means.
type outcome struct {
	result    result
	failure   credstore.RefreshFailure // when to try again; unless the token is rejected
	unknown   bool                     // the token may have been exchanged, so the intent stays
	rejection *rejection               // only a person can fix the connection
}

// rejection is why a refresh token is not sent again.
type rejection struct {
	reason     string
	code       string
	message    string
	dropAccess bool // the access token is no longer valid either
}

// inactiveToken is the rejection of a token that introspection calls inactive.
var inactiveToken = rejection{
	reason: credstore.ReasonRefreshTokenInactive, code: codeInactive,
	message: "the authorization server reports the refresh token as inactive",
}

// failureOf is a failure after which the refresh is tried again.
func failureOf(now time.Time, code, reason string, delay time.Duration, err error) credstore.RefreshFailure {
	return credstore.RefreshFailure{
		Failure: credstore.Failure{Code: code, Message: err.Error(), At: now},
		Reason:  reason,
		RetryAt: now.Add(delay),
	}
}

// recorder records refreshes that brought no tokens.
type recorder struct {
	*core
	introspection *introspection
}

// record records what the error of a refresh means for the connection, and returns
// the error for the waiters. The breaker was open when the response arrived, or
// not.
func (r *recorder) record(l leased, intent credstore.Intent, err error, breakerOpen bool) error {
	o := r.classify(l, intent, err, breakerOpen)
	r.metrics.count(o.result, l.flight.purpose.reason)
	if o.rejection != nil {
		return r.reject(l, *o.rejection)
	}
	r.cache.logger(l.entry).Warn("refresh failed; retrying later", zap.String("code", o.failure.Failure.Code),
		zap.Int("attempts", intent.Attempts), zap.Time("retry_at", o.failure.RetryAt), zap.Error(err))
	if o.unknown {
		r.metrics.unknown.Inc()
		return r.retryLater(l, o.failure.RetryAt, err, func(ctx context.Context) error {
			return r.Store.MarkOutcomeUnknown(ctx, l.lease, intent.Parent, o.failure)
		})
	}
	return r.cancelIntent(l, intent, &o.failure)
}

func (r *recorder) classify(l leased, intent credstore.Intent, err error, breakerOpen bool) outcome {
	var notSent *pleo.NotSentError
	var response *pleo.ResponseError
	switch {
	case errors.As(err, &notSent):
		n := min(l.entry.failures.Add(1), 10)
		delay := min(minNotSentRetryDelay<<(n-1), maxNotSentRetryDelay)
		delay = delay/2 + r.Jitter(delay/2)
		return outcome{result: resultNotSent, failure: failureOf(r.Now(), codeUnreachable, credstore.ReasonUnavailable, delay, err)}
	case !errors.As(err, &response):
		delay := unknownOutcomeRetryDelay(intent.Attempts)
		var unknown *pleo.UnknownOutcomeError
		if errors.As(err, &unknown) {
			delay = max(delay, retryDelay(unknown.RetryAfter, 0))
		}
		return outcome{result: resultUnknown, unknown: true, failure: failureOf(r.Now(), codeUnknown, credstore.ReasonUnavailable, delay, err)}
	}
	switch response.Class {
	case pleo.TokenRejected:
		return r.tokenRejected(l, intent, response, breakerOpen)
	case pleo.ClientRejected:
		r.cache.logger(l.entry).Error("the authorization server rejects our OAuth client; check oauth.client_id and oauth.client_secret", zap.Error(err))
		return outcome{result: resultClientRejected, failure: failureOf(r.Now(), codeClientRejected, credstore.ReasonClientRejected, clientRejectedRetryDelay, err)}
	case pleo.RateLimited:
		delay := retryDelay(response.RetryAfter, rateLimitedRetryDelay)
		return outcome{result: resultRateLimited, failure: failureOf(r.Now(), codeRateLimited, credstore.ReasonUnavailable, delay, err)}
	default:
		return r.unexpected(l, response)
	}
}

func (r *recorder) tokenRejected(l leased, intent credstore.Intent, response *pleo.ResponseError, breakerOpen bool) outcome {
	if breakerOpen {
		// One rejection among many says more about Pleo or our client than about this
		// token, which is kept and sent again.
		return outcome{result: resultRejected, failure: failureOf(r.Now(), codeBreakerOpen, credstore.ReasonCircuitBreakerOpen, breaker.ProbeInterval, response)}
	}
	reason := credstore.ReasonRefreshTokenRejected
	if intent.Attempts > 1 {
		reason = credstore.ReasonUnknownOutcome
	}
	return outcome{result: resultRejected, rejection: &rejection{
		reason: reason, code: codeTokenRejected, message: response.Error(), dropAccess: l.flight.purpose.reason == reasonRejected,
	}}
}

func (r *recorder) unexpected(l leased, response *pleo.ResponseError) outcome {
	if r.introspection.check(context.Background(), l.state.Credential.RefreshToken) == tokenInactive {
		return outcome{result: resultUnexpected, rejection: &rejection{
			reason: credstore.ReasonRefreshTokenInactive, code: codeInactive, message: response.Error(),
		}}
	}
	since := l.state.UnexpectedSince
	if l.state.UnexpectedResponses+1 >= maxUnexpectedResponses && !since.IsZero() && r.Now().Sub(since) >= unexpectedResponseSpan {
		return outcome{result: resultUnexpected, rejection: &rejection{
			reason: credstore.ReasonUnexpectedResponse, code: codeUnexpectedResponse, message: response.Error(),
		}}
	}
	delay := retryDelay(response.RetryAfter, unexpectedRetryDelay)
	failure := failureOf(r.Now(), codeUnexpectedResponse, credstore.ReasonUnavailable, delay, response)
	failure.Unexpected = true
	return outcome{result: resultUnexpected, failure: failure}
}

// cancelIntent records that the token was not exchanged. A nil failure means that
// it was not even sent.
func (r *recorder) cancelIntent(l leased, intent credstore.Intent, f *credstore.RefreshFailure) error {
	at := r.Now().Add(time.Second)
	var cause error
	if f != nil {
		at, cause = f.RetryAt, errors.New(f.Failure.Message)
	}
	return r.retryLater(l, at, cause, func(ctx context.Context) error {
		return r.Store.CancelIntent(ctx, l.lease, intent.Parent, f)
	})
}

// retryLater writes what is known of a refresh that brought nothing, and returns
// when the waiters may try again.
func (r *recorder) retryLater(l leased, at time.Time, cause error, write func(context.Context) error) error {
	l.entry.postpone(l.state.Credential.Version, at)
	later := l.entry.retryLater(at.Sub(r.Now()), cause)
	if r.writeUntilDone(l, later, write) == nil {
		_ = r.cache.rereadNow(l.entry) // counted; memory already has the time of the next attempt
	}
	return later
}

// reject records that the token is rejected, unless the store has another one by
// now. It returns nil in that case, otherwise the error for the waiters.
func (r *recorder) reject(l leased, why rejection) error {
	failure := credstore.Failure{Code: why.code, Message: why.message, At: r.Now()}
	parent := l.state.Credential.Parent()
	later := l.entry.retryLater(time.Second, errors.New(why.message))
	err := r.writeUntilDone(l, later, func(ctx context.Context) error {
		return r.Store.MarkReauthorizationRequired(ctx, l.lease, parent, failure, why.reason, why.dropAccess)
	})
	if rereadErr := r.cache.rereadNow(l.entry); rereadErr != nil {
		return rereadErr
	}
	if err != nil && !errors.Is(err, credstore.ErrSuperseded) {
		return r.cache.entryError(l.entry, err)
	}
	if err := l.entry.current.Load().unusable(); err != nil {
		r.cache.logger(l.entry).Error("reauthorization required",
			zap.String("reason", why.reason), zap.String("message", why.message))
		return err
	}
	return nil
}

// writeUntilDone calls write until the store has responded or the process gives
// up. It releases the waiters with the error when the first attempt fails; the
// lease stays held.
func (r *recorder) writeUntilDone(l leased, waiters error, write func(context.Context) error) error {
	for delay := minSaveRetryDelay; ; delay = min(2*delay, maxSaveRetryDelay) {
		ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
		err := write(ctx)
		cancel()
		if !errors.Is(err, credstore.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		r.metrics.storeErrors.Inc()
		r.cache.logger(l.entry).Error("recording a refresh failed; retrying", zap.Error(err))
		l.flight.land(waiters)
		if pause(r.life.ctx, delay) != nil {
			return err
		}
	}
}
