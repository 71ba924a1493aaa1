# Paceline: `make help` lists what there is.

BIN := .venv/bin
STAMP := .venv/.setup
MEMBERS := $(patsubst %/pyproject.toml,%,$(sort \
	$(wildcard libs/*/pyproject.toml services/*/pyproject.toml) \
	deploy/local/pyproject.toml demo/pyproject.toml))
PROJECTS := $(MEMBERS:%=%/pyproject.toml)
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate -q
LOCK := $(COMPILE) $(foreach p,common providers gateway scheduler sender bounce reply audit \
	local demo,--no-emit-package paceline-$(p)) $(PROJECTS)

# Handed on to the demo and the stack when set: KEEP=1 KILL=sender KEYS=vault SVC=sender
KEEP ?=
KILL ?=
KEYS ?=
SVC ?=
ROWS ?=

# What `make simulate` runs
DAYS ?= 30
MAILBOXES ?= 2000
LEADS ?= 600000
STEPS ?= 2
SEED ?= 7
RULE ?=
# What `make chaos` does
KILLS ?= 500

# What `make test` runs beside the rest
INWARD := tests/integration/scheduler tests/integration/gateway
OUTWARD := tests/integration/sender tests/integration/reply
COMMON := tests/integration/common tests/integration/local
beside = mkdir -p .run; PACELINE_RUN_DIR=$(CURDIR)/.run/test-$(1) $(2) >.run/test-$(1).log 2>&1 \
	|| { cat .run/test-$(1).log; exit 1; }; echo "$(1):" && tail -n 1 .run/test-$(1).log

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-unit test-parts test-inward test-outward test-e2e lint fmt lock up down status logs bench mutants simulate docs vault \
	chaos chaos-selftest test-chaos test-common test-limits

help: ## List every target
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

setup: $(STAMP) ## Make .venv with pinned requirements (no-op while nothing changed)

$(STAMP): requirements/bootstrap.txt requirements/dev.txt $(PROJECTS)
	@deploy/local/setup $(MEMBERS)
	@touch $@

demo: setup ## One campaign through the whole house, checked (KEEP=1, KILL=<service>, KEYS=vault)
	@$(BIN)/paceline-demo run $(if $(KEEP),--keep) $(if $(KILL),--kill $(KILL)) $(if $(KEYS),--keys $(KEYS))

test: setup ## Lint and every test, on the real parts and the real Vault
	@$(MAKE) --no-print-directory -j4 test-common test-outward test-inward test-parts

test-parts: vault lint test-unit
	@$(BIN)/paceline-local run --keys vault -- $(BIN)/pytest -q tests \
		--ignore=tests/unit --ignore=tests/e2e --ignore=tests/chaos --ignore=tests/limits \
		$(patsubst %,--ignore=%,$(INWARD) $(OUTWARD) $(COMMON))

# Beside it, each in a house of its own: they wait more than they work. Their output comes at the end
test-inward: vault
	@$(call beside,inward,$(BIN)/paceline-local run --keys vault -- $(BIN)/pytest -q $(INWARD))

test-outward: vault
	@$(call beside,outward,$(BIN)/paceline-local run --keys vault -- $(BIN)/pytest -q $(OUTWARD))

test-e2e: vault
	@$(call beside,e2e,$(BIN)/paceline-local run --keys vault -- $(BIN)/pytest -q tests/e2e)

test-chaos: test-e2e
	@$(call beside,chaos,$(BIN)/pytest -q tests/chaos)

test-common: test-chaos
	@$(call beside,common,$(BIN)/paceline-local run --keys vault -- $(BIN)/pytest -q $(COMMON))

test-limits: vault ## Limits under every fault and clock change, judged at the mail host
	@$(call beside,limits,$(BIN)/pytest -q tests/limits)

test-unit: setup ## Unit tests: no services needed
	@$(BIN)/pytest -q tests/unit

lint: setup ## ruff, mypy, import-linter, deptry
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(MEMBERS:%=%/src)
	@$(BIN)/lint-imports
	@for member in $(MEMBERS); do (cd $$member && $(CURDIR)/$(BIN)/deptry src) || exit 1; done

fmt: setup ## Format, and mend what ruff can mend
	@$(BIN)/ruff check --fix-only -q .
	@$(BIN)/ruff format .

lock: ## Compile the requirements with hashes
	@[ -x $(BIN)/uv ] || deploy/local/setup
	@$(LOCK) -o requirements/runtime.txt
	@$(LOCK) --group dev -c requirements/runtime.txt -o requirements/dev.txt
	@echo hatchling | $(COMPILE) -c requirements/dev.txt -o requirements/build.txt -

up: setup ## Start the local stack (KEYS=vault for the real Vault)
	@$(BIN)/paceline-local up $(if $(KEYS),--keys $(KEYS))

down: setup ## End the local stack; data stays
	@$(BIN)/paceline-local down

status: setup ## Part, pid, port, version, ready
	@$(BIN)/paceline-local status || true

logs: setup ## Follow one log: make logs SVC=sender
	@$(BIN)/paceline-local logs $(SVC) -f

mutants: setup ## Break the rules one at a time: a test must find each (RULE=cadence)
	@$(BIN)/paceline-local run --keys vault -- $(CURDIR)/$(BIN)/python -m tests.mutants \
		$(if $(RULE),--rule "$(RULE)")

chaos: vault ## Kill, stop and cut at random, checked at the providers: KILLS=500 SEED=1
	@$(BIN)/python -m tests.chaos run --kills $(KILLS) --seed $(SEED)

chaos-selftest: vault ## Broken builds, each of which chaos must catch
	@$(BIN)/python -m tests.chaos selftest

bench: setup ## Ratios against peers, into bench/results/latest.json (ROWS=9,10)
	@$(BIN)/python -m bench $(if $(ROWS),--rows $(ROWS))

simulate: setup ## Virtual days of a fleet, checked: DAYS=30 MAILBOXES=2000 LEADS=600000 STEPS=2 SEED=7
	@$(BIN)/python -m paceline_scheduler.simulator --days $(DAYS) --mailboxes $(MAILBOXES) \
		--leads $(LEADS) --steps $(STEPS) --seed $(SEED)

docs: setup ## Regenerate the generated documents
	@$(BIN)/python -m paceline_common.docs

vault: setup ## Build the real Vault into the per-user cache (once, about 5 min)
	@$(BIN)/paceline-local vault
