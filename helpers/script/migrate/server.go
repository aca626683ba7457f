package migrate

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// server is what there is at the other end.
type server struct {
	Database string
	Version  string
	Number   int // 150004
	Role     string
	PID      uint32
	Owner    *string // of the tables; nil where they are not
	MayOwn   bool    // the role is the owner, or a member of it
}

// oldest is the oldest version that the phases run on.
const oldest = 15

// examine refuses what no phase can work on, so that all of them say the same of it.
func examine(ctx context.Context, conn *pgx.Conn) (server, error) {
	rows, _ := conn.Query(ctx, `
		select current_database(), current_setting('server_version'), current_setting('server_version_num')::integer,
			current_user, pg_backend_pid(), c.relowner::regrole::text, coalesce(pg_has_role(c.relowner, 'USAGE'), false)
		from (values ('public.organizations')) as t (name)
		left join pg_catalog.pg_class c on c.oid = to_regclass(t.name)`)
	s, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[server])
	if err != nil {
		return s, err
	}
	return s, s.check()
}

func (s server) check() error {
	switch {
	case s.Number < oldest*10000:
		return fmt.Errorf("the phases need PostgreSQL %d or later, and this is %s", oldest, s.Version)
	case s.Owner == nil:
		return fmt.Errorf("the database %s has no table public.organizations: is it the right one?", s.Database)
	case !s.MayOwn:
		return errors.New("the phases run as the owner of the tables, which is " + *s.Owner + ", and " + s.Role + " is not: connect as the owner")
	}
	return nil
}
