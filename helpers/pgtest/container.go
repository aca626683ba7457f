package pgtest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/jackc/pgx/v5"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
)

// defaultImage is what TEST_POSTGRES_IMAGE replaces.
const defaultImage = "postgres:15"

// watchedEntrypoint is an image's own entry point, with the watchdog beside it: an
// image has psql, and a server that starts can be watched from inside before its
// starter could see to it. Over TCP, because the server which an image starts first,
// to set itself up, does not listen there. $0 is the linger time.
const (
	watchedEntrypoint = watchdogBeside + `exec docker-entrypoint.sh "$@"`

	// One that leaves a file "again" in its data folder is started again: see own.go.
	ownEntrypoint = watchdogBeside + `
while docker-entrypoint.sh "$@"; [ -e "$PGDATA/again" ]; do rm "$PGDATA/again"; done`

	watchdogBeside = `
while sleep 1; do
    PGPASSWORD=$POSTGRES_PASSWORD PGOPTIONS="-c tenancy.linger=$0" \
        psql --no-psqlrc --host=127.0.0.1 --username=postgres --dbname=postgres --command="$TENANCY_WATCHDOG"
done >/dev/null 2>&1 &
`
)

// startContainer starts the container that all test processes of this image share,
// or joins it. It has one fixed name, and the engine removes it when its server has
// stopped.
func startContainer(ctx context.Context, linger time.Duration) (*pgx.Conn, error) {
	image := cmp.Or(os.Getenv(ImageVariable), defaultImage)
	// testcontainers would remove the container at the end of the run that started
	// it, though another one may have joined.
	if err := os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true"); err != nil {
		return nil, err
	}
	preflight, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	engine, err := testcontainers.NewDockerClientWithOpts(preflight)
	if err != nil {
		return nil, fmt.Errorf("reach the Docker engine: %w", err)
	}
	defer engine.Close()

	// Two processes that start a container of one name at once race.
	starting, err := lockFile(filepath.Join(os.TempDir(), fmt.Sprintf("tenancy-pgtest-%d.lock", os.Getuid())))
	if err != nil {
		return nil, err
	}
	defer starting.Close()
	name := "tenancy-pgtest-" + hash(image, watchedEntrypoint, watchdog, linger.String())

	for deadline := time.Now().Add(startTimeout); ; time.Sleep(50 * time.Millisecond) {
		there, err := running(ctx, engine, name)
		if err != nil {
			return nil, err
		}
		url, err := runContainer(ctx, image, linger, watchedEntrypoint, nil,
			testcontainers.WithReuseByName(name),
			testcontainers.WithTmpfs(map[string]string{"/var/lib/postgresql/data": "rw"}))
		var conn *pgx.Conn
		if err == nil {
			conn, err = join(ctx, url)
			there = gone(err) // it starts, or it is about to stop
		}
		if err == nil {
			return conn, nil
		}
		if !there {
			return nil, err
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the container's server did not answer within %s: %w", startTimeout, err)
		}
	}
}

// startOwnContainer starts a container that nobody joins. Its data is on the disk,
// so that it can be asked what writing there costs.
func startOwnContainer(settings []string) starter {
	return func(ctx context.Context, linger time.Duration) (*pgx.Conn, error) {
		if err := os.Setenv("TESTCONTAINERS_RYUK_DISABLED", "true"); err != nil { // its server is watched, as a shared one is
			return nil, err
		}
		url, err := runContainer(ctx, cmp.Or(os.Getenv(ImageVariable), defaultImage), linger, ownEntrypoint, settings)
		if err != nil {
			return nil, err
		}
		return joinSoon(ctx, url)
	}
}

// joinSoon joins a server that is starting.
func joinSoon(ctx context.Context, url string) (*pgx.Conn, error) {
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		conn, err := join(ctx, url)
		if err == nil || !gone(err) || time.Now().After(deadline) {
			return conn, err
		}
	}
}

// runContainer starts a container, unless it is one to be used again and runs, and
// returns its server's URL.
func runContainer(ctx context.Context, image string, linger time.Duration, entrypoint string, settings []string,
	options ...testcontainers.ContainerCustomizer) (string, error) {
	command := []string{"postgres",
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
		"-c", "max_connections=300", "-c", "shared_preload_libraries=pg_stat_statements"}
	for _, setting := range settings {
		command = append(command, "-c", setting) // the last one counts
	}
	started, err := postgres.Run(ctx, image, append(options,
		postgres.WithUsername("postgres"), postgres.WithPassword(password), postgres.WithDatabase("postgres"),
		testcontainers.WithEnv(map[string]string{"TENANCY_WATCHDOG": watchdog}),
		testcontainers.WithEntrypoint("sh", "-c", entrypoint, seconds(linger)),
		testcontainers.WithCmd(command...),
		testcontainers.WithHostConfigModifier(func(host *container.HostConfig) { host.AutoRemove = true }),
	)...)
	if err != nil {
		return "", fmt.Errorf("start a container of %s: %w", image, err)
	}
	url, err := started.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return "", fmt.Errorf("find the container's port: %w", err)
	}
	return url, nil
}

// running tells whether the container runs, and removes it if it is there and does
// not: a server without fsync that was killed, with its engine say, has data that
// nobody should trust.
func running(ctx context.Context, engine *testcontainers.DockerClient, name string) (bool, error) {
	found, err := engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	if err != nil || found.Container.State.Running {
		return err == nil, err
	}
	_, err = engine.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) { // the engine itself may be at it
		return false, fmt.Errorf("remove the stopped container %s: %w", name, err)
	}
	return true, nil
}
