package constraints_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
)

func testIndexes(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "success-criteria/schema-updated/all-indexes-created", "production-deployment/verify-phase-3-in-production/verify-indexes-created")
	db := phase3(t)
	t.Run("are those of the design and of the legacy schema, valid, and no others", func(t *testing.T) {
		require.Empty(t, indexProblems(t, db.Owner))
	})

	const unique = "CREATE INDEX idx_organizations_slug ON public.organizations USING btree (slug) WHERE (deleted_at IS NULL)"
	const narrow = "CREATE INDEX idx_agents_org_list ON public.agents USING btree (owner_organization_id, name)"
	wanted := map[string]string{}
	for _, w := range wantedIndexes() {
		wanted[w.name] = w.sql
	}
	for name, test := range map[string]struct{ fault, problem string }{
		"slugs that two organizations may have": {`drop index public.idx_organizations_slug; create index idx_organizations_slug on public.organizations (slug) where deleted_at is null`,
			"index idx_organizations_slug is " + unique + ", wanted is " + wanted["idx_organizations_slug"] + ": two live organizations would have one address"},
		"the list of an organization's agents without its index": {`drop index public.idx_agents_org_list`,
			"index idx_agents_org_list is missing: the list of an organization's agents would read the table"},
		"the list's index with other columns": {`drop index public.idx_agents_org_list; create index idx_agents_org_list on public.agents (owner_organization_id, name)`,
			"index idx_agents_org_list is " + narrow + ", wanted is " + wanted["idx_agents_org_list"] + ": the list of an organization's agents would read the table"},
		"an index that nobody wants": {`create index idx_agents_priority on public.agents (priority, name)`,
			"index idx_agents_priority is there, and nobody wants it: CREATE INDEX idx_agents_priority ON public.agents USING btree (priority, name)"},
		"an index of the legacy schema that is gone": {`drop index public.agents_tenant_id_idx`,
			"index agents_tenant_id_idx is missing: the old application relies on it"},
		"a foreign key without an index": {`drop index public.idx_conversations_agent_id`,
			"no index leads with the columns of the foreign key conversations.conversations_agent_id_fkey: deleting what it refers to would read all of conversations"},
	} {
		t.Run("or the check finds "+name, func(t *testing.T) { finds(t, db.Owner, indexProblems, test.fault, test.problem) })
	}
	t.Run("or the check finds one that is half-built", func(t *testing.T) {
		broken := phase3(t)
		_, err := broken.Owner.Exec(t.Context(), `create unique index concurrently idx_agents_tier on public.agents (tier)`)
		require.Error(t, err, "many agents have one tier")
		require.Contains(t, indexProblems(t, broken.Owner),
			"index idx_agents_tier is there, and nobody wants it: CREATE UNIQUE INDEX idx_agents_tier ON public.agents USING btree (tier) INVALID")
	})
}

// wantedIndexes lists the indexes of schema public.
func wantedIndexes() []definition {
	const (
		list        = "the list of an organization's agents would read the table"
		deletion    = "deleting what a row refers to would read the table"
		application = "the old application relies on it"
		targets     = "a foreign key refers to it"
		codes       = "two rows of one owner would have one code"
		audiences   = "what a user may read would be found by reading the table"
		search      = "what is searched would be found by reading the table"
	)
	wanted := []definition{
		{"idx_organizations_slug", "CREATE UNIQUE INDEX idx_organizations_slug ON public.organizations USING btree (slug) WHERE (deleted_at IS NULL)", "two live organizations would have one address"},
		{"idx_organizations_one_platform", "CREATE UNIQUE INDEX idx_organizations_one_platform ON public.organizations USING btree ((true)) WHERE (organization_type = 'platform'::public.organization_type)", "there would be a second platform"},
		{"idx_organizations_shared_key", "CREATE UNIQUE INDEX idx_organizations_shared_key ON public.organizations USING btree (authz.shared_key(id))", "two organizations would read what either shares"},
		{"idx_organizations_id_type", "CREATE UNIQUE INDEX idx_organizations_id_type ON public.organizations USING btree (id, organization_type)", targets},
		{"idx_organizations_id_tenant", "CREATE UNIQUE INDEX idx_organizations_id_tenant ON public.organizations USING btree (id, tenant_organization_id)", targets},
		{"idx_organizations_parent", "CREATE INDEX idx_organizations_parent ON public.organizations USING btree (parent_organization_id, parent_organization_type)", deletion},
		{"idx_user_organizations_organization_id", "CREATE INDEX idx_user_organizations_organization_id ON public.user_organizations USING btree (organization_id)", deletion},
		{"idx_organizations_suspended", "CREATE INDEX idx_organizations_suspended ON public.organizations USING btree (id) WHERE ((deleted_at IS NOT NULL) OR (is_active IS NOT TRUE))", "each statement would read all organizations"},
		{"idx_agents_knowledge_domains", "CREATE INDEX idx_agents_knowledge_domains ON public.agents USING gin (knowledge_domains) WHERE (deleted_at IS NULL)", search},
		{"idx_knowledge_documents_text", "CREATE INDEX idx_knowledge_documents_text ON public.knowledge_documents USING gin (authz.searchable(title, content)) WHERE (deleted_at IS NULL)", search},
		{"idx_agents_audience", "CREATE INDEX idx_agents_audience ON public.agents USING btree (audience_key, priority DESC, name) INCLUDE (owner_organization_id) WHERE (deleted_at IS NULL)", audiences},
		{"idx_agents_accessible", "CREATE INDEX idx_agents_accessible ON public.agents USING btree (audience_key, priority DESC, tier, name) INCLUDE (id, owner_organization_id) WHERE ((deleted_at IS NULL) AND (status = 'active'::public.agent_status))", audiences},
		{"idx_agents_org_list", "CREATE INDEX idx_agents_org_list ON public.agents USING btree (owner_organization_id, tier, name) INCLUDE (id, display_name, sharing_scope, audience_key) WHERE ((deleted_at IS NULL) AND (status = 'active'::public.agent_status))", list},
		{"idx_conversations_user", "CREATE INDEX idx_conversations_user ON public.conversations USING btree (user_id, created_at DESC) INCLUDE (id, owner_organization_id) WHERE (deleted_at IS NULL)", "a user's newest conversations would be found by reading all of them"},
		{"idx_conversations_owner", "CREATE INDEX idx_conversations_owner ON public.conversations USING btree (owner_organization_id)", deletion},
		{"idx_conversations_agent_id", "CREATE INDEX idx_conversations_agent_id ON public.conversations USING btree (agent_id)", deletion},
		{"idx_messages_conversation", "CREATE INDEX idx_messages_conversation ON public.messages USING btree (conversation_id, created_at)", "a conversation's newest messages would be found by reading all of them"},
		{"idx_use_cases_owner_code", "CREATE UNIQUE INDEX idx_use_cases_owner_code ON public.use_cases USING btree (owner_organization_id, code) WHERE (deleted_at IS NULL)", codes},
		{"idx_capabilities_owner_code", "CREATE UNIQUE INDEX idx_capabilities_owner_code ON public.capabilities USING btree (owner_organization_id, code) WHERE (deleted_at IS NULL)", codes},
		{"idx_audit_logs_organization", "CREATE INDEX idx_audit_logs_organization ON ONLY public.audit_logs USING btree (organization_id, created_at DESC)", "an organization's history would be found by reading everybody's"},
		{"idx_audit_logs_deleted_conversations", "CREATE INDEX idx_audit_logs_deleted_conversations ON ONLY public.audit_logs USING btree (resource_id) WHERE ((resource_type = 'conversations'::text) AND (action = 'DELETE'::text))", "a conversation's deletion would read the month's history for each of its messages"},
		{"audit_logs_pkey", "CREATE UNIQUE INDEX audit_logs_pkey ON ONLY public.audit_logs USING btree (id, created_at)", "an entry could not be named"},

		{"agents_tenant_id_idx", "CREATE INDEX agents_tenant_id_idx ON public.agents USING btree (tenant_id)", application},
		{"conversations_user_id_idx", "CREATE INDEX conversations_user_id_idx ON public.conversations USING btree (user_id)", application},
		{"messages_conversation_id_idx", "CREATE INDEX messages_conversation_id_idx ON public.messages USING btree (conversation_id)", application},
		{"user_organizations_user_id_organization_id_key", "CREATE UNIQUE INDEX user_organizations_user_id_organization_id_key ON public.user_organizations USING btree (user_id, organization_id)", application},
		{"users_email_key", "CREATE UNIQUE INDEX users_email_key ON public.users USING btree (email)", application},
		{"use_cases_code_key", "CREATE UNIQUE INDEX use_cases_code_key ON public.use_cases USING btree (code)", application},
		{"capabilities_code_key", "CREATE UNIQUE INDEX capabilities_code_key ON public.capabilities USING btree (code)", application},
	}
	for _, table := range resourceTables {
		wanted = append(wanted, definition{"idx_" + table + "_owner", "CREATE INDEX idx_" + table + "_owner ON public." + table + " USING btree (owner_organization_id, owner_tenant_id)", deletion})
		if table != "agents" { // listed by priority, not by age
			wanted = append(wanted, definition{"idx_" + table + "_audience", "CREATE INDEX idx_" + table + "_audience ON public." + table + " USING btree (audience_key, created_at DESC) INCLUDE (id, owner_organization_id) WHERE (deleted_at IS NULL)", audiences})
		}
	}
	for _, table := range append([]string{"organizations", "users", "user_organizations", "conversations", "messages"}, resourceTables...) {
		wanted = append(wanted, definition{table + "_pkey", "CREATE UNIQUE INDEX " + table + "_pkey ON public." + table + " USING btree (id)", application})
	}
	return wanted
}

// indexProblems says where a database's indexes are not those of the design.
func indexProblems(t testing.TB, db beginner) []string {
	t.Helper()
	found := problems("index", wantedIndexes(), definitions(t, db, `
		select c.relname, pg_get_indexdef(i.indexrelid) || case when i.indisvalid and i.indisready then '' else ' INVALID' end
		from pg_catalog.pg_index i
		join pg_catalog.pg_class c on c.oid = i.indexrelid
		where c.relnamespace = 'public'::regnamespace`))
	for key, indexed := range definitions(t, db, `
		select r.relname || '.' || c.conname, exists (
			select from pg_catalog.pg_index i
			where i.indrelid = c.conrelid and i.indisvalid and i.indpred is null
			  and (i.indkey::int2[])[0:cardinality(c.conkey) - 1] = c.conkey
		)::text
		from pg_catalog.pg_constraint c
		join pg_catalog.pg_class r on r.oid = c.conrelid
		where r.relnamespace = 'public'::regnamespace and c.contype = 'f'`) {
		if indexed != "true" {
			table, _, _ := strings.Cut(key, ".")
			found = append(found, fmt.Sprintf("no index leads with the columns of the foreign key %s: deleting what it refers to would read all of %s", key, table))
		}
	}
	return found
}
