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
