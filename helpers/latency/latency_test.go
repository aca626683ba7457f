package latency_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/latency"
)

// madeUp are charts of figures that nobody measured.
func madeUp(t *testing.T) map[string]latency.Chart {
	in, err := os.Open("testdata/made_up.txt")
	require.NoError(t, err)
	defer in.Close()
	charts, err := latency.Read(in, in.Name())
	require.NoError(t, err)
	found := map[string]latency.Chart{}
	for _, c := range charts {
		found[c.Name] = c
	}
	require.Len(t, found, len(charts), "two of a name")
	return found
}

// read reads a benchmark's output with these lines.
func read(lines ...string) ([]latency.Chart, error) {
	return latency.Read(strings.NewReader(strings.Join(lines, "\n")+"\n"), "out.txt")
}

// text is a piece of text in a picture, and where it stands: y grows downwards.
type text struct {
	words string
	x, y  float64
}

// picture is the SVG of a chart, and its text.
func picture(t *testing.T, c latency.Chart) (svg string, texts map[string]text) {
	content, err := c.SVG()
	require.NoError(t, err)
	return words(t, content)
}

// words are an SVG, and its text. It must be XML that is complete.
func words(t *testing.T, content []byte) (svg string, texts map[string]text) {
	texts = map[string]text{}
	decoder := xml.NewDecoder(bytes.NewReader(content))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			return string(content), texts
		}
		require.NoError(t, err)
		start, ok := token.(xml.StartElement)
		if !ok || start.Name.Local != "text" {
			continue
		}
		var element struct {
			Words string  `xml:",chardata"`
			X     float64 `xml:"x,attr"`
			Y     float64 `xml:"y,attr"`
		}
		require.NoError(t, decoder.DecodeElement(&element, &start))
		texts[element.Words] = text{element.Words, element.X, element.Y}
	}
}

type point struct{ x, y float64 }

// stroked are the paths in an ink and of a width, in the library's coordinates: y grows upwards.
func stroked(t *testing.T, svg, ink, width string) (paths [][]point) {
	number := func(text string) float64 {
		value, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		return value
	}
	stroke := regexp.MustCompile(`<path d="([^"]*)" style="fill:none;[^"]*stroke:var\(--` + ink + `\);stroke-width:` + width + `[;"]`)
	for _, path := range stroke.FindAllStringSubmatch(svg, -1) {
		var points []point
		for _, p := range regexp.MustCompile(`[ML]([^,]*),([-0-9.e]+)`).FindAllStringSubmatch(path[1], -1) {
			points = append(points, point{number(p[1]), number(p[2])})
		}
		paths = append(paths, points)
	}
	return paths
}

func TestRead(t *testing.T) {
	t.Parallel()
	t.Run("a chart for each query and table, named by them", func(t *testing.T) {
		t.Parallel()
		titles := map[string]string{}
		for name, c := range madeUp(t) {
			titles[name] = c.Title
		}
		require.Equal(t, map[string]string{
			"first_page-agents":      "first page · agents",
			"count-agents":           "count · agents",
			"organization_hierarchy": "organization hierarchy",
			"write-insert":           "write · insert",
			"sign-in-sign_in":        "sign in · sign in",
			"unrelated-count-agents": "unrelated · count · agents",
		}, titles)
	})
	t.Run("names that differ in what no file name has are told apart", func(t *testing.T) {
		t.Parallel()
		charts, err := read("BenchmarkRead/query=a@>b/rows=1000-2 1 1 p50-ms", "BenchmarkRead/query=a<@b/rows=1000-2 1 1 p50-ms")
		require.NoError(t, err)
		require.Len(t, charts, 2)
		require.Equal(t, []string{"a-b", "a-b-2"}, []string{charts[0].Name, charts[1].Name})
	})
	for name, c := range map[string]struct{ line, want string }{
		"a line that is no result":           {"BenchmarkRead/query=a/rows=1000-2 1 fast p50-ms", "out.txt:1: parsing measurement"},
		"a number of rows that is none":      {"BenchmarkRead/query=a/rows=1M-2 1 1 p50-ms", "out.txt:1: Read/query=a/rows=1M-2: rows=1M: want a"},
		"a design that nobody knows":         {"BenchmarkRead/query=a/rows=1000/design=other-2 1 1 p50-ms", "design=other: want tenancy or literal"},
		"a median that has no logarithm":     {"BenchmarkRead/query=a/rows=1000-2 1 0 p50-ms", "0 p50-ms: want a positive number"},
		"a percentile that is no number":     {"BenchmarkRead/query=a/rows=1000-2 1 1 p50-ms NaN p95-ms", "NaN p95-ms: want a positive number"},
		"nothing that has rows":              {"BenchmarkProvision/parallel=4-2 1 7 p50-ms", "out.txt: no benchmark says rows= and p50-ms"},
		"nothing that has a median":          {"BenchmarkRead/rows=1000-2 1 7 ns/op", "no benchmark says rows= and p50-ms"},
		"something compared with two things": {"BenchmarkWrite/rows=1000-2 1 1 p50-ms 1 by-hand-p50-ms 1 bare-p50-ms", `compared with "bare" here, and elsewhere with "by hand"`},
		"the output of something else":       {"PASS", "no benchmark says rows= and p50-ms"},
		"a run that failed before the first": {"--- FAIL: BenchmarkRead", "no benchmark says rows= and p50-ms"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			t.Parallel()
			_, err := read(c.line)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestSVG(t *testing.T) {
	t.Parallel()
	t.Run("three lines through their medians, named with the last, and the budget", func(t *testing.T) {
		t.Parallel()
		svg, texts := picture(t, madeUp(t)["count-agents"])
		for _, want := range []string{"count · agents", "member, 2 tenants", "rows", "1k", "100k", "1M", "0.1 ms", "100 ms", "1 s",
			"tenancy 24 ms", "by hand 37 ms", "literal policies 2 s", "budget 50 ms up to 1k"} {
			require.Contains(t, texts, want)
		}
		for line, width := range map[string]string{"tenancy": "2", "other": "1.5", "literal": "1.5"} {
			curves := stroked(t, svg, line, width)
			require.Len(t, curves, 1, line)
			require.Len(t, curves[0], 3, line)
			require.Less(t, curves[0][0].y, curves[0][1].y, line)
			require.Less(t, curves[0][1].y, curves[0][2].y, line)
		}
		require.Len(t, stroked(t, svg, "tenancy", "1.2"), 6, "a bar and its end for each median of ours")
		require.Empty(t, stroked(t, svg, "other", "1.2"), "there is no percentile of the query by hand")
	})
	t.Run("both axes are logarithmic", func(t *testing.T) {
		t.Parallel()
		svg, texts := picture(t, madeUp(t)["count-agents"])
		decade := texts["1 ms"].y - texts["10 ms"].y
		require.InDelta(t, decade, texts["10 ms"].y-texts["100 ms"].y, 0.01)
		literal := stroked(t, svg, "literal", "1.5")[0] // 2.63, 206 and 2033 ms
		require.InDelta(t, decade*math.Log10(2033/206.0), literal[2].y-literal[1].y, 0.1)
		require.InDelta(t, literal[1].x-literal[0].x, 2*(literal[2].x-literal[1].x), 0.1, "two decades of rows, and one")
	})
	t.Run("names of lines do not lie over each other, and stand in the order of their figures", func(t *testing.T) {
		t.Parallel()
		_, texts := picture(t, madeUp(t)["count-agents"])
		order := []string{"tenancy 24 ms", "by hand 37 ms", "budget 50 ms up to 1k", "literal policies 2 s"}
		for i, below := range order[:len(order)-1] {
			above := order[i+1]
			require.Equal(t, texts[below].x, texts[above].x)
			require.GreaterOrEqual(t, texts[below].y-texts[above].y, 12.0, "%s, %s", below, above)
		}
	})
	t.Run("a panel for each user and shape of the database, on common axes", func(t *testing.T) {
		t.Parallel()
		svg, texts := picture(t, madeUp(t)["first_page-agents"])
		for _, want := range []string{"member, 2 tenants", "member, 20 tenants", "heavy, 20 tenants", "outsider, 20 tenants"} {
			require.Contains(t, texts, want)
		}
		require.Equal(t, 4, strings.Count(svg, ">0.1 ms</text>"), "the last one needs it")
		require.Equal(t, 4, strings.Count(svg, ">1 s</text>"), "the first one needs it")
		require.Equal(t, 4, strings.Count(svg, ">100k</text>"))
	})
	t.Run("the panels of a role are side by side, in whatever order they were measured", func(t *testing.T) {
		t.Parallel()
		charts, err := read(
			"BenchmarkRead/query=a/rows=1000/tenants=2/role=member-2 1 1 p50-ms", "BenchmarkRead/query=a/rows=1000/tenants=2/role=heavy-2 1 1 p50-ms",
			"BenchmarkRead/query=a/rows=1000/tenants=20/role=member-2 1 1 p50-ms", "BenchmarkRead/query=a/rows=1000/tenants=20/role=heavy-2 1 1 p50-ms")
		require.NoError(t, err)
		_, texts := picture(t, charts[0])
		for _, role := range []string{"member", "heavy"} {
			require.Equal(t, texts[role+", 2 tenants"].y, texts[role+", 20 tenants"].y)
			require.Less(t, texts[role+", 2 tenants"].x, texts[role+", 20 tenants"].x)
		}
	})
	t.Run("what was not measured is said", func(t *testing.T) {
		t.Parallel()
		_, texts := picture(t, madeUp(t)["organization_hierarchy"])
		require.Contains(t, texts, "not measured: literal policies, by hand")
		require.Contains(t, texts, "budget 10 ms")
		for name, nothing := range map[string]string{"count-agents": "all is there", "write-insert": "there is no literal text for it"} {
			svg, _ := picture(t, madeUp(t)[name])
			require.NotContains(t, svg, "not measured", nothing)
		}
	})
	t.Run("only the literal design was measured", func(t *testing.T) {
		t.Parallel()
		charts, err := read("BenchmarkRead/query=a/rows=1000/design=literal-2 1 1 p50-ms")
		require.NoError(t, err)
		_, texts := picture(t, charts[0])
		require.Contains(t, texts, "literal policies 1 ms")
		require.Contains(t, texts, "not measured: tenancy, by hand")
	})
	t.Run("several runs are one figure, their median", func(t *testing.T) {
		t.Parallel()
		_, texts := picture(t, madeUp(t)["write-insert"])
		require.Contains(t, texts, "tenancy 0.42 ms") // 0.409 and 0.429
		require.Contains(t, texts, "service 0.32 ms") // 0.314 and 0.334
	})
	t.Run("what it is compared with has the name that the benchmark gives it", func(t *testing.T) {
		t.Parallel()
		_, texts := picture(t, madeUp(t)["unrelated-count-agents"])
		require.Contains(t, texts, "alone 0.15 ms")
		require.Contains(t, texts, "member, beside 10 × as much of others")
	})
	t.Run("benchmarks that know nothing of designs are ours", func(t *testing.T) {
		t.Parallel()
		charts, err := read("BenchmarkRead/query=by_id/rows=1000/role=member-2 60 0.27 p50-ms 0.8 p95-ms 1.5 ratio")
		require.NoError(t, err)
		_, texts := picture(t, charts[0])
		require.Contains(t, texts, "tenancy 0.27 ms")
	})
	t.Run("names cannot write markup", func(t *testing.T) {
		t.Parallel()
		charts, err := read(`BenchmarkRead/query=<script>alert("&")<script>/role=<b>/rows=1000-2 60 0.27 p50-ms`)
		require.NoError(t, err)
		svg, texts := picture(t, charts[0])
		require.Contains(t, texts, `<script>alert("&")<script>`)
		require.NotContains(t, svg, "<script>")
		require.NotContains(t, svg, "<b>")
		require.Equal(t, "script-alert-script", charts[0].Name)
	})
	t.Run("the same figures make the same bytes", func(t *testing.T) {
		t.Parallel()
		again := madeUp(t)
		for name, c := range madeUp(t) {
			first, _ := picture(t, c)
			second, _ := picture(t, again[name])
			require.Equal(t, first, second)
			for range 3 {
				third, _ := picture(t, c)
				require.Equal(t, first, third)
			}
		}
	})
}

func TestWrite(t *testing.T) {
	t.Parallel()
	var charts []latency.Chart
	for _, c := range madeUp(t) {
		charts = append(charts, c)
	}
	folder := filepath.Join(t.TempDir(), "report", "latency")
	name, err := latency.Write(charts, folder)
	require.NoError(t, err)
	page, err := os.ReadFile(name)
	require.NoError(t, err)
	for _, c := range charts {
		svg, err := os.ReadFile(filepath.Join(folder, c.Name+".svg"))
		require.NoError(t, err)
		require.Contains(t, string(page), string(svg))
	}
	t.Run("the page needs nothing but itself", func(t *testing.T) {
		t.Parallel()
		text := strings.ReplaceAll(string(page), "http://www.w3.org/2000/svg", "") // a name, and no address
		require.NotRegexp(t, `(?i)<script|<link|src=|url\(|@import|https?:`, text)
	})
	t.Run("a folder that cannot be made is an error", func(t *testing.T) {
		t.Parallel()
		_, err := latency.Write(charts, name)
		require.ErrorContains(t, err, "write the pictures of latencies")
	})
}
