//go:build browser

package browsertest

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// Open navigates to the URL and waits for the page.
func (t *Tab) Open(url string) {
	t.t.Helper()
	t.navigate("opening "+url, chromedp.Navigate(url))
}

// Follow clicks the first element that matches the CSS selector, and waits for the
// page that it leads to.
func (t *Tab) Follow(selector string) {
	t.t.Helper()
	t.navigate("following "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// FollowByKeyboard presses Enter on the focused element, and waits for the page that
// it leads to.
func (t *Tab) FollowByKeyboard() {
	t.t.Helper()
	t.navigate("pressing Enter", chromedp.KeyEvent(kb.Enter))
}

// Reload reloads the page.
func (t *Tab) Reload() {
	t.t.Helper()
	t.navigate("reloading", chromedp.Reload())
}

// navigate takes a step that leads to another page, and waits for that page.
func (t *Tab) navigate(what string, step chromedp.Action[chromedp.Void]) {
	t.t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, step); err != nil {
		t.t.Fatalf("%s: %v\nat %s", what, err, t.describe())
	}
}

// Click clicks the first element that matches the CSS selector.
func (t *Tab) Click(selector string) {
	t.t.Helper()
	t.do("clicking "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Fill replaces the text of a field.
func (t *Tab) Fill(selector, text string) {
	t.t.Helper()
	t.do("filling "+selector, chromedp.Clear(chromedp.CSS(selector)), chromedp.SendKeys(chromedp.CSS(selector), text))
}

// Choose selects the option or date with the value.
func (t *Tab) Choose(selector, value string) {
	t.t.Helper()
	t.do("choosing in "+selector, chromedp.SetValue(chromedp.CSS(selector), value))
}

// Type presses the keys on the focused element.
func (t *Tab) Type(keys string) {
	t.t.Helper()
	t.do("typing", chromedp.KeyEvent(keys))
}

// TabTo presses the Tab key until an element that matches the CSS selector has the
// focus. It fails the test after 50 presses, and if the focus is invisible on the
// way.
func (t *Tab) TabTo(selector string) {
	t.t.Helper()
	for range 50 {
		t.Type(kb.Tab)
		if !evaluate[bool](t, focusShows) {
			t.t.Errorf("the focus is invisible on %s", evaluate[string](t, `document.activeElement.outerHTML`))
		}
		if evaluate[bool](t, fmt.Sprintf(`document.activeElement.matches(%s)`, strconv.Quote(selector))) {
			return
		}
	}
	t.t.Fatalf("cannot reach %s with Tab\nat %s", selector, t.describe())
}

// focusShows is true if the focused element has an outline (WCAG 2.2, 2.4.7), or is
// the page itself, which has the focus after the browser's own controls.
const focusShows = `(() => {
	const e = document.activeElement;
	if (!e || e === document.body) return true;
	const s = getComputedStyle(e);
	return s.outlineStyle === "auto" || s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2;
})()`

// Text returns the visible text of the page.
func (t *Tab) Text() string {
	t.t.Helper()
	return evaluate[string](t, `document.body.innerText`)
}

// Heading returns the text of the page's first heading.
func (t *Tab) Heading() string {
	t.t.Helper()
	return evaluate[string](t, `document.querySelector("h1").innerText`)
}

// HTML returns the source of the page as the browser has parsed it.
func (t *Tab) HTML() string {
	t.t.Helper()
	return evaluate[string](t, `document.documentElement.outerHTML`)
}

// Attribute returns an attribute of the first element that matches the CSS selector.
func (t *Tab) Attribute(selector, name string) string {
	t.t.Helper()
	return evaluate[string](t, fmt.Sprintf(`document.querySelector(%s).getAttribute(%s) || ""`, strconv.Quote(selector), strconv.Quote(name)))
}

// Has reports whether an element matches the CSS selector.
func (t *Tab) Has(selector string) bool {
	t.t.Helper()
	return evaluate[bool](t, fmt.Sprintf(`document.querySelector(%s) !== null`, strconv.Quote(selector)))
}

// URL returns the URL of the page.
func (t *Tab) URL() string {
	t.t.Helper()
	return evaluate[string](t, `location.href`)
}

// WantText fails the test unless the page contains all of the texts.
func (t *Tab) WantText(texts ...string) {
	t.t.Helper()
	shown := t.Text()
	for _, want := range texts {
		if !strings.Contains(shown, want) {
			t.t.Errorf("the page at %s does not contain %q:\n%s", t.URL(), want, shown)
		}
	}
}

func evaluate[T any](t *Tab, expression string, options ...chromedp.EvaluateOption) T {
	t.t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, options...))
	if err != nil {
		t.t.Fatalf("evaluating a script: %v\nat %s", err, t.describe())
	}
	return value
}
