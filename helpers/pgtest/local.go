package pgtest

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
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

// supervisor is the shell script that runs a server for as long as somebody uses it.
//
//go:embed supervisor.sh
var supervisor string

// startTimeout is how long a server may take to answer after its start.
const startTimeout = 30 * time.Second

// startLocal starts a server from local binaries, or joins the one that another
// test process started, and returns its URL. It listens on a unix socket in its
// run folder and nowhere else.
//
// Whoever uses the server holds a shared lock on the run folder's file "users".
// The kernel gives it back when the process ends, however it ends, and the
// supervisor stops a server that nobody holds any more.
func startLocal(ctx context.Context) (string, error) {
	bin, version, err := findBinaries(ctx)
	if err != nil {
		return "", err
	}
	id, err := serverUser()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(bin + "\n" + version + "\n" + supervisor))
	key := hex.EncodeToString(sum[:])[:12]
	run := filepath.Join(runRoot(), fmt.Sprintf("tenancy-%d-%s", os.Getuid(), key))

	// Starting and stopping take turns across processes.
	starting, err := lockFile(run+".lock", unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer starting.Close()
	var users *os.File
	for users == nil {
		if err := os.MkdirAll(run, 0o755); err != nil {
			return "", fmt.Errorf("make the run folder: %w", err)
		}
		users, err = lockFile(filepath.Join(run, "users"), unix.LOCK_SH)
		// A supervisor that was stopping its server has just removed the folder.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	held = append(held, users)

	server := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres", RawQuery: url.Values{"host": {run}}.Encode()}
	if ping(ctx, server.String()) == nil {
		return server.String(), nil
	}
	stopOrphan(run)
	data := filepath.Join(run, "data")
	if err := os.RemoveAll(data); err != nil {
		return "", fmt.Errorf("clear the run folder: %w", err)
	}
	cluster, err := initialized(ctx, bin, key, id)
	if err != nil {
		return "", err
	}
	if err := os.CopyFS(data, os.DirFS(cluster)); err != nil {
		return "", fmt.Errorf("copy the initialized cluster: %w", err)
	}
	if err := give(run, id); err != nil {
		return "", err
	}

	log := filepath.Join(run, "log")
	cmd := exec.Command("/bin/sh", "-c", supervisor, "supervisor", filepath.Join(bin, "postgres"), run, preloaded(bin))
	cmd.Dir = run
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: id}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start the server's supervisor: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	deadline := time.Now().Add(startTimeout)
	for {
		err := ping(ctx, server.String())
		if err == nil {
			return server.String(), nil
		}
		select {
		case <-exited:
			text, _ := os.ReadFile(log)
			return "", fmt.Errorf("the server in %s did not start; its log says:\n%s", bin, text)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("the server in %s did not answer within %s (log: %s): %w", bin, startTimeout, log, err)
		}
	}
}

// held keeps the lock files open until the process ends: a file that nothing
// refers to would be closed, and its lock given back.
var held []*os.File

// lockFile opens a file, creating it, and waits for the lock on it. The lock goes
// with the file's closing. A file that was removed meanwhile is opened anew.
func lockFile(name string, how int) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o666)
		if err != nil {
			return nil, fmt.Errorf("open lock file: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), how); err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
		}
		opened, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if there, err := os.Stat(name); err == nil && os.SameFile(opened, there) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// stopOrphan ends a server whose supervisor was killed.
func stopOrphan(run string) {
	text, err := os.ReadFile(filepath.Join(run, "data", "postmaster.pid"))
	if err != nil {
		return
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return
	}
	// The pid may be somebody else's by now: only a process in this data folder is ours.
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != filepath.Join(run, "data") {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGQUIT)
	for range 100 {
		if syscall.Kill(pid, 0) != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
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

// give hands a folder and all in it to the server's user.
func give(folder string, id *syscall.Credential) error {
	if id == nil {
		return os.Chmod(filepath.Join(folder, "data"), 0o700)
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
	return os.Chmod(filepath.Join(folder, "data"), 0o700)
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

// ping connects once.
func ping(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
