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
	"github.com/pleo-auth-proxy/pleo-auth-proxy/internal/manage"
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
	base, err := template.New("").Funcs(d.templateFuncs()).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html")
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

// templateFuncs are what the templates call.
func (d *dashboard) templateFuncs() template.FuncMap {
	return template.FuncMap{
		"ago":       func(t time.Time) string { return relativeTime(t, d.now()) },
		"past":      func(t time.Time) bool { return !t.IsZero() && t.Before(d.now()) },
		"when":      func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04 UTC") },
		"stamp":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"words":     func(v any) string { return label(fmt.Sprint(v)) },
		"kind":      kindLabel,
		"event":     eventLabel,
		"advise":    d.advise,
		"operation": findOperation,
		"count":     formatCount,
		"plural":    pluralize,
	}
}

// serve puts the pages on the mux.
func (d *dashboard) serve(mux *http.ServeMux) {
	for pattern, h := range map[string]handler{
		"GET /{$}":                             d.requireReader(d.overview),
		"GET /connections":                     d.requireReader(d.list),
		"GET /connections/{name}":              d.requireReader(d.show),
		"GET /new":                             d.requireSession(d.createForm),
		"POST /new":                            d.requireForm(d.create),
		"GET /connections/{name}/{operation}":  d.requireSession(d.confirmForm),
		"POST /connections/{name}/{operation}": d.requireForm(d.runOperation),
		"GET /sign-in":                         d.signInForm,
		"POST /sign-in":                        d.signIn,
		"POST /sign-out":                       d.requireForm(d.signOut),
	} {
		mux.HandleFunc(pattern, d.withPageHeaders(h))
	}
	for _, asset := range []string{"style.css", "copy.js", "icon.svg"} {
		mux.HandleFunc("GET /assets/"+asset, func(w http.ResponseWriter, r *http.Request) {
			http.ServeFileFS(w, r, assetFiles, "assets/"+asset)
		})
	}
}

// view is what every page is drawn from.
type view struct {
	Title             string
	Environment       string // find Pleo; empty: not named
	Current           string // the path of the page in the navigation
	SignedIn          bool
	ReadWithoutSignIn bool   // can be read without signing in
	CSRFToken         string // what forms send back
	Notice            notice
	Page              any
}

// contentSecurityPolicy lets pages load what comes from here, and nothing run or frame them.
const contentSecurityPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// withPageHeaders gives answers the headers of a page, and draws a page about errors of h.
func (d *dashboard) withPageHeaders(h handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", contentSecurityPolicy)
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		// Not no-referrer, with which browsers call the origin of a form null.
		w.Header().Set("Referrer-Policy", "same-origin")
		r = r.WithContext(credstore.WithActor(r.Context(), credstore.ActorDashboard))
		err := h(w, r)
		if err == nil || clientGone(r, err) {
			return
		}
		p := d.problemFor(err)
		if err := d.render(w, r, p.Status, "problem", view{Title: p.Title, Page: p}); err != nil {
			d.logger.Error("a page cannot be drawn", zap.Error(err))
		}
	}
}

// notFound returns what answers for addresses where nothing is: browsers that are
// after a page with one, all else with a document.
func (d *dashboard) notFound() http.HandlerFunc {
	page := d.withPageHeaders(func(http.ResponseWriter, *http.Request) error {
		return manage.NewProblem(manage.CodeNotFound, "There is nothing at this address.")
	})
	return func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/") || !strings.Contains(r.Header.Get("Accept"), "text/html") {
			notFound(w, r)
			return
		}
		page(w, r)
	}
}

// render writes a page. It is drawn in whole before anything of it is sent.
func (d *dashboard) render(w http.ResponseWriter, r *http.Request, status int, name string, v view) error {
	open := d.sessions.find(r)
	v.Environment, v.ReadWithoutSignIn, v.SignedIn = d.environment, !d.exposed, open != nil
	if open != nil {
		v.CSRFToken = open.csrfToken
		if v.Notice == (notice{}) {
			v.Notice = d.sessions.takeNotice(open)
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

// requireReader serves h to whom may read, and sends others to sign in.
func (d *dashboard) requireReader(h handler) handler {
	if !d.exposed {
		return h
	}
	return d.requireSession(h)
}

// requireSession serves h to those who have signed in, and sends others to do so.
func (d *dashboard) requireSession(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if d.sessions.find(r) != nil {
			return h(w, r)
		}
		to := url.URL{Path: "/sign-in", RawQuery: url.Values{"next": {r.URL.RequestURI()}}.Encode()}
		http.Redirect(w, r, to.String(), http.StatusSeeOther)
		return nil
	}
}

// maxFormSize is far more than any form needs, in bytes.
const maxFormSize = 64 << 10

// requireForm serves h to forms that those who have signed in send from pages of
// their session.
func (d *dashboard) requireForm(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := parseForm(w, r); err != nil {
			return err
		}
		open := d.sessions.find(r)
		if open == nil {
			return d.renderSignIn(w, r, http.StatusForbidden, signInPage{Next: r.Header.Get("Referer"), Error: "Your session has ended, and nothing was changed. Sign in and try again."})
		}
		if !open.validCSRF(r.PostForm) {
			return manage.NewProblem(manage.CodeCrossSiteRequest, "This form is not one that your session was given. Go back, load the page again and retry.")
		}
		return h(w, r)
	}
}

func parseForm(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormSize)
	err := r.ParseForm()
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		return manage.NewProblem(manage.CodeBodyTooLarge, "The form may have %d bytes at most.", maxFormSize)
	}
	if err != nil {
		return manage.NewProblem(manage.CodeBadRequest, "The form cannot be read.")
	}
	return nil
}

// signInPage is the page to sign in at.
type signInPage struct {
	Next      string // the path to go to afterwards
	Error     string
	TokenFile string // empty: there is no token
}

func (d *dashboard) signInForm(w http.ResponseWriter, r *http.Request) error {
	return d.renderSignIn(w, r, http.StatusOK, signInPage{Next: r.URL.Query().Get("next")})
}

func (d *dashboard) renderSignIn(w http.ResponseWriter, r *http.Request, status int, p signInPage) error {
	p.Next, p.TokenFile = localPath(p.Next), d.tokenFile
	return d.render(w, r, status, "sign-in", view{Title: "Sign in", Page: p})
}

// signIn begins a session for who has the admin token.
func (d *dashboard) signIn(w http.ResponseWriter, r *http.Request) error {
	if err := parseForm(w, r); err != nil {
		return err
	}
	next := r.PostForm.Get("next")
	if d.sessions.signInBlocked(r) {
		w.Header().Set("Retry-After", fmt.Sprint(int(failedSignInWindow.Seconds())))
		return d.renderSignIn(w, r, http.StatusTooManyRequests, signInPage{Next: next, Error: "Too many wrong tokens have come from your address. Try again in five minutes."})
	}
	if !d.validToken(credstore.NewSecret(strings.TrimSpace(r.PostForm.Get("token")))) {
		d.sessions.recordFailure(r)
		d.logger.Warn("somebody tried to sign in with a wrong token", zap.String("address", r.RemoteAddr))
		return d.renderSignIn(w, r, http.StatusUnauthorized, signInPage{Next: next, Error: "That is not the admin token."})
	}
	d.sessions.remove(r) // importLine that is replaced is of no use to anybody
	setSessionCookie(w, r, d.sessions.create())
	d.logger.Info("somebody signed in at the dashboard", zap.String("address", r.RemoteAddr))
	http.Redirect(w, r, localPath(next), http.StatusSeeOther) //nolint:gosec // localPath leaves a path of ours
	return nil
}

func (d *dashboard) signOut(w http.ResponseWriter, r *http.Request) error {
	d.sessions.remove(r)
	setSessionCookie(w, r, credstore.Secret{})
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
