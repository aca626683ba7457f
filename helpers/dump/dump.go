// Package dump restores what pg_dump wrote of somebody's database into one for the
// tests, in which the migrations run as they would in his.
//
// It reads plain text, which it needs no program for, gzipped or not; and the formats
// custom, tar and directory, which pg_restore turns into that text: no file of the
// server's machine is touched, so that it works with a server in a container or
// elsewhere. What it cannot restore of schema public is an error. What lies beside it
// is left out where this server lacks an extension, a role or a right, and [Restored]
// says so.
package dump

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/vital-health/tenancy/helpers/pgtest"
)

// Variable names the environment variable that holds the path of a dump.
const Variable = "BASELINE_DUMP"

// Dump is a file, or a folder, that pg_dump wrote.
type Dump struct {
	Path   string // absolute
	Format string // "plain", "custom", "tar" or "directory"

	gzipped bool
	hash    string
}

// What a dump begins with.
var (
	customMagic = []byte("PGDMP")
	gzipMagic   = []byte{0x1f, 0x8b}
	tarMagic    = []byte("toc.dat\x00") // the first member's name
	plainTitle  = regexp.MustCompile(`(?m)^-- PostgreSQL database dump\s*$`)
	allTitle    = regexp.MustCompile(`(?m)^-- PostgreSQL database cluster dump\s*$`)
)

// Open finds out what a path holds, and reads it once, for its hash.
func Open(path string) (*Dump, error) {
	d := &Dump{Path: path}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("open the dump %s: %w", path, err)
	}
	return d, nil
}

func (d *Dump) open() error {
	if !filepath.IsAbs(d.Path) {
		return errors.New("give an absolute path (make does it for you): each package of tests runs in its own folder")
	}
	info, err := os.Stat(d.Path)
	if err != nil {
		return errors.Unwrap(err) // the outer error repeats the path
	}
	sum := sha256.New()
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(d.Path, "toc.dat")); err != nil {
			return errors.New("the folder has no toc.dat, and so is none that pg_dump -F d wrote")
		}
		d.Format = "directory"
		err = filepath.WalkDir(d.Path, func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			fmt.Fprintln(sum, filepath.Base(name))
			return read(name, sum)
		})
	} else {
		if err = d.recognize(); err != nil {
			return err
		}
		err = read(d.Path, sum)
	}
	d.hash = hex.EncodeToString(sum.Sum(nil))
	return err
}

func read(name string, into io.Writer) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(into, f)
	return err
}

// recognize tells the format by how the file begins.
func (d *Dump) recognize() error {
	f, err := os.Open(d.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	start := make([]byte, 4096)
	n, err := io.ReadFull(f, start)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	start = start[:n]
	if bytes.HasPrefix(start, gzipMagic) {
		d.gzipped = true
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
		unzipped, err := gzip.NewReader(f)
		if err != nil {
			return fmt.Errorf("unzip it: %w", err)
		}
		start = make([]byte, 4096)
		n, err := io.ReadFull(unzipped, start)
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
			return fmt.Errorf("unzip it: %w", err)
		}
		start = start[:n]
	}
	switch {
	case plainTitle.Match(start):
		d.Format = "plain"
	case bytes.HasPrefix(start, customMagic) && !d.gzipped:
		d.Format = "custom"
	case bytes.HasPrefix(start, tarMagic) && !d.gzipped:
		d.Format = "tar"
	case allTitle.Match(start):
		return errors.New("it is of a whole cluster, by pg_dumpall: give one of the database, by pg_dump")
	case len(start) == 0:
		return errors.New("the file is empty")
	default:
		return errors.New("it is no dump: want a file that pg_dump wrote, custom (-F c), plain (-F p) or tar, or the folder of -F d")
	}
	return nil
}

// revision of what this package makes of a dump: templates of another one are not used.
const revision = 1

// Origin is the dump's database as what the phases start with.
func (d *Dump) Origin() pgtest.Origin {
	return pgtest.Origin{
		Name:     d.Path,
		Identity: fmt.Sprintf("dump %d %s", revision, d.hash),
		Build: func(ctx context.Context, superuser *pgx.Conn) error {
			if err := d.restore(ctx, superuser); err != nil {
				return fmt.Errorf("restore the dump %s: %w", d.Path, err)
			}
			return nil
		},
	}
}

func (d *Dump) restore(ctx context.Context, conn *pgx.Conn) error {
	text, done, err := d.text(ctx)
	if err != nil {
		return err
	}
	restored, err := restore(ctx, conn, text)
	// A program that failed says why the text ended.
	if e := done(); e != nil {
		return e
	}
	if err != nil {
		return err
	}
	return restored.keep(ctx, conn)
}

// text is the dump as SQL. The caller calls done when he has read what he wants to.
func (d *Dump) text(ctx context.Context) (text *bufio.Reader, done func() error, err error) {
	const size = 1 << 20
	if d.Format != "plain" {
		out, done, err := d.convert(ctx)
		if err != nil {
			return nil, nil, err
		}
		return bufio.NewReaderSize(out, size), done, nil
	}
	f, err := os.Open(d.Path)
	if err != nil {
		return nil, nil, err
	}
	if !d.gzipped {
		return bufio.NewReaderSize(f, size), f.Close, nil
	}
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return bufio.NewReaderSize(unzipped, size), f.Close, nil
}

// convert lets pg_restore write the dump as SQL.
func (d *Dump) convert(ctx context.Context) (out io.Reader, done func() error, err error) {
	program, err := findRestorer(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, program, "--file=-", d.Path)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err = cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, nil, fmt.Errorf("run %s: %w", program, err)
	}
	return out, func() error {
		// It has ended, or somebody gave up reading: then it is not its fault.
		rest, _ := io.Copy(io.Discard, io.LimitReader(out, 1))
		cancel()
		err := cmd.Wait()
		text := strings.TrimSpace(said.String())
		if err == nil || rest > 0 || text == "" {
			return nil
		}
		hint := "\nIs the file complete?"
		if strings.Contains(text, "unsupported version") {
			hint = "\nThe dump is of a newer pg_dump than this pg_restore: install the client of that version, or give a plain dump (pg_dump -F p)"
		}
		return fmt.Errorf("%s says:\n%s%s", program, text, hint)
	}, nil
}

var versionNumber = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// findRestorer returns the newest pg_restore: an older one does not read a newer one's dumps.
func findRestorer(ctx context.Context) (string, error) {
	program, _ := Program(ctx, "pg_restore")
	if program == "" {
		return "", errors.New("this machine has no pg_restore, which reads the formats other than plain: " +
			"install PostgreSQL's client (on Debian and Ubuntu: sudo apt-get install postgresql-client), or give a plain dump (pg_dump -F p)")
	}
	return program, nil
}

// Program returns the newest of the machine's programs of a name, as "pg_dump", and its major version; "" where there is
// none.
func Program(ctx context.Context, name string) (program string, newest int) {
	var candidates []string
	if given := os.Getenv(pgtest.BinVariable); given != "" {
		candidates = append(candidates, filepath.Join(given, name))
	}
	if path, err := exec.LookPath(name); err == nil {
		candidates = append(candidates, path)
	}
	for _, folder := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin",
		"/opt/homebrew/opt/libpq/bin", "/usr/local/opt/postgresql@*/bin", "/usr/local/opt/libpq/bin"} {
		found, _ := filepath.Glob(filepath.Join(folder, name)) // the patterns are well formed
		candidates = append(candidates, found...)
	}
	version := func(program string) int {
		out, err := exec.CommandContext(ctx, program, "--version").Output()
		m := versionNumber.FindSubmatch(out)
		if err != nil || m == nil {
			return 0
		}
		n, _ := strconv.Atoi(string(m[1])) // digits
		return n
	}
	for _, candidate := range slices.Compact(candidates) {
		if v := version(candidate); v > newest {
			newest, program = v, candidate
		}
	}
	return program, newest
}
