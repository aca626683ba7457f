# The targets read the environment variables that README.md lists: `make test SCHEMA_DIR=…` works as well as
# `SCHEMA_DIR=… make test`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The tests need no C compiler, and are the same program on a machine that has one.
export CGO_ENABLED ?= 0

# Packages to test, the one that takes longest first; tests to run in them, and not to run (regular expressions), further
# arguments of go test.
PKG ?= ./rls_test ./...
RUN ?=
SKIP ?=
ARGS ?=

# go test runs each package in its own folder: a relative path would mean another one there.
# Nor would make export one that it was given as an argument, once that is overridden.
absolute = $(if $($(1)),$(eval export override $(1) := $(abspath $($(1)))))
$(foreach variable,SCHEMA_DIR TEST_POSTGRES_BIN BASELINE_DUMP BASELINE_PREPARE,$(call absolute,$(variable)))

# What the project itself does without has dependencies of its own.
modules := perf_test/peers helpers/erd helpers/mutants helpers/report helpers/review

# Who asks; make itself has a variable of this name, for an assembler.
AS :=

ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What the tests have to say of BASELINE_DUMP, whether they pass or fail. It may be large: they have the time it takes.
dump_report := build/report/dump.txt
$(if $(BASELINE_DUMP),$(eval override ARGS := -timeout=24h $(ARGS)))
report_of_dump = $(if $(BASELINE_DUMP),rm -f $(dump_report); trap 'if [ -e $(dump_report) ]; then cat $(dump_report); fi' EXIT;)

# -count=1: what a database answers is not part of the key of Go's test cache.
# -p: packages that wait, for locks, for servers that stop, leave the processors to those that do not.
# A test that was skipped, or a run without a test, proves nothing: both fail.
gotest = go tool gotestsum --format pkgname --format-hide-empty-pkg \
	--post-run-command='bash -c "((TESTS_TOTAL > 0 && TESTS_SKIPPED == 0)) || { echo no test ran, or one was skipped >&2; exit 1; }"' \
	-- -count=1 -p=4 $(if $(RUN),-run '$(RUN)') $(if $(SKIP),-skip '$(SKIP)') $(ARGS) $(PKG)

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: test
test: ## run the tests; finds or installs a PostgreSQL server (MAJOR=18, PKG=./rls_test/..., RUN=, ARGS=, BASELINE_DUMP=)
	@$(report_of_dump) MAJOR='$(MAJOR)' .ci/with-postgres $(gotest)

.PHONY: test-container
test-container: ## run the tests on PostgreSQL in a container (PKG=, RUN=, ARGS=, BASELINE_DUMP=)
	@$(report_of_dump) .ci/with-container $(gotest)

.PHONY: faults
faults: ## interrupt every migration and every rollback at 200 random moments, and between any two statements (KILLS=200 RUN=)
	@FAULTS_KILLS='$(or $(KILLS),200)' MAJOR='$(MAJOR)' .ci/with-postgres go test -count=1 -timeout=12h -v $(if $(RUN),-run '$(RUN)') ./phases_test/faults

.PHONY: golden
golden: ## write down anew who may do what to which row, what scenarios answer, how queries are planned, what locks, how functions run (MAJOR=18)
	@UPDATE_GOLDEN=1 MAJOR='$(MAJOR)' .ci/with-postgres go test -count=1 -run 'Matrix|Scenarios|Phase3Plans|MigrationLocks|Attributes' ./rls_test ./perf_test ./phases_test/locks ./phases_test/schema
	@git status --short schema/access schema/locks '*/testdata'

.PHONY: docs
docs: ## write down anew what docs/ says of the database
	@UPDATE_GOLDEN=1 MAJOR='$(MAJOR)' .ci/with-postgres go test -count=1 -run 'TestDocuments' ./docs
	@go run -C helpers/erd . <build/schema.dot >build/schema.svg
	@mv build/schema.svg docs/schema.svg
	@git status --short docs

# The tests that are the judge take TEST_* like all others.
.PHONY: mutants
mutants: ## make mistakes in the migrations, one at a time, and let the tests find each (MUTANTS=50 SEED=1 RUN='phase4 policy' ARGS=-list)
	@MAJOR='$(MAJOR)' .ci/with-postgres go run -C helpers/mutants . \
		$(if $(MUTANTS),-sample '$(MUTANTS)') $(if $(SEED),-seed '$(SEED)') $(if $(RUN),-run '$(RUN)') $(ARGS)

# What the last make bench said, for make plots.
measured := build/bench/bench.txt

# What the tests' own tools are compared with is a dependency of a module of its own.
benchmarks = -count=1 -timeout=12h -run='^$$' -bench='$(or $(BENCH),.)' $(ARGS)

.PHONY: bench
bench: ## measure, and hold the budgets (PERF_ROWS=1000,1000000 PERF_BUDGET_SCALE=1 BENCH=. ARGS=-benchtime=200x)
	@mkdir -p $(dir $(measured))
	@MAJOR='$(MAJOR)' GOTESTSUM_JSONFILE="$${GOTESTSUM_JSONFILE:-build/bench/bench.json}" .ci/with-postgres \
		go tool gotestsum --format standard-verbose -- $(benchmarks) ./perf_test/... | grep --line-buffered -v '^=== ' | tee $(measured)
	@MAJOR='$(MAJOR)' .ci/with-postgres go test -C perf_test/peers $(benchmarks) ./...

.PHONY: plots
plots: ## draw what make bench measured: latency against rows, into build/report/latency
	@go run ./helpers/latency/plot $(measured)

.PHONY: bench-compare
bench-compare: ## measure a git ref and the working tree in turns, and say what has changed (BASE=main COUNT=6 BENCH=. PERF_ROWS= ARGS=)
	@BENCH='$(BENCH)' COUNT='$(COUNT)' MAJOR='$(MAJOR)' .ci/with-postgres .ci/bench-compare '$(BASE)' $(ARGS)

.PHONY: live
live: ## what users of the application notice of each phase and rollback; writes build/report/live.json (ROWS=100000 RATE=100)
	@MAJOR='$(MAJOR)' .ci/with-postgres go run ./perf_test/live $(if $(ROWS),-rows '$(ROWS)') $(if $(RATE),-rate '$(RATE)') $(ARGS)

.PHONY: monitoring
monitoring: ## run the exporter and Prometheus on sound and faulty databases, and pg_cron: each alert, each panel, each job (RUN=)
	@MAJOR='$(MAJOR)' .ci/with-postgres .ci/with-programs 'prometheus prometheus-postgres-exporter' \
		go test -count=1 -tags=monitoring $(if $(RUN),-run '$(RUN)') $(ARGS) ./ops/...

.PHONY: db
db: ## make a database to look around in, print its URLs, and drop it when interrupted (PHASE=phase4)
	@MAJOR='$(MAJOR)' .ci/with-postgres go run ./helpers/pgtest/devdb $(if $(PHASE),-phase '$(PHASE)')

.PHONY: shell
shell: ## psql as somebody, on a database made for it (AS=alice@novartis.com, PHASE=phase4)
	@MAJOR='$(MAJOR)' .ci/with-postgres go run ./helpers/pgtest/devdb -phase '$(or $(PHASE),phase4)' -as '$(or $(AS),anonymous)'

.PHONY: why
why: ## why somebody may, or may not (AS=bob@pfizer.com TABLE=agents ID='Novartis RA Agent' VERB=select)
	@$(if $(and $(AS),$(TABLE),$(ID)),,echo "say who does it to which row: make why AS=bob@pfizer.com TABLE=agents ID='Novartis RA Agent'" >&2; exit 1;) \
	MAJOR='$(MAJOR)' .ci/with-postgres go run ./helpers/pgtest/devdb -as '$(AS)' -table '$(TABLE)' -id '$(ID)' -verb '$(or $(VERB),select)'

# It reads DATABASE_URL from the environment: everybody on the machine can read a program's arguments.
migrate = go run ./helpers/script/migrate/run -phase '$(PHASE)' $(if $(LOG),-log '$(LOG)') $(ARGS)

.PHONY: migrate
migrate: ## run a phase on a database, verify it, and write a log (DATABASE_URL=postgres://owner@host/db PHASE=phase2 LOG=folder)
	@$(migrate)

.PHONY: rollback
rollback: ## take a phase back, verify that, and write a log (DATABASE_URL=postgres://owner@host/db PHASE=phase2 LOG=folder)
	@$(migrate) -rollback

# The URLs come by the environment, for the same reason.
.PHONY: preflight
preflight: ## may the phases run? Reads only; with both, says in what they differ (STAGING=postgres://owner@host/db PRODUCTION=…)
	@go run ./helpers/preflight/run

.PHONY: verify
verify: ## does a database in use hold? Reads only, as real accounts, too (VERIFY_DATABASE_URL=postgres://owner@host/db)
	@go run ./helpers/live/run

.PHONY: rehearse
rehearse: ## all deployment steps on a clone of production (URL=postgres://owner@staging/db LOG=folder CHECK=command SWITCH=command)
	@$(if $(LOG),mkdir -p '$(LOG)';) go run ./helpers/rehearsal/run $(if $(LOG),-log '$(LOG)') $(ARGS)

# Written by make gate and its stages, for machines. Who tries the gate out gives another folder.
report ?= build/report

.PHONY: review
review: ## read the SQL of migrations and rollbacks: rules of our own, and squawk's (SCHEMA_DIR=)
	@squawk=$$(.ci/squawk); go run -C helpers/review . -squawk "$$squawk" -sarif '$(abspath $(report))/sql-review.sarif'

.PHONY: gate
gate: ## may these migrations be merged? all of CI's questions, and a verdict (SCHEMA_DIR= STAGES=review,access PKG= RUN= MAJOR=18)
	@PKG='$(if $(filter file,$(origin PKG)),,$(PKG))' RUN='$(RUN)' MAJOR='$(MAJOR)' \
		.ci/with-programs 'shellcheck npm' go run ./helpers/gate -report $(report) $(if $(STAGES),-stages '$(STAGES)')

.PHONY: report
report: ## all of the evidence on one page, build/report/index.html: runs the gate first, or takes what it left (RESULTS=build/report/events)
	@$(if $(RESULTS),,$(MAKE) --no-print-directory gate || echo 'report: the gate did not pass' >&2)
	@go run -C helpers/report . $(abspath $(or $(RESULTS),$(report)/events))

.PHONY: lint
lint: lint-code review ## make lint-code review

.PHONY: lint-code
lint-code: ## gofmt, go vet, staticcheck, shellcheck, actionlint, go mod tidy
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "run gofmt -w on:" $$unformatted >&2; exit 1; fi
	@for module in . $(modules); do \
		go vet -C $$module -tags=monitoring ./...; \
		(cd $$module && go run $(STATICCHECK) -tags=monitoring ./...); \
		go mod tidy -C $$module -diff || { echo "run go mod tidy in $$module" >&2; exit 1; }; \
	done
	@command -v shellcheck >/dev/null || { echo 'install shellcheck, for the scripts in .ci' >&2; exit 1; }
	@shellcheck .ci/*
	@go run $(ACTIONLINT)

.PHONY: ci
ci: ## run all that CI runs; on Debian as root, installs what it needs
	@.ci/run
