# One line per target, and CI calls the same ones. `make help` lists them.
#
# DRAGONFLY  a real Dragonfly binary, for demo, bench and check-dragonfly
# PREFIX     where `make install` puts things (default /usr/local); DESTDIR is honoured

PREFIX  ?= /usr/local
SYSCONF ?= /etc
CARGO   ?= cargo
export RUSTDOCFLAGS = -Dwarnings

.PHONY: help demo check fmt clippy doc deny test lint fuzz-check check-dragonfly bench build install tools

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: tools-redis ## watch a live copy from Dragonfly to Redis, and its comparison
	$(CARGO) build --locked --profile quick --bin df2redis --example demo
	target/quick/examples/demo

check: tools fmt clippy doc deny lint test fuzz-check ## everything CI checks

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc:
	$(CARGO) doc --locked --no-deps --document-private-items

deny:
	$(CARGO) deny --all-features check licenses bans sources

test: tools-redis
	$(CARGO) nextest run --locked --no-fail-fast

lint:
	shellcheck .ci/run packaging/tools
	mandoc -T lint -W warning man/*.[58]

fuzz-check: ## the fuzz targets compile (run one: cargo +nightly fuzz run --fuzz-dir tests/fuzz NAME)
	cd tests/fuzz && $(CARGO) check --locked --target-dir ../../target

check-dragonfly: tools ## the end-to-end tests against the real Dragonfly in $DRAGONFLY
	@test -x "$$DRAGONFLY" || { echo 'make check-dragonfly: set DRAGONFLY to the path of a Dragonfly binary, e.g. DRAGONFLY=/usr/bin/dragonfly make check-dragonfly' >&2; exit 1; }
	$(CARGO) nextest run --locked --features real-dragonfly --test real

bench: tools-redis ## speed and memory, against the target's own ingest limit
	$(CARGO) bench --locked --bench replicate

build: ## the release binary
	$(CARGO) build --locked --release

install: build ## into DESTDIR and PREFIX
	install -D -m 0755 target/release/df2redis $(DESTDIR)$(PREFIX)/bin/df2redis
	install -D -m 0644 man/df2redis.8 $(DESTDIR)$(PREFIX)/share/man/man8/df2redis.8
	install -D -m 0644 man/df2redis.toml.5 $(DESTDIR)$(PREFIX)/share/man/man5/df2redis.toml.5
	install -d -m 0750 $(DESTDIR)$(SYSCONF)/df2redis
	install -D -m 0640 -t $(DESTDIR)$(PREFIX)/share/doc/df2redis/examples etc/df2redis/*.toml
	install -D -m 0644 packaging/systemd/df2redis@.service $(DESTDIR)$(PREFIX)/lib/systemd/system/df2redis@.service

.PHONY: tools-redis
tools-redis:
	packaging/tools redis

tools:
	packaging/tools all
