package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/schema"
)

// said is what the command prints and returns in an environment.
func said(t *testing.T, environment map[string]string) (out string, err error) {
	t.Helper()
	var text strings.Builder
	err = run(t.Context(), func(name string) string { return environment[name] }, &text)
	return text.String(), err
}

func TestPreflight(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t, schema.Legacy)
	url := db.URL(pgtest.OwnerRole)
	t.Run("one database is looked at, and fails by what it lacks", func(t *testing.T) {
		t.Parallel()
		broken := pgtest.New(t, schema.Legacy)
		_, err := broken.Owner.Exec(t.Context(), `drop function public.count_tenant_agents(uuid); drop table public.messages`)
		require.NoError(t, err)
		out, err := said(t, map[string]string{"PRODUCTION": broken.URL(pgtest.OwnerRole)})
		require.ErrorContains(t, err, "checks have failed: the phases must not run before they pass")
		require.Contains(t, out, "PRODUCTION: "+broken.Name+" on ")
		require.Contains(t, out, "phase1 refuses: phase 1 needs the legacy tables, and these are missing in schema public: messages")
		require.Contains(t, out, "-> Is this the right database?")
		require.NotContains(t, out, "STAGING")
	})
	t.Run("two are compared", func(t *testing.T) {
		t.Parallel()
		out, _ := said(t, map[string]string{"STAGING": url, "PRODUCTION": url})
		require.Contains(t, out, "STAGING beside PRODUCTION\npass  definitions")
	})
	t.Run("a URL that cannot be read is not printed, nor is its password", func(t *testing.T) {
		t.Parallel()
		_, err := said(t, map[string]string{"STAGING": "postgres://owner:se%cret@host/db"})
		require.ErrorContains(t, err, "STAGING cannot be read as postgres://owner@host:5432/database")
		require.NotContains(t, err.Error(), "cret")
	})
	t.Run("a server that is not there is an error that says where", func(t *testing.T) {
		t.Parallel()
		_, err := said(t, map[string]string{"PRODUCTION": "postgres://owner:secret@127.0.0.1:1/db"})
		require.ErrorContains(t, err, "PRODUCTION: ")
		require.ErrorContains(t, err, "127.0.0.1")
		require.NotContains(t, err.Error(), "secret")
	})
	t.Run("no database is an error that says how to name one", func(t *testing.T) {
		t.Parallel()
		_, err := said(t, nil)
		require.EqualError(t, err, "which database? Say STAGING=postgres://owner@host:5432/database, PRODUCTION=…, or both")
	})
}
