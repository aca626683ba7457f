package script

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// connectTimeout is for how long a server may be silent, unless the URL says it.
const connectTimeout = 15 * time.Second

// ParseURL reads where a database is, and as whom, from what an environment variable holds. Sessions are those of
// application unless the URL names another.
func ParseURL(variable, url, application string) (*pgx.ConnConfig, error) {
	if url == "" {
		return nil, fmt.Errorf("which database? Say %s=postgres://owner@host:5432/database", variable)
	}
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		// What it is that cannot be read may be the password.
		return nil, fmt.Errorf("%s cannot be read as postgres://owner@host:5432/database: a password in it must be percent-encoded, "+
			"or be left to ~/.pgpass or PGPASSWORD", variable)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = connectTimeout
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = application
	}
	return cfg, nil
}
