package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"github.com/vital-health/tenancy/helpers/sarif"
	"github.com/vital-health/tenancy/schema"
)

// metaCommands are psql's; squawk knows SQL alone.
var (
	setCommand   = regexp.MustCompile(`(?m)^\\set .*$`)
	gexecCommand = regexp.MustCompile(`(?m)^\\gexec$`)
)

// runSquawk has squawk read the files, for the oldest version of PostgreSQL that they run on.
func runSquawk(command string, files []schema.File) (found []sarif.Finding, err error) {
	folder, err := os.MkdirTemp("", "review-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	origins, args := map[string]string{}, []string{"--pg-version=15.0", "--reporter=json"}
	for _, f := range files {
		name := filepath.Join(folder, filepath.Base(f.Path))
		sql := gexecCommand.ReplaceAllString(setCommand.ReplaceAllString(f.SQL, ""), ";")
		if err := os.WriteFile(name, []byte(sql), 0o600); err != nil {
			return nil, err
		}
		origins[name], args = f.Origin, append(args, name)
	}
	output, err := exec.Command(command, args...).Output()
	if err != nil && !exitsWith(err, 1) {
		return nil, fmt.Errorf("squawk, which .ci/squawk installs: %w", err)
	}
	var said []struct {
		File, Message, Help string
		Line                int    // from 0
		Rule                string `json:"rule_name"`
	}
	if err := json.Unmarshal(output, &said); err != nil {
		return nil, fmt.Errorf("what squawk says: %w", err)
	}
	for _, s := range said {
		message := s.Message
		if s.Help != "" {
			message += " " + s.Help
		}
		found = append(found, sarif.Finding{Rule: s.Rule, File: origins[s.File], Line: s.Line + 1, Message: message})
	}
	return found, nil
}
