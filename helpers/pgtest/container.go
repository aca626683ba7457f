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

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
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
	engine, err := testcontainers.NewDockerClientWithOpts(preflight)
	if err != nil {
		return "", fmt.Errorf("reach the Docker engine: %w", err)
	}
	defer engine.Close()

	sum := sha256.Sum256([]byte(image))
	name := "tenancy-pgtest-" + hex.EncodeToString(sum[:])[:8]
	// Two processes that start a container of one name at once race.
	starting, err := lockFile(filepath.Join(os.TempDir(), fmt.Sprintf("%s-%d.lock", name, os.Getuid())), unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer starting.Close()

	if err := removeStopped(ctx, engine, name); err != nil {
		return "", err
	}
	container, err := postgres.Run(ctx, image,
		postgres.WithUsername("postgres"), postgres.WithPassword(password), postgres.WithDatabase("postgres"),
		postgres.BasicWaitStrategies(),
		testcontainers.WithReuseByName(name),
		testcontainers.WithCmd("postgres",
			"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
			"-c", "max_connections=300", "-c", "shared_preload_libraries=pg_stat_statements"),
		testcontainers.WithTmpfs(map[string]string{"/var/lib/postgresql/data": "rw"}),
	)
	if err != nil {
		return "", fmt.Errorf("start a container of %s: %w", image, err)
	}
	url, err := container.ConnectionString(ctx, "sslmode=disable")
	if err != nil {
		return "", fmt.Errorf("find the container's port: %w", err)
	}
	return url, waitFor(ctx, url)
}

// removeStopped removes the container if it does not run: a server without fsync
// that was killed, with its engine say, has data that nobody should trust.
func removeStopped(ctx context.Context, engine *testcontainers.DockerClient, name string) error {
	found, err := engine.ContainerInspect(ctx, name, client.ContainerInspectOptions{})
	if errdefs.IsNotFound(err) || err == nil && found.Container.State.Running {
		return nil
	}
	if err == nil {
		_, err = engine.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	}
	if err != nil {
		return fmt.Errorf("remove the stopped container %s: %w", name, err)
	}
	return nil
}

// waitFor waits until the server answers: what the container printed at an
// earlier start counts for the module's own wait, too.
func waitFor(ctx context.Context, url string) error {
	deadline := time.Now().Add(startTimeout)
	for {
		err := ping(ctx, url)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the container's server did not answer within %s: %w", startTimeout, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
