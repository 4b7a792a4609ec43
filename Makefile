# Makefile - the front door: says in a few words what can be done here and calls the programs in
# scripts/ that do it, each of which explains itself in its first lines. CMakeLists.txt is the
# build.
#
# Everything made goes to build/ and is gone after `make clean`; the demo model is kept outside.
# JOBS=n limits parallel work (default: one job per processor).

.DEFAULT_GOAL := build
.PHONY: build demo demo-stop check test test-asan test-tsan fuzz check-cross bench bench-kernel \
	format clean help deps deps-test

## build: compile build/mlxd (this is what a plain `make` does)
build: deps
	@scripts/build release
	@if [ -x build/mlxd ]; then echo "built build/mlxd"; fi

## demo: a real model answers through three processes (DEMO_KEEP=1 leaves them running)
demo: build
	@scripts/demo

## demo-stop: end the processes that DEMO_KEEP=1 left running
demo-stop:
	@scripts/demo stop

## check: unit, kernel and style tests; no model, no network, under a minute
check: deps
	@scripts/run-tests check

## test: everything one machine can test, with the real model
test: deps-test
	@scripts/run-tests test

## test-asan: unit and kernel tests under AddressSanitizer and UBSan
test-asan: deps
	@scripts/run-tests asan

## test-tsan: unit and kernel tests under ThreadSanitizer
test-tsan: deps
	@scripts/run-tests tsan

## fuzz: look for inputs that break a parser, FUZZ_S=60 seconds each (FUZZ="gguf json" chooses)
fuzz: deps-test
	@scripts/fuzz

## check-cross: compile for aarch64 Linux and macOS; run the Linux kernel tests under qemu
check-cross: deps-test
	@scripts/check-cross

## bench: measure speed, start and memory; LLAMA_BENCH=path compares (see docs/benchmarks.md)
bench: build
	@scripts/bench

## bench-kernel: measure the kernels alone (their tests with --bench)
bench-kernel: build
	@scripts/bench-kernel

## format: lay out all C files with clang-format
format:
	@scripts/format

## clean: remove build/
clean:
	@if [ -d build/demo ]; then scripts/demo stop || true; fi
	@rm -rf build

## help: this text
help:
	@echo "make [target]"
	@sed -n 's/^## \([a-z-]*\): /\1:/p' Makefile | while IFS=: read -r name text; do \
		printf '    %-12s %s\n' "$$name" "$$text"; done

deps:
	@scripts/deps build

# What only some tests need is no reason not to run the others: they say "skipped".
deps-test: deps
	@scripts/deps test || echo "some tests will be skipped: not everything could be installed" >&2
