# dcluster: every routine job by name. `make` alone lists them; each one installs what it needs first.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
export PATH := $(CURDIR)/target/tools/bin:$(PATH):/usr/sbin:/sbin:/usr/lib64/openmpi/bin

# How many ranks `make run` starts: one scheduler and N - 1 workers.
N ?= 4

# The job of `make run`, and the directories it reads: the machine's documentation and sources unless given.
JOB ?= word_count
DIR ?=

# How many numbers the second one has in its file: 8 bytes each, below $TMPDIR, removed at the end.
ELEMENTS ?= 100000000

# The examples of the documentation, from compiling them on; only a hang is longer.
DOC_SECONDS_MAX := 1800

# Tests of what no feature changes: they run without features, where there is less to compile.
FEATURELESS_TESTS := binary(compile) + binary(sim) + binary(client) + binary(worker) + binary(memory) + binary(tasks) + binary(architecture)

# Tests that bring up a Slurm: they run with all features, where they start ranks in every way.
SLURM_TESTS := binary(slurm)

# Tests that start MPI ranks have a word `mpi…` in their name; these run once more built against MPICH.
MPI_TESTS := test(/(^|[_:])mpi/)
MPICH_MPICC ?= $(firstword $(shell command -v mpicc.mpich) $(wildcard /usr/lib64/mpich/bin/mpicc))
MPICH_MPIRUN ?= $(firstword $(shell command -v mpirun.mpich) $(wildcard /usr/lib64/mpich/bin/mpirun))

FUZZ_DIR ?= tests/fuzz
FUZZ_SECONDS ?= 60

SCRIPTS := .ci/setup .ci/run $(wildcard launchers/*.sh slurm/*.sbatch)

# The gate, cheap stages first. `nextest` is last, so that its summary closes the output.
TEST_STAGES := fmt-check scripts clippy clippy-minimal deny doc nextest-minimal nextest-mpich nextest
LINT_STAGES := fmt-check scripts clippy clippy-minimal deny

# run_stages NAMES: one line with its seconds after each stage; the first failure ends it.
define run_stages
@for stage in $(1); do \
	started=$$SECONDS; \
	echo "== $$stage"; \
	$(MAKE) --no-print-directory $$stage || { echo "== $$stage FAILED after $$((SECONDS - started)) s: run 'make $$stage' alone"; exit 1; }; \
	echo "== $$stage ok, $$((SECONDS - started)) s"; \
done
endef

.PHONY: help
help: ## list what can be made
	@echo "dcluster: make TARGET"
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

.PHONY: setup
setup: ## install what building and testing need (looks first; says what to do without root)
	@.ci/setup test

.PHONY: build
build: ## the release program, target/release/dcluster
	@.ci/setup build
	$(CARGO) build --release --locked

.PHONY: run
run: ## real jobs on a real cluster of N=4 ranks: count the words below DIR=…, sum an HDF5 file of 800 MB
	@.ci/setup build
	$(CARGO) build --release --locked --bins --example $(JOB) --example persist
	launchers/mpirun.sh -n $(N) $(TARGET)/release/dcluster run -- $(TARGET)/release/examples/$(JOB) $(DIR)
	launchers/mpirun.sh -n $(N) $(TARGET)/release/examples/persist --elements $(ELEMENTS)

.PHONY: test
test: setup ## the gate: format, lints, licences, docs, all tests, both feature sets, both MPIs, Slurm
	$(call run_stages,$(TEST_STAGES))

.PHONY: lint
lint: setup ## the part of the gate that reads and does not run
	$(call run_stages,$(LINT_STAGES))

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZ_SECONDS=60 each
	@.ci/setup fuzz
	@targets=$$($(CARGO) fuzz list --fuzz-dir $(FUZZ_DIR)); \
	[ -n "$$targets" ] || { echo "fuzz: no targets in $(FUZZ_DIR)"; exit 1; }; \
	for target in $$targets; do \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --fuzz-dir $(FUZZ_DIR) $$target -- -max_total_time=$(FUZZ_SECONDS); \
	done

.PHONY: bench
bench: build ## the micro-benchmarks, then the figures of each suite as JSON
	$(CARGO) bench --locked
	$(TARGET)/release/dcluster bench overhead --json
	$(TARGET)/release/dcluster bench transfer --json
	$(TARGET)/release/dcluster bench collective --json
	$(TARGET)/release/dcluster bench dataflow --json

.PHONY: clean
clean: ## remove target/, cargo tools included
	$(CARGO) clean
	rm -rf target

# The stages of the gate; each can be made alone.

.PHONY: fmt-check
fmt-check: ## stage: formatting
	$(CARGO) fmt --all -- --check

.PHONY: scripts
scripts: ## stage: shellcheck of every script
	shellcheck $(SCRIPTS)

.PHONY: clippy
clippy: ## stage: clippy with warnings denied, default features
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

.PHONY: clippy-minimal
clippy-minimal: ## stage: the same without MPI, hwloc, HDF5 and Zarr
	$(CARGO) clippy --locked --workspace --all-targets --no-default-features -- -D warnings

.PHONY: deny
deny: ## stage: licences, bans and sources of dependencies; advisories where their database can be had
	$(CARGO) deny --locked check bans licenses sources
	@if timeout 60 $(CARGO) deny fetch db >/dev/null 2>&1; then \
		$(CARGO) deny --locked check advisories; \
	else \
		echo "deny: bans, licenses and sources checked; advisories not, their database cannot be reached"; \
	fi

.PHONY: doc
doc: ## stage: documentation without warnings, and its examples
	RUSTDOCFLAGS=-Dwarnings $(CARGO) doc --locked --workspace --no-deps
	timeout $(DOC_SECONDS_MAX) $(CARGO) test --locked --workspace --doc

.PHONY: nextest
nextest: ## stage: every test that features can change, default features, Slurm included
	$(CARGO) nextest run --locked --workspace -E 'not ($(FEATURELESS_TESTS))'

.PHONY: nextest-minimal
nextest-minimal: ## stage: every test but Slurm's without MPI, hwloc, HDF5 and Zarr
	$(CARGO) nextest run --locked --workspace --no-default-features -E 'not ($(SLURM_TESTS))'

# rsmpi's build script does not notice another MPICC, hence a target directory of its own.
.PHONY: nextest-mpich
nextest-mpich: ## stage: the MPI tests, built against MPICH
	MPICC=$(MPICH_MPICC) MPIRUN=$(MPICH_MPIRUN) CARGO_TARGET_DIR=$(TARGET)/mpich \
		$(CARGO) nextest run --locked --workspace --no-default-features --features mpi,hwloc -E '$(MPI_TESTS)'

.PHONY: nextest-slurm
nextest-slurm: ## the Slurm tests alone
	$(CARGO) nextest run --locked --test slurm
