// Package actor acts as one of the application's callers, the way PostgREST does:
// a login role without any right of its own becomes the request's role, and the
// claims of the request's JWT are set, both for one transaction.
//
//	err := actor.User(fixtures.Alice.ID).Do(t, db, func(tx pgx.Tx) error { … })
package actor

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/helpers/pgtest"
)

// Actor is who makes a request. Make one with [User], [Anonymous] or [Service].
type Actor struct {
	login string
	role  string
	sub   string
	old   bool
}

// User is the signed-in user with this id.
func User(id string) Actor { return Actor{login: pgtest.APIRole, role: "authenticated", sub: id} }

// Anonymous is a caller who has not signed in.
func Anonymous() Actor { return Actor{login: pgtest.APIRole, role: "anon"} }

// Service is the application's own backend, which row level security does not hold.
func Service() Actor { return Actor{login: pgtest.ServiceRole, role: "service_role"} }

// WithOldClaims is the same caller in PostgREST's former convention, one setting
// per claim (request.jwt.claim.sub), which the checklist uses.
func (a Actor) WithOldClaims() Actor {
	a.old = true
	return a
}

// Do runs f in a transaction as the actor, and rolls it back. The error is f's.
func (a Actor) Do(t testing.TB, db *pgtest.DB, f func(pgx.Tx) error) error {
	t.Helper()
	conn := db.Connect(t, a.login)
	defer conn.Close(t.Context())
	return a.On(t, conn, f)
}

// On is [Actor.Do] on a connection that others have used or will use, logged in as the
// actor's kind of caller does ([pgtest.APIRole] for all but the backend).
func (a Actor) On(t testing.TB, conn *pgx.Conn, f func(pgx.Tx) error) error {
	t.Helper()
	if user := conn.Config().User; user != a.login {
		t.Fatalf("act as %s: the connection is of %s, want %s", a.role, user, a.login)
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) }()
	if err := a.become(t.Context(), tx); err != nil {
		t.Fatalf("act as %s: %s", a.role, err)
	}
	return f(tx)
}

// become takes on the role and the claims, and makes sure that what the actor is
// denied is denied to it as it is to a caller: a superuser, an owner or a role
// that can become one would see everything and prove nothing.
func (a Actor) become(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "set local role "+pgx.Identifier{a.role}.Sanitize()); err != nil {
		return err
	}
	claims := map[string]string{"role": a.role}
	if a.sub != "" {
		claims["sub"] = a.sub
	}
	settings := map[string]string{}
	if a.old {
		for claim, value := range claims {
			settings["request.jwt.claim."+claim] = value
		}
	} else {
		text, err := json.Marshal(claims)
		if err != nil {
			return err
		}
		settings["request.jwt.claims"] = string(text)
	}
	for name, value := range settings {
		if _, err := tx.Exec(ctx, "select set_config($1, $2, true)", name, value); err != nil {
			return err
		}
	}

	var unfit *string
	err := tx.QueryRow(ctx, `
		select string_agg(format('%s is a superuser, has BYPASSRLS or owns a table', r.rolname), '; ')
		from pg_catalog.pg_roles r
		where pg_has_role(session_user, r.oid, 'member')
		  and (r.rolsuper or r.rolbypassrls and r.rolname <> $1
		       or exists (select from pg_catalog.pg_class c where c.relowner = r.oid))`, a.bypassing()).Scan(&unfit)
	if err != nil {
		return err
	}
	if unfit != nil {
		return fmt.Errorf("%s cannot stand for a caller: %s", a.login, *unfit)
	}
	return nil
}

// bypassing names the one role that may bypass row level security: the backend's,
// for the backend.
func (a Actor) bypassing() string {
	if a.login == pgtest.ServiceRole {
		return a.role
	}
	return ""
}
