package dashboard

import (
	"bytes"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/refresh"
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/webguard"
)

//go:embed pages
var pageFiles embed.FS

// handler is an [http.HandlerFunc] that returns an error unless it has begun to
// write a response.
type handler func(http.ResponseWriter, *http.Request) error

// view is what every page is rendered from.
type view struct {
	Title     string
	Current   string // path of the current entry of the navigation
	CSRFToken string // sent back by forms
	Notice    notice
	Page      any // particular to the page

	Environment        string // of Pleo; empty: not shown
	SignedIn           bool
	ReadWithoutSession bool
}

// renderer renders pages.
type renderer struct {
	Config

	sessions  *sessions
	templates map[string]*template.Template // name of the file in pages, without .html
}

func newRenderer(c Config) (*renderer, error) {
	p := &renderer{Config: c, sessions: newSessions(c.Token, c.Now), templates: map[string]*template.Template{}}
	base, err := template.New("").Funcs(templateFuncs(c)).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html")
	if err != nil {
		return nil, err
	}
	files, err := pageFiles.ReadDir("pages")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		t, err := base.Clone()
		if err == nil {
			t, err = t.ParseFS(pageFiles, path.Join("pages", file.Name()))
		}
		if err != nil {
			return nil, err
		}
		p.templates[strings.TrimSuffix(file.Name(), ".html")] = t
	}
	return p, nil
}

func templateFuncs(c Config) template.FuncMap {
	return template.FuncMap{
		"ago":      func(t time.Time) string { return relativeTime(t, c.Now()) },
		"past":     func(t time.Time) bool { return !t.IsZero() && t.Before(c.Now()) },
		"when":     func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
		"sentence": sentence,
		"stamp":    func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"label":    func(v any) string { return label(fmt.Sprint(v)) },
		"kind":     kindLabel,
		"event":    eventLabel,
		"finding":  func(r refresh.CheckResult) finding { return findings[r] },
		"advise": func(connection credstore.Connection) advice {
			return adviseOperator(connection, c.Now(), c.Operator.Links != nil)
		},
		"operation": findOperation,
		"count":     formatCount,
		"plural":    pluralize,
	}
}

// contentSecurityPolicy lets pages load only what this listener serves, and no
// other page frame them.
const contentSecurityPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// serve serves a page, with the header fields of every page. Errors of h become
// pages of their own.
func (p *renderer) serve(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", contentSecurityPolicy)
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		// Not no-referrer: browsers would then send Origin: null with forms.
		w.Header().Set("Referrer-Policy", "same-origin")
		r = r.WithContext(credstore.WithActor(r.Context(), credstore.ActorDashboard))
		err := h(w, r)
		if err == nil || webguard.ClientGone(r, err) {
			return
		}
		problem := p.Operator.Problem(err)
		if err := p.render(w, r, problem.Status, "problem", view{Title: problem.Title, Page: problem}); err != nil {
			p.Logger.Error("rendering page failed", zap.Error(err))
		}
	}
}

// notFound responds with a page to browsers, and with a problem document to other
// clients.
func (p *renderer) notFound(w http.ResponseWriter, r *http.Request) {
	problem := manage.NewProblem(manage.CodeNotFound, "There is nothing at this address.")
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		_, _ = problem.Write(w) // fails only if the client has left
		return
	}
	p.serve(func(http.ResponseWriter, *http.Request) error { return problem })(w, r)
}

// render writes a page. It begins the response only after the whole page has been
// rendered, so that an error can still become another page.
func (p *renderer) render(w http.ResponseWriter, r *http.Request, status int, name string, v view) error {
	s := p.sessions.find(r)
	v.Environment, v.ReadWithoutSession, v.SignedIn = p.Environment, !p.Exposed, s != nil
	if s != nil {
		v.CSRFToken = s.csrfToken
		if v.Notice == (notice{}) {
			v.Notice = p.sessions.takeNotice(s)
		}
	}
	var page bytes.Buffer
	if err := p.templates[name].ExecuteTemplate(&page, "layout", v); err != nil {
		return fmt.Errorf("rendering page %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // fails only if the client has left
	return nil
}

// redirect sends the browser to a page, which begins with the notice.
func (p *renderer) redirect(w http.ResponseWriter, r *http.Request, to string, n notice) error {
	p.sessions.setNotice(p.sessions.find(r), n)
	http.Redirect(w, r, to, http.StatusSeeOther)
	return nil
}
