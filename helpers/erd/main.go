// Command erd draws what it reads, in Graphviz's language, as an SVG. It says in it what it
// is drawn from: see document.Sum.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"

	"github.com/goccy/go-graphviz"
)

func main() {
	if err := draw(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "erd:", err)
		os.Exit(1)
	}
}

func draw(ctx context.Context, in io.Reader, out io.Writer) error {
	dot, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	if len(dot) == 0 {
		return fmt.Errorf("there is nothing to draw")
	}
	g, err := graphviz.New(ctx)
	if err != nil {
		return err
	}
	defer g.Close()
	graph, err := graphviz.ParseBytes(dot)
	if err != nil {
		return fmt.Errorf("read the graph: %w", err)
	}
	defer graph.Close()
	var svg bytes.Buffer
	if err := g.Render(ctx, graph, graphviz.SVG, &svg); err != nil {
		return fmt.Errorf("draw the graph: %w", err)
	}
	if _, err := out.Write(svg.Bytes()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "<!-- of %x -->\n", sha256.Sum256(dot))
	return err
}
