package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"
)

// hostile is what a test may say that wants to be part of the page.
const hostile = `<script>document.title = 'mine'</script><img src=https://example.com/x.png onerror=alert(1)> & "quoted"`

// browser is a tab of Chromium with a page.
type browser struct {
	t   *testing.T // the part that is running
	ctx context.Context

	mu       sync.Mutex
	requests []string // of the network
	problems []string // what the console says
}

// opened writes a report into a folder, and opens its page.
func opened(t *testing.T, m *madeUp) *browser {
	t.Helper()
	chromium := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			chromium = found
			break
		}
	}
	require.NotEmpty(t, chromium, "there is no Chromium: apt-get install chromium")
	r, p := m.report()
	folder := t.TempDir()
	require.NoError(t, r.write(folder, p))

	allocator, stop := chromedp.NewExecAllocator(t.Context(), append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium), chromedp.NoSandbox, chromedp.WindowSize(1280, 900))...)
	t.Cleanup(stop)
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(stop)
	ctx, stop = context.WithTimeout(ctx, 5*time.Minute) // axe reads a large page five times
	t.Cleanup(stop)
	b := &browser{t: t, ctx: ctx}
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			b.requests = append(b.requests, e.Request.URL)
		case *runtime.EventExceptionThrown:
			b.problems = append(b.problems, e.ExceptionDetails.Text)
		case *runtime.EventConsoleAPICalled:
			b.problems = append(b.problems, fmt.Sprint(e.Type))
		case *log.EventEntryAdded:
			b.problems = append(b.problems, e.Entry.Text)
		}
	}))
	call(b, network.Enable, network.EnableParams{})
	call(b, log.Enable, cdp.Empty{})
	b.do(chromedp.Navigate(address(folder)), chromedp.WaitReady("#again"))
	return b
}

func address(folder string) string {
	return (&url.URL{Scheme: "file", Path: filepath.ToSlash(filepath.Join(folder, "index.html"))}).String()
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	require.NoError(b.t, chromedp.Do(b.ctx, actions...))
}

// gives does something that has a result.
func gives[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	value, err := chromedp.Run(b.ctx, action)
	require.NoError(b.t, err)
	return value
}

// call is a command of the browser's protocol.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	result, err := chromedp.Call(b.ctx, command, params)
	require.NoError(b.t, err)
	return result
}

// says is what JavaScript evaluates to.
func says[T any](b *browser, script string) T {
	b.t.Helper()
	return gives(b, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
}

// script runs JavaScript.
func (b *browser) script(text string) {
	b.t.Helper()
	says[bool](b, text+"; true")
}

// quiet says that the page has loaded nothing but itself, and had nothing to complain of.
func (b *browser) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, request := range b.requests {
		require.True(b.t, strings.HasPrefix(request, "file:") || strings.HasPrefix(request, "data:"), "the page asks the network for %s", request)
	}
	require.NotEmpty(b.t, b.requests, "requests are seen at all")
	require.Empty(b.t, b.problems, "the console")
}

// everything is a report with all that there may be, and a failure.
func everything(t *testing.T) *madeUp {
	m := newRun(t)
	m.measured()
	m.failing("TestAttack/by_reading,_'quoted'", box, hostile)
	m.left("mutants/mutants.json", map[string]any{"generated": 2000, "run": 3, "count": map[string]int{"killed": 2, "survived": 1},
		"results": []map[string]any{{"id": "phase4 policy a: leave out", "sql": "alter policy " + hostile, "status": "survived"}}})
	return m
}

// The page in a browser, from a file.
func TestPage(t *testing.T) {
	t.Parallel()
	b := opened(t, everything(t))
	run := func(name string, f func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			b.t = t
			f(t)
		})
	}
	run("it loads nothing, complains of nothing, and runs nothing that is not its own", func(t *testing.T) {
		b.quiet()
		require.Equal(t, "Not verified: multi-tenancy of VITAL's database", says[string](b, `document.title`))
		require.Contains(t, says[string](b, `document.querySelector('#failures').innerText`), hostile)
		require.Contains(t, says[string](b, `document.querySelector('#mutants').innerText`), hostile)
	})
	run("a failure comes first, with how to run it again", func(t *testing.T) {
		text := says[string](b, `document.querySelector('main section').innerText`)
		require.Contains(t, text, "TestAttack: by reading, 'quoted'")
		require.Contains(t, text, `make test PKG=./rls_test RUN='^TestAttack$/^by_reading,_'\''quoted'\''$'`)
	})
	run("every link leads somewhere, and back", func(t *testing.T) {
		require.Empty(t, says[[]string](b, `[...document.querySelectorAll('a')].map(a => a.getAttribute('href')).filter(h => !h.startsWith('#') || !document.getElementById(decodeURIComponent(h.slice(1))))`))
		require.Greater(t, says[int](b, `document.querySelectorAll('#boxes a').length`), 120)
		require.Zero(t, says[int](b, `document.querySelectorAll('[id]').length - new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size`), "ids are unique")
	})
	run("filters", func(t *testing.T) { testFilters(t, b) })
	run("the keyboard reaches everything", func(t *testing.T) { testKeyboard(t, b) })
	run("it prints, with everything open", func(t *testing.T) {
		pdf := gives(b, chromedp.PrintToPDF())
		require.True(t, bytes.HasPrefix(pdf, []byte("%PDF-")))
		kept(t, "page.pdf", pdf)
		require.Zero(t, says[int](b, `document.querySelectorAll('details:not([open])').length`))
	})
	run("nothing came after", func(t *testing.T) { b.quiet() })
}

func testFilters(t *testing.T, b *browser) {
	shown := func() int {
		n := says[int](b, `[...document.querySelectorAll('#boxes tr[data-state]')].filter(r => r.checkVisibility()).length`)
		require.Equal(t, fmt.Sprintf("%d shown", n), says[string](b, `document.getElementById('shown').value`))
		return n
	}
	set := func(id, value string) {
		b.script(fmt.Sprintf(`{ const e = document.getElementById(%q); e.value = %q; e.dispatchEvent(new Event('input', {bubbles: true})) }`, id, value))
	}
	require.Equal(t, 180, says[int](b, `document.querySelectorAll('#boxes tr[data-state]').length`))
	set("state", "failed")
	require.Equal(t, 2, shown(), "the box of the test that fails, and the one above it")
	require.Equal(t, 1, says[int](b, `[...document.querySelectorAll('#boxes .group')].filter(r => r.checkVisibility()).length`), "headings without boxes go")
	set("kind", "automated")
	require.Equal(t, 1, shown())
	set("search", "no such box")
	require.Equal(t, 0, shown())
	set("state", "")
	set("kind", "")
	set("search", "")
	b.do(chromedp.SendKeys("#search", "ROLLBACK phase"))
	some := shown()
	require.Greater(t, some, 0)
	require.Less(t, some, 60, "both words, in any case")
	// What a link leads to is shown, whatever the filters say.
	set("search", "no such box")
	b.script(`location.hash = '#box-` + box + `'`)
	gives(b, chromedp.Poll[bool](`document.getElementById('box-`+box+`').checkVisibility()`))
	require.Equal(t, 180, shown())
}

// focused is what has the focus, in short.
const focused = `(e => e.id || e.getAttribute('href') || e.dataset?.why || e.textContent.trim().slice(0, 40))(document.activeElement)`

func testKeyboard(t *testing.T, b *browser) {
	b.script(`history.replaceState(null, '', location.pathname)`)
	b.do(chromedp.Reload(), chromedp.WaitReady("#again"))
	b.do(chromedp.KeyEvent(kb.Tab))
	require.Equal(t, "#requirements", says[string](b, focused), "the first is the way past the navigation")
	require.True(t, says[bool](b, `document.activeElement.getBoundingClientRect().left >= 0`), "it is seen once it has the focus")
	reached := map[string]bool{}
	for range 40 {
		b.do(chromedp.KeyEvent(kb.Tab))
		reached[says[string](b, focused)] = true
		require.NotEqual(t, "none", says[string](b, `getComputedStyle(document.activeElement).outlineStyle`), "where the focus is, is seen")
	}
	for _, stop := range []string{"#failures", "#again", "search", "state", "kind", "section"} {
		require.Contains(t, reached, stop)
	}
	b.do(chromedp.Focus(".may"), chromedp.KeyEvent(kb.Tab))
	why := says[string](b, `document.activeElement.closest('details').querySelector('.why').textContent`)
	require.Regexp(t, `^\S+@\S+ reads.* “.+”: .+`, why, "a cell says why")
	require.Equal(t, says[string](b, `document.activeElement.dataset.why`), why)
	names := ""
	for _, node := range call(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes {
		if node.Name != nil {
			names += string(node.Name.Value) + "\n"
		}
	}
	require.Contains(t, names, "alice@novartis.com reads, changes", "who hears the page hears what a cell says")
}

// What axe finds keeps people from using the page, on light and on dark ground, wide and narrow.
func TestAccessible(t *testing.T) {
	t.Parallel()
	where, err := exec.Command(filepath.Join(root, ".ci", "axe")).Output()
	require.NoError(t, err, "axe is fetched by npm: apt-get install npm")
	axe, err := os.ReadFile(strings.TrimSpace(string(where)))
	require.NoError(t, err)
	b := opened(t, everything(t))
	kept(t, "whole.jpg", gives(b, chromedp.FullScreenshot(80)))
	b.script(`for (const d of document.querySelectorAll('details')) d.open = true`)
	b.script(string(axe))
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 400} {
			name := fmt.Sprintf("%s-%d", scheme, width)
			t.Run(name, func(t *testing.T) {
				b.t = t
				call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
				b.do(chromedp.EmulateViewport(width, 900))
				var found []struct {
					ID, Help string
					Nodes    []struct{ HTML, FailureSummary string }
				}
				require.NoError(t, json.Unmarshal([]byte(says[string](b, `axe.run({resultTypes: ['violations']}).then(r => JSON.stringify(r.violations))`)), &found))
				for _, v := range found {
					t.Errorf("%s: %s\n%s\n%s", v.ID, v.Help, v.Nodes[0].HTML, v.Nodes[0].FailureSummary)
				}
				require.Empty(t, says[[]string](b, `[...document.body.querySelectorAll('*')].filter(e => !e.parentElement.closest('.wide, pre, .hidden') && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))`),
					"nobody has to scroll sideways for")
				kept(t, name+".png", gives(b, chromedp.CaptureScreenshot()))
			})
		}
	}
	t.Run("axe sees what is wrong", func(t *testing.T) {
		b.t = t
		b.script(`document.querySelector('h1').style.color = 'color-mix(in srgb, currentColor 10%, var(--ground))'; document.querySelector('#search').parentElement.replaceWith(document.querySelector('#search'))`)
		found := says[string](b, `axe.run().then(r => r.violations.map(v => v.id).join(' '))`)
		require.Contains(t, found, "color-contrast")
		require.Contains(t, found, "label")
	})
}

// kept leaves an artifact for people to look at.
func kept(t *testing.T, name string, content []byte) {
	t.Helper()
	folder := filepath.Join(root, "build", "report", "screenshots")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(folder, name), content, 0o644))
	require.NotEmpty(t, content)
}
