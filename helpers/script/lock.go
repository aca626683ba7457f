package script

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Lock is how long a statement waited for a lock, and how long its transaction then had it.
//
// Both are upper bounds, exact to the time between two looks ([Log.Resolution]; [lookEvery] on a server that is not busy):
// from the last look that did not show the lock, but not before the statement that took it, or waited for it, began; to
// the first look that does not show it any more, but not beyond its transaction's end. What was taken and given back between two
// looks is not here. Of a transaction of several statements all is that it held at its end, because each of them is
// followed by a look. (CREATE INDEX CONCURRENTLY is several transactions.)
type Lock struct {
	Relation string // "public.agents"; for what is no relation, what pg_locks calls it: "virtualxid", "advisory"
	Mode     string // as pg_locks has it: "AccessExclusiveLock"; "row" for a row that another transaction has changed or locked
	Waited   time.Duration
	Held     time.Duration // 0 if it was not granted
}

// String is "AccessExclusiveLock on public.agents: waited 3ms, held 12ms".
func (l Lock) String() string {
	return fmt.Sprintf("%s on %s: waited %s, held %s", l.Mode, l.Relation, Rounded(l.Waited), Rounded(l.Held))
}

// Rounded is a duration as people read it.
func Rounded(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}

// strength orders the modes: who holds one keeps more waiting than by those before it.
var strength = []string{
	"row", "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock",
	"ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock",
}

// Noticeable returns the locks that others may have noticed: every wait; and what was held, unless it keeps nobody
// waiting but who alters or drops the relation, or a stronger lock on it was held as long.
func Noticeable(all []Lock) []Lock {
	return slices.DeleteFunc(slices.Clone(all), func(l Lock) bool {
		return l.Waited == 0 && (rank(l) <= slices.Index(strength, "RowShareLock") || slices.ContainsFunc(all, func(other Lock) bool {
			return other.Relation == l.Relation && rank(other) > rank(l) && other.Held >= l.Held
		}))
	})
}

func rank(l Lock) int { return slices.Index(strength, l.Mode) }

// locks has of each relation and mode the longest wait and the longest hold.
type locks map[Lock]Lock // by relation and mode alone

func (s locks) add(all ...Lock) {
	for _, l := range all {
		key := Lock{Relation: l.Relation, Mode: l.Mode}
		l.Waited, l.Held = max(l.Waited, s[key].Waited), max(l.Held, s[key].Held)
		s[key] = l
	}
}

func (s locks) sorted() []Lock {
	return slices.SortedFunc(maps.Values(s), func(a, b Lock) int {
		return cmp.Or(cmp.Compare(a.Relation, b.Relation), cmp.Compare(rank(b), rank(a)))
	})
}

// Blocker is a session that was in the way. What this role may not see of it is missing.
type Blocker struct {
	PID         int // 0 for a prepared transaction, which has no session
	User        string
	Application string
	State       string    // "active", "idle in transaction"
	Since       time.Time // when its last query began
	Query       string    // its last query; the first line
}

// String is `pid 4711, user app, application "psql", idle in transaction since 14:03:12 UTC: update agents set …`.
func (b Blocker) String() string {
	if b.PID == 0 {
		return "a prepared transaction: select * from pg_prepared_xacts"
	}
	text := fmt.Sprintf("pid %d, user %s, application %q", b.PID, b.User, b.Application)
	if b.State != "" {
		text += ", " + b.State
	}
	if !b.Since.IsZero() {
		text += " since " + b.Since.UTC().Format("15:04:05 MST")
	}
	return text + ": " + b.Query
}

// end is the statement that ends it.
func (b Blocker) end() string {
	if b.PID == 0 {
		return "rollback prepared …"
	}
	return fmt.Sprintf("select pg_terminate_backend(%d)", b.PID)
}

// FirstLine is the first line of a query, and not too much of it.
func FirstLine(sql string) string {
	line, rest, more := strings.Cut(strings.TrimSpace(sql), "\n")
	if r := []rune(line); len(r) > maxLine {
		line, more, rest = string(r[:maxLine]), true, "…"
	}
	if line = strings.TrimSpace(line); more && strings.TrimSpace(rest) != "" {
		line += " …"
	}
	return line
}

const maxLine = 100
