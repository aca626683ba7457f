// Package program runs other programs for a test: PgBouncer, an exporter, Prometheus.
// None of them outlives the test's process, however that ends.
package program

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// untilClosed is the shell that becomes the program. Once the pipe that it is given
// closes, nothing is worth an orderly end.
const untilClosed = `exec 3<&0 </dev/null; (cat <&3; kill -KILL $$; rm -rf "$0") >/dev/null 2>&1 & exec "$@" 3<&-`

// Find returns where a program is. Without it the test fails, and says which of Debian's
// packages has it.
func Find(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/" + name) // where Debian has some, and not everybody looks
	}
	if err != nil {
		require.FailNow(t, fmt.Sprintf("the test needs %s: install it, on Debian and Ubuntu with sudo apt-get install %s", name, debian))
	}
	return path
}

// Folder makes a folder for a program's files, which other users may read. It goes with
// the test. The test's own is closed to them, and its name is too long for a socket's.
func Folder(t testing.TB) string {
	t.Helper()
	folder, err := os.MkdirTemp("", "tenancy-program-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	require.NoError(t, os.Chmod(folder, 0o755))
	return folder
}

// Start starts a program, with a folder that goes when it ends, and returns once ready
// says nothing any more. It ends with the test.
func Start(t testing.TB, cmd *exec.Cmd, folder string, ready func() error) {
	t.Helper()
	cmd.Args = append([]string{"/bin/sh", "-c", untilClosed, folder, cmd.Path}, cmd.Args[1:]...)
	name := filepath.Base(cmd.Path)
	cmd.Path = "/bin/sh"
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	pipe, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed
		close(ended)
	}()
	t.Cleanup(func() {
		_ = pipe.Close()
		<-ended
	})
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-ended:
			require.FailNow(t, name+" did not start; it says:\n"+log.String())
		case <-time.After(10 * time.Millisecond):
		}
		require.True(t, time.Now().Before(deadline), "%s does not answer: %v", name, err)
	}
}

// Besides is who but root gets to a server: by a socket its own user, over the network
// anybody.
func Besides(t testing.TB, host string) *user.User {
	t.Helper()
	if !strings.HasPrefix(host, "/") {
		found, err := user.Lookup("nobody")
		require.NoError(t, err)
		return found
	}
	folder, err := os.Stat(host)
	require.NoError(t, err)
	owner, err := user.LookupId(fmt.Sprint(folder.Sys().(*syscall.Stat_t).Uid))
	require.NoError(t, err)
	return owner
}
