package preflight_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/catalog"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/helpers/preflight"
	"github.com/vital-health/tenancy/helpers/verify"
	"github.com/vital-health/tenancy/schema"
)

func TestPreflightClean(t *testing.T) {
	t.Parallel()
	t.Run("nothing is found in an orderly database", func(t *testing.T) {
		t.Parallel()
		db := orderly(t)
		d := examine(t, db)
		require.Empty(t, found(t, db, d.Report), d)
	})
	for _, phase := range []schema.Phase{schema.Legacy, schema.Phase2, schema.Phase4} {
		t.Run(fmt.Sprintf("nothing but its messy rows is found in the world at %s, and nothing is written", phase), func(t *testing.T) {
			t.Parallel()
			db := world(t, phase)
			definitions, rows := phasetest.Catalog(t, db), phasetest.Data(t, db)
			conn := db.Connect(t, pgtest.OwnerRole)
			d, err := preflight.Examine(t.Context(), conn)
			require.NoError(t, err)
			messy := []string{}
			if phase < schema.Phase2 {
				messy = []string{"organizations_without_a_tenant", "rows_without_an_organization"}
			}
			require.ElementsMatch(t, messy, found(t, db, d.Report), d)
			require.Empty(t, catalog.Diff(definitions, phasetest.Catalog(t, db)))
			require.Empty(t, catalog.Diff(rows, phasetest.Data(t, db)))

			_, err = conn.Exec(t.Context(), `delete from public.organizations`)
			require.ErrorContains(t, err, "read-only transaction", "the session cannot write any more")
			var limits []string
			require.NoError(t, conn.QueryRow(t.Context(), `select array[current_setting('statement_timeout'), current_setting('lock_timeout')]`).Scan(&limits))
			require.Equal(t, []string{"30s", "100ms"}, limits)
			var locks int
			require.NoError(t, conn.QueryRow(t.Context(), `select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'`).Scan(&locks))
			require.Zero(t, locks, "the next phase, which was asked, may run")
		})
	}
	t.Run("who may not look is told so, and nothing passes for that", func(t *testing.T) {
		t.Parallel()
		db := world(t, schema.Phase2)
		_, err := db.Superuser.Exec(t.Context(), `alter schema tenancy owner to current_user`)
		require.NoError(t, err)
		d := examine(t, db)
		require.Subset(t, found(t, db, d.Report), []string{"phases", "names_taken", "next_phase"})
		require.Contains(t, d.String(), "cannot be checked: run query phases: ")
		require.Contains(t, d.String(), "permission denied for schema tenancy")
	})
}

// Of a large table a part is read.
func TestPreflightSamples(t *testing.T) {
	t.Parallel()
	db := orderly(t)
	_, err := db.Owner.Exec(t.Context(), `insert into public.prompts (name, content) select 'p', repeat('x', 1500) from generate_series(1, 5000)`)
	require.NoError(t, err)
	for _, q := range queries(t) {
		if q.Name != "rows_without_an_organization" {
			continue
		}
		require.Contains(t, q.SQL, "80e6")
		q.SQL = strings.ReplaceAll(q.SQL, "80e6", "8e5")
		result, err := verify.Run(t.Context(), db.Owner, q)
		require.NoError(t, err)
		m := regexp.MustCompile(`prompts: (\d+) of (\d+)`).FindStringSubmatch(result.Rows[0][2])
		require.NotNil(t, m, result.Rows)
		require.Equal(t, m[1], m[2], "all that are read have no organization")
		var read int
		_, err = fmt.Sscan(m[2], &read)
		require.NoError(t, err)
		require.True(t, read > 50 && read < 2000, "of 5,000 rows in 8 MB about 400 are read, and not %d", read)
		return
	}
	t.Fatal("there is no such query")
}

// The versions with faults that their release notes have not mended yet, and how many.
func TestPreflightServerVersion(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy)
	q := queries(t)[0]
	require.Equal(t, "server_version", q.Name)
	sql := q.SQL
	for version, faults := range map[int]int{150002: 5, 150003: 4, 150004: 3, 150009: 2, 150014: 1, 150018: 1, 150019: 0, 160000: 3, 160014: 1, 160015: 0,
		170000: 3, 170001: 2, 170006: 1, 170011: 0, 180000: 1, 180005: 1, 180006: 0, 190000: 0} {
		q.SQL = strings.ReplaceAll(sql, "current_setting('server_version_num')", fmt.Sprintf("'%d'", version))
		result, err := verify.Run(t.Context(), db.Owner, q)
		require.NoError(t, err)
		require.Equal(t, faults == 0, result.OK, version)
		require.Equal(t, faults, strings.Count(result.Rows[0][2], "CVE-"), "%d: %s", version, result.Rows[0][2])
		if faults > 0 {
			require.Contains(t, result.Rows[0][3], fmt.Sprintf("update the server to %d.%d or later", version/10000, mended[version/10000]))
		}
	}
	q.SQL = strings.ReplaceAll(sql, "current_setting('server_version_num')", "'140012'")
	result, err := verify.Run(t.Context(), db.Owner, q)
	require.NoError(t, err)
	require.False(t, result.OK)
	require.Contains(t, result.Rows[0][3], "move to PostgreSQL 15")
}

// Whatever the phases make in public, or as a schema, is a name that preflight looks for.
func TestPreflightNames(t *testing.T) {
	t.Parallel()
	before, db := world(t, schema.Legacy), world(t, schema.Phase4)
	tx := begin(t, db.Connect(t, pgtest.OwnerRole))
	_, err := tx.Exec(t.Context(), `set local search_path = ''`)
	require.NoError(t, err)
	// As if no phase had been here.
	var text string
	for _, c := range ask(t, tx, queries(t), "where t.phase > has.phase", "", "is distinct from 'platform, tenant, organization'", "is not null") {
		if c.Name == "names_taken" {
			text = ", " + c.Found + ","
		}
	}
	was := phasetest.Catalog(t, before)
	checked := 0
	for identity := range phasetest.Catalog(t, db) {
		if _, ok := was[identity]; ok {
			continue
		}
		m := regexp.MustCompile(`^(schema|type|table|view|index|sequence|function|trigger|constraint) (?:(public)\.)?(.+)$`).FindStringSubmatch(identity)
		if m == nil || m[1] != "schema" && m[2] == "" || strings.HasPrefix(m[3], "audit_logs.") ||
			strings.HasSuffix(m[3], "_not_null") { // PostgreSQL 18 names these, and finds another name where it must
			continue
		}
		kind, name := m[1], m[3]
		want := map[string]string{"schema": "schema " + name, "function": "function public." + strings.ReplaceAll(name, ", ", ",")}[kind]
		switch kind {
		case "type":
			want = "type public." + name + " with the labels"
		case "table", "view", "index", "sequence":
			want = "relation public." + name
		case "trigger", "constraint":
			table, own, _ := strings.Cut(name, ".")
			want = fmt.Sprintf("%s %s of public.%s", kind, own, table)
		}
		checked++
		// One that is made for a legacy key that has no index is not known before.
		if !regexp.MustCompile(`^relation public.idx_(conversations_agent_id|user_organizations_organization_id)$`).MatchString(want) {
			require.Contains(t, text, ", "+want, identity)
		}
	}
	t.Logf("checked %d names", checked)
	require.Greater(t, checked, 100)
}

// Staging beside production.
func TestPreflightPair(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "pre-implementation/staging-environment-ready/staging-database-is-clone-of-production",
		"pre-implementation/staging-environment-ready/staging-has-same-extensions-enabled")
	production := examine(t, orderly(t))
	t.Run("a clone is like production", func(t *testing.T) {
		t.Parallel()
		differences := preflight.Compare(examine(t, orderly(t)), production)
		require.Zero(t, differences.Count(verify.Failed)+differences.Count(verify.Warned), differences)
		require.Regexp(t, `\d{3} definitions and \d\d facts are alike`, differences.String())
	})
	for name, p := range map[string]struct{ check, verdict, sql, found string }{
		"an extension is missing": {"extension pgcrypto", verify.Failed, `drop extension pgcrypto`, "staging: not there, production: 1."},
		"a setting of the pool differs": {"setting lock_timeout", verify.Warned,
			`do $$ begin execute format('alter database %I set lock_timeout = ''5s''', current_database()); end $$`, "staging: 5000ms, production: 0ms"},
		"another distribution of tenant_type": {"organizations of type system", verify.Warned,
			`insert into public.organizations (name, tenant_type) values ('Another', 'system')`, "staging: 2, production: 1"},
		"a column is missing": {"definitions", verify.Failed, `alter table public.agents drop column avatar_url`, "+ column public.agents.avatar_url: text"},
		"a policy is missing": {"definitions", verify.Failed, `drop policy tmp_team_access on public.agents`, "+ policy public.agents.tmp_team_access"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			staging := orderly(t)
			_, err := staging.Superuser.Exec(t.Context(), p.sql, pgx.QueryExecModeSimpleProtocol)
			require.NoError(t, err)
			differences := preflight.Compare(examine(t, staging), production)
			hit := false
			for _, c := range differences {
				if c.Name == p.check {
					hit = true
					require.Equal(t, p.verdict, c.Verdict)
					require.Contains(t, c.Found, p.found)
				} else {
					require.Equal(t, "definitions", c.Name, "nothing else differs but the definition of the same")
				}
			}
			require.True(t, hit, differences)
		})
	}
	t.Run("a staging that has been migrated is no clone any more", func(t *testing.T) {
		t.Parallel()
		differences := preflight.Compare(examine(t, world(t, schema.Phase1)), production)
		last := differences[len(differences)-1]
		require.Equal(t, "staging: phase1, production: legacy", last.Found, differences)
	})
}
