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

// Open goes to the address and waits for the page.
func (t *Tab) Open(url string) {
	t.t.Helper()
	t.travel("opening "+url, chromedp.Navigate(url))
}

// Follow clicks what the CSS selector finds first, and waits for the page that
// it leads to.
func (t *Tab) Follow(selector string) {
	t.t.Helper()
	t.travel("following "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// FollowByKeyboard presses Enter where the focus is and waits for the page that
// it leads to.
func (t *Tab) FollowByKeyboard() {
	t.t.Helper()
	t.travel("pressing Enter", chromedp.KeyEvent(kb.Enter))
}

// Back is the browser's button.
func (t *Tab) Back() {
	t.t.Helper()
	t.travel("going back", chromedp.NavigateBack())
}

// Reload loads the page again.
func (t *Tab) Reload() {
	t.t.Helper()
	t.travel("reloading", chromedp.Reload())
}

// travel takes a step that leads to another page, and waits until that is there.
func (t *Tab) travel(what string, step chromedp.Action[chromedp.Void]) {
	t.t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, step); err != nil {
		t.t.Fatalf("%s: %v\nat %s", what, err, t.describe())
	}
}

// Click clicks what the CSS selector finds first, on this page.
func (t *Tab) Click(selector string) {
	t.t.Helper()
	t.do("clicking "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// Fill puts the text in the place of what the field holds.
func (t *Tab) Fill(selector, text string) {
	t.t.Helper()
	t.do("filling "+selector, chromedp.Clear(chromedp.CSS(selector)), chromedp.SendKeys(chromedp.CSS(selector), text))
}

// Choose picks the option, or the day, with the value.
func (t *Tab) Choose(selector, value string) {
	t.t.Helper()
	t.do("choosing in "+selector, chromedp.SetValue(chromedp.CSS(selector), value))
}

// Type presses the keys where the focus is.
func (t *Tab) Type(keys string) {
	t.t.Helper()
	t.do("typing", chromedp.KeyEvent(keys))
}

// TabTo moves the focus by the Tab key until it is on what the CSS selector
// finds. It fails the test if 50 presses do not lead there, or if the focus
// cannot be seen on the way.
func (t *Tab) TabTo(selector string) {
	t.t.Helper()
	for range 50 {
		t.Type(kb.Tab)
		if !evaluate[bool](t, focusShows) {
			t.t.Errorf("the focus cannot be seen on %s", evaluate[string](t, `document.activeElement.outerHTML`))
		}
		if evaluate[bool](t, fmt.Sprintf(`document.activeElement.matches(%s)`, strconv.Quote(selector))) {
			return
		}
	}
	t.t.Fatalf("Tab does not lead to %s\nat %s", selector, t.describe())
}

// focusShows tells whether the element with the focus has an outline (WCAG 2.2,
// 2.4.7), or is the page itself, which the browser's own parts come before.
const focusShows = `(() => {
	const e = document.activeElement;
	if (!e || e === document.body) return true;
	const s = getComputedStyle(e);
	return s.outlineStyle === "auto" || s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2;
})()`

// Text returns what can be read on the page.
func (t *Tab) Text() string {
	t.t.Helper()
	return evaluate[string](t, `document.body.innerText`)
}

// Heading returns the text of the page's first heading.
func (t *Tab) Heading() string {
	t.t.Helper()
	return evaluate[string](t, `document.querySelector("h1").innerText`)
}

// HTML returns the page's source as the browser has understood it.
func (t *Tab) HTML() string {
	t.t.Helper()
	return evaluate[string](t, `document.documentElement.outerHTML`)
}

// Attribute returns an attribute of what the CSS selector finds first.
func (t *Tab) Attribute(selector, name string) string {
	t.t.Helper()
	return evaluate[string](t, fmt.Sprintf(`document.querySelector(%s).getAttribute(%s) || ""`, strconv.Quote(selector), strconv.Quote(name)))
}

// Has reports whether the CSS selector finds anything.
func (t *Tab) Has(selector string) bool {
	t.t.Helper()
	return evaluate[bool](t, fmt.Sprintf(`document.querySelector(%s) !== null`, strconv.Quote(selector)))
}

// URL returns where the tab is.
func (t *Tab) URL() string {
	t.t.Helper()
	return evaluate[string](t, `location.href`)
}

// WantText fails the test unless the page shows every one of the texts.
func (t *Tab) WantText(texts ...string) {
	t.t.Helper()
	shown := t.Text()
	for _, want := range texts {
		if !strings.Contains(shown, want) {
			t.t.Errorf("the page at %s does not say %q:\n%s", t.URL(), want, shown)
		}
	}
}

func evaluate[T any](t *Tab, expression string, options ...chromedp.EvaluateOption) T {
	t.t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, options...))
	if err != nil {
		t.t.Fatalf("looking at the page: %v\nat %s", err, t.describe())
	}
	return value
}
