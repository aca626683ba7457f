package pgtest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/modules/postgres"
	"golang.org/x/sys/unix"
)

// defaultImage is what TEST_POSTGRES_IMAGE replaces.
const defaultImage = "postgres:15"

// startContainer starts the container that all test processes of this image
// share, or joins it, and returns its URL. It has one fixed name, so that what a
// killed run leaves is what the next run uses.
func startContainer(ctx context.Context) (string, error) {
	image := cmp.Or(os.Getenv(ImageVariable), defaultImage)
	preflight, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client, err := testcontainers.NewDockerClientWithOpts(preflight)
	if err != nil {
		return "", fmt.Errorf("reach the Docker engine: %w", err)
	}
	defer client.Close()

	sum := sha256.Sum256([]byte(image))
	name := "tenancy-pgtest-" + hex.EncodeToString(sum[:])[:8]
	// Two processes that start a container of one name at once race.
	starting, err := lockFile(filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d.lock", name, os.Getuid())), unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer starting.Close()

	container, err := postgres.Run(ctx, image,
		postgres.WithUsername("postgres"), postgres.WithPassword(password), postgres.WithDatabase("postgres"),
		postgres.BasicWaitStrategies(),
		testcontainers.WithReuseByName(name),
		testcontainers.WithCmd("postgres",
			"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
			"-c", "max_connections=300", "-c", "shared_preload_libraries=pg_stat_statements"),
		testcontainers.WithTmpfs(map[string]string{"/dev/shm": "rw"}),
	)
	if err != nil {
		return "", fmt.Errorf("start a container of %s: %w", image, err)
	}
	url, err := container.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return "", fmt.Errorf("find the container's port: %w", err)
	}
	return url, nil
}
