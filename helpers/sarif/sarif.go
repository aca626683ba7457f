// Package sarif writes findings in the format that code hosts show beside the line (SARIF 2.1.0,
// docs.oasis-open.org/sarif/sarif/v2.1.0), as much of it as they need.
package sarif

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Finding is what is wrong with a line.
type Finding struct {
	Rule    string // "row-security-off"
	File    string
	Line    int // from 1
	Message string
}

// String is "file:line: message [rule]".
func (f Finding) String() string {
	return fmt.Sprintf("%s:%d: %s [%s]", f.File, f.Line, f.Message, f.Rule)
}

type (
	report struct {
		Schema  string `json:"$schema"`
		Version string `json:"version"`
		Runs    []run  `json:"runs"`
	}
	run struct {
		Tool    tool     `json:"tool"`
		Results []result `json:"results"`
	}
	tool struct {
		Driver driver `json:"driver"`
	}
	driver struct {
		Name string `json:"name"`
	}
	result struct {
		RuleID    string     `json:"ruleId"`
		Level     string     `json:"level"`
		Message   text       `json:"message"`
		Locations []location `json:"locations"`
	}
	text struct {
		Text string `json:"text"`
	}
	location struct {
		Physical physical `json:"physicalLocation"`
	}
	physical struct {
		Artifact artifact `json:"artifactLocation"`
		Region   region   `json:"region"`
	}
	artifact struct {
		URI string `json:"uri"`
	}
	region struct {
		StartLine int `json:"startLine"`
	}
)

// Write writes what a tool has found, which may be nothing.
func Write(file, by string, found []Finding) error {
	results := []result{}
	for _, f := range found {
		results = append(results, result{f.Rule, "error", text{f.Message},
			[]location{{physical{artifact{filepath.ToSlash(f.File)}, region{f.Line}}}}})
	}
	out, err := json.MarshalIndent(report{
		"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []run{{tool{driver{by}}, results}},
	}, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, append(out, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
