package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/pgtest"
)

// application is what one generation of the application sends, and how often.
type application struct {
	Name     string
	requests []request
}

// request is one statement and what it is sent with.
type request struct {
	name   string
	weight int  // in proportion to the others of its application
	user   bool // sent by a signed-in user through the API, or else by the backend as service_role
	talk   bool // about a conversation
	sql    string
	args   func(*draw) []any         // nil if there is nothing to ask just now
	keep   func(*population, string) // what becomes of the id that it returns; nil for a statement that returns none
}

// The old application knows nothing of the migrations. It is unchanged from the legacy
// database to phase 3.
var oldApplication = application{"old", []request{
	{"signs a user in", 5, false, false, `select u.id, uo.role from public.users u join public.user_organizations uo on uo.user_id = u.id where u.email = $1 and uo.is_active`,
		func(d *draw) []any { return []any{d.email()} }, nil},
	{"lists an organization's agents", 10, true, false, `select id, name, display_name, tier from public.agents where tenant_id = $1 and status = 'active' order by priority desc, name limit 50`,
		func(d *draw) []any { return []any{d.organization()} }, nil},
	{"opens an agent", 15, true, false, `select id, name, description, metadata from public.agents where id = $1`,
		func(d *draw) []any { return []any{d.agent()} }, nil},
	{"renames an agent", 10, true, false, `update public.agents set display_name = $2, updated_at = now() where id = $1`,
		func(d *draw) []any { return []any{d.agent(), d.text()} }, nil},
	{"shares an agent", 2, false, false, `update public.agents set metadata = metadata || '{"is_tenant_shared": "True"}' where id = $1`,
		func(d *draw) []any { return []any{d.agent()} }, nil},
	{"makes an agent", 5, false, false, `insert into public.agents (tenant_id, name, created_by, metadata) values ($1, $2, $3, '{"is_public": false}') returning id`,
		func(d *draw) []any { return []any{d.organization(), d.text(), d.person()} }, (*population).addAgent},
	{"deletes an agent", 3, false, false, `delete from public.agents where id = $1`,
		(*draw).takeAgent, nil},
	{"opens a document", 10, true, false, `select id, title, content from public.knowledge_documents where id = $1`,
		func(d *draw) []any { return []any{d.document()} }, nil},
	{"edits a document", 5, false, false, `update public.knowledge_documents set content = $2, updated_at = now() where id = $1`,
		func(d *draw) []any { return []any{d.document(), d.text()} }, nil},
	{"makes a document", 5, false, false, `insert into public.knowledge_documents (tenant_id, title, is_public, created_by) values ($1, $2, false, $3)`,
		func(d *draw) []any { return []any{d.organization(), d.text(), d.person()} }, nil},
	{"inserts a use case or updates it", 2, false, false, `insert into public.use_cases (code, title, created_by) values ($1, $2, $3) on conflict (code) do update set title = excluded.title`,
		func(d *draw) []any { return []any{d.code(), d.text(), d.person()} }, nil},
	{"lists a user's conversations", 8, true, true, `select id, title, created_at from public.conversations where user_id = $1 order by created_at desc limit 20`,
		func(d *draw) []any { return []any{d.person()} }, nil},
	{"starts a conversation", 3, false, true, `insert into public.conversations (user_id, tenant_id, title) values ($1, $2, $3)`,
		func(d *draw) []any { return []any{d.person(), d.organization(), d.text()} }, nil},
	{"reads a conversation", 8, true, true, `select role, content from public.messages where conversation_id = $1 order by created_at`,
		func(d *draw) []any { return []any{d.conversation()} }, nil},
	{"writes a message", 8, true, true, `insert into public.messages (conversation_id, role, content) values ($1, 'user', $2)`,
		func(d *draw) []any { return []any{d.conversation(), d.text()} }, nil},
	{"makes an organization", 1, false, false, `insert into public.organizations (name, tenant_type, tenant_key) values ($1, 'standard', 'pharma')`,
		func(d *draw) []any { return []any{d.text()} }, nil},
	{"changes an organization", 1, false, false, `update public.organizations set domain = $2 where id = $1`,
		func(d *draw) []any { return []any{d.organization(), d.text()} }, nil},
	{"lets somebody into an organization", 1, false, false, `insert into public.user_organizations (user_id, organization_id) values ($1, $2) on conflict (user_id, organization_id) do update set is_active = true`,
		func(d *draw) []any { return []any{d.person(), d.otherOrganization()} }, nil},
}}

// The new one names owners and scopes, and asks the functions of phase 3.
var newApplication = application{"new", []request{
	{"signs a user in", 5, false, false, `select u.id, o.organization_id, o.role from public.users u, public.get_user_accessible_organizations(u.id) o where u.email = $1`,
		func(d *draw) []any { return []any{d.email()} }, nil},
	{"lists a user's agents", 10, true, false, `select agent_id, agent_name, access_reason from public.get_accessible_agents($1, 50)`,
		func(d *draw) []any { return []any{d.person()} }, nil},
	{"opens an agent", 15, true, false, `select id, name, description, metadata from public.agents where id = $1`,
		func(d *draw) []any { return []any{d.agent()} }, nil},
	{"renames an agent", 10, true, false, `update public.agents set display_name = $2 where id = $1`,
		func(d *draw) []any { return []any{d.agent(), d.text()} }, nil},
	{"shares an agent", 2, true, false, `update public.agents set sharing_scope = 'tenant' where id = $1`,
		func(d *draw) []any { return []any{d.agent()} }, nil},
	{"makes an agent", 5, true, false, `insert into public.agents (owner_organization_id, name, created_by) values ($1, $2, $3) returning id`,
		func(d *draw) []any { return []any{d.organization(), d.text(), d.person()} }, (*population).addAgent},
	{"deletes an agent", 3, false, false, `update public.agents set deleted_at = now() where id = $1`,
		(*draw).takeAgent, nil},
	{"opens a document", 10, true, false, `select id, title, content from public.knowledge_documents where id = $1`,
		func(d *draw) []any { return []any{d.document()} }, nil},
	{"edits a document", 5, false, false, `update public.knowledge_documents set content = $2 where id = $1`,
		func(d *draw) []any { return []any{d.document(), d.text()} }, nil},
	{"makes a document", 5, true, false, `insert into public.knowledge_documents (owner_organization_id, title, created_by) values ($1, $2, $3)`,
		func(d *draw) []any { return []any{d.organization(), d.text(), d.person()} }, nil},
	{"makes a use case", 2, true, false, `insert into public.use_cases (owner_organization_id, code, title, created_by) values ($1, $2, $3, $4)`,
		func(d *draw) []any { return []any{d.organization(), "new " + d.text(), d.text(), d.person()} }, nil},
	{"lists a user's conversations", 8, true, true, `select id, title, created_at from public.conversations where user_id = $1 order by created_at desc limit 20`,
		func(d *draw) []any { return []any{d.person()} }, nil},
	{"starts a conversation", 3, true, true, `insert into public.conversations (user_id, owner_organization_id, title) values ($1, $2, $3)`,
		func(d *draw) []any { return []any{d.person(), d.organization(), d.text()} }, nil},
	{"reads a conversation", 8, true, true, `select role, content from public.messages where conversation_id = $1 order by created_at`,
		func(d *draw) []any { return []any{d.conversation()} }, nil},
	{"writes a message", 8, true, true, `insert into public.messages (conversation_id, role, content) values ($1, 'user', $2)`,
		func(d *draw) []any { return []any{d.conversation(), d.text()} }, nil},
	{"changes an organization", 1, false, false, `update public.organizations set domain = $2 where id = $1`,
		func(d *draw) []any { return []any{d.organization(), d.text()} }, nil},
	{"lets somebody into an organization", 1, false, false, `insert into public.user_organizations (user_id, organization_id) values ($1, $2) on conflict (user_id, organization_id) do update set is_active = true`,
		func(d *draw) []any { return []any{d.person(), d.otherOrganization()} }, nil},
}}

// population is the rows that requests are about: those of [fixtures.LegacyBulk].
type population struct {
	rows, organizations int

	mu   sync.Mutex
	made []string // agents that the workload has made, and may delete
}

func (p *population) addAgent(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made = append(p.made, id)
}

// draw is what one request is about: the n-th agent, document or conversation, the
// organization that has it, and its only person.
type draw struct {
	*population
	n int
}

// draw draws a row that names its organization.
func (p *population) draw(talk bool) *draw {
	limit := p.rows
	if talk {
		limit /= fixtures.LegacyMessages
	}
	for {
		if n := 1 + rand.IntN(limit); n%fixtures.LegacyOrphans != 0 {
			return &draw{p, n}
		}
	}
}

func (d *draw) agent() string        { return fixtures.LegacyID("agent", d.n) }
func (d *draw) document() string     { return fixtures.LegacyID("document", d.n) }
func (d *draw) conversation() string { return fixtures.LegacyID("conversation", d.n) }
func (d *draw) organization() string { return fixtures.LegacyID("organization", d.n%d.organizations) }
func (d *draw) person() string       { return fixtures.LegacyID("person", d.n%d.organizations) }
func (d *draw) email() string        { return fixtures.LegacyEmail(d.n % d.organizations) }
func (d *draw) text() string         { return fmt.Sprintf("Live %016x", rand.Uint64()) }
func (d *draw) code() string         { return fmt.Sprintf("live-%d", d.n%d.organizations) }

// otherOrganization is one that the person may not be a member of.
func (d *draw) otherOrganization() string {
	return fixtures.LegacyID("organization", rand.IntN(d.organizations))
}

// takeAgent is an agent that the workload has made, if there is one.
func (d *draw) takeAgent() []any {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.made) == 0 {
		return nil
	}
	id := d.made[0]
	d.made = d.made[1:]
	return []any{id}
}

// claims is what the API says of the person.
func (d *draw) claims() string { return `{"role": "authenticated", "sub": "` + d.person() + `"}` }

// workload sends requests at a steady rate, each when its time has come, whatever has
// become of those before it: who waits does not keep the next from asking.
type workload struct {
	population *population
	rate       float64 // per second
	api        *pgxpool.Pool
	backend    *pgxpool.Pool

	mu       sync.Mutex
	answered []answer
}

// answer is what became of a request. Its latency begins when it was to be sent.
type answer struct {
	request *request
	latency time.Duration
	err     error
}

// errNoRow is the error of a request that the database took for one that is about
// nothing: hidden rows are no SQL error.
var errNoRow = errors.New("met no row")

// connect opens the application's two pools, as large as the application's would be.
func (w *workload) connect(ctx context.Context, db *pgtest.DB) error {
	for role, pool := range map[string]**pgxpool.Pool{pgtest.APIRole: &w.api, pgtest.ServiceRole: &w.backend} {
		cfg, err := pgxpool.ParseConfig(db.URL(role))
		if err != nil {
			return err
		}
		cfg.MaxConns, cfg.MinConns = 20, 20
		if role == pgtest.ServiceRole {
			cfg.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
				_, err := c.Exec(ctx, "set role service_role")
				return err
			}
		}
		if *pool, err = pgxpool.NewWithConfig(ctx, cfg); err != nil {
			return err
		}
	}
	return nil
}

func (w *workload) close() {
	for _, pool := range []*pgxpool.Pool{w.api, w.backend} {
		if pool != nil {
			pool.Close()
		}
	}
}

// run sends an application's requests until ctx has ended, and returns when all are
// answered.
func (w *workload) run(ctx context.Context, a application) {
	var lottery []*request
	for i := range a.requests {
		for range a.requests[i].weight {
			lottery = append(lottery, &a.requests[i])
		}
	}
	var pending sync.WaitGroup
	defer pending.Wait()
	for next := time.Now(); ; {
		// Callers come as they like: one by one, and sometimes several at once.
		next = next.Add(time.Duration(rand.ExpFloat64() / w.rate * float64(time.Second)))
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		r := lottery[rand.IntN(len(lottery))]
		d := w.population.draw(r.talk)
		args := r.args(d)
		if args == nil {
			continue
		}
		pending.Go(func() {
			// A request that was sent is answered, also when no more are to be sent.
			answer := answer{request: r, err: w.send(context.WithoutCancel(ctx), r, d, args)}
			answer.latency = time.Since(next)
			w.mu.Lock()
			defer w.mu.Unlock()
			w.answered = append(w.answered, answer)
		})
	}
}

// send sends a request.
func (w *workload) send(ctx context.Context, r *request, d *draw, args []any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if !r.user {
		return w.statement(ctx, w.backend, r, args)
	}
	return pgx.BeginFunc(ctx, w.api, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select set_config('role', 'authenticated', true), set_config('request.jwt.claims', $1, true)", d.claims())
		if err != nil {
			return err
		}
		return w.statement(ctx, tx, r, args)
	})
}

func (w *workload) statement(ctx context.Context, on interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
}, r *request, args []any) error {
	rows, err := on.Query(ctx, r.sql, args...)
	if err != nil {
		return err
	}
	var id string
	if r.keep != nil && rows.Next() {
		err = rows.Scan(&id)
	}
	rows.Close()
	switch err := errors.Join(err, rows.Err()); {
	case err != nil:
		return err
	case rows.CommandTag().RowsAffected() == 0:
		return errNoRow
	case r.keep != nil:
		r.keep(w.population, id)
	}
	return nil
}

// since takes the answers that have come since the last time.
func (w *workload) since() []answer {
	w.mu.Lock()
	defer w.mu.Unlock()
	answered := w.answered
	w.answered = nil
	return answered
}

// soFar counts the answers that since would take.
func (w *workload) soFar() (n, failed int, slowest time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.answered {
		if a.err != nil {
			failed++
		}
		slowest = max(slowest, a.latency)
	}
	return len(w.answered), failed, slowest
}
