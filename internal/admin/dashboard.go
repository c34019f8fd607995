package admin

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/pleo-auth-proxy/pleo-auth-proxy/credstore"
)

//go:embed pages
var pageFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// dashboard is the operator's pages. They need no script.
type dashboard struct {
	*Admin

	sessions *sessions
	pages    map[string]*template.Template // name of the file in pages, without .html
}

func newDashboard(a *Admin) (*dashboard, error) {
	d := &dashboard{Admin: a, sessions: newSessions(a.token, a.now), pages: map[string]*template.Template{}}
	base, err := template.New("").Funcs(d.functions()).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html")
	if err != nil {
		return nil, err
	}
	names, err := pageFiles.ReadDir("pages")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		own, err := base.Clone()
		if err == nil {
			own, err = own.ParseFS(pageFiles, path.Join("pages", file.Name()))
		}
		if err != nil {
			return nil, err
		}
		d.pages[strings.TrimSuffix(file.Name(), ".html")] = own
	}
	return d, nil
}

// functions are what the templates call.
func (d *dashboard) functions() template.FuncMap {
	return template.FuncMap{
		"ago":       func(t time.Time) string { return ago(t, d.now()) },
		"past":      func(t time.Time) bool { return !t.IsZero() && t.Before(d.now()) },
		"when":      func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
		"stamp":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"words":     func(v any) string { return inWords(fmt.Sprint(v)) },
		"kind":      kindInWords,
		"event":     eventInWords,
		"advise":    d.advise,
		"operation": operationNamed,
		"grouped":   grouped,
		"counted":   counted,
	}
}

// serve puts the pages on the mux.
func (d *dashboard) serve(mux *http.ServeMux) {
	for pattern, h := range map[string]handler{
		"GET /{$}":                             d.reading(d.overview),
		"GET /connections":                     d.reading(d.list),
		"GET /connections/{name}":              d.reading(d.show),
		"GET /new":                             d.signedIn(d.newForm),
		"POST /new":                            d.changing(d.create),
		"GET /connections/{name}/{operation}":  d.signedIn(d.confirm),
		"POST /connections/{name}/{operation}": d.changing(d.operate),
		"GET /sign-in":                         d.signInForm,
		"POST /sign-in":                        d.signIn,
		"POST /sign-out":                       d.changing(d.signOut),
	} {
		mux.HandleFunc(pattern, d.page(h))
	}
	for _, asset := range []string{"style.css", "copy.js", "icon.svg"} {
		mux.HandleFunc("GET /assets/"+asset, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, assetFiles, "assets/"+asset)
		})
	}
}

// view is what every page is drawn from.
type view struct {
	Title       string
	Environment string // of Pleo; empty: not named
	Here        string // the path of the page in the navigation
	SignedIn    bool
	Open        bool   // can be read without signing in
	Form        string // what forms send back
	Notice      notice
	Page        any
}

// policy lets pages load what comes from here, and nothing run or frame them.
const policy = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// page gives answers the headers of a page, and draws a page about errors of h.
func (d *dashboard) page(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		// Not no-referrer, with which browsers call the origin of a form null.
		w.Header().Set("Referrer-Policy", "same-origin")
		r = r.WithContext(credstore.WithActor(r.Context(), credstore.ActorDashboard))
		err := h(w, r)
		if err == nil || left(r, err) {
			return
		}
		p := d.explain(err)
		if err := d.draw(w, r, p.Status, "problem", view{Title: p.Title, Page: p}); err != nil {
			d.logger.Error("a page cannot be drawn", zap.Error(err))
		}
	}
}

// notFound returns what answers for addresses where nothing is: browsers that are
// after a page with one, all else with a document.
func (d *dashboard) notFound() http.HandlerFunc {
	page := d.page(func(http.ResponseWriter, *http.Request) error {
		return problemOf(codeNotFound, "There is nothing at this address.")
	})
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") || !strings.Contains(r.Header.Get("Accept"), "text/html") {
			notFound(w, r)
			return
		}
		page(w, r)
	}
}

// draw writes a page. It is drawn in whole before anything of it is sent.
func (d *dashboard) draw(w http.ResponseWriter, r *http.Request, status int, name string, v view) error {
	open := d.sessions.of(r)
	v.Environment, v.Open, v.SignedIn = d.environment, !d.exposed, open != nil
	if open != nil {
		v.Form = open.form
		if v.Notice == (notice{}) {
			v.Notice = d.sessions.said(open)
		}
	}
	var page bytes.Buffer
	if err := d.pages[name].ExecuteTemplate(&page, "layout", v); err != nil {
		return fmt.Errorf("drawing the page %s: %w", name, err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = page.WriteTo(w) // only a client that has left makes this fail
	return nil
}

// reading serves h to whom may read, and sends others to sign in.
func (d *dashboard) reading(h handler) handler {
	if !d.exposed {
		return h
	}
	return d.signedIn(h)
}

// signedIn serves h to those who have signed in, and sends others to do so.
func (d *dashboard) signedIn(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if d.sessions.of(r) != nil {
			return h(w, r)
		}
		to := url.URL{Path: "/sign-in", RawQuery: url.Values{"next": {r.URL.RequestURI()}}.Encode()}
		http.Redirect(w, r, to.String(), http.StatusSeeOther)
		return nil
	}
}

// formMax is far more than any form needs, in bytes.
const formMax = 64 << 10

// changing serves h to forms that those who have signed in send from pages of
// their session.
func (d *dashboard) changing(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := readForm(w, r); err != nil {
			return err
		}
		open := d.sessions.of(r)
		if open == nil {
			return d.drawSignIn(w, r, http.StatusForbidden, signInPage{Next: r.Header.Get("Referer"), Why: "Your session has ended, and nothing was changed. Sign in and try again."})
		}
		if !open.sentBack(r.PostForm) {
			return problemOf(codeCrossSiteRequest, "This form is not one that your session was given. Go back, load the page again and retry.")
		}
		return h(w, r)
	}
}

func readForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, formMax)
	err := r.ParseForm()
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return problemOf(codeBodyTooLarge, "The form may have %d bytes at most.", formMax)
	}
	if err != nil {
		return problemOf(codeBadRequest, "The form cannot be read.")
	}
	return nil
}

// signInPage is the page to sign in at.
type signInPage struct {
	Next      string // the path to go to afterwards
	Why       string
	TokenFile string // empty: there is no token
}

func (d *dashboard) signInForm(w http.ResponseWriter, r *http.Request) error {
	return d.drawSignIn(w, r, http.StatusOK, signInPage{Next: r.URL.Query().Get("next")})
}

func (d *dashboard) drawSignIn(w http.ResponseWriter, r *http.Request, status int, p signInPage) error {
	p.Next, p.TokenFile = localPath(p.Next), d.tokenFile
	return d.draw(w, r, status, "sign-in", view{Title: "Sign in", Page: p})
}

// signIn begins a session for who has the admin token.
func (d *dashboard) signIn(w http.ResponseWriter, r *http.Request) error {
	if err := readForm(w, r); err != nil {
		return err
	}
	next := r.PostForm.Get("next")
	if d.sessions.tooMany(r) {
		w.Header().Set("Retry-After", fmt.Sprint(int(wrongTokensKept.Seconds())))
		return d.drawSignIn(w, r, http.StatusTooManyRequests, signInPage{Next: next, Why: "Too many wrong tokens have come from your address. Try again in five minutes."})
	}
	if !d.isToken(credstore.NewSecret(strings.TrimSpace(r.PostForm.Get("token")))) {
		d.sessions.failed(r)
		d.logger.Warn("somebody tried to sign in with a wrong token", zap.String("address", r.RemoteAddr))
		return d.drawSignIn(w, r, http.StatusUnauthorized, signInPage{Next: next, Why: "That is not the admin token."})
	}
	d.sessions.end(r) // one that is replaced is of no use to anybody
	setCookie(w, r, d.sessions.begin())
	d.logger.Info("somebody signed in at the dashboard", zap.String("address", r.RemoteAddr))
	http.Redirect(w, r, localPath(next), http.StatusSeeOther) //nolint:gosec // localPath leaves a path of ours
	return nil
}

func (d *dashboard) signOut(w http.ResponseWriter, r *http.Request) error {
	d.sessions.end(r)
	setCookie(w, r, credstore.Secret{})
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

// localPath returns the path and query of a page of ours, whatever host it was
// given with.
func localPath(given string) string {
	u, err := url.Parse(given)
	if err != nil || !strings.HasPrefix(u.Path, "/") || u.Path == "/sign-in" {
		return "/"
	}
	clean := url.URL{Path: path.Clean(u.Path), RawQuery: u.RawQuery}
	return clean.RequestURI()
}
