package dump

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
)

// What the tests of the phases go by is kept beside them.
func kept(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "phases_test", "dump", "testdata", name))
	require.NoError(t, err)
	return path
}

func contents(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return text
}

func written(t *testing.T, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.dump")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	return path
}

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return out.Bytes()
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ path, says string }{
		"a relative path":                         {"a.dump", "give an absolute path"},
		"what is not there":                       {filepath.Join(t.TempDir(), "none"), "no such file"},
		"a folder that pg_dump did not write":     {t.TempDir(), "has no toc.dat"},
		"an empty file":                           {written(t, nil), "the file is empty"},
		"a text":                                  {written(t, []byte("create table a ();\n")), "it is no dump: want a file that pg_dump wrote"},
		"a zipped text":                           {written(t, zipped(t, "create table a ();\n")), "it is no dump"},
		"what is called zipped and is not":        {written(t, append(gzipMagic, "nothing"...)), "unzip it"},
		"a dump of a whole cluster":               {written(t, []byte("--\n-- PostgreSQL database cluster dump\n--\n")), "give one of the database, by pg_dump"},
		"a program, which has no readable letter": {written(t, []byte{0x7f, 'E', 'L', 'F', 0, 1, 2}), "it is no dump"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := Open(test.path)
			require.ErrorContains(t, err, test.says)
			require.ErrorContains(t, err, test.path)
		})
	}
}

// What cannot be restored leaves nothing that a test could take for the dump.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	custom, plain := contents(t, kept(t, "world.dump")), unzip(t, kept(t, "world.sql.gz"))
	// Of the archive's version, which stands behind its name, the second byte.
	newer := bytes.Clone(custom)
	newer[len(customMagic)+1] = 99
	require.EqualValues(t, 1, newer[len(customMagic)])

	for name, test := range map[string]struct {
		dump []byte
		says []string
	}{
		"half of a custom dump":                   {custom[:len(custom)/2], []string{"pg_restore", "Is the file complete?"}},
		"the beginning of a custom dump":          {custom[:100], []string{"pg_restore", "Is the file complete?"}},
		"a custom dump of a newer pg_dump":        {newer, []string{"unsupported version", "install the client of that version, or give a plain dump"}},
		"half of a plain dump, inside rows":       {plain[:bytes.Index(plain, []byte("Conversation 3"))], []string{"the file ends inside the rows of the COPY that begins here"}},
		"half of a plain dump, inside a function": {plain[:bytes.Index(plain, []byte("perform 1"))], []string{"the file ends inside the statement that begins here"}},
		"a plain dump without its end":            {plain[:bytes.LastIndex(plain, []byte("ALTER DEFAULT PRIVILEGES"))], []string{`without the line "-- PostgreSQL database dump complete"`}},
		"half of a zipped dump":                   {zipped(t, string(plain))[:9000], []string{"unexpected EOF"}},
		"what psql would run on this machine":     {text("", `\! true`), []string{`line 6: \! true is nothing that pg_dump writes`}},
		"a table with a type that nobody has": {text("public", "CREATE TABLE public.a (b public.vector);", "COPY public.a (b) FROM stdin;", "[1]", `\.`),
			[]string{"of schema public, which the phases are about, this server could not restore:", `line 6: table public.x: type "public.vector" does not exist`, `line 7: table public.x: relation "public.a" does not exist`}},
		"a view of a schema that is not in it": {text("public", "CREATE VIEW public.a AS SELECT * FROM elsewhere.b;"),
			[]string{"relation \"elsewhere.b\" does not exist"}},
		"a default of a schema that is not in it": {text("public", "CREATE TABLE public.a (b uuid DEFAULT elsewhere.f());"),
			[]string{"pg_dump without -n and -N"}},
		"a row that the table does not take": {text("public", "CREATE TABLE public.a (b integer);", "COPY public.a (b) FROM stdin;", "one", `\.`),
			[]string{"line 7: table public.x: invalid input syntax for type integer"}},
		"a database on which phases are complete": {text("tenancy", "CREATE SCHEMA tenancy;", "CREATE TABLE tenancy.completed_phase (phase integer);", "INSERT INTO tenancy.completed_phase VALUES (1), (2);"),
			[]string{"phase 2 is complete in it: give a dump from before phase 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, err := Open(written(t, test.dump))
			require.NoError(t, err)
			err = d.restore(t.Context(), pgtest.Empty(t).Connect(t, ""))
			for _, sentence := range test.says {
				require.ErrorContains(t, err, sentence)
			}
		})
	}
}

// text is a plain dump of one object, called x, and these lines.
func text(schema string, lines ...string) []byte {
	return []byte("--\n-- PostgreSQL database dump\n--\n-- Name: x; Type: TABLE; Schema: " + schema + "; Owner: o\n--\n" +
		strings.Join(lines, "\n") + "\n" + lastLine + "\n")
}

func unzip(t *testing.T, path string) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(contents(t, path)))
	require.NoError(t, err)
	var out bytes.Buffer
	_, err = out.ReadFrom(r)
	require.NoError(t, err)
	return out.Bytes()
}

// What beside schema public cannot be restored is left out, and said; and what is the dump's owner's is the tests' owner's.
func TestRestore(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	d, err := Open(kept(t, "world.sql.gz"))
	require.NoError(t, err)
	require.NoError(t, d.restore(t.Context(), db.Connect(t, "")))
	said, err := Said(t.Context(), db)
	require.NoError(t, err)
	require.Equal(t, "vital", said.Owner)
	require.Equal(t, []string{"function public.made_by_the_platform() of supabase_admin"}, said.Foreign)
	require.Equal(t, []string{`pg_graphql: extension "pg_graphql" is not available`}, said.Extensions)
	require.Equal(t, []string{"dashboard_user: 3 × grant, 1 × policy", "reporting: 1 × grant"}, said.Roles)
	require.Contains(t, said.Left, "default privileges of supabase_admin: what that role makes later")
	require.False(t, said.StandIn)

	for what, want := range map[string]string{
		`select pg_get_userbyid(relowner) from pg_class where oid = 'public.agents'::regclass`:                                                                                                                                              pgtest.OwnerRole,
		`select pg_get_userbyid(relowner) from pg_class where oid = 'public.ticket_numbers'::regclass`:                                                                                                                                      pgtest.OwnerRole,
		`select pg_get_userbyid(proowner) from pg_proc where proname = 'made_by_the_platform'`:                                                                                                                                              pgtest.OwnerRole,
		`select pg_get_userbyid(proowner) from pg_proc where oid = 'private.organizations_of'::regproc`:                                                                                                                                     pgtest.OwnerRole,
		`select pg_get_userbyid(typowner) from pg_type where oid = 'public.agent_tier'::regtype`:                                                                                                                                            pgtest.OwnerRole,
		`select (pg_get_userbyid(relowner) = current_user)::text from pg_class where oid = 'storage.objects'::regclass`:                                                                                                                     "true",
		`select (pg_get_userbyid(proowner) = current_user)::text from pg_proc where oid = 'auth.uid'::regproc`:                                                                                                                              "true",
		`select count(*)::text from pg_class c, aclexplode(c.relacl) a where c.oid = 'public.agents'::regclass and a.grantee not in (select oid from pg_roles where rolname in ('anon', 'authenticated', 'service_role', 'tenancy_owner'))`: "0",
		`select string_agg(polname, ' ' order by polname) from pg_policy where polrelid = 'public.conversations'::regclass`:                                                                                                                 "own",
		`select convert_from(lo_get(4711), 'UTF8')`:                                                                                                                                                                                         "a large object",
		`select last_value::text from public.ticket_numbers`:                                                                                                                                                                                "4711",
		`select content from public.knowledge_documents where title = 'Document 1'`:                                                                                                                                                         "two\nlines; -- and\n\\.\n$$",
		`select full_name from public.users where email = 'person-1@example.com'`:                                                                                                                                                           "Name \\ of\nperson-1@example.com",
		`select public.made_by_the_platform()`:                                                                                                                                                                                              "COPY public.agents FROM stdin;",
		`select (prosrc ~ '-- Name: agents; Type: TABLE; Schema: public; Owner: postgres')::text from pg_proc where oid = 'storage.note_ddl'::regproc`:                                                                                      "true",
		`select name from public.organizations where id = '7e000000-1111-4000-8000-000000000006'`:                                                                                                                                           "Org\t6 \"quoted\" \\N",
		`select count(*)::text from public.organizations where name is null`:                                                                                                                                                                "2",
		`select count(*)::text from private."a ""Name: x; Type: TABLE"""`:                                                                                                                                                                   "0",
		`select (reltuples > 0)::text from pg_class where oid = 'public.agents'::regclass`:                                                                                                                                                  "true",
	} {
		var got string
		require.NoError(t, db.Superuser.QueryRow(t.Context(), what).Scan(&got), what)
		require.Equal(t, want, got, what)
	}
}

// A dump by -O says of nobody that he owns something: then everything is the owner's.
func TestRestoreWithoutOwners(t *testing.T) {
	t.Parallel()
	db := pgtest.Empty(t)
	d, err := Open(written(t, text("elsewhere", "CREATE SCHEMA elsewhere;", "CREATE TABLE elsewhere.a (id serial);",
		"CREATE FUNCTION elsewhere.f() RETURNS integer LANGUAGE sql AS 'select 1';", "CREATE TYPE elsewhere.t AS ENUM ('a');")))
	require.NoError(t, err)
	require.NoError(t, d.restore(t.Context(), db.Connect(t, "")))
	said, err := Said(t.Context(), db)
	require.NoError(t, err)
	require.Equal(t, Restored{StandIn: true}, said)
	var owners string
	require.NoError(t, db.Superuser.QueryRow(t.Context(), `
		select string_agg(distinct pg_get_userbyid(owner), ' ')
		from (select nspowner from pg_namespace where nspname = 'elsewhere'
			union all select relowner from pg_class where relnamespace = 'elsewhere'::regnamespace
			union all select proowner from pg_proc where pronamespace = 'elsewhere'::regnamespace
			union all select typowner from pg_type where typnamespace = 'elsewhere'::regnamespace) as o (owner)`).Scan(&owners))
	require.Equal(t, pgtest.OwnerRole, owners)
}

// Rows longer than any buffer, and what looks like their end.
func TestRead(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100)
	in := newReader(bufio.NewReaderSize(bytes.NewReader(text("public", "COPY public.a (b) FROM stdin;", long, `\\.`, long+`\.`, `\.`, "SELECT", "  1;")), 16))
	i, err := in.next()
	require.NoError(t, err)
	require.Equal(t, entry{"x", "TABLE", "public", "o"}, i.entry)
	require.Equal(t, 6, i.line)
	var out bytes.Buffer
	_, err = out.ReadFrom(i.rows)
	require.NoError(t, err)
	require.Equal(t, long+"\n"+`\\.`+"\n"+long+`\.`+"\n", out.String())
	i, err = in.next()
	require.NoError(t, err)
	require.Equal(t, item{entry: i.entry, line: 11, sql: "SELECT\n  1;"}, i)
}
