package rls_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/actor"
	"github.com/vital-health/tenancy/helpers/checklist"
)

func testConversations(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "phase-4/update-rls-for-conversations", "success-criteria/functionality/conversations-work")
	db := secured(t)
	start := func(user fixtures.User, owner fixtures.Organization, agent string) string {
		return fmt.Sprintf(`insert into public.conversations (user_id, owner_organization_id, agent_id, title) values ('%s', '%s', %s, 'New')`, user.ID, owner.ID, agent)
	}
	with := func(agent fixtures.Resource) string { return "'" + agent.ID + "'" }
	write := func(c fixtures.Conversation, role string) string {
		return fmt.Sprintf(`insert into public.messages (conversation_id, role, content) values ('%s', '%s', 'Hello')`, c.ID, role)
	}
	alice, adam := as(fixtures.Alice), as(fixtures.Adam)
	check(t, db, map[string]step{
		"a member starts one":                                   {alice, start(fixtures.Alice, fixtures.Novartis, "null"), done},
		"a viewer starts one":                                   {as(fixtures.Vera), start(fixtures.Vera, fixtures.Novartis, "null"), done},
		"with an agent that he sees":                            {alice, start(fixtures.Alice, fixtures.Novartis, with(fixtures.PharmaAgent)), done},
		"not with an agent that he does not see":                {alice, start(fixtures.Alice, fixtures.Novartis, with(fixtures.PfizerAgent)), rejected},
		"nor with one that there is not":                        {alice, start(fixtures.Alice, fixtures.Novartis, "'99999999-0000-4000-8000-000000000099'"), rejected},
		"not for another":                                       {alice, start(fixtures.Bob, fixtures.Novartis, "null"), rejected},
		"not in an organization of others":                      {alice, start(fixtures.Alice, fixtures.Pfizer, "null"), rejected},
		"a former member starts none":                           {as(fixtures.Eve), start(fixtures.Eve, fixtures.Novartis, "null"), rejected},
		"nobody starts one who has not signed in":               {actor.Anonymous(), start(fixtures.Alice, fixtures.Novartis, "null"), denied},
		"one renames one's own":                                 {alice, `update public.conversations set title = 'Labels', status = 'archived'`, done},
		"an admin renames nobody's":                             {adam, `update public.conversations set title = 'Labels'`, filtered},
		"a former member renames nothing":                       {as(fixtures.Eve), `update public.conversations set title = 'Labels'`, filtered},
		"one does not move it":                                  {alice, `update public.conversations set owner_organization_id = '` + fixtures.Pfizer.ID + `'`, denied},
		"nor give it away":                                      {alice, `update public.conversations set user_id = '` + fixtures.Bob.ID + `'`, denied},
		"nor name another agent":                                {alice, `update public.conversations set agent_id = '` + fixtures.PfizerAgent.ID + `'`, denied},
		"nor delete it":                                         {alice, `delete from public.conversations`, denied},
		"but delete it softly":                                  {alice, softDelete("conversations", fixtures.AliceConversation.ID), done},
		"a user writes in it":                                   {alice, write(fixtures.AliceConversation, "user"), done},
		"a user does not speak for the assistant":               {alice, write(fixtures.AliceConversation, "assistant"), rejected},
		"nor for the system":                                    {alice, write(fixtures.AliceConversation, "system"), rejected},
		"the backend does":                                      {actor.Service(), write(fixtures.AliceConversation, "assistant"), done},
		"a user does not write in another's":                    {alice, write(fixtures.BobConversation, "user"), rejected},
		"an admin does not either":                              {adam, write(fixtures.AliceConversation, "user"), rejected},
		"a former member does not write in what was his":        {as(fixtures.Eve), write(fixtures.EveConversation, "user"), rejected},
		"nobody writes in one that is deleted":                  {alice, write(fixtures.DeletedConversation, "user"), rejected},
		"nobody changes what he has written":                    {alice, `update public.messages set content = 'Never mind'`, denied},
		"nobody unwrites it":                                    {alice, `delete from public.messages`, denied},
		"nobody writes when he has not":                         {alice, `insert into public.messages (conversation_id, role, created_at) values ('` + fixtures.AliceConversation.ID + `', 'user', '2020-01-01')`, denied},
		"nobody moves a message, not even by inserting it anew": {alice, `insert into public.messages (id, conversation_id, role) values ('` + fixtures.Messages[0].ID + `', '` + fixtures.AliceConversation.ID + `', 'user')`, denied},
	})
	t.Run("an update that no WHERE narrows changes one's own only", func(t *testing.T) {
		require.NoError(t, alice.Do(t, db, func(tx pgx.Tx) error {
			tag, err := tx.Exec(t.Context(), `update public.conversations set title = 'Labels'`)
			require.NoError(t, err)
			require.EqualValues(t, 1, tag.RowsAffected(), "Alice has one that is not deleted")
			return nil
		}))
	})
}

func testDirectory(t *testing.T) {
	t.Parallel()
	db := secured(t)
	of := func(user fixtures.User, organization fixtures.Organization) string {
		return fmt.Sprintf(` where user_id = '%s' and organization_id = '%s'`, user.ID, organization.ID)
	}
	add := func(user fixtures.User, organization fixtures.Organization, role string) string {
		return fmt.Sprintf(`insert into public.user_organizations (user_id, organization_id, role) values ('%s', '%s', '%s')`, user.ID, organization.ID, role)
	}
	const promote = `update public.user_organizations set role = 'admin'`
	alice, adam, max := as(fixtures.Alice), as(fixtures.Adam), as(fixtures.Max)
	check(t, db, map[string]step{
		"an admin renames the organization":                   {adam, `update public.organizations set name = 'Novartis AG'`, done},
		"a member does not":                                   {alice, `update public.organizations set name = 'Novartis AG'`, filtered},
		"an admin does not rename another":                    {adam, `update public.organizations set name = 'Pfizer AG' where id = '` + fixtures.Pfizer.ID + `'`, filtered},
		"the tenant's admin does not rename its organization": {as(fixtures.Tess), `update public.organizations set name = 'Mine' where id = '` + fixtures.Novartis.ID + `'`, filtered},
		"an admin does not change its slug":                   {adam, `update public.organizations set slug = 'pfizer'`, denied},
		"nor its type":                                        {adam, `update public.organizations set organization_type = 'tenant'`, denied},
		"nor its parent":                                      {adam, `update public.organizations set parent_organization_id = '` + fixtures.DigitalHealth.ID + `'`, denied},
		"nor its tenant":                                      {adam, `update public.organizations set tenant_organization_id = '` + fixtures.DigitalHealth.ID + `'`, denied},
		"nor delete it":                                       {adam, `update public.organizations set deleted_at = now()`, denied},
		"nor delete it at all":                                {adam, `delete from public.organizations`, denied},
		"nor read its settings":                               {adam, `select settings from public.organizations`, denied},
		"nobody makes an organization":                        {as(fixtures.Root), `insert into public.organizations (name) values ('Mine')`, denied},
		"nobody changes an address":                           {alice, `update public.users set email = 'adam@novartis.com'`, denied},
		"nobody makes a user":                                 {adam, `insert into public.users (email) values ('new@novartis.com')`, denied},
		"nobody deletes a user":                               {adam, `delete from public.users`, denied},

		"an admin adds whom he shares an organization with": {max, add(fixtures.Bob, fixtures.Novartis, "viewer"), done},
		"as an admin, too":                                    {max, add(fixtures.Bob, fixtures.Novartis, "admin"), done},
		"of a role that there is":                             {max, add(fixtures.Bob, fixtures.Novartis, "owner"), `ERROR: new row for relation "user_organizations" violates check constraint "user_organizations_role_valid" (SQLSTATE 23514)`},
		"an admin adds nobody whom he does not know":          {adam, add(fixtures.Nobody, fixtures.Novartis, "viewer"), rejected},
		"the backend does, who was asked":                     {actor.Service(), add(fixtures.Nobody, fixtures.Novartis, "viewer"), done},
		"a member adds nobody":                                {as(fixtures.Dana), add(fixtures.Carol, fixtures.Novartis, "viewer"), rejected},
		"an admin adds nobody elsewhere":                      {max, add(fixtures.Alice, fixtures.Pfizer, "viewer"), rejected},
		"the tenant's admin adds nobody to its organizations": {as(fixtures.Tess), add(fixtures.Nobody, fixtures.Novartis, "viewer"), rejected},
		"nobody adds himself":                                 {as(fixtures.Nobody), add(fixtures.Nobody, fixtures.Novartis, "viewer"), rejected},
		"an admin does not add himself elsewhere":             {adam, add(fixtures.Adam, fixtures.Pfizer, "admin"), rejected},
		"an admin promotes a member":                          {adam, promote + of(fixtures.Alice, fixtures.Novartis), done},
		"a member does not promote himself":                   {alice, promote + of(fixtures.Alice, fixtures.Novartis), filtered},
		"nor without saying whom":                             {alice, promote, filtered},
		"a viewer does not promote himself":                   {as(fixtures.Max), promote + of(fixtures.Max, fixtures.Pfizer), filtered},
		"an admin does not change himself":                    {adam, `update public.user_organizations set role = 'viewer'` + of(fixtures.Adam, fixtures.Novartis), filtered},
		"an admin here changes nobody there":                  {as(fixtures.Max), promote + of(fixtures.Bob, fixtures.Pfizer), filtered},
		"an admin lets a former member back in":               {adam, `update public.user_organizations set is_active = true` + of(fixtures.Eve, fixtures.Novartis), done},
		"a former member does not let himself back in":        {as(fixtures.Eve), `update public.user_organizations set is_active = true`, filtered},
		"but not as if he were new":                           {adam, add(fixtures.Eve, fixtures.Novartis, "member") + ` on conflict (user_id, organization_id) do update set is_active = true`, rejected},
		"an admin does not move a membership":                 {adam, `update public.user_organizations set organization_id = '` + fixtures.Pfizer.ID + `'`, denied},
		"nor make it somebody else's":                         {adam, `update public.user_organizations set user_id = '` + fixtures.Nobody.ID + `'`, denied},
		"an admin removes a member":                           {adam, `delete from public.user_organizations` + of(fixtures.Alice, fixtures.Novartis), done},
		"an admin does not remove himself":                    {adam, `delete from public.user_organizations` + of(fixtures.Adam, fixtures.Novartis), filtered},
		"a member removes nobody":                             {alice, `delete from public.user_organizations`, filtered},
		"nobody is added by who has not signed in":            {actor.Anonymous(), add(fixtures.Nobody, fixtures.Novartis, "viewer"), denied},
	})
	t.Run("what no WHERE narrows meets one's own organization only", func(t *testing.T) {
		others := 0
		for _, m := range fixtures.Memberships {
			if m.OrganizationID == fixtures.Novartis.ID && m.UserID != fixtures.Adam.ID {
				others++
			}
		}
		require.NoError(t, adam.Do(t, db, func(tx pgx.Tx) error {
			for _, statement := range []struct {
				sql  string
				want int
			}{
				{`update public.organizations set name = 'Novartis AG'`, 1},
				{promote, others},
				{`delete from public.user_organizations`, others},
			} {
				tag, err := tx.Exec(t.Context(), statement.sql)
				require.NoError(t, err)
				require.EqualValues(t, statement.want, tag.RowsAffected(), statement.sql)
			}
			return nil
		}))
	})
}

// service is the backend, which is nobody.
var service = fixtures.User{}
