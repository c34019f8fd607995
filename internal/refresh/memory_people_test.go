package refresh

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"slices"
	"strconv"
	"time"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

// status is what a connection shows, or would if it were not disabled.
type status struct {
	is     credstore.Status
	reason string
}

// become gives the credential the status, and the connection too unless it is
// disabled.
func (r *row) become(is credstore.Status, reason string) {
	r.own = status{is, reason}
	if r.Connection.Status != credstore.Disabled {
		r.Connection.Status, r.Connection.Reason = is, reason
	}
}

// record adds to the history, and forgets as credstore says.
func (m *memory) record(r *row, e credstore.Event) {
	c := r.Connection
	e.ID, e.ConnectionID, e.Connection, e.At, e.Actor = rand.Text(), c.ID, c.Name, time.Now(), r.actor
	e.Status, e.Reason, e.Version = c.Status, c.Reason, c.Version
	e.Code, e.Message = credstore.CleanText(e.Code), credstore.CleanText(e.Message)
	if e.Type == credstore.EventRemoved {
		m.gone[c.Name] = c.ID
	}
	all := append(m.events[c.ID], e)
	kept := credstore.MaxEvents
	if e.Type.Frequent() {
		kept = credstore.MaxFrequentEvents
	}
	alike := func(other credstore.Event) bool { return other.Type.Frequent() == e.Type.Frequent() }
	n := 0
	for _, other := range all {
		if alike(other) {
			n++
		}
	}
	if n > kept {
		oldest := slices.IndexFunc(all, alike)
		all = slices.Delete(all, oldest, oldest+1)
	}
	m.events[c.ID] = all
}

func (m *memory) recordCreated(r *row) {
	e := credstore.Event{Type: credstore.EventCreated}
	if r.Connection.Version > 0 {
		e.Type = credstore.EventImported
	}
	m.record(r, e)
	if r.Connection.SharedCompany {
		m.record(r, credstore.Event{Type: credstore.EventCompanyOverride})
	}
}

func (m *memory) recordStatus(r *row) {
	c := r.Connection
	switch {
	case c.Status == credstore.ReauthorizationRequired:
		e := credstore.Event{Type: credstore.EventReauthorizationRequired}
		if c.LastError != nil {
			e.Code, e.Message = c.LastError.Code, c.LastError.Message
		}
		m.alarm(r, e)
	case c.Status == credstore.Active && r.alarmed:
		m.record(r, credstore.Event{Type: credstore.EventRecovered})
		r.alarmed = false
	}
}

func (m *memory) alarm(r *row, e credstore.Event) {
	m.record(r, e)
	r.alarmed = true
}

func (m *memory) recordSaved(r *row, n credstore.Successor) {
	switch f := n.RefreshFailure; {
	case f != nil:
		m.record(r, credstore.Event{Type: credstore.EventDegraded, Code: f.Failure.Code, Message: f.Failure.Message})
	case r.alarmed && r.Connection.Status == credstore.Active:
		m.recordStatus(r)
	case n.Consent:
		m.record(r, credstore.Event{Type: credstore.EventConnected})
	default:
		m.record(r, credstore.Event{Type: credstore.EventRefreshed})
	}
}

func (s *memoryStore) RecordEvent(ctx context.Context, id string, e credstore.Event) error {
	return s.write(ctx, "note", id, func(r *row) error {
		s.record(r, e)
		return nil
	})
}

func (s *memoryStore) Events(_ context.Context, id, before string, limit int) (page credstore.HistoryPage, err error) {
	limit = cmp.Or(limit, 50)
	seen, notNumber := strconv.Atoi(cmp.Or(before, "0"))
	if limit < 1 || limit > 200 || notNumber != nil {
		return page, credstore.ErrBadQuery
	}
	err = s.locked("history", func() error {
		all := slices.Clone(s.events[id])
		if _, ok := s.rows[id]; !ok && len(all) == 0 {
			return credstore.ErrNotFound
		}
		slices.Reverse(all)
		page.Events = all[min(seen, len(all)):min(seen+limit, len(all))]
		if seen+limit < len(all) {
			page.Next = strconv.Itoa(seen + limit)
		}
		return nil
	})
	return page, err
}

func (s *memoryStore) Removed(_ context.Context, name string) (id string, err error) {
	err = s.locked("removed", func() error {
		var ok bool
		if id, ok = s.gone[name]; !ok {
			return credstore.ErrNotFound
		}
		return nil
	})
	return id, err
}

func (s *memoryStore) Disable(ctx context.Context, id, reason string) error {
	return s.write(ctx, "disable", id, func(r *row) error {
		if r.Connection.Status == credstore.Disabled {
			return nil
		}
		r.Connection.Status, r.Connection.Reason = credstore.Disabled, reason
		s.record(r, credstore.Event{Type: credstore.EventDisabled})
		return nil
	})
}

func (s *memoryStore) Enable(ctx context.Context, id string) error {
	return s.write(ctx, "enable", id, func(r *row) error {
		if r.Connection.Status != credstore.Disabled {
			return nil
		}
		r.Connection.Status, r.Connection.Reason = r.own.is, r.own.reason
		s.record(r, credstore.Event{Type: credstore.EventEnabled})
		s.recordStatus(r)
		return nil
	})
}

func (s *memoryStore) Export(ctx context.Context, id string) (state credstore.State, err error) {
	err = s.write(ctx, "export", id, func(r *row) error {
		if r.lease != nil {
			return credstore.ErrBusy
		}
		r.Connection.Status, r.Connection.Reason = credstore.Disabled, credstore.ReasonExported
		s.record(r, credstore.Event{Type: credstore.EventExported})
		state = r.State
		return nil
	})
	return state, err
}

func (s *memoryStore) Replace(ctx context.Context, l credstore.Lease, n credstore.Replacement) (conn credstore.Connection, err error) {
	held, ok := l.(*memoryLease)
	if !ok || held.store != s {
		return conn, credstore.ErrLeaseLost
	}
	err = s.write(ctx, "replace", held.id, func(r *row) error {
		if r.lease != held {
			return credstore.ErrLeaseLost
		}
		if err := n.Credential.Validate(r.Connection.Kind); err != nil {
			return err
		}
		spent, err := s.spendable(held.id, n.LinkToken)
		if err == credstore.ErrLinkUsed && r.holds(n.Credential) { //nolint:errorlint // spendable has just made it
			conn = r.Connection
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.unowned(held.id, n.Credential.RefreshToken); err != nil {
			return err
		}
		override, err := s.mayMove(r, n)
		if err != nil {
			return err
		}
		if spent != nil {
			spent.UsedAt = time.Now()
		}
		r.fence = held.fence
		s.replace(r, n, override)
		conn = r.Connection
		return nil
	})
	return conn, err
}

func (r *row) holds(f credstore.NewCredential) bool {
	c := r.Credential
	return c.APIKey.Equal(f.APIKey) && c.AccessToken.Equal(f.AccessToken) && c.RefreshToken.Equal(f.RefreshToken)
}

// mayMove says why the row cannot have the company, or what is overridden.
func (m *memory) mayMove(r *row, n credstore.Replacement) (override string, err error) {
	c := r.Connection
	if n.Company.IsZero() {
		return "", nil
	}
	if !c.Company().IsZero() && !c.Company().Same(n.Company) {
		other := &credstore.OtherCompanyError{Have: c.Company(), Got: n.Company}
		if !n.AllowOtherCompany {
			return "", other
		}
		override = other.Error()
	}
	shared := c.SharedCompany && (c.Company().IsZero() || c.Company().Same(n.Company))
	r.Connection.SharedCompany = shared
	if shared {
		return override, nil
	}
	if err := m.unbound(c.ID, c.Kind, n.Company.ID); err != nil {
		if !n.AllowSharedCompany {
			r.Connection.SharedCompany = c.SharedCompany
			return "", err
		}
		override, r.Connection.SharedCompany = err.Error(), true
	}
	return override, nil
}

func (r *row) setCompany(company credstore.Company) {
	c := &r.Connection
	c.CompanyID, c.CompanyName, c.Subject, c.CompanyUnverified = company.ID, company.Name, company.Subject, false
}

func (m *memory) replace(r *row, n credstore.Replacement, override string) {
	f, parent := n.Credential, r.Parent()
	if c := &r.Connection; c.Status == credstore.Disabled && c.Reason == credstore.ReasonCompanyConflict && !n.Company.IsZero() {
		c.Status, c.Reason = credstore.Active, ""
	}
	r.Connection.Scope = cmp.Or(n.Scope, r.Connection.Scope)
	r.Connection.CompanyUnverified = !r.Connection.Company().IsZero()
	if !n.Company.IsZero() {
		r.setCompany(n.Company)
	}
	r.Connection.CompanyUnverified = r.Connection.CompanyUnverified || n.CompanyUnverified
	r.saved = credstore.Successor{Parent: parent, AccessToken: f.AccessToken, RefreshToken: f.RefreshToken}
	r.Credential = credstore.Credential{
		ConnectionID: r.Connection.ID, Version: parent.Version + 1,
		AccessToken: f.AccessToken, RefreshToken: f.RefreshToken, APIKey: f.APIKey,
	}
	if r.Connection.Kind == credstore.OAuth {
		r.Credential.ExpiresAt, r.Credential.ObtainedAt = f.ExpiresAt, n.ObtainedAt
		if n.ObtainedAt.IsZero() {
			r.Credential.ObtainedAt = time.Now()
		}
	}
	r.activate(f.ExpiresAt)
	for _, l := range m.links {
		l.ended = l.ended || l.ConnectionID == r.Connection.ID
	}
	if override != "" {
		m.record(r, credstore.Event{Type: credstore.EventCompanyOverride, Message: override})
	}
	switch c := r.Connection; {
	case r.alarmed && c.Status == credstore.Active:
		m.recordStatus(r)
	case c.Version > 1 && c.Kind.IsKey():
		m.record(r, credstore.Event{Type: credstore.EventKeySet})
	default:
		m.record(r, credstore.Event{Type: credstore.EventConnected})
	}
}

// memoryLink is a connect link.
type memoryLink struct {
	credstore.Link
	request credstore.LinkRequest
	token   credstore.Secret
	ended   bool
}

func (l *memoryLink) usable(at time.Time) error {
	if !l.UsedAt.IsZero() {
		return credstore.ErrLinkUsed
	}
	if l.ended || !l.ExpiresAt.After(at) {
		return credstore.ErrLinkExpired
	}
	return nil
}

// spendable returns the link with the token; nil without one.
func (m *memory) spendable(id string, token credstore.Secret) (*memoryLink, error) {
	if token.IsZero() {
		return nil, nil
	}
	l, ok := m.links[token.Hash()]
	if !ok || l.ConnectionID != id {
		return nil, credstore.ErrLinkExpired
	}
	return l, l.usable(time.Now().Add(-credstore.ConsentTimeout))
}

func (s *memoryStore) OpenLink(ctx context.Context, id string, r credstore.LinkRequest) (token credstore.Secret, made credstore.Link, err error) {
	if r.TTL <= 0 || r.TTL > credstore.MaxLinkTTL {
		return token, made, credstore.ErrBadQuery
	}
	err = s.write(ctx, "open link", id, func(owner *row) error {
		for _, l := range s.links {
			asked := l.request.ReturnURL == r.ReturnURL && l.AllowOtherCompany == r.AllowOtherCompany && l.AllowSharedCompany == r.AllowSharedCompany
			if l.ConnectionID != id || l.usable(time.Now()) != nil {
				continue
			}
			lasts := time.Until(l.ExpiresAt)
			if asked && !r.ReplaceExisting && lasts > r.MinRemaining && lasts <= r.TTL && l.ExpiresAt.After(made.ExpiresAt) {
				token, made = l.token, l.Link
			}
			l.ended = r.ReplaceExisting
		}
		if !made.ExpiresAt.IsZero() {
			return nil
		}
		now := time.Now().UTC().Truncate(time.Millisecond)
		made = credstore.Link{
			ConnectionID: id, CreatedAt: now, ExpiresAt: now.Add(r.TTL), ReturnURL: r.ReturnURL,
			AllowOtherCompany: r.AllowOtherCompany, AllowSharedCompany: r.AllowSharedCompany,
		}
		s.forgetOldest(id)
		token = credstore.NewSecret(rand.Text() + rand.Text())
		s.links[token.Hash()] = &memoryLink{Link: made, request: r, token: token}
		s.record(owner, credstore.Event{Type: credstore.EventLinkCreated, Message: made.Summary()})
		return nil
	})
	return token, made, err
}

// forgetOldest makes room for one more link.
func (m *memory) forgetOldest(id string) {
	var oldest []*memoryLink
	for _, l := range m.links {
		if l.ConnectionID == id {
			oldest = append(oldest, l)
		}
	}
	slices.SortFunc(oldest, func(a, b *memoryLink) int { return a.CreatedAt.Compare(b.CreatedAt) })
	for _, l := range oldest[:max(0, len(oldest)-credstore.MaxLinks+1)] {
		delete(m.links, l.token.Hash())
	}
}

// giveUpOldest makes room for one more attempt to get consent.
func (m *memory) giveUpOldest(id string) {
	var oldest []credstore.Consent
	for _, c := range m.begun {
		if c.ConnectionID == id {
			oldest = append(oldest, c)
		}
	}
	slices.SortFunc(oldest, func(a, b credstore.Consent) int { return a.ExpiresAt.Compare(b.ExpiresAt) })
	for _, c := range oldest[:max(0, len(oldest)-credstore.MaxConsents+1)] {
		delete(m.begun, c.State.Hash())
	}
}

func (s *memoryStore) FindLink(_ context.Context, token credstore.Secret) (found credstore.Link, err error) {
	err = s.locked("find link", func() error {
		l, ok := s.links[token.Hash()]
		if !ok {
			return credstore.ErrNotFound
		}
		found = l.Link
		return l.usable(time.Now())
	})
	return found, err
}

func (s *memoryStore) BeginConsent(_ context.Context, c credstore.Consent) error {
	return s.locked("begin consent", func() error {
		l, ok := s.links[c.Link.Hash()]
		if !ok {
			return credstore.ErrNotFound
		}
		if err := l.usable(time.Now()); err != nil {
			return err
		}
		latest := time.Now().UTC().Truncate(time.Millisecond).Add(credstore.ConsentTimeout)
		if c.ExpiresAt.IsZero() || c.ExpiresAt.After(latest) {
			c.ExpiresAt = latest
		}
		c.ConnectionID = l.ConnectionID
		s.giveUpOldest(c.ConnectionID)
		s.begun[c.State.Hash()] = c
		return nil
	})
}

func (s *memoryStore) TakeConsent(_ context.Context, state credstore.Secret, browser []byte) (taken credstore.Consent, err error) {
	err = s.locked("take consent", func() error {
		c, ok := s.begun[state.Hash()]
		if !ok || !c.ExpiresAt.After(time.Now()) {
			return credstore.ErrNotFound
		}
		if !bytes.Equal(c.Browser, browser) {
			return credstore.ErrOtherBrowser
		}
		delete(s.begun, state.Hash())
		taken = c
		return nil
	})
	return taken, err
}
