package migrate

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/script"
)

func TestRecord(t *testing.T) {
	t.Parallel()
	t.Run("progress is a line now and then elsewhere", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		rec, err := newRecord(t.TempDir(), "migration of phase2", time.Now(), &out, &out)
		require.NoError(t, err)
		for done := int64(100); done < 1000; done += 100 {
			rec.event(progress(done))
		}
		require.NoError(t, rec.close())
		require.Regexp(t, `^[\d:.]{12}   agents: 100 of 1000 rows, 100 per second, 9s left\n$`, out.String())
	})
	t.Run("a log that cannot be written to its end is an error", func(t *testing.T) {
		t.Parallel()
		rec, err := newRecord(t.TempDir(), "migration of phase2", time.Now(), io.Discard, io.Discard)
		require.NoError(t, err)
		require.NoError(t, rec.file.Close())
		rec.line("lost")
		require.ErrorContains(t, rec.close(), "the log is not complete: ")
	})
	t.Run("two runs never share a log", func(t *testing.T) {
		t.Parallel()
		folder, now := t.TempDir(), time.Date(2025, 11, 26, 14, 3, 12, 0, time.UTC)
		rec, err := newRecord(folder, "migration of phase2", now, io.Discard, io.Discard)
		require.NoError(t, err)
		require.NoError(t, rec.close())
		require.Equal(t, folder+"/migration_phase2_20251126T140312Z.log", rec.path)
		_, err = newRecord(folder, "migration of phase2", now, io.Discard, io.Discard)
		require.ErrorIs(t, err, os.ErrExist)
	})
}

// progress is how far it is with a thousand rows.
func progress(done int64) script.Progress {
	return script.Progress{What: "agents", Unit: "rows", Done: done, Total: 1000, Rate: 100, Left: time.Duration(1000-done) * 10 * time.Millisecond}
}
