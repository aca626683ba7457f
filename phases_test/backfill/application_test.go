package backfill_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/phasetest"
	"github.com/vital-health/tenancy/schema"
)

func testOldApplication(t *testing.T) {
	t.Parallel()
	phasetest.OldApplication(t, pgtest.New(t, schema.Phase2, fixtures.World()...))
}

func testBothGenerations(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Phase2, fixtures.World()...)
	old := fixtures.Platform.ID // which the old application may still send
	novartis, pfizer, mayo := fixtures.Novartis.ID, fixtures.Pfizer.ID, fixtures.MayoClinic.ID
	const private, tenant, platform = fixtures.OrganizationLevel, fixtures.TenantLevel, fixtures.PlatformLevel

	require.NoError(t, actor.Service().Do(t, db, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `set local tenancy.backfill = 'on'; update public.prompts set owner_organization_id = null, sharing_scope = null,
			owner_tenant_id = null, audience_key = null where id = '`+fixtures.PfizerPrompt.ID+`'; set local tenancy.backfill = ''`)
		require.NoError(t, err)
		for name, test := range map[string]struct {
			sql      string
			args     []any
			want     row
			tenantID string
		}{
			"old: an agent of Novartis": {
				`insert into public.agents (name, tenant_id) values ('x', $1)`, []any{novartis}, derive(novartis, private), novartis},
			"old: an agent of the platform by the id that it had": {
				`insert into public.agents (name, tenant_id) values ('x', $1)`, []any{old}, derive(fixtures.PlatformID, private), fixtures.PlatformID},
			"old: a public agent": {
				`insert into public.agents (name, tenant_id, metadata) values ('x', $1, '{"is_public": "True"}')`, []any{novartis}, derive(novartis, platform), novartis},
			"old: an agent that is shared with the tenant": {
				`insert into public.agents (name, tenant_id, metadata) values ('x', $1, '{"is_tenant_shared": true}')`, []any{mayo}, derive(mayo, tenant), mayo},
			"old: a shared agent of the platform, which has no tenant": {
				`insert into public.agents (name, tenant_id, metadata) values ('x', $1, '{"is_tenant_shared": true}')`, []any{old}, derive(fixtures.PlatformID, private), fixtures.PlatformID},
			"old: a public document by a column": {
				`insert into public.knowledge_documents (title, tenant_id, is_public) values ('x', $1, true)`, []any{pfizer}, derive(pfizer, platform), pfizer},
			"old: a document without an owner, by somebody of one organization": {
				`insert into public.knowledge_documents (title, created_by) values ('x', $1)`, []any{fixtures.Bob.ID}, derive(pfizer, private), ""},
			"old: a prompt without an owner, by somebody of one organization": {
				`insert into public.prompts (name, created_by) values ('x', $1)`, []any{fixtures.Bob.ID}, derive(pfizer, private), ""},
			"old: a prompt without an owner, by somebody of two": {
				`insert into public.prompts (name, created_by) values ('x', $1)`, []any{fixtures.Dana.ID}, derive(fixtures.QuarantineOrganizationID, private), ""},
			"old: a prompt without an owner, by the platform's admin": {
				`insert into public.prompts (name, created_by) values ('x', $1)`, []any{fixtures.Root.ID}, derive(fixtures.QuarantineOrganizationID, private), ""},
			"old: a public use case of nobody": {
				`insert into public.use_cases (title) values ('x')`, nil, derive(fixtures.QuarantineOrganizationID, private), ""},
			"old: a capability without an owner, by somebody of one organization": {
				`insert into public.capabilities (name, created_by) values ('x', $1)`, []any{fixtures.Bob.ID}, derive(pfizer, private), ""},
			"old: a workflow of an organization that is gone": {
				`insert into public.workflows (name, tenant_id, created_by) values ('x', gen_random_uuid(), $1)`, []any{fixtures.Kim.ID}, derive(fixtures.KaiserPermanente.ID, private), "something else"},
			"old: an agent that moves to Pfizer, shared with the tenant of Mayo Clinic before": {
				`update public.agents set tenant_id = $1 where id = $2`, []any{pfizer, fixtures.MayoAgent.ID}, derive(pfizer, tenant), pfizer},
			"old: a shared agent that moves to the platform, by the id that it had": {
				`update public.agents set tenant_id = $1 where id = $2`, []any{old, fixtures.MayoAgent.ID}, derive(fixtures.PlatformID, private), fixtures.PlatformID},
			"old: an agent that loses its owner, and still has its creator": {
				`update public.agents set tenant_id = null where id = $1`, []any{fixtures.PfizerAgent.ID}, derive(pfizer, private), ""},
			"old: an agent that becomes public": {
				`update public.agents set metadata = '{"is_public": true}' where id = $1`, []any{fixtures.PfizerAgent.ID}, derive(pfizer, platform), pfizer},
			"old: an agent that is public no more": {
				`update public.agents set metadata = '{}' where id = $1`, []any{fixtures.PfizerPublicAgent.ID}, derive(pfizer, private), pfizer},
			"old: a rename leaves a row that had to be given an owner alone": {
				`update public.knowledge_documents set title = 'y' where id = $1`, []any{fixtures.DanglingDocument.ID}, derive(mayo, private), *fixtures.DanglingDocument.TenantID},
			"old: a rename leaves a row that the backfill has not come to alone": {
				`update public.prompts set name = 'y' where id = $1`, []any{fixtures.PfizerPrompt.ID}, row{}, pfizer},
			"new: an agent of the tenant itself, private": {
				`insert into public.agents (name, owner_organization_id) values ('x', $1)`, []any{fixtures.Pharmaceuticals.ID},
				derive(fixtures.Pharmaceuticals.ID, private), fixtures.Pharmaceuticals.ID},
			"new: an agent of the tenant, for its organizations": {
				`insert into public.agents (name, owner_organization_id, sharing_scope) values ('x', $1, 'tenant')`, []any{fixtures.Pharmaceuticals.ID},
				derive(fixtures.Pharmaceuticals.ID, tenant), fixtures.Pharmaceuticals.ID},
			"new: a capability for everybody": {
				`insert into public.capabilities (name, owner_organization_id, sharing_scope) values ('x', $1, 'platform')`, []any{novartis}, derive(novartis, platform), novartis},
			"new: an agent that moves to another tenant": {
				`update public.agents set owner_organization_id = $1 where id = $2`, []any{novartis, fixtures.MayoAgent.ID}, derive(novartis, tenant), novartis},
			"new: an agent that is shared": {
				`update public.agents set sharing_scope = 'tenant' where id = $1`, []any{fixtures.PfizerAgent.ID}, derive(pfizer, tenant), pfizer},
			"new: an owner that does not exist": {
				`insert into public.prompts (name, owner_organization_id, created_by) values ('x', gen_random_uuid(), $1)`, []any{fixtures.Kim.ID}, derive(fixtures.KaiserPermanente.ID, private), "something else"},
			"forged: an audience": {
				`insert into public.agents (name, owner_organization_id, audience_key, owner_tenant_id) values ('x', $1, $2, $2)`, []any{pfizer, novartis}, derive(pfizer, private), pfizer},
			"forged: an audience that is there": {
				`update public.agents set audience_key = $1 where id = $2`, []any{novartis, fixtures.PfizerAgent.ID}, derive(pfizer, private), pfizer},
		} {
			t.Run(name, func(t *testing.T) {
				got, tenantID := write(t, tx, test.sql+` returning owner_organization_id::text, sharing_scope::text, owner_tenant_id::text, audience_key::text, tenant_id::text`, test.args...)
				require.Equal(t, test.want, got)
				if test.tenantID == "something else" { // than the owner: the old application finds what it wrote
					require.NotEqual(t, got.Owner, tenantID)
					require.NotEmpty(t, tenantID)
					return
				}
				require.Equal(t, test.tenantID, tenantID)
			})
		}
		for name, test := range map[string]struct {
			user, tenantID *string
			owner          string
		}{
			"a conversation in Novartis":                                {&fixtures.Alice.ID, &novartis, novartis},
			"a conversation in the platform by the id that it had":      {&fixtures.Root.ID, &old, fixtures.PlatformID},
			"a conversation in no organization, of somebody of one":     {&fixtures.Carol.ID, nil, mayo},
			"a conversation in no organization, of somebody of two":     {&fixtures.Dana.ID, nil, fixtures.QuarantineOrganizationID},
			"a conversation in no organization, of a former member":     {&fixtures.Eve.ID, nil, fixtures.QuarantineOrganizationID},
			"a conversation in no organization, of the platform's":      {&fixtures.Peter.ID, nil, fixtures.QuarantineOrganizationID},
			"a conversation in an organization that is not there":       {&fixtures.Bob.ID, new("00000001-0000-4000-8000-000000000098"), pfizer},
			"a conversation in no organization, of somebody of none":    {&fixtures.Nobody.ID, nil, fixtures.QuarantineOrganizationID},
			"a conversation of somebody of an inactive organization":    {&fixtures.Sam.ID, nil, fixtures.SandozLegacy.ID},
			"a conversation of somebody whose organization is nobody's": {&fixtures.Uma.ID, nil, fixtures.UnknownBiotech.ID},
		} {
			t.Run(name, func(t *testing.T) {
				got, _ := write(t, tx, `insert into public.conversations (user_id, tenant_id) values ($1, $2) returning owner_organization_id::text, null, null, null, tenant_id::text`,
					test.user, test.tenantID)
				require.Equal(t, row{Owner: test.owner}, got)
			})
		}
		return nil
	}))
}
