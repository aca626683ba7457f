package rollback_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// TestRollbackExactness proves that whatever an application writes on the way up and
// on the way down is there in the end, and nothing else.
func TestRollbackExactness(t *testing.T) {
	t.Parallel()
	checklist.Proves(t, "rollback-procedures/emergency-rollback-plan", "pre-implementation/test-scenarios-defined/rollback-procedure-tested")
	t.Run("Writes between the phases", testBetween)
	t.Run("Writes while they run", testWhile)
}

func world(t *testing.T) *journey {
	t.Helper()
	return depart(t, pgtest.New(t, schema.Legacy, fixtures.World()...), pgtest.New(t, schema.Legacy, fixtures.World()...))
}

// Shorter names, for the table.
var (
	novartis, pfizer, mayo, kaiser = fixtures.Novartis.ID, fixtures.Pfizer.ID, fixtures.MayoClinic.ID, fixtures.KaiserPermanente.ID
	pharma, digital, unknown       = fixtures.Pharmaceuticals.ID, fixtures.DigitalHealth.ID, fixtures.UnknownBiotech.ID
	platform, formerly             = fixtures.PlatformID, fixtures.Platform.ID
	nobodys                        = fixtures.QuarantineOrganizationID
)

// want is whose a row is, and with whom it is shared; for an organization its tenant and slug.
type want map[string]string

// story is what the application writes at each stop, and by hand what some of the rows
// are then. Every other row and value is the model's to know.
var story = []struct {
	stop   string
	move   func(*journey)
	writes []write
	want   want
}{
	{"legacy", func(*journey) {}, []write{
		insert("agents", id(1), values{"name": "Moves", "tenant_id": novartis, "metadata": values{"is_tenant_shared": true}}),
		insert("agents", id(2), values{"name": "The platform's", "tenant_id": formerly}),
		insert("knowledge_documents", id(1), values{"title": "Carol's, of an organization that is gone", "tenant_id": id(99), "created_by": fixtures.Carol.ID}),
		insert("prompts", id(1), values{"name": "Bob's, without an owner", "created_by": fixtures.Bob.ID}),
		insert("conversations", id(1), values{"user_id": fixtures.Carol.ID, "agent_id": id(1)}),
		insert("messages", id(1), values{"conversation_id": id(1), "role": "user", "content": "Hello"}),
		insert("organizations", id(1), values{"name": "Roche", "tenant_type": "standard", "tenant_key": "pharma"}),
		insert("users", id(1), values{"email": "rita@roche.com"}),
		insert("user_organizations", id(1), values{"user_id": id(1), "organization_id": id(1)}),
	}, nil},
	{"after phase 1", (*journey).up, []write{
		update("agents", id(1), values{"tenant_id": pfizer}),
		insert("agents", id(3), values{"name": "By the new application", "owner_organization_id": kaiser, "sharing_scope": "tenant"}),
		update("workflows", fixtures.NovartisWorkflow.ID, values{"is_public": true}),
		remove("prompts", fixtures.NovartisPrompt.ID),
		insert("prompts", fixtures.NovartisPrompt.ID, values{"name": "Once more", "tenant_id": pfizer}),
		insert("capabilities", id(1), values{"name": "The platform's", "tenant_id": formerly}),
		update("organizations", fixtures.SandozLegacy.ID, values{"slug": "sandoz"}),
	}, want{
		"agents " + id(1): pfizer + " <nil>", // it had no scope, and its flags did not change
		"agents " + id(3): kaiser + " tenant",
		"workflows " + fixtures.NovartisWorkflow.ID:     "<nil> platform",
		"agents " + fixtures.NovartisAgent.ID:           "<nil> <nil>",
		"organizations " + fixtures.SandozLegacy.ID:     "<nil> sandoz",
		"capabilities " + id(1):                         formerly + " organization",
		"knowledge_documents " + id(1):                  "<nil> <nil>",
		"prompts " + fixtures.NovartisPrompt.ID:         pfizer + " organization",
		"conversations " + fixtures.DanaConversation.ID: "<nil> <nil>",
	}},
	{"after phase 2", (*journey).up, []write{
		// The old generation, which also goes on saying the id that the platform had.
		insert("agents", id(4), values{"name": "By the old id", "tenant_id": formerly, "metadata": values{"is_public": "True"}}),
		update("agents", fixtures.MayoAgent.ID, values{"metadata": values{}}),
		update("agents", fixtures.KaiserAgent.ID, values{"tenant_id": novartis}),
		insert("use_cases", id(1), values{"title": "Nobody's", "code": "UC-1"}),
		insert("conversations", id(2), values{"user_id": fixtures.Dana.ID}),
		insert("organizations", id(2), values{"name": "Novartis", "tenant_type": "standard", "tenant_key": "digital-health"}),
		insert("organizations", id(3), values{"name": "Gone soon"}),
		insert("knowledge_documents", id(2), values{"title": "Outlives its organization", "tenant_id": id(3), "created_by": fixtures.Kim.ID}),
		update("organizations", pfizer, values{"name": "Pfizer Inc"}),
		// The new one.
		update("agents", fixtures.NovartisAgent.ID, values{"owner_organization_id": pfizer}),
		update("agents", fixtures.PfizerAgent.ID, values{"sharing_scope": "tenant"}),
		update("agents", fixtures.NovartisDraft.ID, values{"owner_organization_id": platform, "sharing_scope": "organization"}),
		update("knowledge_documents", fixtures.NovartisDocument.ID, values{"deleted_at": "2026-01-01T00:00:00+00:00"}),
		update("organizations", mayo, values{"slug": "mayo"}),
		update("organizations", unknown, values{"parent_organization_id": digital}),
		// The same id again, by either, as the backfill left it and otherwise.
		remove("agents", fixtures.PharmaAgent.ID),
		insert("agents", fixtures.PharmaAgent.ID, values{"name": "Once more", "owner_organization_id": fixtures.Pfizer.ID, "sharing_scope": "tenant"}),
		remove("workflows", fixtures.PfizerWorkflow.ID),
		insert("workflows", fixtures.PfizerWorkflow.ID, values{"name": "Once more", "tenant_id": mayo}),
		// Flags and scope contradict each other, and the scope is the later word.
		update("prompts", fixtures.KaiserPrompt.ID, values{"metadata": values{"is_public": true}}),
		update("prompts", fixtures.KaiserPrompt.ID, values{"sharing_scope": "organization"}),
		// Carol is in two organizations from now on, Bob in another one.
		insert("user_organizations", id(2), values{"user_id": fixtures.Carol.ID, "organization_id": novartis}),
		// Deleted, and what it owned is not.
		remove("organizations", id(3)),
	}, want{
		"agents " + id(1):                           pfizer + " tenant",
		"agents " + id(2):                           platform + " organization",
		"agents " + id(4):                           platform + " platform",
		"agents " + fixtures.MayoAgent.ID:           mayo + " organization",
		"agents " + fixtures.KaiserAgent.ID:         novartis + " organization",
		"agents " + fixtures.NovartisDraft.ID:       platform + " organization",
		"use_cases " + id(1):                        nobodys + " organization",
		"knowledge_documents " + id(1):              mayo + " organization",
		"prompts " + id(1):                          pfizer + " organization",
		"organizations " + id(1):                    pharma + " roche",
		"organizations " + id(2):                    digital + " novartis-2",
		"organizations " + fixtures.SandozLegacy.ID: pharma + " sandoz",
		"organizations " + pfizer:                   pharma + " pfizer", // a name that changes is no reason for another address
		"knowledge_documents " + id(2):              id(3) + " organization",
	}},
	{"after phase 3, before which phase 2 had to run again", (*journey).up, []write{
		insert("agents", id(5), values{"name": "By the old id again", "tenant_id": formerly}),
		remove("organizations", novartis), // refused: its rows would go with it
		remove("organizations", id(2)),
		insert("organizations", id(2), values{"name": "Novartis", "tenant_type": "standard", "tenant_key": "pharma"}),
		update("organizations", kaiser, values{"parent_organization_id": pharma}),
		insert("prompts", id(2), values{"name": "Eve's", "created_by": fixtures.Eve.ID}),
		remove("messages", fixtures.Messages[0].ID),
		remove("conversations", fixtures.EveConversation.ID),
		update("users", fixtures.Alice.ID, values{"full_name": "Alice, renamed"}),
	}, want{
		"knowledge_documents " + id(2): kaiser + " organization",
		"agents " + id(5):              platform + " organization",
		"prompts " + id(2):             nobodys + " organization",
		"organizations " + id(2):       pharma + " novartis-2",
		"organizations " + kaiser:      pharma + " kaiser-permanente",
		"agents " + id(3):              kaiser + " tenant",
	}},
	{"after phase 4", (*journey).up, []write{
		insert("agents", id(6), values{"name": "Nobody's"}), // refused: nothing resolves an owner any more
		insert("agents", id(6), values{"name": "Made in phase 4", "owner_organization_id": novartis, "sharing_scope": "tenant"}),
		insert("workflows", id(1), values{"name": "Made in phase 4", "owner_organization_id": platform, "sharing_scope": "platform"}),
		insert("conversations", id(3), values{"user_id": fixtures.Alice.ID, "owner_organization_id": novartis}),
		insert("messages", id(2), values{"conversation_id": id(3), "role": "user", "content": "Hello"}),
		// A flag that somebody writes shares nothing any more, and must not by and by.
		update("agents", fixtures.UnknownAgent.ID, values{"metadata": values{"is_public": true}}),
		// Out of quarantine.
		update("agents", fixtures.OrphanAgent.ID, values{"owner_organization_id": mayo}),
		update("agents", id(6), values{"deleted_at": "2026-01-01T00:00:00+00:00"}),
		insert("organizations", id(4), values{"name": "Bayer"}), // refused
		insert("organizations", id(4), values{"name": "Bayer", "organization_type": "organization", "parent_organization_id": pharma, "slug": "bayer-ag"}),
	}, want{
		"agents " + fixtures.UnknownAgent.ID: unknown + " organization",
		"agents " + fixtures.OrphanAgent.ID:  mayo + " tenant",
	}},
	{"after the rollback of phase 4", (*journey).down, []write{
		insert("agents", id(7), values{"name": "By the old id, later", "tenant_id": formerly}),
		insert("knowledge_documents", id(3), values{"title": "Public", "tenant_id": id(4), "is_public": true}),
		insert("use_cases", id(2), values{"title": "Bob's", "created_by": fixtures.Bob.ID}),
	}, want{
		"agents " + id(7):              platform + " organization",
		"knowledge_documents " + id(3): id(4) + " platform",
		"use_cases " + id(2):           pfizer + " organization",
	}},
	{"after the rollback of phase 3", (*journey).down, []write{
		remove("organizations", fixtures.SandozLegacy.ID), // and with it, again, its agents
		remove("agents", id(6)),
		insert("agents", id(6), values{"name": "Once more", "tenant_id": kaiser}),
	}, want{"agents " + id(6): kaiser + " organization"}},
	{"after the rollback of phase 2", (*journey).down, []write{
		update("knowledge_documents", fixtures.MayoDocument.ID, values{"is_public": true}),
		insert("agents", id(8), values{"name": "The platform's, by the id that it has again", "tenant_id": formerly}),
	}, want{
		// As the backfill left it: taken back.
		"agents " + id(2): "<nil> <nil>",
		"agents " + fixtures.NovartisPublicAgent.ID: "<nil> <nil>",
		"prompts " + id(1):                          "<nil> <nil>",
		"knowledge_documents " + id(1):              "<nil> <nil>",
		"organizations " + novartis:                 "<nil> <nil>",
		"organizations " + id(2):                    "<nil> <nil>",
		// What somebody said stays.
		"agents " + id(3):                         kaiser + " tenant",
		"agents " + id(4):                         formerly + " platform",
		"agents " + fixtures.NovartisAgent.ID:     pfizer + " organization",
		"agents " + fixtures.PfizerAgent.ID:       pfizer + " tenant",
		"agents " + fixtures.MayoAgent.ID:         mayo + " organization",
		"agents " + fixtures.KaiserAgent.ID:       novartis + " organization",
		"agents " + fixtures.OrphanAgent.ID:       mayo + " tenant",
		"agents " + fixtures.UnknownAgent.ID:      unknown + " organization",
		"prompts " + fixtures.KaiserPrompt.ID:     kaiser + " organization",
		"agents " + fixtures.PharmaAgent.ID:       pfizer + " tenant",
		"workflows " + fixtures.PfizerWorkflow.ID: mayo + " organization",
		"use_cases " + id(2):                      pfizer + " organization",
		"organizations " + mayo:                   "<nil> mayo",
		"organizations " + unknown:                digital + " <nil>",
		"organizations " + id(4):                  pharma + " bayer-ag",
		// Nothing remains in quarantine.
		"use_cases " + id(1): "<nil> organization",
		"prompts " + id(2):   "<nil> organization",
	}},
	{"after phase 2 once more", (*journey).up, []write{
		insert("prompts", id(3), values{"name": "Made on the second way up", "tenant_id": formerly}),
	}, want{
		// Decided anew, by what the data says now: Carol is in two organizations, Pfizer has another name.
		"knowledge_documents " + id(1):              nobodys + " organization",
		"organizations " + pfizer:                   pharma + " pfizer-inc",
		"prompts " + id(1):                          pfizer + " organization",
		"agents " + id(2):                           platform + " organization",
		"agents " + id(4):                           platform + " platform",
		"agents " + fixtures.UnknownAgent.ID:        unknown + " organization",
		"prompts " + fixtures.KaiserPrompt.ID:       kaiser + " organization",
		"organizations " + mayo:                     digital + " mayo",
		"organizations " + unknown:                  digital + " unknown-biotech",
		"organizations " + id(2):                    pharma + " novartis", // the elder of two has the first choice
		"organizations " + novartis:                 pharma + " novartis-2",
		"use_cases " + id(1):                        nobodys + " organization",
		"agents " + fixtures.NovartisPublicAgent.ID: novartis + " platform",
	}},
	{"after the rollback of phase 2 once more", (*journey).down, nil, want{
		"agents " + fixtures.UnknownAgent.ID: unknown + " organization",
		"prompts " + id(3):                   formerly + " organization",
	}},
	{"legacy again", (*journey).down, []write{
		insert("agents", id(9), values{"name": "Late", "tenant_id": mayo}),
	}, nil},
}

func testBetween(t *testing.T) {
	t.Parallel()
	j := world(t)
	for _, s := range story {
		s.move(j)
		j.note("-- %s", s.stop)
		j.write(s.writes...)
		j.check()
		found := contents(t, j.db)
		for _, key := range slices.Sorted(maps.Keys(s.want)) {
			table, id, _ := strings.Cut(key, " ")
			row := found[table][id]
			said := fmt.Sprint(row["owner_organization_id"], " ", row["sharing_scope"])
			if table == "organizations" {
				said = fmt.Sprint(row["parent_organization_id"], " ", row["slug"])
			}
			require.Equal(t, s.want[key], said, "%s, %s", s.stop, key)
		}
	}
	j.home()
	// Only the new generation's own words were lost on the way, with the columns that they stood in: scopes, deletions
	// that only hide, slugs, parents. The twin has never heard them, and this is the same.
	j.once(schema.Phase4)
}

// Each file runs while a backend writes. Whether a write comes before or after the file has
// got to its row must not matter: not to the row, not to what phase 2 makes of it, and not to
// what is left after all the way down. Only between phase 1 and phase 2 it is as it fell out.
func testWhile(t *testing.T) {
	t.Parallel()
	j := world(t)
	n := 0
	for range schema.Phases() {
		j.while(&n, must(schema.Migration(j.stage+1)), func() { j.model.up(j.stage + 1) })
	}
	for j.stage > schema.Legacy {
		j.while(&n, rollback(j.stage), j.model.down)
	}
	j.like("after all the way up and down")
	j.once(schema.Phase2)
}

// while runs a file in the middle of what the backend writes.
func (j *journey) while(n *int, f schema.File, then func()) {
	j.t.Helper()
	type answer struct {
		write write
		err   error
	}
	begun, ended, answers := make(chan struct{}), make(chan struct{}), make(chan []answer, 1)
	// The privileges of phase 4 begin, or end, in the middle: both generations write as they can before and after.
	secured := j.stage == schema.Phase4 || f.Path == must(schema.Migration(schema.Phase4)).Path
	go func() {
		var all []answer
		defer func() { answers <- all }()
		for more := true; more; *n++ {
			for _, w := range shift(*n, secured) {
				err := send(j.t, j.application, w.String())
				for crossed(err) {
					err = send(j.t, j.application, w.String())
				}
				if all = append(all, answer{w, err}); len(all) == 1 {
					close(begun)
				}
			}
			select {
			case <-ended:
				more = false
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	<-begun
	_, err := j.db.Run(j.t, f)
	for crossed(err) {
		_, err = j.db.Run(j.t, f)
	}
	close(ended)
	meanwhile := <-answers
	require.NoError(j.t, err)
	j.note("-- meanwhile %s", f.Path)
	for _, a := range meanwhile {
		j.wrote(a.write, a.err)
		j.uncertain[a.write.table+a.write.id] = true
	}
	then()
	j.check()
}

// crossed says that two sessions met with what the other one needs, and one of them had to step
// back: phases 1 and 4 take all tables in one transaction.
func crossed(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && (e.Code == "40P01" || e.Code == "55P03")
}

// shift is what the backend writes, over and over; none of it is refused at any stage.
func shift(n int, secured bool) []write {
	of := []string{novartis, pfizer, mayo, kaiser}[n%4]
	key := id(100 + n)
	owner := "tenant_id"
	writes := []write{
		insert("users", key, values{"email": key + "@example.com"}),
		insert("user_organizations", key, values{"user_id": key, "organization_id": of}),
	}
	if !secured { // from here on an owner has to be given
		writes = append(writes,
			insert("knowledge_documents", id(10000+n), values{"title": "By the only membership", "created_by": key, "is_public": n%2 == 0}),
			insert("use_cases", key, values{"title": "Nobody's"}),
			insert("prompts", key, values{"name": "By the platform's old id", "tenant_id": formerly}),
			insert("agents", id(20000+n), values{"name": "By the platform's old id", "tenant_id": formerly}),
			insert("organizations", key, values{"name": fmt.Sprint("Made ", n), "tenant_key": "pharma"}),
			insert("agents", id(10000+n), values{"name": "Shared", "tenant_id": of, "metadata": values{"is_tenant_shared": true}}),
			update("agents", fixtures.Agents[n%10].ID, values{"tenant_id": of}),
			insert("conversations", id(10000+n), values{"user_id": key}),
		)
	}
	return append(writes,
		insert("agents", key, values{"name": "Private", owner: of, "created_by": key}),
		insert("workflows", key, values{"name": "Private", owner: of}),
		insert("conversations", key, values{"user_id": key, owner: of, "agent_id": key}),
		insert("messages", key, values{"conversation_id": key, "role": "user", "content": "Hello"}),
		update("knowledge_documents", fixtures.Documents[n%10].ID, values{"title": fmt.Sprint("Renamed ", n)}),
		update("organizations", of, values{"domain": fmt.Sprintf("%d.example", n)}),
		remove("workflows", id(100+n-1)),
	)
}
