# The commands of procession. Each target does its own set-up, from package registries only.
#
#   make run          build, install, run the examples        make lint     all checks of the source
#   make test         all tests                               make deny     licences and sources of crates
#   make test-real    well-known programs under procession
#   make bench        the benchmarks                          make clean    remove what was built
#   make conformance  CPython's own multiprocessing tests
#
# PYTHON chooses the interpreter of the environment (3.11 or newer), VENV where it is made.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:

PYTHON ?= $(shell scripts/find-python)
VENV ?= .venv
TARGET := $(or $(CARGO_TARGET_DIR),target)
BIN := $(VENV)/bin
CONFORMANCE ?= ../shared/conformance

# Limits of whole runs, in seconds: a hang ends with an error and never with a stuck terminal.
LIMIT = timeout --kill-after=10 --verbose

export PIP_DISABLE_PIP_VERSION_CHECK = 1

# The bindings are a Python extension: plain cargo could link them only against libpython, and
# pytest tests them.
RUST := --workspace --exclude procession-py
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

# --- environments ---------------------------------------------------------------------------

.PHONY: venv
venv: $(VENV)/made
$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "procession needs Python 3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# One stamp per list of packages, so that nothing is asked of the registry twice.
$(VENV)/%-installed: requirements/%.txt $(VENV)/made
	$(BIN)/python -m pip install --quiet --requirement $<
	touch $@
$(VENV)/test-installed: requirements/examples.txt

# --- the main job ---------------------------------------------------------------------------

EXAMPLES := hello_processes pool_map producer_consumer
say = @printf '\n\033[1m== %s\033[0m\n' "$(1)"

.PHONY: install
install: $(VENV)/examples-installed
	$(call say,Building and installing procession into $(VENV) (a release build: some minutes at first))
	$(BIN)/python -m pip install --quiet --force-reinstall --no-deps .

.PHONY: run
run: install
	$(call say,The tutorial in Python)
	@for example in $(EXAMPLES); do \
		echo "-- python examples/$$example.py"; \
		$(LIMIT) 60 $(BIN)/python examples/$$example.py; \
	done
	$(call say,The tutorial in Rust)
	cargo build --release --quiet -p procession $(EXAMPLES:%=--example %)
	@for example in $(EXAMPLES); do \
		echo "-- cargo run --release -p procession --example $$example"; \
		$(LIMIT) 60 cargo run --release --quiet -p procession --example $$example; \
	done
	$(call say,A real job: an index over the source of the standard library)
	$(LIMIT) 300 $(BIN)/python examples/stdlib_index.py

# --- tests ----------------------------------------------------------------------------------

.PHONY: test
test: test-rust test-loom test-python

# Workers and parents of pools that die at named points, which only a build of its own has.
CRASHES := -p procession-engine --features fault --test 'pool_crash*'
.PHONY: test-rust
test-rust:
	$(call say,Rust tests)
ifeq ($(NEXTEST),yes)
	$(LIMIT) 1200 cargo nextest run $(RUST) --all-targets
	$(LIMIT) 300 cargo nextest run $(CRASHES)
else
	$(LIMIT) 1200 cargo test $(RUST) --all-targets
	$(LIMIT) 300 cargo test $(CRASHES)
endif
	$(call say,Rust doctests)
	$(LIMIT) 600 cargo test $(RUST) --doc

# Optimised code for tests, without the minutes of a release build.
LIGHT := CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
	CARGO_PROFILE_RELEASE_DEBUG=0
# Models of the shared words: every interleaving of a few threads, in a build of its own.
.PHONY: test-loom
test-loom:
	$(call say,Loom models)
	$(LIGHT) RUSTFLAGS="--cfg loom" LOOM_MAX_PREEMPTIONS=$${LOOM_MAX_PREEMPTIONS:-3} \
		CARGO_TARGET_DIR=$(TARGET)/loom \
		$(LIMIT) 900 cargo test --release -p procession-shm --test 'loom_*'

.PHONY: develop
develop: $(VENV)/test-installed $(VENV)/build-installed
	$(call say,Building the extension into $(VENV))
	$(LIGHT) VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --quiet

# Most of what the tests do is to wait: files of them go beside each other. PYTEST="-n 0" does without.
BESIDE := -n 3 --dist loadfile
.PHONY: test-python
test-python: develop
	$(call say,Python tests and examples)
	$(LIMIT) 900 $(BIN)/python -m pytest $(BESIDE) $(PYTEST)

# Programs from the package index, under `procession run` and under the standard library.
$(VENV)/real-installed: requirements/test.txt requirements/examples.txt
.PHONY: test-real
test-real: develop $(VENV)/real-installed
	$(call say,Real programs, unmodified)
	$(LIMIT) 600 $(BIN)/python -m pytest tests/real $(PYTEST)

# --- checks of the source -------------------------------------------------------------------

.PHONY: lint
lint: lint-rust lint-python deny

.PHONY: lint-rust
lint-rust:
	$(call say,Rust: format + clippy + rustdoc + tidy)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(LIGHT) RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=$(TARGET)/loom \
		cargo clippy --release -p procession-shm --tests -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	PYTHON="$(PYTHON)" cargo xtask tidy

.PHONY: lint-python
lint-python: $(VENV)/lint-installed
	$(call say,Python: ruff + mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The hand-written stubs say what the built module has. Before Python 3.12 that a class has buffers
# does not show in it.
BEFORE_3_12 := procession\._native\.BlockBuffer\.__buffer__
.PHONY: stubtest
stubtest: develop $(VENV)/lint-installed
	$(call say,Python: stubs against the module)
	$(LIMIT) 300 $(BIN)/python -m mypy.stubtest --ignore-unused-allowlist \
		--allowlist <(echo '$(BEFORE_3_12)') procession._native

# cargo-deny takes some minutes to build, so it is kept outside of the checkout. Its check of
# advisories needs a database from outside the registries: `make deny-advisories`.
TOOLS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/procession-tools
DENY_VERSION := 0.20.2
DENY := $(or $(shell command -v cargo-deny),$(TOOLS)/bin/cargo-deny)

$(TOOLS)/bin/cargo-deny:
	cargo install --locked --quiet --root $(TOOLS) --version $(DENY_VERSION) cargo-deny

.PHONY: deny deny-advisories
deny: $(DENY)
	$(call say,Crates: licences + sources + bans)
	$(DENY) --log-level error check licenses sources bans
	$(DENY) --log-level error --manifest-path benches/rust-peers/Cargo.toml --config deny.toml \
		check licenses sources bans
deny-advisories: $(DENY)
	$(DENY) check advisories

.PHONY: format
format: $(VENV)/lint-installed
	cargo fmt --all
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

# --- judged from outside --------------------------------------------------------------------

# CPython's tests come from a harness beside this repository, which not everybody has. RUN is for
# its options; tests/conformance/known.txt names what is known to fail.
.PHONY: conformance
conformance: install
	$(call say,Conformance: CPython's own tests)
	@if test -f $(CONFORMANCE)/run.py; then \
		$(LIMIT) 2400 $(BIN)/python scripts/conformance.py $(CONFORMANCE) $(RUN); \
	else \
		echo "SKIPPED: no harness at $(CONFORMANCE)/run.py; set CONFORMANCE to where it is" >&2; \
	fi

# The peers of the Rust crate are a workspace of their own, so that no other build builds them.
PEERS := benches/rust-peers
.PHONY: bench bench-rust lint-bench
bench: install $(VENV)/bench-installed
	$(call say,Building the peers of the Rust crate)
	cargo build --release --quiet --locked --manifest-path $(PEERS)/Cargo.toml --target-dir $(TARGET)
	$(call say,Benchmarks: half an hour; BENCH=--quick is a first look and BENCH=--help the rest)
	BENCH_RUST_PEERS=$(abspath $(TARGET))/release/procession-peers \
		$(BIN)/python benches/run.py --json $(TARGET)/bench.json --markdown $(TARGET)/bench.md $(BENCH)

# By the clock, and by the instruction where there is valgrind: the bench says so where that or its
# runner, which must have the version of the library, is absent. Valgrind has no place for as large a
# session as usual, hence the limit, and no vDSO, hence rustix by way of the C library.
GUNGRAUN_VERSION = $(shell sed -n 's/^gungraun = "\(.*\)"/\1/p' Cargo.toml)
COUNTS = RUSTFLAGS="--cfg rustix_use_libc" CARGO_TARGET_DIR=$(TARGET)/counts PATH=$(TOOLS)/bin:$$PATH \
	cargo bench --quiet -p procession-engine --bench counts
bench-rust:
	$(call say,The hot paths of the engine by the clock)
	cargo bench --quiet -p procession-engine --bench hot
	$(call say,The hot paths of the engine by the instruction)
	if command -v valgrind >/dev/null; then \
		$(TOOLS)/bin/gungraun-runner --version 2>&1 | grep -qF $(GUNGRAUN_VERSION) \
		|| cargo install --locked --quiet --root $(TOOLS) --version $(GUNGRAUN_VERSION) gungraun-runner; \
	fi
	$(COUNTS) --no-run
	ulimit -v 33554432; $(COUNTS)

# What the other checks leave out: they need the peers.
lint-bench: $(VENV)/lint-installed $(VENV)/bench-installed
	$(call say,Benchmarks: format + clippy + mypy)
	cargo fmt --check --manifest-path $(PEERS)/Cargo.toml
	cargo clippy --release --locked --manifest-path $(PEERS)/Cargo.toml --target-dir $(TARGET) \
		-- -D warnings
	cd benches && MYPYPATH=../python $(abspath $(BIN))/python -m mypy --strict --ignore-missing-imports *.py

.PHONY: clean
clean:
	rm -rf $(VENV) $(TARGET) .pytest_cache .mypy_cache .ruff_cache
	find python -name '*.so' -delete
