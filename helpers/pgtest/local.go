package pgtest

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sys/unix"
)

// supervisor is the shell script that runs a server and clears up after it.
//
//go:embed supervisor.sh
var supervisor string

// startTimeout is how long a server may take to answer after its start.
const startTimeout = 30 * time.Second

// startLocal starts a server from local binaries, or joins the one that another
// test process started. It listens on a unix socket in its run folder and nowhere
// else. Each server has a run folder of its own, so that one which stops is not in
// the way of one which starts; a symbolic link names the latest.
func startLocal(ctx context.Context, linger time.Duration) (*pgx.Conn, error) {
	bin, version, err := findBinaries(ctx)
	if err != nil {
		return nil, err
	}
	id, err := serverUser()
	if err != nil {
		return nil, err
	}
	ours := filepath.Join(runRoot(), fmt.Sprintf("tenancy-%d", os.Getuid()))
	starting, err := lockFile(ours + ".lock")
	if err != nil {
		return nil, err
	}
	defer starting.Close()

	latest := ours + "-" + hash(bin, version, supervisor, watchdog, linger.String())
	if run, err := os.Readlink(latest); err == nil {
		conn, err := join(ctx, socketURL(run))
		if err == nil {
			// The watchdog that the starter saw to may have been ended.
			if err := watch(ctx, conn, linger); err != nil {
				return nil, errors.Join(err, conn.Close(ctx))
			}
			return conn, nil
		}
		if !gone(err) {
			return nil, err
		}
	}
	removeRuns(ours + "-*")
	cluster, err := initialized(ctx, bin, hash(bin, version), id)
	if err != nil {
		return nil, err
	}
	run, err := os.MkdirTemp(runRoot(), filepath.Base(latest)+"-")
	if err != nil {
		return nil, fmt.Errorf("make the run folder: %w", err)
	}
	conn, supervised, err := startIn(ctx, run, bin, cluster, id)
	if err != nil {
		_ = os.RemoveAll(run) // a server that is still stopping may be in the way: the next start tries again
		return nil, err
	}
	defer supervised.Close()
	err = watch(ctx, conn, linger)
	if err == nil {
		err = pointTo(run, latest)
	}
	if err == nil {
		_, err = supervised.Write([]byte("watched\n"))
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	return conn, nil
}

// startOwnLocal starts a server that nobody joins, and that stops with this process.
// Its data is on the disk, so that it can be asked what writing there costs.
func startOwnLocal(settings []string) starter {
	return func(ctx context.Context, _ time.Duration) (*pgx.Conn, error) {
		bin, version, err := findBinaries(ctx)
		if err != nil {
			return nil, err
		}
		id, err := serverUser()
		if err != nil {
			return nil, err
		}
		cluster, err := initialized(ctx, bin, hash(bin, version), id)
		if err != nil {
			return nil, err
		}
		run, err := os.MkdirTemp("", "tenancy-own-")
		if err != nil {
			return nil, fmt.Errorf("make the run folder: %w", err)
		}
		conn, _, err := startIn(ctx, run, bin, cluster, id, settings...) // who waits for the server there keeps the pipe open
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(run))
		}
		return conn, nil
	}
}

// startIn starts a server in a run folder and joins it. Until a line is written to
// what it returns, the server stops when that is closed, and so with this process.
func startIn(ctx context.Context, run, bin, cluster string, id *syscall.Credential, settings ...string) (_ *pgx.Conn, supervised io.WriteCloser, err error) {
	data := filepath.Join(run, "data")
	if err := os.CopyFS(data, os.DirFS(cluster)); err != nil {
		return nil, nil, fmt.Errorf("copy the initialized cluster: %w", err)
	}
	log, err := os.Create(filepath.Join(run, "log"))
	if err != nil {
		return nil, nil, fmt.Errorf("make the server's log: %w", err)
	}
	defer log.Close()
	if err := give(run, id); err != nil {
		return nil, nil, err
	}

	command := []string{"-c", supervisor, "supervisor", run,
		filepath.Join(bin, "postgres"), "-D", data, "-k", run, "-c", "listen_addresses=", "-c", "unix_socket_permissions=0700",
		// A throw-away cluster: nothing of it need survive a crash of the machine.
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "wal_level=minimal", "-c", "max_wal_senders=0",
		// A crash ends the sessions that say who uses the server, and the one that watches it: it had better end.
		"-c", "restart_after_crash=off",
		// Tests are refused a hundred thousand times, and the folder may be in memory.
		"-c", "log_min_messages=fatal",
		"-c", "max_connections=300", "-c", "shared_preload_libraries=" + preloaded(bin)}
	for _, setting := range settings {
		command = append(command, "-c", setting) // the last one counts
	}
	cmd := exec.Command("/bin/sh", command...)
	cmd.Dir = run
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: id}
	supervised, err = cmd.StdinPipe()
	if err != nil {
		return nil, nil, fmt.Errorf("start the server's supervisor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, fmt.Errorf("start the server's supervisor: %w", err)
	}
	defer func() {
		if err != nil {
			_ = supervised.Close()
		}
	}()
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	deadline := time.Now().Add(startTimeout)
	for {
		conn, err := join(ctx, socketURL(run))
		if err == nil {
			return conn, supervised, nil
		}
		select {
		case <-exited:
			text, _ := io.ReadAll(io.NewSectionReader(log, 0, 1<<20))
			return nil, nil, fmt.Errorf("the server in %s did not start; its log says:\n%s", bin, text)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			text, _ := io.ReadAll(io.NewSectionReader(log, 0, 1<<20))
			return nil, nil, fmt.Errorf("the server in %s did not answer within %s: %w; its log says:\n%s", bin, startTimeout, err, text)
		}
	}
}

// pointTo makes the symbolic link, in place of one that is there.
func pointTo(run, link string) error {
	if err := errors.Join(os.RemoveAll(link), os.Symlink(run, link)); err != nil {
		return fmt.Errorf("name the run folder: %w", err)
	}
	return nil
}

// removeRuns removes what names servers that are no more, and the run folders of
// those whose starter or supervisor was killed before it could.
func removeRuns(pattern string) {
	runs, _ := filepath.Glob(pattern) // the pattern is well formed
	for _, run := range runs {
		conn, err := net.Dial("unix", filepath.Join(run, ".s.PGSQL.5432"))
		if err == nil {
			_ = conn.Close() // it runs, or will stop by itself
			continue
		}
		_ = os.RemoveAll(run) // the next one tries again
	}
}

// socketURL is the superuser's URL of the server in a run folder.
func socketURL(run string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres", RawQuery: url.Values{"host": {run}}.Encode()}
	return u.String()
}

// hash makes names of what things depend on.
func hash(of ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(of, "\n")))
	return hex.EncodeToString(sum[:])[:12]
}

// lockFile creates a file where there is none, and waits until no other process
// has the lock on it: servers are started one at a time. The lock goes with the
// file's closing, and with the process.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, fmt.Errorf("open lock file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f, nil
}

// runRoot is where run folders are: in memory where the system offers it, and
// with a short name, because a socket's path may have 107 bytes.
func runRoot() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return "/tmp"
}

var majorVersion = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// findBinaries returns the folder that holds initdb and postgres, and the version
// line of the latter.
func findBinaries(ctx context.Context) (folder, version string, err error) {
	candidates := []string{}
	if given := os.Getenv(BinVariable); given != "" {
		candidates = []string{given}
	} else {
		if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
			candidates = append(candidates, strings.TrimSpace(string(out)))
		}
		if path, err := exec.LookPath("initdb"); err == nil {
			candidates = append(candidates, filepath.Dir(path))
		}
		for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin"} {
			found, _ := filepath.Glob(pattern) // the patterns are well formed
			slices.Reverse(found)              // newest first
			candidates = append(candidates, found...)
		}
	}
	var reasons []string
	for _, bin := range candidates {
		if _, err := os.Stat(filepath.Join(bin, "initdb")); err != nil {
			reasons = append(reasons, bin+" has no initdb")
			continue
		}
		out, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
		if err != nil {
			reasons = append(reasons, fmt.Sprintf("%s/postgres does not run: %s", bin, err))
			continue
		}
		version := strings.TrimSpace(string(out))
		match := majorVersion.FindStringSubmatch(version)
		if match == nil {
			reasons = append(reasons, fmt.Sprintf("%s/postgres calls itself %q", bin, version))
			continue
		}
		if major, _ := strconv.Atoi(match[1]); major < oldest {
			reasons = append(reasons, fmt.Sprintf("%s is PostgreSQL %d, needed is %d or later", bin, major, oldest))
			continue
		}
		return bin, version, nil
	}
	if len(reasons) == 0 {
		reasons = []string{"no initdb in pg_config's folder, PATH, /usr/lib/postgresql or Homebrew"}
	}
	return "", "", errors.New(strings.Join(reasons, "; "))
}

// serverUser returns whom to run the server as: nil for the user of this process,
// an unprivileged one for root, whom initdb and postgres refuse.
func serverUser() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("user %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as")
}

// give hands a run folder and all in it to the server's user, and closes it to others:
// the server trusts whoever gets to its socket.
func give(folder string, id *syscall.Credential) error {
	if err := errors.Join(os.Chmod(folder, 0o700), os.Chmod(filepath.Join(folder, "data"), 0o700)); err != nil {
		return fmt.Errorf("close the run folder: %w", err)
	}
	if id == nil {
		return nil
	}
	err := filepath.WalkDir(folder, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, int(id.Uid), int(id.Gid))
	})
	if err != nil {
		return fmt.Errorf("hand %s to the server's user: %w", folder, err)
	}
	return nil
}

// initialized returns a folder with a cluster fresh from initdb, made once.
func initialized(ctx context.Context, bin, key string, id *syscall.Credential) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	made := filepath.Join(cache, "tenancy", "cluster-"+key)
	if _, err := os.Stat(filepath.Join(made, "PG_VERSION")); err == nil {
		return made, nil
	}
	// initdb runs as the server's user, who may not be let into the cache.
	work, err := os.MkdirTemp(runRoot(), "tenancy-initdb-")
	if err != nil {
		return "", fmt.Errorf("initialize a cluster: %w", err)
	}
	defer os.RemoveAll(work)
	if id != nil {
		if err := os.Chown(work, int(id.Uid), int(id.Gid)); err != nil {
			return "", fmt.Errorf("initialize a cluster: %w", err)
		}
	}
	fresh := filepath.Join(work, "data")
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata="+fresh, "--username=postgres", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions")
	cmd.Dir = work
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: id}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("initdb in %s: %w\n%s", bin, err, out)
	}
	if err := os.MkdirAll(filepath.Dir(made), 0o755); err != nil {
		return "", fmt.Errorf("keep the initialized cluster: %w", err)
	}
	// Complete or not there: the copy takes its name at the end.
	half, err := os.MkdirTemp(filepath.Dir(made), "half-")
	if err != nil {
		return "", fmt.Errorf("keep the initialized cluster: %w", err)
	}
	defer os.RemoveAll(half)
	if err := os.CopyFS(filepath.Join(half, "data"), os.DirFS(fresh)); err != nil {
		return "", fmt.Errorf("keep the initialized cluster: %w", err)
	}
	if err := os.Rename(filepath.Join(half, "data"), made); err != nil {
		return "", fmt.Errorf("keep the initialized cluster: %w", err)
	}
	return made, nil
}

// preloaded returns pg_stat_statements where the server has it, for the
// monitoring queries, and "" elsewhere.
func preloaded(bin string) string {
	for _, lib := range []string{"../lib", "../lib/postgresql"} {
		if found, _ := filepath.Glob(filepath.Join(bin, lib, "pg_stat_statements.*")); len(found) > 0 {
			return "pg_stat_statements"
		}
	}
	return ""
}
