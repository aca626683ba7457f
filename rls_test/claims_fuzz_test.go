package rls_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// FuzzClaims makes signed-in requests with whatever for claims. They name one user or
// nobody, whose rows are read, and nothing of them is left on the connection. What it
// starts from is in testdata/fuzz, and is all that an ordinary run tries; go test
// -fuzz=FuzzClaims makes up more.
func FuzzClaims(f *testing.F) {
	c := newClaimant(f, secured(f))
	f.Fuzz(func(t *testing.T, claims string) {
		require.Empty(t, c.problem(t, claims), "with claims %.300q", claims)
	})
}

// claimant makes requests on one connection, one after another.
type claimant struct {
	conn  *pgx.Conn
	world world
}

func newClaimant(t testing.TB, db *pgtest.DB) claimant {
	t.Helper()
	return claimant{db.Connect(t, pgtest.APIRole), migrated().withHistory(t, db)}
}

// problem is what is wrong with a request with these claims, "" if nothing is.
func (c claimant) problem(t testing.TB, claims string) (problem string) {
	t.Helper()
	user, sure := namedBy(claims)
	require.NoError(t, pgx.BeginFunc(t.Context(), c.conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `select set_config('role', 'authenticated', true)`)
		require.NoError(t, err)
		// Claims that are no text are refused here already, and the request has none.
		_ = pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), `select set_config('request.jwt.claims', $1, true)`, claims)
			return err
		})
		problem = c.problemIn(t, tx, user)
		if !sure && user != "" && problem != "" && c.problemIn(t, tx, "") == "" {
			problem = ""
		}
		return nil
	}))
	if problem != "" {
		return problem
	}
	require.NoError(t, pgx.BeginFunc(t.Context(), c.conn, func(tx pgx.Tx) error {
		found, err := column(t.Context(), tx,
			`select concat_ws(' ', session_user, current_user, current_setting('role'), quote_literal(coalesce(current_setting('request.jwt.claims', true), '')))`)
		require.NoError(t, err)
		if want := pgtest.APIRole + " " + pgtest.APIRole + " none ''"; found[0] != want {
			problem = fmt.Sprintf("the connection is left as %.300s, and must be as %s", found[0], want)
			return nil
		}
		_, err = tx.Exec(t.Context(), `set local role authenticated`)
		require.NoError(t, err)
		if left := caughtUID(t, tx); left != "" {
			problem = "the connection is left with the user " + left
		}
		return nil
	}))
	return problem
}

// problemIn compares what a request sees and may ask with what is for a user, "" for nobody.
func (c claimant) problemIn(t testing.TB, tx pgx.Tx, user string) string {
	t.Helper()
	reads, failures := readAll(t, tx)
	want := map[string][]string{}
	for _, r := range c.world.rows {
		if c.world.mayRead(user, r) {
			want[r.table] = append(want[r.table], r.key)
		}
	}
	for table := range tables {
		slices.Sort(reads[table])
		slices.Sort(want[table])
		if err := failures[table]; err != nil && user != "" {
			return fmt.Sprintf("%q cannot read %s: %s", user, table, err)
		}
		if !slices.Equal(reads[table], want[table]) {
			return fmt.Sprintf("%q reads of %s %v, and must read %v", user, table, reads[table], want[table])
		}
	}
	if uid := caughtUID(t, tx); uid != user {
		return fmt.Sprintf("the user is %q, and must be %q", uid, user)
	}
	asks := attempt(t, tx, `select * from public.get_accessible_agents('`+fixtures.Bob.ID+`')`)
	if (asks == done) != (user == fixtures.Bob.ID) {
		return fmt.Sprintf("%q asks which agents are Bob's: %s", user, asks)
	}
	who, err := column(t.Context(), tx, `select session_user || ' as ' || current_user`)
	require.NoError(t, err)
	if want := pgtest.APIRole + " as authenticated"; who[0] != want {
		return fmt.Sprintf("the request has become %s, and must be %s", who[0], want)
	}
	return ""
}

// caughtUID is auth.uid(), "" where that is nobody or an error.
func caughtUID(t testing.TB, tx pgx.Tx) (uid string) {
	t.Helper()
	_ = pgx.BeginFunc(t.Context(), tx, func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), `select coalesce(auth.uid()::text, '')`).Scan(&uid)
	})
	return uid
}

// namedBy is whom claims name, "" for nobody: a JSON object has a sub, which is a UUID
// in one of the forms that PostgreSQL accepts. Whoever is named twice is named by the
// last one, and names are case-sensitive. Where Go and PostgreSQL differ:
//
//   - PostgreSQL refuses all claims in which there is a \u0000 or half a surrogate, Go reads on.
//   - auth.uid() takes the sub as text, and so a number that has 32 digits for a UUID. Go's
//     types would tell them apart; who signs a number for a user means that one.
//   - How deep claims may nest and how large a number may be is each one's own affair.
//     Beyond any use, nobody is as right as who is named: then it is not sure.
func namedBy(claims string) (user string, sure bool) {
	if !utf8.ValidString(claims) || !json.Valid([]byte(claims)) || !escapesText(claims) {
		return "", true
	}
	decoder := json.NewDecoder(strings.NewReader(claims))
	decoder.UseNumber()
	sure, depth := true, 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		switch v := token.(type) {
		case json.Delim:
			if depth++; v == '}' || v == ']' {
				depth -= 2
			}
		case json.Number:
			sure = sure && reasonable(v)
		}
		sure = sure && depth <= 1000
	}
	var object map[string]any
	decoder = json.NewDecoder(strings.NewReader(claims))
	decoder.UseNumber()
	if decoder.Decode(&object) != nil {
		return "", sure
	}
	switch sub := object["sub"].(type) {
	case string:
		return uuidOf(sub), sure
	case json.Number:
		return uuidOf(integer(sub)), sure
	}
	return "", sure
}

var escape = regexp.MustCompile(`\\(?:u([0-9a-fA-F]{4})|.)`)

// escapesText is whether the escapes of a JSON text stand for text: no NUL and no half
// of a surrogate.
func escapesText(text string) bool {
	high := -1 // where a low surrogate must stand
	for _, m := range escape.FindAllStringSubmatchIndex(text, -1) {
		var code uint64
		if m[2] >= 0 {
			code, _ = strconv.ParseUint(text[m[2]:m[3]], 16, 16)
		}
		low := code >= 0xdc00 && code < 0xe000
		if m[2] >= 0 && code == 0 || low != (high == m[0]) || high >= 0 && high != m[0] {
			return false
		}
		high = -1
		if code >= 0xd800 && code < 0xdc00 {
			high = m[1]
		}
	}
	return high < 0
}

// scientific takes a number apart: how many digits stand behind the point, and the
// exponent.
func scientific(n json.Number) (fraction, exponent int, err error) {
	mantissa, e, _ := strings.Cut(strings.ToLower(n.String()), "e")
	if _, behind, ok := strings.Cut(mantissa, "."); ok {
		fraction = len(behind)
	}
	if e != "" {
		exponent, err = strconv.Atoi(e)
	}
	return fraction, exponent, err
}

// reasonable is whether a number is one that everybody can read.
func reasonable(n json.Number) bool {
	_, exponent, err := scientific(n)
	return err == nil && len(n) <= 1000 && max(exponent, -exponent) <= 1000
}

// integer is a number as PostgreSQL writes it, "" for one that it writes with a point.
func integer(n json.Number) string {
	fraction, exponent, _ := scientific(n)
	if !reasonable(n) || fraction > exponent {
		return ""
	}
	value, _ := new(big.Rat).SetString(n.String()) // it is one
	return value.Num().String()
}

var uuid = regexp.MustCompile(`^(?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}$`)

// uuidOf is the UUID that a text stands for, as everybody writes it, "" if it is none.
// PostgreSQL takes a hyphen after any four digits, and braces around them.
func uuidOf(text string) string {
	if strings.HasPrefix(text, "{") && strings.HasSuffix(text, "}") {
		text = text[1 : len(text)-1]
	}
	if !uuid.MatchString(text) {
		return ""
	}
	text = strings.ToLower(strings.ReplaceAll(text, "-", ""))
	return strings.Join([]string{text[:8], text[8:12], text[12:16], text[16:20], text[20:]}, "-")
}

// seeds is the claims in testdata/fuzz, by the names of their files.
func seeds(t testing.TB) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/fuzz/FuzzClaims/*")
	require.NoError(t, err)
	found := map[string]string{}
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		literal, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "go test fuzz v1\nstring(")
		require.True(t, ok, name)
		found[filepath.Base(name)], err = strconv.Unquote(strings.TrimSuffix(literal, ")"))
		require.NoError(t, err, name)
	}
	require.NotEmpty(t, found)
	return found
}

// TestPhase4LargeClaims is apart from the seeds, because the fuzzer would spend its time
// on them.
func TestPhase4LargeClaims(t *testing.T) {
	t.Parallel()
	c := newClaimant(t, secured(t))
	alice := func(more string) string { return `{"sub": "` + fixtures.Alice.ID + `", "x": ` + more + `}` }
	for what, claims := range map[string]string{
		"a long text":             alice(`"` + strings.Repeat("x", 1<<20) + `"`),
		"nested":                  alice(strings.Repeat("[", 900) + strings.Repeat("]", 900)),
		"nested deeper than that": alice(strings.Repeat("[", 50_000) + strings.Repeat("]", 50_000)),
		"only opened":             strings.Repeat(`{"sub":`, 1<<17),
		"a long user":             `{"sub": "` + strings.Repeat(fixtures.Alice.ID, 1<<15) + `"}`,
		"many users":              "{" + strings.Repeat(`"sub": "`+fixtures.Bob.ID+`", `, 1<<14) + `"sub": "` + fixtures.Alice.ID + `"}`,
	} {
		t.Run(what, func(t *testing.T) { require.Empty(t, c.problem(t, claims)) })
	}
}

// TestPhase4FuzzedClaims makes sure that the seeds would find somebody who reads claims
// otherwise: each of these does so with one of them.
func TestPhase4FuzzedClaims(t *testing.T) {
	t.Parallel()
	uid := func(expression string) func(testing.TB, *pgtest.DB) {
		return statement(`create or replace function auth.uid() returns uuid language sql stable as $$ select (` + expression + `)::uuid $$`)
	}
	const claims = `nullif(current_setting('request.jwt.claims', true), '')`
	for what, test := range map[string]struct {
		breaks func(testing.TB, *pgtest.DB)
		found  string // the seed that tells
	}{
		"by a pattern":                         {uid(`substring(` + claims + ` from '"sub": *"([^"]*)"')`), "twice"},
		"by a pattern, where it is no JSON":    {uid(`substring(` + claims + ` from '"sub": *"([^"]*)"')`), "cut_off"},
		"by what the user has written":         {uid(`coalesce(` + claims + `::jsonb #>> '{user_metadata,sub}', ` + claims + `::jsonb ->> 'sub')`), "user_metadata"},
		"without what is no hexadecimal digit": {uid(`left(nullif(regexp_replace(` + claims + `::jsonb ->> 'sub', '[^0-9a-f-]', '', 'g'), ''), 36)`), "sub_with_sql_behind"},
		"by the first element of a list":       {uid(`coalesce(` + claims + `::jsonb ->> 'sub', ` + claims + `::jsonb ->> 0)`), "list"},
		"with a user for those who have none":  {uid(`coalesce(` + claims + `::jsonb ->> 'sub', '` + fixtures.Eve.ID + `')`), "no_sub"},
		"with errors as somebody": {statement(`
			create or replace function auth.uid() returns uuid language plpgsql stable as $$ begin
				return (` + claims + `::jsonb ->> 'sub')::uuid;
			exception when others then return '` + fixtures.Alice.ID + `'; end $$`), "sub_email"},
		"and remembers who it was": {statement(`
			create or replace function auth.uid() returns uuid language plpgsql stable as $$ begin
				if ` + claims + ` is not null then perform set_config('tenancy.uid', ` + claims + `::jsonb ->> 'sub', false); end if;
				return nullif(current_setting('tenancy.uid', true), '')::uuid; end $$`), "alice"},
		"and believes the role": {statement(`
			create or replace function authz.is_privileged() returns boolean language sql stable set search_path = ''
			return coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role' = 'service_role', false)`), "role_service"},
		"and becomes the role": {statement(`
			create or replace function auth.uid() returns uuid language plpgsql stable as $$ begin
				if ` + claims + `::jsonb ->> 'role' = 'anon' then perform set_config('role', 'anon', false); end if;
				return ` + claims + `::jsonb ->> 'sub'; end $$`), "role_anon"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db := secured(t)
			test.breaks(t, db)
			seed, ok := seeds(t)[test.found]
			require.True(t, ok, "there is no seed %s", test.found)
			require.NotEmpty(t, newClaimant(t, db).problem(t, seed), "claims %s", seed)
		})
	}
}
