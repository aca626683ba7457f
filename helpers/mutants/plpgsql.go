package main

import (
	"cmp"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	pgquery "github.com/wasilibs/go-pgquery"
)

// edit is a piece of a body and what stands there instead.
type edit struct {
	operator, place string
	at, length      int // bytes of the body
	text            string
}

func (e edit) in(body string) string { return body[:e.at] + e.text + body[e.at+e.length:] }

// edits is everything that can be wrong in one place of a PL/pgSQL body. statement is
// the CREATE FUNCTION, CREATE PROCEDURE or DO that it is the body of.
func edits(statement, body string) ([]edit, error) {
	text, err := pgquery.ParsePlPgSqlToJSON(rowTyped.ReplaceAllString(statement, "${1}record${2}"))
	if err != nil {
		return nil, err
	}
	var tree any
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		return nil, err
	}
	b := &block{body: body}
	b.walk(tree)
	return append(b.edits, b.turned()...), nil
}

var comment = regexp.MustCompile(`--.*`)

// turned is the edits that let a step run after the one that follows it.
func (b *block) turned() (all []edit) {
	steps := slices.SortedFunc(slices.Values(b.steps), func(a, other edit) int { return cmp.Compare(a.at, other.at) })
	for i, second := range steps {
		if i == 0 {
			continue
		}
		first := steps[i-1]
		end := first.at + first.length
		if second.at < end || strings.TrimSpace(comment.ReplaceAllString(b.body[end:second.at], "")) != ";" {
			continue
		}
		all = append(all, edit{"the other way round", first.place, first.at, second.at + second.length - first.at,
			b.body[second.at:second.at+second.length] + b.body[end:second.at] + b.body[first.at:end]})
	}
	return all
}

// rowTyped is a variable of a table's type, whose fields the parser does not know without a database.
var rowTyped = regexp.MustCompile(`(?m)^(\s+\w+\s+(?:constant\s+)?)public\.organizations(;|\s*:=)`)

// block collects the edits of a body. The parser says on which line a statement is,
// and what its expressions are, word by word.
type block struct {
	body  string
	line  int
	edits []edit
	steps []edit // those that leave a whole statement out
}

// lineAt is where a line of the body begins.
func (b *block) lineAt(line int) int {
	at := 0
	for ; line > 1; line-- {
		next := strings.IndexByte(b.body[at:], '\n')
		if next < 0 {
			return len(b.body)
		}
		at += next + 1
	}
	return at
}

// find is where an expression stands at or after a place. The parser puts blanks where an INTO clause was.
func (b *block) find(query string, from int) int {
	first, _, _ := strings.Cut(query, "  ")
	for at := from; ; at++ {
		next := strings.Index(b.body[at:], first)
		if next < 0 {
			return -1
		}
		at += next
		if at+len(query) > len(b.body) {
			return -1
		}
		same := true
		for i := range len(query) {
			if query[i] != ' ' && query[i] != b.body[at+i] {
				same = false
				break
			}
		}
		if same {
			return at
		}
	}
}

var into = regexp.MustCompile(`(?is)^\s*into\s+(strict\s+)?[\w."]+(\s*,\s*[\w."]+)*`)

func (b *block) walk(value any) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			b.walk(element)
		}
	case map[string]any:
		line := b.line // of the statement that all these are parts of
		for _, name := range slices.Sorted(maps.Keys(value)) {
			b.line = line
			fields, ok := value[name].(map[string]any)
			if !ok {
				b.walk(value[name])
				continue
			}
			if line, ok := fields["lineno"].(float64); ok && strings.HasPrefix(name, "PLpgSQL_") {
				b.line = int(line)
			}
			b.statement(name, fields)
			if name != "PLpgSQL_expr" {
				b.walk(fields)
			}
		}
	}
}

func (b *block) statement(name string, fields map[string]any) {
	query := func(field string) string {
		e, _ := fields[field].(map[string]any)
		expr, _ := e["PLpgSQL_expr"].(map[string]any)
		q, _ := expr["query"].(string)
		return q
	}
	line := b.line
	switch name {
	case "PLpgSQL_expr":
		q, _ := fields["query"].(string)
		mode, _ := fields["parseMode"].(float64)
		b.expression(q, int(mode))
	case "PLpgSQL_stmt_if":
		b.whole("let it always be so", query("cond"), "", line, "true")
		b.whole("let it never be so", query("cond"), "", line, "false")
	case "PLpgSQL_stmt_perform":
		b.whole("do not do it", strings.TrimPrefix(query("expr"), "SELECT "), "perform ", line, "null")
	case "PLpgSQL_stmt_call":
		b.whole("do not call it", query("expr"), "", line, "null")
	case "PLpgSQL_stmt_execsql":
		b.whole("do not do it", query("sqlstmt"), "", line, "null")
	case "PLpgSQL_stmt_dynexecute":
		b.whole("do not execute it", query("query"), "execute ", line, "null")
	case "PLpgSQL_stmt_raise":
		if level, _ := fields["elog_level"].(float64); level >= 21 {
			b.raise(line)
		}
	case "PLpgSQL_stmt_commit":
		b.word("do not commit", "commit;", "null;", line)
	case "PLpgSQL_stmt_assign":
		q := query("expr")
		b.whole("do not assign it", q, "", line, "null")
	}
}

// whole is the edit that puts something in the place of an expression with the word before it.
func (b *block) whole(operator, query, before string, line int, other string) {
	if query == "" {
		return
	}
	at := b.find(query, b.lineAt(line))
	if at < 0 {
		return
	}
	start := at - len(before)
	if start < 0 || !strings.EqualFold(b.body[start:at], before) {
		return
	}
	length := len(before) + len(query)
	// An EXECUTE goes on to its semicolon.
	if before == "execute " {
		end := semicolon(b.body, at+len(query))
		length = end - start
	}
	e := edit{operator, brief(query), start, length, other}
	b.edits = append(b.edits, e)
	if other == "null" {
		b.steps = append(b.steps, e)
	}
}

func (b *block) word(operator, word, other string, line int) {
	from := b.lineAt(line)
	if at := strings.Index(b.body[from:], word); at >= 0 {
		b.edits = append(b.edits, edit{operator, "", from + at, len(word), other})
	}
}

// raise is the edit that takes an error away.
func (b *block) raise(line int) {
	from := b.lineAt(line)
	at := strings.Index(strings.ToLower(b.body[from:]), "raise ")
	if at < 0 {
		return
	}
	start := from + at
	end := semicolon(b.body, start)
	b.edits = append(b.edits, edit{"do not raise it", brief(b.body[start:end]), start, end - start, "null"})
}

// semicolon is where the statement ends that goes on at a place.
func semicolon(body string, at int) int {
	for quoted := false; at < len(body); at++ {
		switch {
		case body[at] == '\'':
			quoted = !quoted
		case body[at] == ';' && !quoted:
			return at
		}
	}
	return len(body)
}

// expression adds what can be wrong in an expression or an SQL statement.
func (b *block) expression(query string, mode int) {
	const (
		statement = 0 // an SQL statement
		assign    = 3 // name := expression
	)
	prefix, sql := "", query
	switch {
	case mode == statement && strings.HasPrefix(query, "SELECT ") && b.find(query, b.lineAt(b.line)) < 0:
		prefix, sql = "SELECT ", strings.TrimPrefix(query, "SELECT ") // of a PERFORM
	case mode >= assign:
		_, value, ok := strings.Cut(query, ":=")
		if !ok {
			return
		}
		prefix, sql = "SELECT ", strings.TrimLeft(value, " \n")
	case mode != statement:
		prefix = "SELECT "
	}
	at := b.find(sql, b.lineAt(max(b.line, 1)))
	if at < 0 {
		return
	}
	target := ""
	if mode == statement && prefix == "" {
		for i := range len(sql) {
			if sql[i] == ' ' && b.body[at+i] != ' ' && b.body[at+i] != '\n' {
				target = " " + strings.TrimSpace(into.FindString(b.body[at+i:]))
				break
			}
		}
	}
	all, err := variants(prefix + sql)
	if err != nil {
		return // PL/pgSQL's own, such as GET DIAGNOSTICS
	}
	for _, v := range all {
		text := strings.TrimPrefix(v.sql, prefix) + target
		b.edits = append(b.edits, edit{v.operator, v.place, at, len(sql), text})
	}
}
