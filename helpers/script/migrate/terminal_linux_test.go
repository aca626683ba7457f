package migrate

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/vital-health/tenancy/helpers/script"
)

// Progress is a bar on a terminal, which makes room for lines.
func TestBar(t *testing.T) {
	t.Parallel()
	screen, shown := terminal(t)
	folder := t.TempDir()
	rec, err := newRecord(folder, "migration of phase2", time.Now(), screen, screen)
	require.NoError(t, err)
	rec.event(progress(100))
	rec.event(progress(200))
	rec.event(script.Notice("NOTICE: halfway"))
	rec.event(progress(1000))
	rec.line("done")
	require.NoError(t, rec.close())
	got := shown()
	require.Contains(t, got, "agents: 200 of 1000 rows, 100 per second, 8s left  20% |████                |")
	require.Contains(t, got, "agents: 1000 of 1000 rows")
	for _, line := range []string{"NOTICE: halfway\r\n", "done\r\n"} {
		before, _, found := strings.Cut(got, line)
		require.True(t, found, "%q", got)
		require.Regexp(t, `\r *\r[\d:.]{12} +$`, before, "the bar is wiped out where a line begins")
	}
	_, text := log(t, folder)
	require.Regexp(t, `^[\d:.]{12}   agents: 100 of 1000 rows, 100 per second, 9s left\n[\d:.]{12}   NOTICE: halfway\n[\d:.]{12} done\n$`, text,
		"and a line in the log now and then")
}

// terminal is a real one, and what it has shown so far.
func terminal(t *testing.T) (*os.File, func() string) {
	t.Helper()
	controller, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = controller.Close() })
	fd := int(controller.Fd())
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	screen, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	require.NoError(t, unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 120}))
	return screen, func() string {
		require.NoError(t, screen.Close())
		// Once nobody has it open, reading it ends in an error.
		shown, _ := io.ReadAll(controller)
		return string(shown)
	}
}
