# The two commands are `make hello` and `make test`; both begin by installing what this machine lacks.
# What is dear to make is kept outside the checkout: kernels and the Debian image in the user's cache folder,
# compiled crates where CARGO_TARGET_DIR says.

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)
TARGET := $(or $(CARGO_TARGET_DIR),target)
# cargo-deny is a tool of ours, not a dependency: it is installed once, beside the other dear things.
DENY_VERSION := 0.20.2
DENY := $(CACHE)/eif-tools/cargo-deny-$(DENY_VERSION)

.PHONY: help hello test packages fmt lint deny unit boot kernel debian kms fuzz bench

help:
	@echo 'make hello   build eif, its kernel and hello.eif, and boot it'
	@echo 'make test    everything that must hold: format, lints, licences, all tests (boots included)'
	@echo 'make fmt | lint | deny | unit | boot | kernel | kms | fuzz   parts of it'
	@echo 'make bench   how fast it is'

# Command one.
hello: packages
	cargo build --release --locked --package eif --package eif-testdata --bin eif --bin hello-image
	install -m 755 '$(TARGET)/release/eif' eif
	./eif kernel build
	'$(TARGET)/release/hello-image' '$(TARGET)/hello-image'
	./eif build 'oci:$(TARGET)/hello-image:latest' -o hello.eif
	./eif run hello.eif --backend qemu --debug --attach

# Command two. Properties draw the same cases in each run, so that the same commit gets the same answer; other cases:
# `make test PROPTEST_RNG_SEED=$RANDOM`.
PROPTEST_RNG_SEED := 20261128
test: packages lint deny kernel debian
	PROPTEST_RNG_SEED=$(PROPTEST_RNG_SEED) cargo test --locked --workspace
	@$(MAKE) kms
	@$(MAKE) fuzz FUZZ_SECONDS=10

# Keys in AWS KMS, which moto plays. The feature is off elsewhere: AWS's SDK takes minutes to compile.
kms:
	MOTO_SERVER="$$(sh .ci/moto)" cargo test --locked --package eif --features kms --test kms

# Each parser of foreign bytes, for so many seconds. A change of a parser deserves 600.
FUZZ_SECONDS := 600
fuzz:
	bash .ci/fuzz $(FUZZ_SECONDS)

# How fast a build is, against a floor measured beside it. Needs root, for the owners in its images, and cmake, for zlib-ng.
bench:
	cargo build --release --locked --package eif --package eif-benches --bin eif --bin eif-bench
	'$(TARGET)/release/eif-bench' algorithms
	'$(TARGET)/release/eif-bench' layer middle >'$(TARGET)/layer.gz'
	for library in zlib-rs zlib-ng; do \
		cargo run --release --locked --quiet --manifest-path benches/zlib-ng/Cargo.toml \
			--target-dir '$(TARGET)/zlib-ng' --features $$library -- '$(TARGET)/layer.gz' || exit 1; \
	done
	'$(TARGET)/release/eif-bench' build middle --peers
	'$(TARGET)/release/eif-bench' build large --peers
	'$(TARGET)/release/eif-bench' compress hello
	'$(TARGET)/release/eif-bench' compress middle

packages:
	@sh .ci/install-packages

fmt:
	cargo fmt --all

lint:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --release --package eif-init --features program --bins -- -D warnings

# Without `advisories`: see deny.toml.
deny: $(DENY)/bin/cargo-deny
	'$<' --locked --log-level error check bans licenses sources

$(DENY)/bin/cargo-deny:
	cargo install --locked --debug --root '$(DENY)' cargo-deny --version $(DENY_VERSION)

# What needs no kernel, no QEMU and no root.
unit:
	cargo test --locked --workspace --lib --bins

boot: packages kernel debian
	cargo test --locked --test 'boot*'

kernel:
	cargo run --locked --quiet --bin eif -- kernel build
	cargo run --locked --quiet --bin eif -- kernel build --arch aarch64

debian:
	cargo run --locked --quiet --package eif-testdata --bin debian-image
