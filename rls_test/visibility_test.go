package rls_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
)

func TestPhase4(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-4/test-rls-policies", "production-deployment/update-rls-policies/run-rls-policy-updates",
		"production-deployment/staging-fully-tested/rls-policies-working-correctly", "success-criteria/security/rls-policies-enforce-data-isolation")
	t.Run("Policies", testPolicies)
	t.Run("Verification queries", testVerification)
	t.Run("Verification of what is beside privileges", testBeside)
	t.Run("Isolation", testIsolation)
	t.Run("Everybody", testEverybody)
	t.Run("Changes", testChanges)
	t.Run("Claims", testClaims)
	t.Run("The checklist's own tests", testChecklist)
	t.Run("Writing", testWriting)
	t.Run("Conversations", testConversations)
	t.Run("Directory", testDirectory)
	t.Run("Audit", testAudit)
	t.Run("What the audit log shows", testShown)
	t.Run("Again", testAgain)
	t.Run("Other grants", testGrants)
	t.Run("A grant too many", testGuard)
	t.Run("Who may share what", testMayShare)
	t.Run("Refusals", testRefusals)
}

// testIsolation is what the checklist says in words, about users and agents by name.
func testIsolation(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-4/test-data-isolation", "production-deployment/update-rls-policies/verify-data-isolation",
		"production-deployment/verify-data-isolation/spot-check-novartis-user-cannot-see-pfizer-data",
		"production-deployment/verify-data-isolation/spot-check-tenant-wide-resources-visible",
		"production-deployment/verify-data-isolation/spot-check-platform-wide-resources-visible-to-all")
	db := secured(t)
	seen := map[string][]string{} // by whom each row is
	forEach(t, db, fixtures.Users, func(tx pgx.Tx, u fixtures.User) {
		reads, failures := readAll(t, tx)
		require.Empty(t, failures)
		for table, keys := range reads {
			for _, key := range keys {
				seen[table+key] = append(seen[table+key], u.Email)
			}
		}
	})
	everybody := fixtures.Users
	pharma := []fixtures.User{fixtures.Alice, fixtures.Adam, fixtures.Vera, fixtures.Dana, fixtures.Max, fixtures.Bob, fixtures.Paula,
		fixtures.Tess, fixtures.Tom, fixtures.Tina}
	novartis := []fixtures.User{fixtures.Alice, fixtures.Adam, fixtures.Vera, fixtures.Dana, fixtures.Max}
	pfizer := []fixtures.User{fixtures.Bob, fixtures.Paula, fixtures.Max}
	tenant := []fixtures.User{fixtures.Tess, fixtures.Tom, fixtures.Tina}
	mayo := []fixtures.User{fixtures.Carol, fixtures.Martha, fixtures.Dana}
	digital := append([]fixtures.User{fixtures.Kim, fixtures.Kurt}, mayo...)
	for what, test := range map[string]struct {
		rows    []fixtures.Resource
		readers []fixtures.User
	}{
		"what is Novartis' own is seen by Novartis only":              {[]fixtures.Resource{fixtures.NovartisAgent, fixtures.NovartisDocument, fixtures.NovartisPrompt, fixtures.NovartisWorkflow, fixtures.NovartisUseCase, fixtures.NovartisCapability}, novartis},
		"what is Pfizer's own is seen by Pfizer only":                 {[]fixtures.Resource{fixtures.PfizerAgent, fixtures.PfizerDocument, fixtures.PfizerPrompt, fixtures.PfizerWorkflow, fixtures.PfizerUseCase, fixtures.PfizerCapability}, pfizer},
		"what is the tenant's own is not seen by its organizations":   {[]fixtures.Resource{fixtures.TenantAgent, fixtures.TenantDocument, fixtures.TenantPrompt}, tenant},
		"what is shared with Pharmaceuticals is seen in all of it":    {[]fixtures.Resource{fixtures.PharmaAgent, fixtures.NovartisSharedAgent, fixtures.TenantSharedAgent, fixtures.NovartisSharedDocument}, pharma},
		"what is shared with Digital Health is not seen elsewhere":    {[]fixtures.Resource{fixtures.MayoAgent, fixtures.KaiserSharedAgent, fixtures.MayoPrompt}, digital},
		"what is Mayo Clinic's own is not seen by Kaiser Permanente":  {[]fixtures.Resource{fixtures.MayoPrivateAgent, fixtures.MayoUseCase}, mayo},
		"what is shared with everybody is seen by all who sign in":    {[]fixtures.Resource{fixtures.PublicAgent, fixtures.NovartisPublicAgent, fixtures.PfizerPublicAgent, fixtures.PublicDocument, fixtures.MayoWorkflow}, everybody},
		"what is the platform's own is seen by its own people":        {[]fixtures.Resource{fixtures.PlatformAgent, fixtures.PlatformSharedAgent, fixtures.PlatformDocument}, []fixtures.User{fixtures.Root, fixtures.Peter}},
		"what is deleted is seen by nobody":                           {[]fixtures.Resource{fixtures.DeletedAgent, fixtures.DeletedPublicAgent, fixtures.DeletedDocument}, nil},
		"what a suspended organization shares is seen by nobody":      {[]fixtures.Resource{fixtures.SandozAgent, fixtures.SandozSharedAgent, fixtures.SandozPublicAgent}, nil},
		"what is in quarantine is seen by nobody, whatever its scope": {[]fixtures.Resource{fixtures.UnknownAgent, fixtures.DanaAgent, fixtures.RootAgent, fixtures.OrphanAgent, fixtures.OrphanDocument}, nil},
	} {
		t.Run(what, func(t *testing.T) {
			var want []string
			for _, u := range test.readers {
				want = append(want, u.Email)
			}
			for _, r := range test.rows {
				require.ElementsMatch(t, want, seen[r.Table+r.ID], r.Name)
			}
		})
	}
	t.Run("the backend sees all of it", func(t *testing.T) {
		require.NoError(t, actor.Service().Do(t, db, func(tx pgx.Tx) error {
			reads, failures := readAll(t, tx)
			require.Empty(t, failures)
			want := map[string][]string{}
			for _, r := range slices.Concat(migrated().rows, auditRows(t, db)) {
				want[r.table] = append(want[r.table], r.key)
			}
			for table := range tables {
				require.ElementsMatch(t, want[table], reads[table], table)
			}
			return nil
		}))
	})
	t.Run("who has not signed in may not even ask", func(t *testing.T) {
		forEach(t, db, []fixtures.User{stranger}, func(tx pgx.Tx, _ fixtures.User) {
			_, failures := readAll(t, tx)
			for table := range tables {
				require.Equal(t, denied, outcomeOf(failures[table]), table)
			}
		})
	})
}

func testEverybody(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/security/users-cannot-see-unauthorized-data", "production-deployment/update-rls-policies/test-with-real-user-accounts",
		"success-criteria/functionality/agents-load-correctly", "success-criteria/functionality/knowledge-documents-accessible")
	t.Run("everybody reads of every table what is for him, and all of it", func(t *testing.T) {
		leaks(t, secured(t), migrated()).require(t)
	})
}

// testChanges is what everybody reads after something has changed: at once, and of the
// rows that were there before.
func testChanges(t *testing.T) {
	t.Parallel()
	close := func(w world, id string) {
		o := w.organizations[id]
		o.closed = true
		w.organizations[id] = o
	}
	change := func(w world, f func(*row)) {
		for i := range w.rows {
			f(&w.rows[i])
		}
	}
	member := func(w world, user, organization string, f func(*fixtures.Membership)) {
		i := slices.IndexFunc(w.memberships, func(m fixtures.Membership) bool { return m.UserID == user && m.OrganizationID == organization })
		f(&w.memberships[i])
	}
	for what, test := range map[string]struct {
		sql    string
		change func(world)
	}{
		"Novartis is switched off": {
			fmt.Sprintf(`update public.organizations set is_active = false where id = '%s'`, fixtures.Novartis.ID),
			func(w world) { close(w, fixtures.Novartis.ID) }},
		"Pfizer is deleted": {
			fmt.Sprintf(`update public.organizations set deleted_at = now() where id = '%s'`, fixtures.Pfizer.ID),
			func(w world) {
				close(w, fixtures.Pfizer.ID)
				change(w, func(r *row) { r.deleted = r.deleted || r.table == "organizations" && r.key == fixtures.Pfizer.ID })
			}},
		"the tenant Pharmaceuticals is switched off, and with it all of its organizations": {
			fmt.Sprintf(`update public.organizations set is_active = false where id = '%s'`, fixtures.Pharmaceuticals.ID),
			func(w world) { close(w, fixtures.Pharmaceuticals.ID) }},
		"Novartis moves to Digital Health, and what it shares moves along": {
			fmt.Sprintf(`update public.organizations set parent_organization_id = '%s' where id = '%s'`, fixtures.DigitalHealth.ID, fixtures.Novartis.ID),
			func(w world) {
				o := w.organizations[fixtures.Novartis.ID]
				o.parent = fixtures.DigitalHealth.ID
				w.organizations[fixtures.Novartis.ID] = o
			}},
		"Unknown Biotech leaves the quarantine": {
			fmt.Sprintf(`update public.organizations set parent_organization_id = '%s' where id = '%s'`, fixtures.Pharmaceuticals.ID, fixtures.UnknownBiotech.ID),
			func(w world) {
				o := w.organizations[fixtures.UnknownBiotech.ID]
				o.parent = fixtures.Pharmaceuticals.ID
				w.organizations[fixtures.UnknownBiotech.ID] = o
			}},
		"Bob leaves Pfizer": {
			fmt.Sprintf(`update public.user_organizations set is_active = false where user_id = '%s'`, fixtures.Bob.ID),
			func(w world) {
				member(w, fixtures.Bob.ID, fixtures.Pfizer.ID, func(m *fixtures.Membership) { m.Active = false })
			}},
		"Eve comes back, as an admin": {
			fmt.Sprintf(`update public.user_organizations set is_active = true, role = 'admin' where user_id = '%s'`, fixtures.Eve.ID),
			func(w world) {
				member(w, fixtures.Eve.ID, fixtures.Novartis.ID, func(m *fixtures.Membership) { m.Active, m.Role = true, "admin" })
			}},
		"an agent goes from Novartis to Pfizer": {
			fmt.Sprintf(`update public.agents set owner_organization_id = '%s' where id = '%s'`, fixtures.Pfizer.ID, fixtures.NovartisAgent.ID),
			func(w world) {
				change(w, func(r *row) {
					if r.key == fixtures.NovartisAgent.ID {
						r.owner = fixtures.Pfizer.ID
					}
				})
			}},
		"an agent is shared with the tenant, and another with nobody": {
			fmt.Sprintf(`update public.agents set sharing_scope = 'tenant' where id = '%s'; update public.agents set sharing_scope = 'organization' where id = '%s'`,
				fixtures.NovartisAgent.ID, fixtures.PharmaAgent.ID),
			func(w world) {
				change(w, func(r *row) {
					switch r.key {
					case fixtures.NovartisAgent.ID:
						r.scope = fixtures.TenantLevel
					case fixtures.PharmaAgent.ID:
						r.scope = fixtures.OrganizationLevel
					}
				})
			}},
		"an agent is deleted, and another comes back": {
			fmt.Sprintf(`update public.agents set deleted_at = case id when '%s' then now() end where id in ('%[1]s', '%s')`,
				fixtures.PublicAgent.ID, fixtures.DeletedAgent.ID),
			func(w world) {
				change(w, func(r *row) {
					if r.table == "agents" {
						r.deleted = r.key == fixtures.PublicAgent.ID || r.deleted && r.key != fixtures.DeletedAgent.ID
					}
				})
			}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			db, w := secured(t), migrated()
			before := w.readers()
			test.change(w)
			require.NotEqual(t, before, w.readers(), "it must change what somebody reads, or it proves nothing")
			statement(test.sql)(t, db)
			leaks(t, db, w).require(t)
		})
	}
}

// readers is everybody who may read something, with what.
func (w world) readers() map[string]bool {
	readers := map[string]bool{}
	for _, u := range fixtures.Users {
		for _, r := range w.rows {
			if w.mayRead(u.ID, r) {
				readers[u.Email+" reads "+r.table+" "+r.key] = true
			}
		}
	}
	return readers
}

func testClaims(t *testing.T) {
	t.Parallel()
	db, w := secured(t), migrated()
	readsOf := func(user string) map[string][]string {
		want := map[string][]string{}
		for _, r := range slices.Concat(w.rows, auditRows(t, db)) {
			if w.mayRead(user, r) {
				want[r.table] = append(want[r.table], r.key)
			}
		}
		return want
	}
	requireReads := func(t *testing.T, want, found map[string][]string) {
		t.Helper()
		for table := range tables {
			require.ElementsMatch(t, want[table], found[table], table)
		}
	}
	t.Run("the old convention names the same user", func(t *testing.T) {
		for _, u := range []fixtures.User{fixtures.Alice, fixtures.Paula, fixtures.Eve} {
			require.NoError(t, as(u).WithOldClaims().Do(t, db, func(tx pgx.Tx) error {
				reads, failures := readAll(t, tx)
				require.Empty(t, failures)
				requireReads(t, readsOf(u.ID), reads)
				return nil
			}))
		}
	})
	const unknown = "99999999-0000-4000-8000-000000000099"
	t.Run("a user whom nobody knows reads what is everybody's, and the platform's name", func(t *testing.T) {
		require.NoError(t, actor.User(unknown).Do(t, db, func(tx pgx.Tx) error {
			reads, _ := readAll(t, tx)
			requireReads(t, readsOf(unknown), reads)
			require.Contains(t, reads["agents"], fixtures.PublicAgent.ID)
			require.Equal(t, []string{fixtures.PlatformID}, reads["organizations"])
			return nil
		}))
	})

	const claims, old = "request.jwt.claims", "request.jwt.claim.sub"
	cases := map[string]struct {
		settings map[string]string
		user     string // who is meant, "" for nobody
		code     string // of the error, where it is one
	}{
		"the user":                               {settings: map[string]string{claims: `{"sub": "` + fixtures.Alice.ID + `"}`}, user: fixtures.Alice.ID},
		"a stale setting of the old convention":  {settings: map[string]string{claims: `{"sub": "` + fixtures.Bob.ID + `"}`, old: fixtures.Alice.ID}, user: fixtures.Bob.ID},
		"no claims":                              {},
		"empty claims, as SET LOCAL leaves them": {settings: map[string]string{claims: "", old: ""}},
		"claims without a user":                  {settings: map[string]string{claims: `{"role": "authenticated"}`}},
		"a null for a user":                      {settings: map[string]string{claims: `{"sub": null}`}},
		"an empty user":                          {settings: map[string]string{claims: `{"sub": ""}`}},
		"claims that are a list":                 {settings: map[string]string{claims: `["` + fixtures.Alice.ID + `"]`}},
		"claims that are a string":               {settings: map[string]string{claims: `"` + fixtures.Alice.ID + `"`}},
		"claims that are no JSON":                {settings: map[string]string{claims: `{"sub": `}, code: "22P02"},
		"a user that is no UUID":                 {settings: map[string]string{claims: `{"sub": "alice@novartis.com"}`}, code: "22P02"},
		"a user that is SQL":                     {settings: map[string]string{claims: `{"sub": "' or true --"}`}, code: "22P02"},
		"an old user that is no UUID":            {settings: map[string]string{old: "alice"}, code: "22P02"},
	}
	require.NoError(t, actor.Anonymous().Do(t, db, func(outer pgx.Tx) error {
		for what, test := range cases {
			t.Run(what, func(t *testing.T) {
				tx, err := outer.Begin(t.Context())
				require.NoError(t, err)
				defer tx.Rollback(t.Context())
				settings := map[string]string{"role": "authenticated", claims: "", old: ""}
				maps.Copy(settings, test.settings)
				for name, value := range settings {
					_, err := tx.Exec(t.Context(), `select set_config($1, $2, true)`, name, value)
					require.NoError(t, err)
				}
				reads, failures := readAll(t, tx)
				requireReads(t, readsOf(test.user), reads)
				if test.code == "" {
					require.Empty(t, failures)
					return
				}
				for table := range tables {
					var failure *pgconn.PgError
					require.True(t, errors.As(failures[table], &failure), "%s: %v", table, failures[table])
					require.Equal(t, test.code, failure.Code, table)
				}
			})
		}
		return nil
	}))
}
