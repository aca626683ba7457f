package locks_test

import (
	"os"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/locks"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/sarif"
	"github.com/vital-health/tenancy/schema"
)

func TestRecord(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start(t.Context(), locks.Settings...)
	if os.Getenv(pgtest.URLVariable) != "" {
		require.ErrorIs(t, err, pgtest.ErrGiven)
		return
	}
	require.NoError(t, err)
	db := server.New(t, schema.Legacy, fixtures.World()...)
	super := db.Connect(t, "")
	record := func(t *testing.T, sql string) []locks.Lock {
		t.Helper()
		all, err := locks.Record(t.Context(), db.Config(t, pgtest.OwnerRole), super, schema.File{Origin: "x.sql", SQL: sql})
		require.NoError(t, err)
		for i := range all {
			require.Positive(t, all[i].Held)
			all[i].Held = 0
		}
		return all
	}
	const agents = "public.agents"
	t.Run("every transaction of a block that commits as it goes is seen, and what it reads", func(t *testing.T) {
		require.Equal(t, []locks.Lock{
			{Relation: agents, Mode: "AccessExclusiveLock", Line: 2, Section: "Here"},
			{Relation: agents, Mode: "ShareUpdateExclusiveLock", Reads: true, Line: 2, Section: "Here"},
			{Relation: agents, Mode: "AccessExclusiveLock", Reads: true, Line: 2, Section: "Here"},
			{Relation: agents, Mode: "AccessExclusiveLock", Line: 2, Section: "Here"},
		}, record(t, `-- Here ------------------------------
			do $$ begin
				alter table public.agents add constraint c check (name <> '') not valid; commit;
				alter table public.agents validate constraint c; commit;
				alter table public.agents add check (name <> '-'); commit;
				alter table public.agents add quickly integer; commit;
			end $$;`))
	})
	t.Run("so is what is not stopped for long, and an index that is built concurrently, in several transactions", func(t *testing.T) {
		all := record(t, "set local synchronous_commit = off;\ncreate index concurrently i on public.agents (name);\ndrop index concurrently public.i;")
		require.NotEmpty(t, all)
		require.Contains(t, all, locks.Lock{Relation: agents, Mode: "ShareUpdateExclusiveLock", Reads: true, Line: 2, Section: "Before the first heading"})
	})
	t.Run("a lock is of the statement that took it, and the strongest counts", func(t *testing.T) {
		require.Equal(t, []locks.Lock{
			{Relation: "public.users", Mode: "ShareLock", Line: 2, Section: "Before the first heading"},
			{Relation: agents, Mode: "AccessExclusiveLock", Line: 4, Section: "Before the first heading"},
			{Relation: "public.prompts", Mode: "AccessExclusiveLock", Line: 6, Section: "After the transaction"},
		}, record(t, "begin;\nlock table public.users in share mode;\nlock table public.agents in share mode;\n"+
			"lock table public.agents;\ncommit;\nalter table public.prompts add later integer;"))
	})
	t.Run("who only reads and writes rows keeps nobody waiting", func(t *testing.T) {
		require.Empty(t, record(t, "update public.agents set name = name || '.'; select * from public.users;"))
	})
	t.Run("a file that fails is an error with its line, and so is a cancelled wait for a lock", func(t *testing.T) {
		_, err := locks.Record(t.Context(), db.Config(t, pgtest.OwnerRole), super, schema.File{Origin: "x.sql", SQL: "select 1;\nselect 1/0;"})
		require.ErrorContains(t, err, "x.sql:2: division by zero")
		other := db.Connect(t, "")
		require.NoError(t, pgx.BeginFunc(t.Context(), other, func(tx pgx.Tx) error {
			_, err := tx.Exec(t.Context(), "lock table public.agents")
			require.NoError(t, err)
			_, err = locks.Record(t.Context(), db.Config(t, pgtest.OwnerRole), super,
				schema.File{Origin: "x.sql", SQL: "set lock_timeout = '10ms';\nalter table public.agents add never integer;"})
			require.ErrorContains(t, err, "x.sql:2: canceling statement due to lock timeout")
			return nil
		}))
	})
}

func TestDeclaration(t *testing.T) {
	t.Parallel()
	const a, b, weak, strong = "public.a", "public.b", "ShareUpdateExclusiveLock", "AccessExclusiveLock"
	recorded := []locks.Lock{
		{Relation: a, Mode: strong, Line: 7, Section: "One"},
		{Relation: a, Mode: weak, Line: 8, Section: "One"},
		{Relation: a, Mode: weak, Reads: true, Line: 9, Section: "One"},
		{Relation: b, Mode: strong, Reads: true, Line: 12, Section: "Two"},
	}
	f := schema.File{Origin: "x.sql"}
	const text = "\nOne\n  public.a                      AccessExclusiveLock\n  public.a                      ShareUpdateExclusiveLock, reads all rows\n" +
		"\nTwo\n  public.b                      AccessExclusiveLock, reads all rows\n"
	parse := func(t *testing.T, text string) locks.Declaration {
		t.Helper()
		d, err := locks.Parse(text)
		require.NoError(t, err)
		return d
	}
	t.Run("it is what was recorded, without what a stronger lock says as well", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, text, locks.Declare(recorded).String())
		require.Empty(t, parse(t, "# Comment\n"+text).Compare(f, recorded))
	})
	t.Run("a lock that is not declared is a sentence", func(t *testing.T) {
		t.Parallel()
		require.Equal(t, []sarif.Finding{
			{Rule: "undeclared-lock", File: "x.sql", Line: 12, Message: "(Two) takes AccessExclusiveLock on public.b, which stops readers and writers, " +
				"and reads all rows of the table meanwhile; declared: ShareUpdateExclusiveLock"},
			{Rule: "missing-lock", File: "x.sql", Line: 1, Message: "(Two) is declared to take ShareUpdateExclusiveLock on public.b, and does not"},
		}, parse(t, "One\n  public.a  AccessExclusiveLock\n  public.a  ShareUpdateExclusiveLock, reads all rows\nTwo\n  public.b  ShareUpdateExclusiveLock\n").Compare(f, recorded))
	})
	t.Run("a lock that is declared for another section is another one", func(t *testing.T) {
		t.Parallel()
		require.Len(t, parse(t, "Two\n  public.a  AccessExclusiveLock\n").Compare(f, recorded[:1]), 2)
	})
	t.Run("what cannot be read is an error", func(t *testing.T) {
		t.Parallel()
		_, err := locks.Parse("  public.a  AccessExclusiveLock")
		require.ErrorContains(t, err, "line 1: want a section")
		_, err = locks.Parse("One\n  public.a")
		require.ErrorContains(t, err, "line 2: want a section")
	})
}
