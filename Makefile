# Needs Python 3.11 or later, cargo and a C compiler; everything else is fetched into .venv/ and core/target/.
# Every path below is relative, so the folder may have any name and any length.

SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
VENV := .venv
# Tools run as modules: the first line of an installed script cannot hold every folder's name.
RUN := $(VENV)/bin/python

# Tests wait for other processes more than they work, so that one more of them runs than there are processors.
JOBS ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1) + 1 )))

# The crate's own tests touch no Python, so they are linked without it: many machines have no library to link with.
ifeq ($(shell uname),Darwin)
TEST_FLAGS := -C link-arg=-undefined -C link-arg=dynamic_lookup
else
TEST_FLAGS := -C link-arg=-Wl,--unresolved-symbols=ignore-all -C link-arg=-Wl,-z,lazy -C relro-level=partial
endif
CARGO = cd core && PYO3_BUILD_EXTENSION_MODULE=1 RUSTFLAGS="$(TEST_FLAGS)" \
	PYO3_PYTHON="$$(../$(RUN) -c 'import sys; print(sys.executable)')" cargo

SOURCES := pyproject.toml README.md core/Cargo.toml core/Cargo.lock \
	$(shell find core/src agentd ctl proto systemd -type f ! -name '*.pyc' ! -name '*.so' 2>/dev/null)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check fuzz bench bench-gate bench-charts bench-baseline wheel format clean

help:
	@echo 'make demo     two agents, a real SSH link, a real tree: push, again, edit, pull'
	@echo 'make test     every test, by JOBS processes ($(JOBS))'
	@echo 'make check    format, lint, types, layers'
	@echo 'make fuzz     every fuzzer for FUZZ_SECONDS (20); what it found into the corpora: FUZZ=--keep'
	@echo 'make bench    side by side with rsync over the same sshd; every case: make bench ARGS=--full'
	@echo 'make bench-gate      the same, and no figure worse than the committed baseline'
	@echo 'make bench-charts    the last result (or RESULT="...") into docs/performance.md; bench-baseline: as the baseline'
	@echo 'make format   format Python and Rust'
	@echo 'make clean    remove everything that these made'

demo: $(VENV)/installed
	@$(RUN) -m bench.demo

test: $(VENV)/installed $(VENV)/tools
	$(CARGO) test --quiet --locked --lib
	$(RUN) -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder $(ARGS)

check: $(VENV)/installed $(VENV)/tools
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -c 'import sys; from importlinter.cli import lint_imports_command as run; sys.argv[0] = "lint-imports"; run()'
	$(RUN) .ci/versions.py
	cd core && cargo fmt --check
	$(CARGO) clippy --quiet --locked --all-targets -- -D warnings

FUZZ_SECONDS ?= 20
fuzz: $(VENV)/installed $(VENV)/tools
	@$(RUN) -m tests.fuzz $(FUZZ_SECONDS) $(FUZZ)

bench: $(VENV)/installed
	@$(RUN) -m bench $(ARGS)

bench-gate: $(VENV)/installed
	@$(RUN) -m bench --gate $(ARGS)

bench-charts: $(VENV)/installed
	@$(RUN) -m bench.publish $(RESULT)

bench-baseline: $(VENV)/installed
	@$(RUN) -m bench.gate --write $(RESULT)

format: $(VENV)/tools
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .
	cd core && cargo fmt

wheel: $(VENV)/installed

$(VENV)/base:
	@test -n "$(PYTHON)" || { echo 'make: Python 3.11 or later is needed; name it with PYTHON=...' >&2; exit 1; }
	@command -v cargo >/dev/null || { echo 'make: cargo is needed; see https://rustup.rs' >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo 'make: $(PYTHON) has no venv (Debian: apt install python3-venv)' >&2; exit 1; }
	@"$(PYTHON)" -m venv --clear $(VENV)
	@$(RUN) -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

# The package goes in as the wheel that others get.  Its extension is put into the source tree too, for tests that
# import from there.
$(VENV)/installed: $(VENV)/base $(SOURCES)
	@echo 'building the wheel'
	@$(RUN) -m pip install --quiet 'maturin>=1.9,<2'
	@rm -rf build/wheels
	@$(RUN) -m maturin build --quiet --release --locked --out build/wheels
	@$(RUN) -m pip install --quiet build/wheels/*.whl
	@$(RUN) -m pip install --quiet --no-deps --force-reinstall build/wheels/*.whl
	@rm -f agentd/_core.abi3.so
	@$(RUN) -c 'import shutil, sysconfig; shutil.copy(sysconfig.get_path("platlib") + "/agentd/_core.abi3.so", "agentd")'
	@touch $@

$(VENV)/tools: $(VENV)/base pyproject.toml
	@echo 'installing the test and lint tools'
	@$(RUN) -m pip install --quiet --group dev
	@touch $@

clean:
	rm -rf $(VENV) build core/target agentd/_core.abi3.so bench/results
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
