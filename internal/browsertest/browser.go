//go:build browser

package browsertest

import (
	"context"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// stepTimeout limits one step in the browser.
const stepTimeout = 30 * time.Second

// Browser is a running Chromium. It exits when the test ends.
type Browser struct {
	t   testing.TB
	ctx context.Context
}

// Start starts Chromium with a new profile. It skips the test if chromium is not
// installed.
func Start(t testing.TB) *Browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: apt-get install chromium")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
	)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, _ := chromedp.NewContext(allocator) // canceled below
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // stop kills a browser that does not exit by itself
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	return &Browser{t: t, ctx: ctx}
}

// For returns the browser for a subtest.
func (b *Browser) For(t testing.TB) *Browser { return &Browser{t: t, ctx: b.ctx} }

// Tab is a browser window with its own cookies: a separate user. Its methods fail
// the test if a step does not succeed.
type Tab struct {
	t   testing.TB
	ctx context.Context

	mu            sync.Mutex // guards all below
	requested     []string   // URLs of all requests
	consoleErrors []string   // of the pages
}

// Tab opens a tab at the size of a desktop. It records requests and errors from the
// first page on.
func (b *Browser) Tab() *Tab {
	b.t.Helper()
	t := &Tab{t: b.t}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(t.record))
	b.t.Cleanup(cancel)
	t.ctx = ctx
	// The context of its first step ends the tab, so it must have no timeout.
	if err := chromedp.Do(ctx); err != nil {
		b.t.Fatalf("opening a tab: %v", err)
	}
	t.setView(desktop)
	return t
}

// record records an event of the browser. It must not call the browser, which waits
// for it.
func (t *Tab) record(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		t.requested = append(t.requested, e.Request.URL)
	case *log.EventEntryAdded:
		// Error status codes of pages are logged too; tests expect some of them.
		if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork {
			t.consoleErrors = append(t.consoleErrors, e.Entry.Text)
		}
	case *runtime.EventExceptionThrown:
		t.consoleErrors = append(t.consoleErrors, e.ExceptionDetails.Text)
	}
}

// Requested returns the URLs of all requests that the tab has made.
func (t *Tab) Requested() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.requested...)
}

// errorsLogged returns the errors that the browser has logged, such as violations of
// the Content-Security-Policy.
func (t *Tab) errorsLogged() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.consoleErrors...)
}

// do runs the steps within stepTimeout.
func (t *Tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	t.t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.t.Fatalf("%s: %v\nat %s", what, err, t.describe())
	}
}

// describe returns the URL and text of the page, for messages of failed tests.
func (t *Tab) describe() string {
	ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
	defer cancel()
	url, err := chromedp.Run(ctx, chromedp.Location())
	if err != nil {
		return err.Error()
	}
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body ? document.body.innerText : ""`))
	if err != nil {
		return url
	}
	return url + "\n" + text
}
