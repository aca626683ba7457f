package main

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"

	pgquery "github.com/wasilibs/go-pgquery"

	"github.com/vital-health/tenancy/helpers/sarif"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// statement is one of a file.
type statement = script.Statement

// reader reads one file.
type reader struct {
	file       schema.File
	classified string // what the files say about tables' classes
	open       bool   // a transaction is
	found      []sarif.Finding
}

// read parses every statement of every file, and returns what breaks a rule, and the statements by file.
func read(files []schema.File) (found []sarif.Finding, statements map[string][]statement) {
	statements = map[string][]statement{}
	classified := ""
	for _, f := range files {
		all, err := script.Split(f)
		if err != nil {
			line, message := 1, err.Error()
			if e, ok := errors.AsType[*script.Error](err); ok {
				line, message = e.Line, e.Err.Error()
			}
			found = append(found, sarif.Finding{Rule: "syntax", File: f.Origin, Line: line, Message: message})
			continue
		}
		statements[f.Origin] = all
		for _, s := range all {
			if strings.HasPrefix(s.SQL, "insert into tenancy.classified_table") {
				classified += s.SQL
			}
		}
	}
	for _, f := range files {
		r := reader{file: f, classified: classified}
		for _, s := range statements[f.Origin] {
			r.statement(s)
		}
		found = append(found, r.found...)
	}
	return found, statements
}

func (r *reader) say(line int, rule, message string) {
	r.found = append(r.found, sarif.Finding{Rule: rule, File: r.file.Origin, Line: line, Message: message})
}

// node is one of a parse tree, as JSON has it.
type node = map[string]any

func (r *reader) statement(s statement) {
	tree, err := parse(s.SQL)
	if err != nil {
		r.say(s.Line+err.line, "syntax", err.message)
		return
	}
	for _, top := range list(tree["stmts"]) {
		body, _ := top["stmt"].(node)
		if transaction, ok := body["TransactionStmt"].(node); ok {
			r.open = transaction["kind"] == "TRANS_STMT_BEGIN" || transaction["kind"] == "TRANS_STMT_START"
		}
		for kind, what := range body {
			if !r.open {
				r.alone(s.Line, kind, what.(node))
			}
		}
	}
	r.walk(tree, s.Line)
	r.inside(s, tree)
}

// inside reads the body of a block or a function.
func (r *reader) inside(s statement, tree node) {
	body, language := bodyOf(tree)
	if body == "" {
		return
	}
	opens := s.Line + strings.Count(s.SQL[:max(0, strings.Index(s.SQL, body))], "\n")
	switch language {
	case "sql":
		inner, err := parse(body)
		if err != nil {
			r.say(opens+err.line, "syntax", err.message)
			return
		}
		r.walk(inner, opens)
	case "plpgsql":
		text, err := pgquery.ParsePlPgSqlToJSON(s.SQL)
		if err != nil {
			r.say(s.Line, "unread", "this body is not read, and so not reviewed: "+err.Error())
			return
		}
		var functions []any
		if err := json.Unmarshal([]byte(text), &functions); err != nil {
			r.say(s.Line, "unread", err.Error())
			return
		}
		r.expressions(functions, opens, 1)
	}
}

// expressions reads the SQL in a tree of PL/pgSQL, whose lines count from that on which the body opens.
func (r *reader) expressions(tree any, opens, line int) {
	switch tree := tree.(type) {
	case []any:
		for _, child := range tree {
			r.expressions(child, opens, line)
		}
	case node:
		if at, ok := tree["lineno"].(float64); ok {
			line = int(at)
		}
		if expression, ok := tree["PLpgSQL_expr"].(node); ok {
			sql, _ := expression["query"].(string)
			switch mode, _ := expression["parseMode"].(float64); {
			case mode >= 3: // an assignment
				_, value, _ := strings.Cut(sql, "=")
				sql = "select " + value
			case mode == 2:
				sql = "select " + sql
			}
			if inner, err := parse(sql); err == nil {
				r.walk(inner, opens+line-1)
			}
			return
		}
		for _, child := range tree {
			r.expressions(child, opens, line)
		}
	}
}

// walk applies the rules to every node of a tree, and to the SQL in its strings.
func (r *reader) walk(tree any, line int) {
	switch tree := tree.(type) {
	case []any:
		for _, child := range tree {
			r.walk(child, line)
		}
	case node:
		if tree["defname"] == "as" {
			return // a body, which is read by itself
		}
		for kind, child := range tree {
			if body, ok := child.(node); ok {
				r.judge(line, kind, body)
			}
			if text, ok := child.(string); ok && kind == "sval" {
				r.dynamic(line, text)
				continue
			}
			r.walk(child, line)
		}
	}
}

// place is where format() puts something.
var place = regexp.MustCompile(`%(?:\d+\$)?([ILs])`)

// sqlWords begin what a string that is SQL begins with.
var sqlWords = regexp.MustCompile(`(?is)^\s*(alter|create|drop|grant|revoke|update|insert|delete|truncate|lock)\s`)

// dynamic reads a string that will be SQL once format() has filled it in, as far as it can be read before.
func (r *reader) dynamic(line int, text string) {
	if !sqlWords.MatchString(text) {
		return
	}
	filled := place.ReplaceAllStringFunc(text, func(p string) string {
		if strings.HasSuffix(p, "L") {
			return "'filled'"
		}
		return "filled"
	})
	if tree, err := parse(filled); err == nil {
		r.walk(tree, line)
	}
}

type parseError struct {
	line    int // from 0
	message string
}

// parse is the tree of a statement, as JSON.
func parse(sql string) (tree node, failed *parseError) {
	text, err := pgquery.ParseToJSON(sql)
	if err != nil {
		failed = &parseError{message: err.Error()}
		if at, ok := position(err); ok {
			failed.line = strings.Count(sql[:min(max(at-1, 0), len(sql))], "\n")
		}
		return nil, failed
	}
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		return nil, &parseError{message: err.Error()}
	}
	return tree, nil
}

// bodyOf is the body of a block or a function that is given as a string, and its language.
func bodyOf(tree node) (body, language string) {
	language = "plpgsql" // that of a block which does not say
	for _, top := range list(tree["stmts"]) {
		statement, _ := top["stmt"].(node)
		for kind, options := range map[string]string{"DoStmt": "args", "CreateFunctionStmt": "options"} {
			creates, _ := statement[kind].(node)
			for _, option := range list(creates[options]) {
				element, _ := option["DefElem"].(node)
				switch element["defname"] {
				case "language":
					language = text(element["arg"])
				case "as":
					body = text(element["arg"])
				}
			}
		}
	}
	return body, language
}

// list are the nodes of a list.
func list(of any) (all []node) {
	items, _ := of.([]any)
	for _, item := range items {
		if n, ok := item.(node); ok {
			all = append(all, n)
		}
	}
	return all
}

// text is the first string in a tree.
func text(of any) string {
	switch of := of.(type) {
	case node:
		if s, ok := of["sval"].(string); ok {
			return s
		}
		for _, child := range of {
			if s := text(child); s != "" {
				return s
			}
		}
	case []any:
		for _, child := range of {
			if s := text(child); s != "" {
				return s
			}
		}
	}
	return ""
}
