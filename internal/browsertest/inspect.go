//go:build browser

package browsertest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// view is a window size and color scheme.
type view struct {
	name          string
	width, height int64
	scheme        string
}

// The views include the narrowest width that WCAG 2.2 requires (1.4.10).
var (
	desktop     = view{"desktop", 1200, 900, "light"}
	desktopDark = view{"desktop-dark", 1200, 900, "dark"}
	phone       = view{"phone", 320, 640, "light"}
	phoneDark   = view{"phone-dark", 320, 640, "dark"}
	// tablet is also half of a desktop, or a desktop at 150%.
	tablet = view{"tablet", 800, 1000, "light"}
)

// Inspect checks the page on a desktop, a tablet and a phone, in light and dark. It
// fails the test for violations of WCAG 2.2 AA and of best practice that axe-core
// finds, for a page wider than the window, for words that are broken in two, and
// for errors that the browser has logged. If the environment variable SCREENSHOTS
// names a directory, it saves screenshots there.
func (t *Tab) Inspect(name string) {
	t.t.Helper()
	for _, v := range []view{phoneDark, tablet, desktop} {
		t.setView(v)
		where := fmt.Sprintf("%s (%s)", name, v.name)
		if wide := evaluate[int](t, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); wide > 0 {
			t.t.Errorf("%s: the page is %d pixels too wide", where, wide)
		}
		for _, word := range evaluate[[]string](t, brokenWords) {
			t.t.Errorf("%s: %q is broken in two", where, word)
		}
		for _, violation := range t.violations() {
			t.t.Errorf("%s: %s", where, violation)
		}
	}
	t.saveScreenshots(name)
	for _, message := range t.errorsLogged() {
		t.t.Errorf("%s: browser error: %s", name, message)
	}
}

// brokenWords returns the words that begin on one line and end on another. Longer
// runs of letters are identifiers, which may be broken.
const brokenWords = `(() => {
	const found = [], texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (texts.nextNode()) {
		const text = texts.currentNode;
		if (!text.parentElement.checkVisibility() || text.parentElement.closest(".hidden, .skip, thead")) continue;
		for (const word of text.data.matchAll(/\p{L}{2,16}/gu)) {
			const range = document.createRange();
			range.setStart(text, word.index);
			range.setEnd(text, word.index + word[0].length);
			const lines = new Set([...range.getClientRects()].map(r => Math.round(r.top)));
			if (lines.size > 1) found.push(word[0]);
		}
	}
	return found;
})()`

// Phone makes the tab as narrow as a phone.
func (t *Tab) Phone() {
	t.t.Helper()
	t.setView(phone)
}

func (t *Tab) setView(v view) {
	t.t.Helper()
	t.do("changing the view",
		chromedp.EmulateViewport(v.width, v.height),
		chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
			_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.scheme}},
			})
			return err
		}))
}

// violations returns the violations that axe-core finds, one per line.
func (t *Tab) violations() []string {
	t.t.Helper()
	if !evaluate[bool](t, `"axe" in window`) {
		evaluate[bool](t, axe(t.t)+`; true`)
	}
	return evaluate[[]string](t, `axe.run(document, {
		runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
		resultTypes: ["violations"],
	}).then(r => r.violations.map(v => v.id + ": " + v.help + ": " +
		v.nodes.map(n => n.html + " " + n.any.concat(n.all, n.none).map(c => c.message).join("; ")).join(" | ")))`,
		chromedp.EvalAwaitPromise)
}

// axe returns the source of axe-core. The debugger evaluates it, because the policy
// of the pages allows no scripts.
func axe(t testing.TB) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root(t), "internal/browsertest/node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatalf("axe-core is not installed: run `npm ci` in internal/browsertest, as `make browser` does: %v", err)
	}
	return string(source)
}

// root returns the root directory of the repository.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for dir != filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	t.Fatal("no go.mod above the test")
	return ""
}

// saveScreenshots saves a screenshot of the whole page in each view, if the
// environment variable is set.
func (t *Tab) saveScreenshots(name string) {
	t.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.t.Fatal(err)
	}
	for _, v := range []view{phone, phoneDark, desktopDark, desktop} {
		t.setView(v)
		ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
		screenshot, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
		cancel()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s.png", name, v.name)), screenshot, 0o644)
		}
		if err != nil {
			t.t.Fatalf("taking a screenshot: %v", err)
		}
	}
}
