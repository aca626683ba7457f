package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/wasilibs/go-pgquery/parser"
)

// position is where in the text an error is, from 1.
func position(err error) (int, bool) {
	e, ok := errors.AsType[*parser.Error](err)
	if !ok {
		return 0, false
	}
	return e.Cursorpos, true
}

// judge says what is wrong with a node, wherever it stands.
func (r *reader) judge(line int, kind string, n node) {
	switch kind {
	case "GrantStmt", "GrantRoleStmt":
		for _, grantee := range list(n["grantees"]) {
			role, _ := grantee["RoleSpec"].(node)
			who, _ := role["rolename"].(string)
			if role["roletype"] == "ROLESPEC_PUBLIC" {
				who = "PUBLIC"
			}
			if n["is_grant"] == true && (who == "PUBLIC" || who == "anon") {
				r.say(line, "grant-to-everybody", fmt.Sprintf("gives a privilege to %s, that is to people who have not signed in. "+
					"Give it to authenticated, and have a policy decide about the rows.", who))
			}
		}
	case "AlterTableCmd":
		switch n["subtype"] {
		case "AT_DisableRowSecurity":
			r.say(line, "row-security-off", "switches row level security off: whoever may read the table reads everybody's rows. "+
				"To change who reads what, change a policy.")
		case "AT_DisableTrig", "AT_DisableTrigAll", "AT_DisableTrigUser":
			r.say(line, "trigger-off", "puts a trigger to sleep: what it guards or records is not guarded or recorded any more.")
		}
	case "CreatePolicyStmt", "AlterPolicyStmt":
		for _, clause := range []string{"qual", "with_check"} {
			expression, _ := n[clause].(node)
			constant, _ := expression["A_Const"].(node)
			value, _ := constant["boolval"].(node)
			if value["boolval"] == true {
				r.say(line, "policy-always-true", "makes a policy that lets everybody do it to every row. Say whose rows are meant.")
			}
		}
		for _, role := range list(n["roles"]) {
			if spec, _ := role["RoleSpec"].(node); spec["roletype"] == "ROLESPEC_PUBLIC" {
				r.say(line, "policy-for-everybody", "makes a policy for PUBLIC, anon included. Say to whom it applies: to authenticated.")
			}
		}
	case "CreateFunctionStmt":
		definer, pinned := false, false
		for _, option := range list(n["options"]) {
			element, _ := option["DefElem"].(node)
			argument, _ := element["arg"].(node)
			boolean, _ := argument["Boolean"].(node)
			set, _ := argument["VariableSetStmt"].(node)
			definer = definer || element["defname"] == "security" && boolean["boolval"] == true
			if path := list(set["args"]); set["name"] == "search_path" && len(path) > 0 {
				pinned = text(path[len(path)-1]) == "pg_temp"
			}
		}
		if definer && !pinned {
			r.say(line, "definer-search-path", "makes a function that runs with its owner's rights and looks for tables and types where its caller says: "+
				"his temporary ones come first unless pg_temp is named as the last. Add: set search_path = pg_catalog, pg_temp.")
		}
	case "CreateStmt":
		relation, _ := n["relation"].(node)
		if name, _ := relation["relname"].(string); relation["schemaname"] == "public" && !strings.Contains(r.classified, "'"+name+"'") {
			r.say(line, "table-without-class", fmt.Sprintf("makes table public.%s, which has no class in tenancy.classified_table: "+
				"nothing protects its rows. CONTRIBUTING.md says how to add a table.", name))
		}
	}
}

// alone says what is wrong with a statement that is a transaction by itself, in the sight of the application.
func (r *reader) alone(line int, kind string, n node) {
	relation, _ := n["relation"].(node)
	if relation["schemaname"] != "public" {
		return
	}
	table := "public." + fmt.Sprint(relation["relname"])
	switch {
	case slices.Contains([]string{"UpdateStmt", "InsertStmt", "DeleteStmt"}, kind):
		r.say(line, "rows-outside", fmt.Sprintf("changes rows of %s outside of the phase's transaction or batches: for all rows at once, "+
			"and nothing keeps what they were, so that the rollback cannot bring it back.", table))
	case kind == "AlterTableStmt":
		r.say(line, "lock-without-timeout", fmt.Sprintf("waits for %s for as long as it takes, and everybody who comes after it waits, too. "+
			"Put it into the transaction, or call tenancy.patiently('…').", table))
	}
}
