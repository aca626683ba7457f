package checklist_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/helpers/checklist"
)

// Some manual boxes, by what stands in the tables below.
const (
	wiki     = "post-migration-tasks/documentation-updates/update-team-wiki"
	training = "post-migration-tasks/team-training/engineering-team-trained-on-new-schema"
	product  = "production-deployment/deployment-plan-approved/product-team-aware-of-deployment"
)

func TestSignOffFile(t *testing.T) {
	t.Parallel()
	_, err := checklist.ReadSignOffs("../..")
	require.NoError(t, err)
	text, err := os.ReadFile(filepath.Join("../..", checklist.SignOffFile))
	require.NoError(t, err)
	t.Run("has its rows in the order of the checklist", func(t *testing.T) {
		t.Parallel()
		rows := strings.Split(strings.TrimSpace(string(text)), "\n")[1:]
		require.Len(t, rows, len(manual()))
		for i, box := range manual() {
			require.True(t, strings.HasPrefix(rows[i], box.ID+","), "line %d is to be that of %s", i+2, box.ID)
		}
	})
}

func manual() (boxes []checklist.Box) {
	for _, box := range checklist.Boxes() {
		if box.Kind == checklist.Manual {
			boxes = append(boxes, box)
		}
	}
	return boxes
}

// read reads the rows, and an empty one of each manual box that they do not name.
func read(t *testing.T, rows ...string) ([]checklist.SignOff, error) {
	t.Helper()
	var rest strings.Builder
	for _, box := range manual() {
		if !strings.Contains(strings.Join(rows, "\n"), box.ID) {
			rest.WriteString(box.ID + ",,,,\n")
		}
	}
	return readText(t, "id,who,role,date,evidence\n"+strings.Join(rows, "\n")+"\n"+rest.String())
}

// readText reads a file, in a repository with evidence in it.
func readText(t *testing.T, text string) ([]checklist.SignOff, error) {
	t.Helper()
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "docs", "evidence"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, checklist.SignOffFile), []byte(text), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(root, "docs", "evidence", "training.pdf"), []byte("%PDF"), 0o600))
	require.NoError(t, os.Symlink(os.DevNull, filepath.Join(root, "docs", "evidence", "elsewhere")))
	return checklist.ReadSignOffs(root)
}

func TestReadSignOffs(t *testing.T) {
	t.Parallel()
	t.Run("what is signed has all that there is to say, the others nothing but their id", func(t *testing.T) {
		t.Parallel()
		today := time.Now().Format(time.DateOnly)
		all, err := read(t,
			wiki+`,Alice,"Head of Engineering, Basel",2025-12-03,https://wiki.example/schema?version=2#top`,
			training+", Zoë ,Trainer,"+today+",docs/evidence/training.pdf")
		require.NoError(t, err)
		require.Len(t, all, len(manual()))
		signed := map[string]checklist.SignOff{}
		for i, s := range all {
			require.Equal(t, manual()[i].ID, s.ID, "in the order of the checklist")
			if s.Signed() {
				signed[s.ID] = s
			} else {
				require.Equal(t, checklist.SignOff{ID: s.ID}, s)
			}
		}
		day, err := time.Parse(time.DateOnly, today)
		require.NoError(t, err)
		require.Equal(t, map[string]checklist.SignOff{
			wiki: {ID: wiki, Who: "Alice", Role: "Head of Engineering, Basel", Date: time.Date(2025, 12, 3, 0, 0, 0, 0, time.UTC),
				Evidence: "https://wiki.example/schema?version=2#top"},
			training: {ID: training, Who: "Zoë", Role: "Trainer", Date: day, Evidence: "docs/evidence/training.pdf"},
		}, signed)
	})
	t.Run("it may be as a spreadsheet saves it", func(t *testing.T) {
		t.Parallel()
		text := "\ufeffid,who,role,date,evidence\r\n"
		for _, box := range manual() {
			text += `"` + box.ID + "\",,,,\r\n"
		}
		all, err := readText(t, text)
		require.NoError(t, err)
		require.Len(t, all, len(manual()))
	})

	const rest = ",Alice,Lead,2025-12-03,https://wiki.example"
	for name, c := range map[string]struct {
		row  string
		want string // after the file, and the line 2
	}{
		"a box that there is not": {"phase-1/users-can-fly" + rest,
			`the checklist has no box "phase-1/users-can-fly": the ids are in helpers/checklist/boxes.tsv`},
		"no id": {rest, `the checklist has no box "": the ids are in helpers/checklist/boxes.tsv`},
		"a box that tests prove": {"phase-1/verify-phase-1-completion" + rest,
			"nobody signs off phase-1/verify-phase-1-completion, which is proven by tests: remove the row"},
		"a box that is what its parts are": {"post-migration-tasks/team-training" + rest,
			"nobody signs off post-migration-tasks/team-training, which is what the boxes below it are: remove the row"},
		"a name alone":            {wiki + ",Alice,,,", wiki + " is signed off by halves: fill in role, date, evidence as well, or nothing"},
		"all but a name":          {wiki + ", ,Lead,2025-12-03,https://wiki.example", wiki + " is signed off by halves: fill in who as well, or nothing"},
		"no evidence":             {wiki + ",Alice,Lead,2025-12-03,", wiki + " is signed off by halves: fill in evidence as well, or nothing"},
		"a date in another order": {wiki + ",Alice,Lead,03.12.2025,https://wiki.example", `the date "03.12.2025" is none: write it as 2025-12-31`},
		"a date without zeros":    {wiki + ",Alice,Lead,2025-2-3,https://wiki.example", `the date "2025-2-3" is none: write it as 2025-12-31`},
		"a day that there is not": {wiki + ",Alice,Lead,2025-02-30,https://wiki.example", `the date "2025-02-30" is none: write it as 2025-12-31`},
		"a day to come": {wiki + ",Alice,Lead," + time.Now().AddDate(0, 0, 2).Format(time.DateOnly) + ",https://wiki.example",
			"the date " + time.Now().AddDate(0, 0, 2).Format(time.DateOnly) + " is in the future: nothing is signed off before it is done"},
		"evidence that is not there":      {wiki + ",Alice,Lead,2025-12-03,docs/evidence/wiki.pdf", `the evidence "docs/evidence/wiki.pdf" is not there: name an https:// link, or a file of this repository by its path from the root`},
		"evidence that is a word":         {wiki + ",Alice,Lead,2025-12-03,seen", `the evidence "seen" is not there: name an https:// link`},
		"evidence that is a folder":       {wiki + ",Alice,Lead,2025-12-03,docs", `the evidence "docs" is a folder: name an https:// link`},
		"evidence outside":                {wiki + ",Alice,Lead,2025-12-03,../evidence.pdf", `the evidence "../evidence.pdf" is no file of this repository: name an https:// link`},
		"evidence of one machine":         {wiki + ",Alice,Lead,2025-12-03,/dev/null", `the evidence "/dev/null" is no file of this repository: name an https:// link`},
		"a link that leads outside":       {wiki + ",Alice,Lead,2025-12-03,docs/evidence/elsewhere", `the evidence "docs/evidence/elsewhere" is no file of this repository: name an https:// link`},
		"a link that is a program":        {wiki + ",Alice,Lead,2025-12-03,javascript:alert(1)", `the evidence "javascript:alert(1)" is a link that nobody can follow: name an https:// link`},
		"a link to a file of one machine": {wiki + ",Alice,Lead,2025-12-03,file:///etc/hostname", `the evidence "file:///etc/hostname" is a link that nobody can follow: name an https:// link`},
		"a link of another kind":          {wiki + ",Alice,Lead,2025-12-03,ftp://wiki.example/x", `the evidence "ftp://wiki.example/x" is a link that nobody can follow: name an https:// link`},
		"a link to nowhere":               {wiki + ",Alice,Lead,2025-12-03,https:///wiki", `the evidence "https:///wiki" is a link that nobody can follow: name an https:// link`},
		"a formula, =":                    {wiki + `,"=HYPERLINK(""https://evil.example"")",Lead,2025-12-03,https://wiki.example`, "who begins with =, which makes it a formula in spreadsheets: begin it with a letter or a digit"},
		"a formula, +":                    {wiki + ",Alice,+1,2025-12-03,https://wiki.example", "role begins with +, which"},
		"a formula, -":                    {wiki + ",Alice,Lead,-1,https://wiki.example", "date begins with -, which"},
		"a formula, @":                    {wiki + ",Alice,Lead,2025-12-03, @SUM(A1)", "evidence begins with @, which"},
		"a line break":                    {wiki + ",\"Alice\nAdam\",Lead,2025-12-03,https://wiki.example", "who has a line break, a tab or the like: write it on one line"},
		"another encoding":                {wiki + ",Zo\xeb,Lead,2025-12-03,https://wiki.example", "who is not in UTF-8: save the file as CSV in UTF-8"},
		"a comma too many":                {wiki + ",Alice, Adam,Lead,2025-12-03,https://wiki.example", "6 columns, and there are 5: id,who,role,date,evidence; a cell with a comma stands in double quotes"},
		"semicolons":                      {wiki + ";Alice;Lead;2025-12-03;https://wiki.example", "1 columns, and there are 5: id,who,role,date,evidence"},
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			t.Parallel()
			all, err := read(t, c.row)
			require.ErrorContains(t, err, "docs/sign-off.csv:2: "+c.want)
			require.Nil(t, all)
		})
	}
	for name, c := range map[string]struct{ text, want string }{
		"a missing row":        {strings.Replace(whole(), product+",,,,\n", "", 1), ": there is no row for " + product + ": add the line " + product + ",,,,"},
		"a row twice":          {whole() + wiki + ",,,,\n", ": " + wiki + " has a row already, on line "},
		"no file to speak of":  {"", ":1: the file is empty: begin it with id,who,role,date,evidence"},
		"another first line":   {strings.ReplaceAll(whole(), ",", ";"), ":1: the columns are not id,who,role,date,evidence: write that on the first line, with commas"},
		"no first line":        {strings.TrimPrefix(whole(), "id,who,role,date,evidence\n"), ":1: the columns are not id,who,role,date,evidence"},
		"a quote out of place": {strings.Replace(whole(), wiki+",,", wiki+`,Alice "A" Adam,`, 1), `: this is no CSV: bare " in non-quoted-field: put the cell in double quotes, and double those that are in it`},
	} {
		t.Run(name+" is refused", func(t *testing.T) {
			t.Parallel()
			all, err := readText(t, c.text)
			require.ErrorContains(t, err, "docs/sign-off.csv:")
			require.ErrorContains(t, err, c.want)
			require.Len(t, problems(err), 1, "nothing else is wrong")
			require.Nil(t, all)
		})
	}
	t.Run("all that is wrong is told at once, each where it is", func(t *testing.T) {
		t.Parallel()
		_, err := readText(t, "id,who,role,date,evidence\n"+wiki+",Alice,,tomorrow,\n\n"+training+",=1,,,\nphase-9/x,,,,\n"+wiki+",,,,\n")
		text := err.Error()
		for _, want := range []string{":2: " + wiki + " is signed off by halves", ":2: the date", ":4: who begins with =", ":5: the checklist has no box",
			":6: " + wiki + " has a row already, on line 2", ":6: there is no row for " + product} {
			require.Contains(t, text, "docs/sign-off.csv"+want)
		}
		require.Len(t, problems(err), 5+len(manual())-2)
	})
	t.Run("a file that is not there is an error that names it", func(t *testing.T) {
		t.Parallel()
		_, err := checklist.ReadSignOffs(t.TempDir())
		require.ErrorContains(t, err, "read the sign-offs: open ")
		require.ErrorIs(t, err, os.ErrNotExist)
	})
}

// whole is a file in which nothing is signed.
func whole() string {
	text := "id,who,role,date,evidence\n"
	for _, box := range manual() {
		text += box.ID + ",,,,\n"
	}
	return text
}

// problems are the errors that one is made of.
func problems(err error) []error {
	if joined, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err); ok {
		return joined.Unwrap()
	}
	return []error{err}
}
