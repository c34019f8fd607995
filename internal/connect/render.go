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

// renderer writes pages, and serves their style and logo.
type renderer struct {
	brand     string
	templates map[string]*template.Template // body → page
	style     []byte
	stylePath string // changes with the style, so that browsers may cache it
	logo      []byte
	logoType  string
	logoPath  string // empty: there is no logo
	log       *zap.Logger
}

// The bodies of pages.
const (
	consentBody = "consent"
	keyBody     = "key"
	doneBody    = "done"
	stoppedBody = "stopped"
)

func newRenderer(base string, b Branding, log *zap.Logger) (*renderer, error) {
	d := &renderer{brand: b.Name, templates: map[string]*template.Template{}, log: log}
	for _, body := range []string{consentBody, keyBody, doneBody, stoppedBody} {
		page, err := template.ParseFS(pageFiles, "pages/layout.html", "pages/"+body+".html")
		if err != nil {
			return nil, fmt.Errorf("parsing a page: %w", err)
		}
		d.templates[body] = page
	}
	var err error
	if d.style, err = pageFiles.ReadFile("pages/style.css"); err != nil {
		return nil, fmt.Errorf("reading the style: %w", err)
	}
	d.stylePath = base + "/assets/" + fingerprint(d.style) + ".css"
	if b.Logo != nil {
		d.logo, d.logoPath = b.Logo, base+"/assets/"+fingerprint(b.Logo)
		d.logoType, err = logoType(b.Logo)
	}
	return d, err
}

func fingerprint(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:8])
}

// logoType returns the media type of a logo, by its content.
func logoType(logo []byte) (string, error) {
	t := http.DetectContentType(logo)
	switch t {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return t, nil
	}
	if strings.HasPrefix(t, "text/") && bytes.Contains(logo, []byte("<svg")) {
		return "image/svg+xml", nil
	}
	return "", errors.New("the logo is not a PNG, JPEG, GIF, WebP or SVG image")
}

// CheckLogo returns an error if the logo has a type that [Branding] does not
// support.
func CheckLogo(logo []byte) error {
	_, err := logoType(logo)
	return err
}

// assets adds the handlers of style and logo.
func (d *renderer) assets(mux *http.ServeMux) {
	serve := func(path, contentType string, content []byte) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			// Opened by itself an SVG is a page; the policy prevents its scripts.
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
			_, _ = w.Write(content) // the browser may have left
		})
	}
	serve(d.stylePath, "text/css; charset=utf-8", d.style)
	if d.logoPath != "" {
		serve(d.logoPath, d.logoType, d.logo)
	}
}

// show writes the page.
func (d *renderer) show(w http.ResponseWriter, r *http.Request, v view) {
	v.Brand, v.BrandFirst = d.brand, capitalized(d.brand)
	v.Style, v.Logo = d.stylePath, d.logoPath
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
	if err := d.templates[v.Body].Execute(&page, v); err != nil {
		d.log.Error("rendering a page", zap.String("body", v.Body), zap.Error(err))
		http.Error(w, "This page is temporarily unavailable.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if v.Status == http.StatusServiceUnavailable || v.Status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "60")
	}
	w.WriteHeader(v.Status)
	if r.Method != http.MethodHead {
		_, _ = page.WriteTo(w) // the browser may have left
	}
}
