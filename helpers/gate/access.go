package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/vital-health/tenancy/fixtures"
)

// change is a line of a difference between what a phase is declared to give (+) and take (-) and what it does: the first
// sign is the difference's.
var change = regexp.MustCompile(`^([+-])( +)([+-]) (.*)$`)

// verb is what people do to a row, and who they are; privilege is what it is on and to whom, and what they are.
var (
	verb      = regexp.MustCompile(`^(\w+)  +(.*)$`)
	privilege = regexp.MustCompile(`^(.*:) (.*)$`)
)

// net says what the difference comes to: + is what somebody may do now and may not by what is declared, - the other way
// round. To take what was not to be taken, and not to give what was to be given, are the same.
func net(outline string) string {
	var text strings.Builder
	var order []string
	more, less := map[string][]string{}, map[string][]string{}
	depth := ""
	flush := func() {
		for _, what := range order {
			gained, lost := without(more[what], less[what]), without(less[what], more[what])
			for _, side := range []struct {
				sign string
				list []string
			}{{"+", gained}, {"-", lost}} {
				switch {
				case len(side.list) == 0:
				case strings.HasSuffix(what, ":"):
					fmt.Fprintf(&text, "%s%s %s %s\n", depth, side.sign, what, strings.Join(side.list, ", "))
				default:
					fmt.Fprintf(&text, "%s%s %-8s %s\n", depth, side.sign, what, fixtures.Names(side.list))
				}
			}
		}
		order = nil
		clear(more)
		clear(less)
	}
	for line := range strings.Lines(outline) {
		line = strings.TrimRight(line, "\n")
		found := change.FindStringSubmatch(line)
		if found == nil {
			flush()
			text.WriteString(line + "\n")
			continue
		}
		what, list := found[4], []string{""}
		if parts := verb.FindStringSubmatch(what); parts != nil {
			what, list = parts[1], fixtures.Emails(parts[2])
		} else if parts := privilege.FindStringSubmatch(what); parts != nil {
			what, list = parts[1], strings.Split(parts[2], ", ")
		}
		if !slices.Contains(order, what) {
			order = append(order, what)
		}
		depth = " " + found[2]
		if found[1] == found[3] {
			more[what] = append(more[what], list...)
		} else {
			less[what] = append(less[what], list...)
		}
	}
	flush()
	return text.String()
}

// without is what is in one list alone.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(item string) bool { return slices.Contains(other, item) })
}
