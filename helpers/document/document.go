// Package document writes the parts of docs/ that say what the database is, from the database itself.
//
// A document is Markdown, written by hand but for regions that are generated:
//
//	<!-- generated: tables -->
//	…
//	<!-- end -->
//
// `make docs` fills them anew; a test says when they are not what the database is.
package document

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Querier is a pgx.Tx, *pgx.Conn or *pgxpool.Pool.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

var region = regexp.MustCompile(`(?s)(<!-- generated: (\w+) -->\n).*?(<!-- end -->)`)

// Fill replaces what is generated in a document. That it names a region which is not
// among them, or lacks one of those, is an error.
func Fill(text string, regions map[string]string) (string, error) {
	var wrong []string
	filled := map[string]bool{}
	text = region.ReplaceAllStringFunc(text, func(found string) string {
		m := region.FindStringSubmatch(found)
		content, ok := regions[m[2]]
		if !ok {
			wrong = append(wrong, "nothing generates "+m[2])
		}
		filled[m[2]] = true
		return m[1] + "\n" + strings.TrimSpace(content) + "\n\n" + m[3]
	})
	for name := range regions {
		if !filled[name] {
			wrong = append(wrong, "there is no place for "+name)
		}
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		return "", fmt.Errorf("fill the generated regions: %s", strings.Join(wrong, "; "))
	}
	return text, nil
}

// Sum is the mark by which a picture says what it is drawn from.
func Sum(dot string) string {
	sum := sha256.Sum256([]byte(dot))
	return hex.EncodeToString(sum[:])
}

// rows runs a query and returns its rows as structs, by position.
func rows[T any](ctx context.Context, db Querier, sql string, args ...any) ([]T, error) {
	found, err := db.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(found, pgx.RowToStructByPos[T])
}

// cell is text in a table of Markdown.
func cell(text string) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(text, "|", `\|`)), " ")
}

// code is text as it is.
func code(text string) string {
	if text == "" {
		return ""
	}
	return "`" + cell(text) + "`"
}

// plain leaves out what everybody knows.
func plain(text string) string { return strings.ReplaceAll(text, "public.", "") }
