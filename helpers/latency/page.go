package latency

import (
	"bytes"
	_ "embed"
	"fmt"
	"html"
	"html/template"
	"os"
	"path/filepath"
	"strings"
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Parse(pageText))

// Write writes each chart into the folder, and a page that shows them all, whose name it returns.
func Write(charts []Chart, folder string) (page string, err error) {
	type picture struct {
		Chart
		Picture template.HTML
	}
	var pictures []picture
	files := map[string][]byte{}
	for _, c := range charts {
		svg, err := c.SVG()
		if err != nil {
			return "", err
		}
		files[c.Name+".svg"] = svg
		pictures = append(pictures, picture{c, template.HTML(svg)})
	}
	var text bytes.Buffer
	if err := pageTemplate.Execute(&text, pictures); err != nil {
		return "", fmt.Errorf("write the page of latencies: %w", err)
	}
	files["index.html"] = text.Bytes()
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", fmt.Errorf("write the pictures of latencies: %w", err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o644); err != nil {
			return "", fmt.Errorf("write the pictures of latencies: %w", err)
		}
	}
	return filepath.Join(folder, "index.html"), nil
}

// dress gives the SVG that the library made what it does not have: a name for those who do not see it, the size of the
// place that it is given, the reader's font, and colours for dark ground. A reader that knows no CSS variables takes the
// colour before.
func (c Chart) dress(svg string, width, height float64) ([]byte, error) {
	_, rest, ok := strings.Cut(svg, "<svg ")
	_, body, closed := strings.Cut(rest, ">\n")
	if !ok || !closed {
		return nil, fmt.Errorf("draw %s: the library's SVG does not begin as one", c.Title)
	}
	var replace []string
	var light, dark strings.Builder
	for _, i := range inks {
		for _, property := range []string{"fill", "stroke"} {
			plain := fmt.Sprintf("%s:%s", property, hex(i.light))
			replace = append(replace, plain, fmt.Sprintf("%s;%s:var(--%s)", plain, property, i.name))
		}
		fmt.Fprintf(&light, "--%s:%s;", i.name, hex(i.light))
		fmt.Fprintf(&dark, "--%s:%s;", i.name, hex(i.dark))
	}
	replace = append(replace, "font-family:Liberation Sans;font-variant:normal;font-weight:normal;font-style:normal;", "")
	title := html.EscapeString(c.Title)
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" class="latency" width="%g" height="%g" viewBox="0 0 %g %g" role="img"
	aria-label="Latency: %s">
<title>%s</title>
<style>
svg.latency{%s;background:#FFFFFF;max-width:100%%;height:auto}
svg.latency text{font-family:Helvetica,Arial,'Liberation Sans',sans-serif}
@media(prefers-color-scheme:dark){svg.latency{%s;background:#15191E}}
</style>
%s`, width, height, width, height, title, title, strings.TrimSuffix(light.String(), ";"), strings.TrimSuffix(dark.String(), ";"),
		strings.NewReplacer(replace...).Replace(body)), nil
}
