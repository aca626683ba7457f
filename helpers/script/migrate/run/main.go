// Command run runs the migration, or the rollback, of one phase: see the package migrate.
//
//	DATABASE_URL=postgres://owner@db.example/vital go run ./helpers/script/migrate/run -phase phase2
//	DATABASE_URL=postgres://owner@db.example/vital go run ./helpers/script/migrate/run -phase phase2 -rollback
//
// It ends with 0 when the phase has run and its verification holds. The URL's password is better left to ~/.pgpass or
// PGPASSWORD; it is never printed.
package main

import "github.com/vital-health/tenancy/helpers/script/migrate"

func main() { migrate.Main() }
