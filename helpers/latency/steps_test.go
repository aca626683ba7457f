package latency_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/latency"
)

func TestSteps(t *testing.T) {
	t.Parallel()
	steps := []latency.Step{{Name: "idle", Median: 1, Tail: 10, Max: 100}, {Name: "phase2", Median: 2, Tail: 20, Max: 1500}, {Name: "rollback of phase2", Median: 3, Tail: 3, Max: 3}}
	content, err := latency.Steps("What users wait", steps)
	require.NoError(t, err)
	svg, texts := words(t, content)
	t.Run("each has its name and its figures beside it, one below the other", func(t *testing.T) {
		t.Parallel()
		require.Contains(t, texts, "What users wait")
		last := texts["What users wait"].y
		for i, figures := range []string{"1 ms, 10 ms, 100 ms", "2 ms, 20 ms, 1.5 s", "3 ms, 3 ms, 3 ms"} {
			require.InDelta(t, texts[steps[i].Name].y, texts[figures].y, 1, figures)
			require.Greater(t, texts[figures].y, last+12, figures)
			last = texts[figures].y
		}
	})
	t.Run("the bar reaches from the median to the 99th percentile, the line on to the longest wait", func(t *testing.T) {
		t.Parallel()
		bars, lines := stroked(t, svg, "tenancy", "5"), stroked(t, svg, "tenancy", "1.2") // of each step a line, and its end
		require.Len(t, bars, 3)
		require.Len(t, lines, 6)
		decade := bars[0][1].x - bars[0][0].x // 1 to 10 ms
		require.Positive(t, decade)
		for i, s := range steps {
			bar, line, end := bars[i], lines[2*i], lines[2*i+1]
			require.InDelta(t, bars[0][0].x+decade*math.Log10(s.Median), bar[0].x, 0.1, s.Name)
			require.InDelta(t, decade*math.Log10(s.Tail/s.Median), bar[1].x-bar[0].x, 0.1, s.Name)
			require.Equal(t, bar[1], line[0], s.Name)
			require.InDelta(t, decade*math.Log10(s.Max/s.Tail), line[1].x-line[0].x, 0.1, s.Name)
			require.Equal(t, line[1].x, end[0].x, s.Name)
		}
	})
	t.Run("nothing reaches beyond the picture", func(t *testing.T) {
		t.Parallel()
		for words, at := range texts {
			require.GreaterOrEqual(t, at.x, 8.0, words)
			require.Less(t, at.x+6*float64(len(words)), 920.0, words)
		}
	})
	t.Run("names cannot write markup", func(t *testing.T) {
		t.Parallel()
		content, err := latency.Steps("<b>", []latency.Step{{Name: `<script>alert("&")</script>`, Median: 1, Tail: 1, Max: 1}})
		require.NoError(t, err)
		svg, texts := words(t, content)
		require.Contains(t, texts, `<script>alert("&")</script>`)
		require.NotContains(t, svg, "<script>")
		require.NotContains(t, svg, "<b>")
	})
	for name, c := range map[string]struct {
		steps []latency.Step
		want  string
	}{
		"no step":                      {nil, "draw What: there is no step"},
		"a wait that has no logarithm": {[]latency.Step{{Name: "idle", Median: 0, Tail: 1, Max: 1}}, "draw What: idle: 0 ms: want a positive number"},
		"a wait that is no number":     {[]latency.Step{{Name: "idle", Median: 1, Tail: 1, Max: math.NaN()}}, "draw What: idle: NaN ms: want a positive number"},
		"a wait without end":           {[]latency.Step{{Name: "idle", Median: 1, Tail: math.Inf(1), Max: 1}}, "draw What: idle: +Inf ms: want a positive number"},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			t.Parallel()
			_, err := latency.Steps("What", c.steps)
			require.ErrorContains(t, err, c.want)
		})
	}
}
