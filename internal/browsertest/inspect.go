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

// view is how somebody looks at a page.
type view struct {
	name          string
	width, height int64
	scheme        string
}

// The narrowest phone that WCAG 2.2 asks for (1.4.10), and a desktop. Between
// them, desktop and phoneDark have each width and each scheme.
var (
	desktop     = view{"desktop", 1200, 900, "light"}
	desktopDark = view{"desktop-dark", 1200, 900, "dark"}
	phone       = view{"phone", 320, 640, "light"}
	phoneDark   = view{"phone-dark", 320, 640, "dark"}
	// Also a window on half of a screen, and a desktop at 150%.
	tablet = view{"tablet", 800, 1000, "light"}
)

// Inspect looks at the page on a desktop, a tablet and a phone, in light and in
// dark. It fails the test for what axe-core finds wrong by WCAG 2.2 AA or good
// practice, for a page wider than the window, for words that are broken in two,
// and for complaints of the browser.
// Where the environment variable SCREENSHOTS names a directory it leaves a
// picture of each there.
func (t *Tab) Inspect(name string) {
	t.t.Helper()
	for _, v := range []view{phoneDark, tablet, desktop} {
		t.look(v)
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
	t.shoot(name)
	for _, complaint := range t.errorsLogged() {
		t.t.Errorf("%s: the browser says: %s", name, complaint)
	}
}

// brokenWords returns the words that begin on one line and end on another, for
// want of room. Letters in a row are a word, if there are no more of them than in
// words that people write.
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
	t.look(phone)
}

func (t *Tab) look(v view) {
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

// violations returns what axe-core finds, a line each.
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

// axe returns the source of axe-core. It is evaluated by the debugger: the
// pages' own policy lets no script run.
func axe(t testing.TB) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(root(t), "internal/browsertest/node_modules/axe-core/axe.min.js"))
	if err != nil {
		t.Fatalf("axe-core is not installed: run `npm ci` in internal/browsertest, as `make browser` does: %v", err)
	}
	return string(source)
}

// root returns the directory of the repository: tests run in that of their package.
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

// shoot leaves a picture of the whole page in each view, if pictures are wanted.
func (t *Tab) shoot(name string) {
	t.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.t.Fatal(err)
	}
	for _, v := range []view{phone, phoneDark, desktopDark, desktop} {
		t.look(v)
		ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
		picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
		cancel()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s.png", name, v.name)), picture, 0o644)
		}
		if err != nil {
			t.t.Fatalf("taking a picture: %v", err)
		}
	}
}
