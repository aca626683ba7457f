package docs_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/program"
	"github.com/vital-health/tenancy/helpers/script"
	"github.com/vital-health/tenancy/schema"
)

// block is a block of the runbook.
type block struct {
	language  string
	variables []string
	text      string
}

// blocks reads the runbook's blocks by name. The first, which says how to run the others, is none.
func blocks(t testing.TB) map[string]block {
	t.Helper()
	found := map[string]block{}
	for i, m := range regexp.MustCompile("(?s)```(\\w+)\n(.*?)```").FindAllStringSubmatch(read(t, "runbook.md"), -1) {
		if i == 0 {
			continue
		}
		head := regexp.MustCompile(`^(?:--|#) (\w+)(?:: (.*))?\n`).FindStringSubmatch(m[2])
		require.NotNil(t, head, "the block does not name itself in its first line:\n%s", m[2])
		require.NotContains(t, found, head[1])
		b := block{language: m[1], text: m[2]}
		if head[2] != "" {
			b.variables = strings.Split(head[2], ", ")
		}
		found[head[1]] = b
	}
	return found
}

// runbook does what the runbook says, on a database of its own.
type runbook struct {
	*pgtest.DB
	blocks map[string]block
	ran    map[string]bool
}

type variables map[string]string

// as psql puts variables in, where they are quoted.
var variable = regexp.MustCompile(`:'(\w+)'`)

// run runs a block of SQL as psql does, statement by statement, and returns what the last one printed: rows, or that
// there were none, "UPDATE 0".
func (r runbook) run(t testing.TB, conn *pgx.Conn, name string, values variables) (printed []string, err error) {
	t.Helper()
	b, ok := r.blocks[name]
	require.True(t, ok, "the runbook has no block %s", name)
	require.ElementsMatch(t, b.variables, slices.Collect(maps.Keys(values)), name)
	r.ran[name] = true
	text := variable.ReplaceAllStringFunc(b.text, func(found string) string {
		value, ok := values[variable.FindStringSubmatch(found)[1]]
		require.True(t, ok, "%s uses %s, and does not name it", name, found)
		return "'" + strings.ReplaceAll(value, "'", "''") + "'"
	})
	statements, err := script.Split(schema.File{Path: "docs/runbook.md", Origin: "docs/runbook.md, " + name, SQL: text})
	require.NoError(t, err)
	do := func(sql string) ([]string, error) {
		var lines []string
		results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
		for _, result := range results {
			for _, row := range result.Rows {
				var cells []string
				for _, cell := range row {
					cells = append(cells, string(cell))
				}
				lines = append(lines, strings.Join(cells, " | "))
			}
			if len(result.Rows) == 0 && !result.CommandTag.Select() {
				lines = append(lines, result.CommandTag.String())
			}
		}
		return lines, err
	}
	for _, s := range statements {
		lines, err := do(s.SQL)
		if err != nil {
			_, rollback := do("rollback")
			require.NoError(t, rollback)
			return nil, err
		}
		if s.Gexec {
			made := lines
			lines = nil
			for _, sql := range made {
				more, err := do(sql)
				if err != nil {
					return nil, err
				}
				lines = append(lines, more...)
			}
		}
		if tag := strings.Join(lines, ""); tag != "COMMIT" && tag != "ROLLBACK" {
			printed = lines
		}
	}
	return printed, nil
}

func TestRunbook(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "post-migration-tasks/documentation-updates/create-runbook-for-common-operations")
	r := runbook{pgtest.New(t, schema.Phase4, fixtures.World()...), blocks(t), map[string]bool{}}
	owner, api := r.Connect(t, pgtest.OwnerRole), r.Connect(t, pgtest.APIRole)

	does := func(t *testing.T, name string, values variables) []string {
		t.Helper()
		printed, err := r.run(t, owner, name, values)
		require.NoError(t, err, name)
		return printed
	}
	refuses := func(t *testing.T, reason, name string, values variables) {
		t.Helper()
		_, err := r.run(t, owner, name, values)
		require.ErrorContains(t, err, reason)
	}
	// one is the only row that a query of the owner returns.
	one := func(t *testing.T, sql string, args ...any) (text string) {
		t.Helper()
		require.NoError(t, r.Owner.QueryRow(t.Context(), sql, args...).Scan(&text))
		return text
	}
	// sees tells which agents a user sees.
	sees := func(t *testing.T, user string) (names []string) {
		t.Helper()
		require.NoError(t, actor.User(user).On(t, api, func(tx pgx.Tx) error {
			rows, err := tx.Query(t.Context(), `select name from public.agents order by name`)
			require.NoError(t, err)
			names, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		}))
		return names
	}
	novartis, pfizer := fixtures.NovartisAgent.Name, fixtures.PfizerAgent.Name

	t.Run("creates a tenant, an organization in it, and its first admin", func(t *testing.T) {
		const id = "00000002-0000-4000-8000-000000000999"
		does(t, "create_tenant", variables{"name": "Payers", "slug": "payers"})
		does(t, "create_organization", variables{"name": "Aetna's", "slug": "aetna", "tenant": "payers"})
		require.Equal(t, "organization payers tenant", one(t, `
			select concat_ws(' ', o.organization_type, t.slug, t.organization_type)
			from public.organizations o join public.organizations t on t.id = o.tenant_organization_id where o.name = 'Aetna''s'`))
		require.Len(t, does(t, "add_user", variables{"id": id, "email": "ann@aetna.example", "name": "Ann", "slug": "aetna", "role": "admin"}), 1)
		require.Equal(t, []string{fixtures.PublicAgent.Name}, slices.DeleteFunc(sees(t, id), func(name string) bool { return name != fixtures.PublicAgent.Name }))
		require.Equal(t, "admin", one(t, `select role from public.user_organizations where user_id = $1`, id))
	})
	t.Run("refuses what names nothing, or something twice", func(t *testing.T) {
		refuses(t, "org_hierarchy_valid", "create_organization", variables{"name": "X", "slug": "x", "tenant": "nowhere"})
		refuses(t, "org_hierarchy_valid", "create_organization", variables{"name": "X", "slug": "x", "tenant": "novartis"})
		refuses(t, "idx_organizations_slug", "create_organization", variables{"name": "X", "slug": "novartis", "tenant": "pharma"})
		refuses(t, "idx_organizations_slug", "create_tenant", variables{"name": "X", "slug": "pharma"})
		refuses(t, "organization_id", "add_user", variables{"id": fixtures.Nobody.ID, "email": fixtures.Nobody.Email, "name": "X", "slug": "nowhere", "role": "member"})
		refuses(t, "user_organizations_role_valid", "add_user", variables{"id": fixtures.Nobody.ID, "email": fixtures.Nobody.Email, "name": "X", "slug": "pfizer", "role": "owner"})
		refuses(t, "users_email_key", "add_user", variables{"id": "00000002-0000-4000-8000-000000000998", "email": fixtures.Alice.Email, "name": "X", "slug": "pfizer", "role": "member"})
		require.Equal(t, []string{"UPDATE 0"}, does(t, "move_organization", variables{"slug": "nowhere", "tenant": "pharma"}))
		require.Equal(t, []string{"UPDATE 0"}, does(t, "move_organization", variables{"slug": "pharma", "tenant": "digital-health"}), "a tenant has none")
		refuses(t, "org_hierarchy_valid", "move_organization", variables{"slug": "pfizer", "tenant": "nowhere"})
	})
	t.Run("offboards a user, hands over what he made, and lets him back in", func(t *testing.T) {
		require.Contains(t, sees(t, fixtures.Alice.ID), novartis)
		require.Equal(t, []string{fixtures.Novartis.ID + " | member"}, does(t, "offboard_user", variables{"email": fixtures.Alice.Email}))
		require.NotContains(t, sees(t, fixtures.Alice.ID), novartis)
		require.Equal(t, []string{"UPDATE 0"}, does(t, "offboard_user", variables{"email": fixtures.Alice.Email}))

		made := one(t, `select count(*)::text from public.agents where created_by = $1 and owner_organization_id = $2`, fixtures.Alice.ID, fixtures.Novartis.ID)
		require.NotEqual(t, "0", made)
		require.Contains(t, does(t, "hand_over", variables{"from": fixtures.Alice.Email, "to": fixtures.Dana.Email, "slug": "novartis"}), "UPDATE "+made)
		require.Equal(t, "0", one(t, `select count(*)::text from public.agents where created_by = $1 and owner_organization_id = $2`, fixtures.Alice.ID, fixtures.Novartis.ID))
		require.Equal(t, fixtures.Dana.ID, one(t, `select created_by::text from public.agents where id = $1`, fixtures.NovartisAgent.ID))
		require.Empty(t, does(t, "hand_over", variables{"from": fixtures.Alice.Email, "to": "nobody at all", "slug": "novartis"}))

		does(t, "add_user", variables{"id": fixtures.Alice.ID, "email": fixtures.Alice.Email, "name": "X", "slug": "novartis", "role": "viewer"})
		require.Contains(t, sees(t, fixtures.Alice.ID), novartis)
		require.Equal(t, "viewer "+fixtures.Alice.Name, one(t, `
			select uo.role || ' ' || u.full_name from public.user_organizations uo join public.users u on u.id = uo.user_id where uo.user_id = $1`, fixtures.Alice.ID))
	})
	t.Run("moves an organization, and what it shares, to another tenant", func(t *testing.T) {
		shared := fixtures.PharmaAgent.Name
		require.Contains(t, sees(t, fixtures.Adam.ID), shared)
		require.NotContains(t, sees(t, fixtures.Kim.ID), shared)
		require.Contains(t, does(t, "move_organization", variables{"slug": "pfizer", "tenant": "digital-health"})[0], fixtures.DigitalHealth.ID)
		require.NotContains(t, sees(t, fixtures.Adam.ID), shared)
		require.Contains(t, sees(t, fixtures.Kim.ID), shared)
		require.Contains(t, sees(t, fixtures.Bob.ID), pfizer)
		does(t, "move_organization", variables{"slug": "pfizer", "tenant": "pharma"})
		require.Contains(t, sees(t, fixtures.Adam.ID), shared)
	})
	t.Run("switches an organization off, and on", func(t *testing.T) {
		for _, switched := range []struct {
			slug, active string
			seen         bool
		}{{"pfizer", "false", false}, {"pfizer", "true", true}, {"pharma", "false", false}, {"pharma", "true", true}} {
			require.Contains(t, does(t, "switch_organization", variables{"slug": switched.slug, "active": switched.active})[0], switched.slug)
			require.Equal(t, switched.seen, slices.Contains(sees(t, fixtures.Bob.ID), pfizer), switched)
		}
	})
	t.Run("says of every agent whether a user sees it, and why not", func(t *testing.T) {
		reasons := map[string]bool{}
		for _, user := range []fixtures.User{fixtures.Adam, fixtures.Dana, fixtures.Eve, fixtures.Max, fixtures.Nobody, fixtures.Root, fixtures.Sam, fixtures.Tina, fixtures.Uma} {
			seen := sees(t, user.ID)
			for _, agent := range fixtures.Resources() {
				if agent.Table != "agents" {
					continue
				}
				for _, line := range does(t, "why_not", variables{"email": user.Email, "agent": agent.Name}) {
					reason, _, _ := strings.Cut(line[strings.LastIndex(line, " | ")+3:], ";")
					reasons[reason] = true
					require.Equal(t, slices.Contains(seen, agent.Name), reason == "he sees it", "%s, %s: %s", user.Name, agent.Name, line)
				}
			}
		}
		require.Empty(t, does(t, "why_not", variables{"email": fixtures.Adam.Email, "agent": "no such agent"}))
		for _, line := range does(t, "why_not", variables{"email": "no such user", "agent": novartis}) {
			reasons[line[strings.LastIndex(line, " | ")+3:]] = true
		}
		for _, wanted := range []string{
			"there is no user of this address",
			"the agent is deleted: restore it",
			"its owner is switched off, or deleted",
			"the tenant of its owner is switched off, or deleted",
			"he is a member of no organization that is active",
			"it is its owner's own, and he is no member: add him, or have an admin of the owner share it",
			"it is shared with Digital Health, and he is in none of its organizations",
			"he sees it",
		} {
			require.Contains(t, reasons, wanted)
		}
		// Who is still in another one.
		does(t, "add_user", variables{"id": fixtures.Eve.ID, "email": fixtures.Eve.Email, "name": "X", "slug": "pfizer", "role": "member"})
		printed := does(t, "why_not", variables{"email": fixtures.Eve.Email, "agent": novartis})
		require.Contains(t, printed[0], "he is a member no more: add him again")
		printed = does(t, "why_not", variables{"email": fixtures.Adam.Email, "agent": fixtures.NovartisDraft.Name})
		require.Contains(t, printed[0], "he sees it; get_accessible_agents lists it only when it is active")
	})
	t.Run("restores what was deleted, and says who did it", func(t *testing.T) {
		id := fixtures.NovartisAgent.ID
		_, err := r.Owner.Exec(t.Context(), `select public.soft_delete('agents', $1)`, id)
		require.NoError(t, err)
		require.NotContains(t, sees(t, fixtures.Adam.ID), novartis)
		require.Equal(t, []string{"UPDATE 1"}, does(t, "restore_row", variables{"table": "agents", "id": id}))
		require.Contains(t, sees(t, fixtures.Adam.ID), novartis)
		require.Equal(t, []string{"UPDATE 0"}, does(t, "restore_row", variables{"table": "agents", "id": id}))
		refuses(t, "does not exist", "restore_row", variables{"table": "nothing", "id": id})
		printed := does(t, "history", variables{"table": "agents", "id": id})
		require.Regexp(t, `tenancy_owner \| SOFT_DELETE .*\n.*tenancy_owner \| UPDATE \|.*"deleted_at"`, strings.Join(printed, "\n"))
	})
	t.Run("empties the quarantine", func(t *testing.T) {
		require.Equal(t, 1, len(does(t, "quarantined_organizations", variables{})))
		does(t, "move_organization", variables{"slug": "unknown-biotech", "tenant": "pharma"})
		require.Empty(t, does(t, "quarantined_organizations", variables{}))
		require.Contains(t, sees(t, fixtures.Uma.ID), fixtures.UnknownAgent.Name)

		moved, suggested := 0, ""
		for _, table := range []string{"agents", "knowledge_documents", "prompts", "workflows", "use_cases", "capabilities", "conversations"} {
			for _, line := range does(t, "quarantined_rows", variables{"table": table}) {
				id, _, _ := strings.Cut(line, " | ")
				suggested += line
				require.Equal(t, []string{"UPDATE 1"}, does(t, "assign_row", variables{"table": table, "id": id, "slug": "novartis"}))
				moved++
			}
			require.Empty(t, does(t, "quarantined_rows", variables{"table": table}))
		}
		require.Greater(t, moved, 3)
		require.Contains(t, suggested, fixtures.Dana.Email+" | {mayo-clinic,novartis}")
		require.Equal(t, []string{"UPDATE 0"}, does(t, "assign_row", variables{"table": "agents", "id": fixtures.PfizerAgent.ID, "slug": "novartis"}), "only what is in quarantine")
	})
	t.Run("plans a query as the user that it is slow for", func(t *testing.T) {
		printed, err := r.run(t, api, "explain_as", variables{"user": fixtures.Alice.ID})
		require.NoError(t, err)
		require.Contains(t, strings.Join(printed, "\n"), "actual time")
		require.Contains(t, strings.Join(printed, "\n"), "audience_key")
	})
	t.Run("refreshes the statistics", func(t *testing.T) {
		before := one(t, `select refreshed_at::text from tenancy.refreshed_statistics`)
		does(t, "refresh_statistics", variables{})
		require.NotEqual(t, before, one(t, `select refreshed_at::text from tenancy.refreshed_statistics`))
		require.Equal(t, "1", one(t, `select active_users_count::text from tenancy.organization_stats s where organization_name = 'Aetna''s'`))
	})
	t.Run("makes the audit log's months, and puts old ones away", func(t *testing.T) {
		_, err := r.Owner.Exec(t.Context(), `update public.audit_logs set created_at = '2001-02-03' where id = (select min(id) from public.audit_logs)`)
		require.NoError(t, err)
		require.Equal(t, []string{"1"}, does(t, "make_months", variables{}), "and that of a record that had none")
		require.Empty(t, does(t, "put_away_months", variables{}))
		does(t, "put_away", variables{})
		printed := does(t, "put_away_months", variables{})
		require.Len(t, printed, 1)
		require.Contains(t, printed[0], "audit_logs_200102 | ")

		folder := t.TempDir()
		cmd := exec.Command("bash", "-c", r.blocks["export_month"].text)
		r.ran["export_month"] = true
		program.Find(t, "psql", "postgresql-client")
		cmd.Dir, cmd.Env = folder, append(os.Environ(), "DATABASE_URL="+r.URL(pgtest.OwnerRole), "MONTH=audit_logs_200102")
		output, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", output)
		require.Len(t, strings.Split(strings.TrimSpace(read(t, filepath.Join(folder, "audit_logs_200102.csv"))), "\n"), 2)

		current := one(t, `select 'audit_logs_' || to_char(now() at time zone 'UTC', 'YYYYMM')`)
		require.Empty(t, does(t, "drop_month", variables{"month": current}), "not one that is in use")
		require.Equal(t, []string{"DROP TABLE"}, does(t, "drop_month", variables{"month": "audit_logs_200102"}))
		require.Empty(t, does(t, "put_away_months", variables{}))
	})
	t.Run("and every block of it has been run", func(t *testing.T) {
		require.Equal(t, slices.Sorted(maps.Keys(r.blocks)), slices.Sorted(maps.Keys(r.ran)))
		require.Greater(t, len(r.ran), 15)
		fmt.Fprint(t.Output(), len(r.ran), " blocks\n")
	})
}
