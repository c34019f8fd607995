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

// How long to wait before the next try, by what went wrong.
const (
	minNotSentRetryDelay     = time.Second // doubles up to maxNotSentRetryDelay
	maxNotSentRetryDelay     = time.Minute
	clientRejectedRetryDelay = time.Minute // a person changes the client secret; the file is read again
	busyRetryDelay           = 30 * time.Second
	maxRetryAfter            = 24 * time.Hour // of a Retry-After
	unexpectedRetryDelay     = time.Hour
	// A token is condemned after maxUnexpectedResponses answers that no rule names, if
	// the first is at least unexpectedResponseSpan old.
	maxUnexpectedResponses = 3
	unexpectedResponseSpan = 24 * time.Hour
)

// unknownOutcomeRetryDelay is how long to wait before a token whose outcome is unknown is
// presented again, by how often it has been presented; then hourly. Nobody holds
// its successor, so trying again risks nothing, and condemning it costs a person.
func unknownOutcomeRetryDelay(presentations int) time.Duration {
	waits := [...]time.Duration{time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}
	if presentations < 1 || presentations > len(waits) {
		return time.Hour
	}
	return waits[presentations-1]
}

// Codes of a connection's last error.
const (
	codeUnreachable        = "authorization_server_unreachable"
	codeBusy               = "authorization_server_busy"
	codeClientRejected     = "oauth_client_rejected"
	codeTokenRejected      = "refresh_token_rejected"
	codeInactive           = "refresh_token_inactive"
	codeUnexpectedResponse = "unexpected_response"
	codeUnknown            = "refresh_outcome_unknown"
	codeBreakerOpen        = "circuit_breaker_open"
	codeAccessTokenMissing = "access_token_missing"
)

// settle acts on a refresh that brought no tokens, and says what the waiters
// get.
func (a *attempt) settle(err error) error {
	var notSent *pleo.NotSentError
	if errors.As(err, &notSent) {
		return a.notSent(err)
	}
	var answer *pleo.ResponseError
	if errors.As(err, &answer) {
		return a.answered(answer)
	}
	return a.unknown(err)
}

func (a *attempt) notSent(err error) error {
	a.count(resultNotSent)
	n := min(a.e.failures.Add(1), 10)
	wait := min(minNotSentRetryDelay<<(n-1), maxNotSentRetryDelay)
	wait = wait/2 + a.m.Jitter(wait/2)
	return a.setback(codeUnreachable, credstore.ReasonUnavailable, wait, err)
}

func (a *attempt) answered(answer *pleo.ResponseError) error {
	switch answer.Class {
	case pleo.TokenRejected:
		return a.refused(answer)
	case pleo.ClientRejected:
		a.count(resultClientRejected)
		a.m.logger(a.e).Error("the authorization server refuses our OAuth client; check oauth.client_id and oauth.client_secret", errField(answer))
		return a.setback(codeClientRejected, credstore.ReasonClientRejected, clientRejectedRetryDelay, answer)
	case pleo.RateLimited:
		a.count(resultBusy)
		return a.setback(codeBusy, credstore.ReasonUnavailable, retryIn(answer.RetryAfter, busyRetryDelay), answer)
	default:
		return a.unusual(answer)
	}
}

// retryIn obeys the server's Retry-After where it gave one.
func retryIn(asked, otherwise time.Duration) time.Duration {
	if asked > 0 {
		return min(asked, maxRetryAfter)
	}
	return otherwise
}

func (a *attempt) refused(answer *pleo.ResponseError) error {
	a.count(resultRejected)
	if a.braked {
		// One of many at once: that says more about Pleo, or our client, than
		// about this token, which is kept and tried again.
		return a.setback(codeBreakerOpen, credstore.ReasonCircuitBreakerOpen, breaker.ProbeInterval, answer)
	}
	reason := credstore.ReasonRefreshTokenRejected
	if a.intent.Attempts > 1 {
		reason = credstore.ReasonUnknownOutcome
	}
	return a.reject(verdict{
		reason: reason, code: codeTokenRejected, message: answer.Error(), dropAccess: a.why.rejected,
	})
}

func (a *attempt) unusual(answer *pleo.ResponseError) error {
	a.count(resultUnexpected)
	if a.m.oracle.ask(context.Background(), a.state.Credential.RefreshToken) == tokenInactive {
		return a.reject(verdict{
			reason: credstore.ReasonRefreshTokenInactive, code: codeInactive, message: answer.Error(),
		})
	}
	since := a.state.UnexpectedSince
	if a.state.UnexpectedResponses+1 >= maxUnexpectedResponses && !since.IsZero() && a.m.Now().Sub(since) >= unexpectedResponseSpan {
		return a.reject(verdict{
			reason: credstore.ReasonUnexpectedResponse, code: codeUnexpectedResponse, message: answer.Error(),
		})
	}
	s := a.setbackAt(codeUnexpectedResponse, credstore.ReasonUnavailable, retryIn(answer.RetryAfter, unexpectedRetryDelay), answer)
	s.Unexpected = true
	return a.withdraw(&s)
}

func (a *attempt) unknown(err error) error {
	a.count(resultUnknown)
	a.m.metrics.unknown.Inc()
	wait := unknownOutcomeRetryDelay(a.intent.Attempts)
	var unknown *pleo.UnknownOutcomeError
	if errors.As(err, &unknown) {
		wait = max(wait, retryIn(unknown.RetryAfter, 0))
	}
	s := a.setbackAt(codeUnknown, credstore.ReasonUnavailable, wait, err)
	a.m.logger(a.e).Warn("the outcome of a refresh is unknown; it is tried again",
		zap.Int("presentations", a.intent.Attempts), zap.Time("next_at", s.RetryAt), errField(err))
	return a.record(s.RetryAt, err, func(ctx context.Context) error {
		return a.m.Store.Credentials.MarkOutcomeUnknown(ctx, a.lease, a.intent.Parent, s)
	})
}

// setback withdraws the intent and tells when to try again.
func (a *attempt) setback(code, reason string, wait time.Duration, err error) error {
	s := a.setbackAt(code, reason, wait, err)
	a.m.logger(a.e).Warn("a refresh failed; it is tried again",
		zap.String("code", code), zap.Time("next_at", s.RetryAt), errField(err))
	return a.withdraw(&s)
}

func (a *attempt) setbackAt(code, reason string, wait time.Duration, err error) credstore.RefreshFailure {
	now := a.m.Now()
	return credstore.RefreshFailure{
		Failure: credstore.Failure{Code: code, Message: err.Error(), At: now},
		Reason:  reason,
		RetryAt: now.Add(wait),
	}
}

// withdraw records that the token was not spent. A nil setback means that the
// refresh was given up before it was sent.
func (a *attempt) withdraw(s *credstore.RefreshFailure) error {
	at := a.m.Now().Add(time.Second)
	var cause error
	if s != nil {
		at, cause = s.RetryAt, errors.New(s.Failure.Message)
	}
	return a.record(at, cause, func(ctx context.Context) error {
		return a.m.Store.Credentials.CancelIntent(ctx, a.lease, a.intent.Parent, s)
	})
}

// record writes down a refresh that brought nothing, and gives the waiters the
// time of the next try. While the store cannot take it, it lets the waiters go
// and keeps trying, with the lease held.
func (a *attempt) record(retryAt time.Time, cause error, write func(context.Context) error) error {
	a.e.postpone(a.state.Credential.Version, retryAt)
	answer := a.later(retryAt.Sub(a.m.Now()), cause)
	if a.insist(answer, write) == nil {
		_ = a.rereadNow() // counted; memory has the time of the next try already
	}
	return answer
}

// insist calls write until the store has taken it, or the process gives up. It
// lets the waiters go with answer as soon as the first try has failed.
func (a *attempt) insist(answer error, write func(context.Context) error) error {
	for wait := minSaveRetryDelay; ; wait = min(2*wait, maxSaveRetryDelay) {
		ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
		err := write(ctx)
		cancel()
		if !errors.Is(err, credstore.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		a.m.metrics.storeErrors.Inc()
		a.m.logger(a.e).Error("recording a refresh; it is tried again", errField(err))
		a.finish(answer)
		if pause(a.m.lifetime, wait) != nil {
			return err
		}
	}
}

// verdict is why only a person can mend a connection.
type verdict struct {
	reason     string
	code       string // empty: as the reason
	message    string
	dropAccess bool
}

// reject records the verdict on the token that was judged, if it still is the
// stored one; where it is not, somebody else has got a newer one.
func (a *attempt) reject(v verdict) error {
	if v.code == "" {
		v.code = v.reason
	}
	failure := credstore.Failure{Code: v.code, Message: v.message, At: a.m.Now()}
	parent := a.state.Credential.Parent()
	err := a.insist(a.unavailable(errors.New(v.message)), func(ctx context.Context) error {
		return a.m.Store.Credentials.MarkReauthorizationRequired(ctx, a.lease, parent, failure, v.reason, v.dropAccess)
	})
	if reread := a.rereadNow(); reread != nil {
		return reread
	}
	if err != nil && !errors.Is(err, credstore.ErrSuperseded) {
		return a.storeError(err)
	}
	if refusal := a.e.current.Load().refusal(); refusal != nil {
		a.m.logger(a.e).Error("the connection needs a person: its grant has ended",
			zap.String("reason", v.reason), zap.String("message", v.message))
		return refusal
	}
	return nil
}

func (a *attempt) rereadNow() error {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	return a.m.reread(ctx, a.e)
}
