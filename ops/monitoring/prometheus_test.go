//go:build monitoring

package monitoring_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/vital-health/tenancy/fixtures"
	"github.com/vital-health/tenancy/helpers/checklist"
	"github.com/vital-health/tenancy/helpers/pgtest"
	"github.com/vital-health/tenancy/helpers/program"
)

func promtool(t *testing.T, args ...string) {
	t.Helper()
	output, err := exec.Command(program.Find(t, "promtool", "prometheus"), args...).CombinedOutput()
	require.NoError(t, err, "promtool %s:\n%s", strings.Join(args, " "), output)
}

func TestAlertRules(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", "alerts.yml")
	promtool(t, "test", "rules", "alerts_test.yml")
	tested, err := os.ReadFile("alerts_test.yml")
	require.NoError(t, err)
	for _, name := range alertNames(t) {
		require.Contains(t, string(tested), "alertname: "+name+"\n        exp_alerts:\n", "alerts_test.yml shows it firing")
		require.Regexp(t, "alertname: "+name+`\n +exp_alerts: (\[\]|\n)`, string(tested))
	}
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	return string(text)
}

func alertNames(t testing.TB) (names []string) {
	t.Helper()
	for _, found := range regexp.MustCompile(`(?m)^ +- alert: (\w+)$`).FindAllStringSubmatch(read(t, "alerts.yml"), -1) {
		names = append(names, found[1])
	}
	require.NotEmpty(t, names)
	return names
}

// freePort is one that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

func get(address string, values url.Values) ([]byte, error) {
	response, err := http.Get("http://" + address + "?" + values.Encode())
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	return body, err
}

// export starts an exporter for a database, as the command in queries.yml does, and returns its address.
func export(t *testing.T, db *pgtest.DB) string {
	t.Helper()
	source, err := url.Parse(db.URL(monitor))
	require.NoError(t, err)
	query := source.Query()
	if !query.Has("sslmode") {
		query.Set("sslmode", "disable")
	}
	source.RawQuery = query.Encode()
	folder := program.Folder(t)
	queries := filepath.Join(folder, "queries.yml")
	require.NoError(t, os.WriteFile(queries, []byte(read(t, "queries.yml")), 0o644))

	address := freePort(t)
	cmd := exec.Command(program.Find(t, "prometheus-postgres-exporter", "prometheus-postgres-exporter"), "--disable-default-metrics", "--disable-settings-metrics",
		"--no-collector.database", "--no-collector.bgwriter", "--extend.query-path="+queries, "--web.listen-address="+address)
	cmd.Env = append(os.Environ(), "DATA_SOURCE_NAME="+source.String())
	if os.Getuid() == 0 {
		who := program.Besides(t, db.Config(t, monitor).Host)
		uid, err := strconv.ParseUint(who.Uid, 10, 32)
		require.NoError(t, err)
		gid, err := strconv.ParseUint(who.Gid, 10, 32)
		require.NoError(t, err)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	program.Start(t, cmd, folder, func() error {
		_, err := get(address+"/metrics", nil)
		return err
	})
	return address
}

// prometheus is one that scrapes every second.
type prometheus struct{ address string }

// watch starts a Prometheus that scrapes the exporters, by the names of the databases, with the alerts of alerts.yml. They
// do not wait here to see whether a fault goes away by itself, and nothing runs for a minute.
func watch(t *testing.T, exporters map[string]string) prometheus {
	t.Helper()
	folder := program.Folder(t)
	rules := regexp.MustCompile(`(?m)^ +for: .*\n`).ReplaceAllString(read(t, "alerts.yml"), "")
	long := strings.Replace(rules, "longest_statement_seconds > 60", "longest_statement_seconds > 2", 1)
	require.NotEqual(t, rules, long)
	config := "global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [alerts.yml]\nscrape_configs:\n  - job_name: tenancy\n    static_configs:\n"
	for name, address := range exporters {
		config += fmt.Sprintf("      - {targets: ['%s'], labels: {instance: %s}}\n", address, strings.ReplaceAll(name, " ", "-"))
	}
	require.NoError(t, errors.Join(
		os.WriteFile(filepath.Join(folder, "alerts.yml"), []byte(long), 0o644),
		os.WriteFile(filepath.Join(folder, "prometheus.yml"), []byte(config), 0o644)))
	p := prometheus{freePort(t)}
	program.Start(t, exec.Command(program.Find(t, "prometheus", "prometheus"), "--config.file="+filepath.Join(folder, "prometheus.yml"),
		"--storage.tsdb.path="+filepath.Join(folder, "data"), "--web.listen-address="+p.address, "--log.level=error"), folder, func() error {
		_, err := get(p.address+"/-/ready", nil)
		return err
	})
	return p
}

// ask decodes what the API answers.
func (p prometheus) ask(t testing.TB, path string, values url.Values, data any) {
	t.Helper()
	body, err := get(p.address+"/api/v1/"+path, values)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(body, &struct {
		Data any `json:"data"`
	}{data}))
}

// query returns the values that an expression has.
func (p prometheus) query(t testing.TB, expr string) []string {
	t.Helper()
	var data struct {
		Result []struct{ Value []any }
	}
	p.ask(t, "query", url.Values{"query": {expr}}, &data)
	var values []string
	for _, r := range data.Result {
		values = append(values, fmt.Sprint(r.Value[1]))
	}
	return values
}

// firing lists the alerts by database: the name, and the labels that say of what.
func (p prometheus) firing(t testing.TB) map[string][]string {
	t.Helper()
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	p.ask(t, "alerts", nil, &data)
	found := map[string][]string{}
	for _, a := range data.Alerts {
		name := a.Labels["alertname"]
		for _, label := range []string{"name", "role", "table_name"} {
			if value, ok := a.Labels[label]; ok {
				name += " " + label + "=" + value
			}
		}
		if a.State == "firing" {
			instance := strings.ReplaceAll(a.Labels["instance"], "-", " ")
			found[instance] = append(found[instance], name)
		}
	}
	return found
}

// busy runs a statement again and again, as a role, until the test ends.
func busy(t *testing.T, db *pgtest.DB, login, role, sql string) {
	t.Helper()
	conn := db.Connect(t, login)
	_, err := conn.Exec(t.Context(), fmt.Sprintf(`select set_config('role', '%s', false), set_config('request.jwt.claims', '{"sub": "%s"}', false)`, role, fixtures.Alice.ID))
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for t.Context().Err() == nil {
			_, _ = conn.Exec(t.Context(), sql) // ended by the end of the test
			time.Sleep(50 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { <-done })
}

// The exporter and Prometheus, as they are in production, on a database that is as it should be and on one for each fault.
func TestPrometheus(t *testing.T) {
	checklist.Proves(t, "post-migration-tasks/monitoring-setup/dashboard-created-for-org-hierarchy",
		"post-migration-tasks/monitoring-setup/alerts-set-for-slow-queries", "post-migration-tasks/monitoring-setup/metrics-tracked-for-resource-distribution")
	const sound = "all is well"
	const quick = `select count(*) from public.agents`
	exporters, wanted := map[string]string{}, map[string][]string{}
	made := func(name, alert string) *pgtest.DB {
		db := clean(t)
		exporters[name] = export(t, db)
		if alert != "" {
			wanted[name] = []string{alert}
		}
		return db
	}
	busy(t, made(sound, ""), pgtest.APIRole, "authenticated", quick)
	for name, f := range faults {
		_, err := made(name, f.alert).Superuser.Exec(t.Context(), f.plant, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
	}
	owner(t, made("nothing can be measured", "TenancyNotMeasured"), `drop schema monitoring cascade`)
	busy(t, made("a statement is slow", "TenancySlowStatement role=authenticated"), pgtest.APIRole, "authenticated", `select pg_sleep(0.1)`)
	busy(t, made("a slow statement of the owner", ""), pgtest.OwnerRole, pgtest.OwnerRole, `select pg_sleep(0.1)`)
	busy(t, made("a statement does not end", "TenancyLongStatement"), pgtest.OwnerRole, pgtest.OwnerRole, `select pg_sleep(600)`)
	p := watch(t, exporters)

	t.Run("each alert fires where its fault is, and no other does", func(t *testing.T) {
		var found map[string][]string
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			found = p.firing(t)
			if fmt.Sprint(found) == fmt.Sprint(wanted) || time.Now().After(deadline) {
				break
			}
		}
		require.Equal(t, wanted, found)
		// What is true now may not have been looked at often enough to be wrong.
		time.Sleep(5 * time.Second)
		require.Equal(t, wanted, p.firing(t))
		var fired []string
		for _, names := range wanted {
			fired = append(fired, strings.Fields(names[0])[0])
		}
		slices.Sort(fired)
		names := alertNames(t)
		slices.Sort(names)
		require.Equal(t, names, slices.Compact(fired), "all of them")
	})
	const here = `instance="all-is-well"`
	t.Run("all that queries.yml names is measured", func(t *testing.T) {
		of, measured := "", 0
		for line := range strings.Lines(read(t, "queries.yml")) {
			if m := regexp.MustCompile(`^(\w+):$`).FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
				of = m[1]
			}
			if m := regexp.MustCompile(`^ +- (\w+): \{usage: (GAUGE|COUNTER)`).FindStringSubmatch(line); m != nil {
				measured++
				values := p.query(t, of+"_"+m[1]+"{"+here+"}")
				require.NotEmpty(t, values, m[1])
				require.NotContains(t, values, "NaN", m[1])
			}
		}
		require.Greater(t, measured, 25)
	})
	t.Run("all that the alerts and the dashboard ask for is there", func(t *testing.T) {
		asked := map[string]bool{}
		for _, name := range []string{"alerts.yml", "dashboard.json"} {
			for _, metric := range regexp.MustCompile(`\b(tenancy_[a-z_]+|pg_[a-z_]+)\b`).FindAllString(read(t, name), -1) {
				if metric != "pg_cancel_backend" {
					asked[metric] = true
				}
			}
		}
		require.Greater(t, len(asked), 20)
		for metric := range asked {
			require.NotEmpty(t, p.query(t, metric+"{"+here+"}"), metric)
		}
	})
	var dashboard struct {
		Panels []struct {
			Type, Title string
			Targets     []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(read(t, "dashboard.json")), &dashboard))
	panels := 0
	for _, panel := range dashboard.Panels {
		if panel.Type == "row" {
			continue
		}
		panels++
		t.Run("the panel "+panel.Title+" shows something", func(t *testing.T) {
			require.NotEmpty(t, panel.Targets)
			for _, target := range panel.Targets {
				expr := strings.NewReplacer("$instance", "all-is-well", "$__rate_interval", "1m").Replace(target.Expr)
				require.NotContains(t, expr, "$")
				var values []string
				require.Eventually(t, func() bool {
					values = p.query(t, expr)
					return len(values) > 0
				}, 20*time.Second, 200*time.Millisecond, expr)
				require.NotContains(t, values, "NaN", expr)
			}
		})
	}
	require.Equal(t, 22, panels)
}
