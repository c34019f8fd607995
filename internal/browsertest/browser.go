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

// stepTimeout bounds one step of a person in the browser.
const stepTimeout = 30 * time.Second

// Browser is a running Chromium, which ends with the test.
type Browser struct {
	t   testing.TB
	ctx context.Context
}

// Start starts a Chromium with a profile of its own. Without one on this
// machine the test is skipped.
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
	ctx, _ := chromedp.NewContext(allocator) // ended below, and waited for
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // a browser that does not end by itself is killed by stop
		stop()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting chromium: %v", err)
	}
	return &Browser{t: t, ctx: ctx}
}

// For returns the browser for a subtest, whose tabs fail that one.
func (b *Browser) For(t testing.TB) *Browser { return &Browser{t: t, ctx: b.ctx} }

// Tab is a window with cookies of its own: a person at a machine. Its methods
// fail the test where the page does not do what is asked of it.
type Tab struct {
	t   testing.TB
	ctx context.Context

	mu            sync.Mutex // guards what follows
	requested     []string   // the URLs of all requests
	consoleErrors []string   // what the browser had to say about the pages
}

// Tab opens one, at the size of a desktop. Requests and complaints are noted
// from the first page on.
func (b *Browser) Tab() *Tab {
	b.t.Helper()
	t := &Tab{t: b.t}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext(), chromedp.WithListener(t.record))
	b.t.Cleanup(cancel)
	t.ctx = ctx
	// The tab lasts as long as the context of its first step, which so has no end.
	if err := chromedp.Do(ctx); err != nil {
		b.t.Fatalf("opening a tab: %v", err)
	}
	t.look(desktop)
	return t
}

// record runs between the messages of the browser, so it does not talk back.
func (t *Tab) record(event any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		t.requested = append(t.requested, e.Request.URL)
	case *log.EventEntryAdded:
		// That a page came with a status of 400 or more is the server's word, not
		// the browser's complaint.
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

// errorsLogged returns what the browser has said about the pages, such as that
// their policy forbids what they do.
func (t *Tab) errorsLogged() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.consoleErrors...)
}

// do runs the steps within patience.
func (t *Tab) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	t.t.Helper()
	ctx, cancel := context.WithTimeout(t.ctx, stepTimeout)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		t.t.Fatalf("%s: %v\nat %s", what, err, t.describe())
	}
}

// describe tells where the tab is, for a failed test.
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
