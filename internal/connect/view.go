package connect

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"go.uber.org/zap"
)

//go:embed pages
var pageFiles embed.FS

// theme is what all pages look like: the templates, the style and the logo.
type theme struct {
	pages     map[string]*template.Template // name of the body → page
	style     []byte
	stylePath string // changes with the style, so that browsers may keep it
	logo      []byte
	logoType  string
	logoPath  string // empty: there is no logo
}

// The bodies that pages have.
const (
	consentBody = "consent"
	keyBody     = "key"
	doneBody    = "done"
	stoppedBody = "stopped"
)

func newTheme(base string, logo []byte) (*theme, error) {
	d := &theme{pages: map[string]*template.Template{}}
	for _, body := range []string{consentBody, keyBody, doneBody, stoppedBody} {
		page, err := template.ParseFS(pageFiles, "pages/layout.html", "pages/"+body+".html")
		if err != nil {
			return nil, fmt.Errorf("parsing a page: %w", err)
		}
		d.pages[body] = page
	}
	var err error
	if d.style, err = pageFiles.ReadFile("pages/style.css"); err != nil {
		return nil, fmt.Errorf("reading the style: %w", err)
	}
	d.stylePath = base + "/assets/" + fingerprint(d.style) + ".css"
	if logo != nil {
		d.logo, d.logoPath = logo, base+"/assets/"+fingerprint(logo)
		d.logoType, err = logoType(logo)
	}
	return d, err
}

func fingerprint(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:8])
}

var errNotImage = errors.New("the logo is not a PNG, JPEG, GIF, WebP or SVG image")

// logoType tells what kind of image the logo is, from its content.
func logoType(logo []byte) (string, error) {
	t := http.DetectContentType(logo)
	switch t {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return t, nil
	}
	if strings.HasPrefix(t, "text/") && bytes.Contains(logo, []byte("<svg")) {
		return "image/svg+xml", nil
	}
	return "", errNotImage
}

// CheckLogo says what is wrong with the logo of a [Branding].
func CheckLogo(logo []byte) error {
	_, err := logoType(logo)
	return err
}

func (d *theme) serveStyle(w http.ResponseWriter, _ *http.Request) {
	d.serve(w, "text/css; charset=utf-8", d.style)
}

func (d *theme) serveLogo(w http.ResponseWriter, _ *http.Request) {
	d.serve(w, d.logoType, d.logo)
}

// serve sends what never changes under its address. Shown by itself, an SVG
// would be a page: the policy of all answers keeps it from running anything.
func (d *theme) serve(w http.ResponseWriter, contentType string, content []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(content) // a browser that leaves is no loss
}

// view is all that a page shows. Which fields count depends on its body.
type view struct {
	Status int
	Body   string

	Brand, Style, Logo string // of every page
	BrandFirst         string // the brand as a sentence begins with it
	Tone               string // colours the page: stopped, done or empty

	Title   string // empty: as Heading
	Heading string
	Lead    string

	Tenant, Company string // the facts
	Organisation    bool   // the company is an organisation
	ShowFacts       bool   // whether a stopped page shows them
	Permissions     []permission
	Missing         []permission
	Steps           []step
	Validity        string

	AsksExpiry  bool   // whether a key is asked for its last day
	LastDay     string // of a key, as it was given before
	InvalidDate bool   // the problem is the day

	Problem               string // of a key: what is wrong with it, in a few words
	Explanation, NextStep string
	CanRetry              bool   // the link can be tried again
	Done                  bool   // nothing is left to do but to go back
	ReturnURL             string // where to go back to; empty: nowhere
	SupportCode           string // for whoever helps
}

// show writes the page.
func (p *Pages) show(w http.ResponseWriter, r *http.Request, v view) {
	v.Brand, v.BrandFirst = p.Branding.Name, capital(p.Branding.Name)
	v.Style, v.Logo = p.theme.stylePath, p.theme.logoPath
	if id, ok := strings.CutPrefix(v.Company, organisation); ok {
		v.Company, v.Organisation = id, true
	}
	if v.Title == "" {
		v.Title = v.Heading
	}
	if v.Body == stoppedBody || v.Body == doneBody {
		v.Tone = v.Body
	}
	var page bytes.Buffer
	if err := p.theme.pages[v.Body].Execute(&page, v); err != nil {
		p.Logger.Error("making a page", zap.String("body", v.Body), zap.Error(err))
		http.Error(w, "This page is not available at the moment.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if v.Status == http.StatusServiceUnavailable || v.Status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "60")
	}
	w.WriteHeader(v.Status)
	if r.Method != http.MethodHead {
		_, _ = page.WriteTo(w) // a browser that leaves is no loss
	}
}

// stoppedWithoutLink is the page that says why, where nothing is known of a link.
func (p *Pages) stoppedWithoutLink(reason reason) view {
	return p.stopped(reason, names{brand: p.Branding.Name})
}

func (p *Pages) stopped(reason reason, n names) view {
	words, ok := p.messages[reason]
	if !ok {
		words = p.messages[notFound]
	}
	return view{
		Body: stoppedBody, Status: words.status,
		Heading: n.expand(words.heading), Explanation: n.expand(words.explanation), NextStep: n.expand(words.nextStep),
	}
}

// showStopped shows what the callback has to say where no link is known to go
// back to.
func (p *Pages) showStopped(w http.ResponseWriter, r *http.Request) {
	switch reason := reason(r.PathValue("why")); reason {
	case otherBrowser, attemptExpired, storeUnavailable, oauthNotConfigured:
		p.show(w, r, p.stoppedWithoutLink(reason))
	default:
		p.show(w, r, p.stoppedWithoutLink(notFound))
	}
}

// capital returns the name as a sentence begins with it.
func capital(name string) string { return names{}.expand(name) }
