# One line per target, and CI calls the same ones. `make help` lists them.
#
# DRAGONFLY  a real Dragonfly binary, for demo, bench and check-dragonfly
# PREFIX     where `make install` puts things (default /usr/local); DESTDIR is honoured
# BINARY     a df2redis that is built already, for install and deb (default: the release is built)
# KILLS, SEED, OUTAGE_S, WRITES_PER_S  for torture: kills with each ring (default 2000), what random numbers begin with,
#            and how long a target does not answer (default 600 s) while how much is written
# DEB_PROFILE, DEB_DIR, DEB_FLAGS  for deb: the cargo profile (default release), where the package goes (default
#            target/debian), and further arguments to cargo deb

PREFIX  ?= /usr/local
SYSCONF ?= /etc
CARGO   ?= cargo
KILLS    ?= 2000
SEED     ?= 1
OUTAGE_S ?= 600
WRITES_PER_S ?= 20000
DEB_PROFILE ?= release
DEB_DIR ?= target/debian
export RUSTDOCFLAGS = -Dwarnings

SCRIPTS = .ci/run packaging/tools packaging/target-servers packaging/put packaging/sysv/df2redis packaging/openrc/df2redis $(wildcard packaging/debian/*) \
	packaging/runit/df2redis/run packaging/runit/df2redis/finish packaging/runit/df2redis/log/run \
	$(wildcard tests/package/*)

.PHONY: help demo check fmt clippy doc deny test lint fuzz-check check-dragonfly torture bench man build install uninstall deb tools

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: tools-redis ## watch a live copy from Dragonfly to Redis, and its comparison
	$(CARGO) build --locked --profile quick --bin df2redis --example demo
	target/quick/examples/demo

check: tools fmt clippy doc deny lint test fuzz-check ## everything CI checks

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --locked --all-targets --features real-dragonfly -- -D warnings

doc:
	$(CARGO) doc --locked --no-deps --document-private-items

deny:
	$(CARGO) deny --all-features check licenses bans sources

test: tools
	$(CARGO) nextest run --locked --no-fail-fast

lint:
	shellcheck $(SCRIPTS)
	shellcheck --shell=sh --exclude=SC2034 packaging/default/df2redis
	bash -n packaging/completions/df2redis.bash
	mandoc -T lint -W warning man/*.[58]

fuzz-check: ## the fuzz targets compile (run one: cargo +nightly fuzz run --fuzz-dir tests/fuzz NAME)
	cd tests/fuzz && $(CARGO) check --locked --target-dir ../../target

check-dragonfly: tools ## the end-to-end tests against the real Dragonfly in $DRAGONFLY
	@test -x "$$DRAGONFLY" || { echo 'make check-dragonfly: set DRAGONFLY to the path of a Dragonfly binary, e.g. DRAGONFLY=/usr/bin/dragonfly make check-dragonfly' >&2; exit 1; }
	$(CARGO) nextest run --locked --features real-dragonfly --test real

torture: tools ## the kills and outages of make check, for hours
	TORTURE_KILLS=$(KILLS) TORTURE_SEED=$(SEED) \
	$(CARGO) nextest run --locked --profile torture --no-fail-fast --test crash -E 'not test(/^outage::/)'
	TORTURE_OUTAGE_S=$(OUTAGE_S) TORTURE_WRITES_PER_S=$(WRITES_PER_S) \
	$(CARGO) nextest run --locked --cargo-profile quick --profile torture --no-fail-fast --no-capture --test crash outage::
	TORTURE_OUTAGE_S=$(OUTAGE_S) $(CARGO) nextest run --locked --profile torture --no-fail-fast --test cluster \
	  not_heard_of

bench: tools-redis ## speed and memory, against the target's own ingest limit
	$(CARGO) bench --locked --bench replicate
	$(CARGO) bench --locked --bench spool

man: ## the generated parts of manual page and completions
	$(CARGO) run --locked --quiet --example documents

build: ## the release binary
	$(CARGO) build --locked --release

deb: tools-deb ## a Debian package in target/debian
ifdef BINARY
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && install -D -m 0755 $(BINARY) "$$dir/release/df2redis" && \
	CARGO_TARGET_DIR="$$dir" $(CARGO) deb --locked --no-strip --no-build --output $(DEB_DIR) $(DEB_FLAGS)
else
	$(CARGO) deb --locked --no-strip --profile $(DEB_PROFILE) --output $(DEB_DIR) $(DEB_FLAGS)
endif

# Files name /usr/bin/df2redis, where the Debian package has it; installed, they name the one in PREFIX.
bindir  = $(PREFIX)/bin
share   = $(DESTDIR)$(PREFIX)/share
samples = $(share)/doc/df2redis/examples
sysconf = $(DESTDIR)$(SYSCONF)
units   = $(DESTDIR)$(PREFIX)/lib/systemd/system
put     = packaging/put $(bindir)

install: $(if $(BINARY),,build) ## into DESTDIR and PREFIX: binary, manual, completions, samples, units, init script
	install -D -m 0755 $(or $(BINARY),target/release/df2redis) $(DESTDIR)$(bindir)/df2redis
	install -D -m 0644 man/df2redis.8 $(share)/man/man8/df2redis.8
	install -D -m 0644 man/df2redis.toml.5 $(share)/man/man5/df2redis.toml.5
	install -D -m 0644 packaging/completions/df2redis.bash $(share)/bash-completion/completions/df2redis
	install -D -m 0644 packaging/completions/_df2redis $(share)/zsh/site-functions/_df2redis
	install -D -m 0644 packaging/completions/df2redis.fish $(share)/fish/vendor_completions.d/df2redis.fish
	$(put) 0644 $(units) packaging/systemd/df2redis.service packaging/systemd/df2redis@.service
	$(put) 0644 $(DESTDIR)$(PREFIX)/lib/sysusers.d packaging/sysusers.d/df2redis.conf
	$(put) 0644 $(DESTDIR)$(PREFIX)/lib/tmpfiles.d packaging/tmpfiles.d/df2redis.conf
	$(put) 0755 $(sysconf)/init.d packaging/sysv/df2redis
	$(put) --keep 0644 $(sysconf)/default packaging/default/df2redis
	$(put) --keep 0644 $(sysconf)/logrotate.d packaging/logrotate/df2redis
	install -d -m 0750 $(sysconf)/df2redis
	$(put) 0644 $(samples) etc/df2redis/example.toml etc/df2redis/full.toml
	$(put) 0644 $(samples)/logrotate packaging/logrotate/examples/nocreate packaging/logrotate/examples/copytruncate
	$(put) 0644 $(samples)/supervisor packaging/supervisor/df2redis.conf
	$(put) 0644 $(samples)/cron packaging/cron/df2redis
	$(put) 0755 $(samples)/openrc packaging/openrc/df2redis
	$(put) 0755 $(samples)/runit/df2redis packaging/runit/df2redis/run packaging/runit/df2redis/finish
	$(put) 0755 $(samples)/runit/df2redis/log packaging/runit/df2redis/log/run
	$(put) 0644 $(samples)/docker packaging/docker/Dockerfile
	$(put) 0644 $(samples)/kubernetes packaging/kubernetes/df2redis.yaml
	@echo 'make install: the user df2redis and its directories are still to be made: systemd-sysusers and systemd-tmpfiles --create df2redis.conf, or as $(SYSCONF)/init.d/df2redis says'

uninstall: ## what install put there; task files, changed settings, logs and state stay
	rm -f $(DESTDIR)$(bindir)/df2redis $(share)/man/man8/df2redis.8 $(share)/man/man5/df2redis.toml.5
	rm -f $(share)/bash-completion/completions/df2redis $(share)/zsh/site-functions/_df2redis
	rm -f $(share)/fish/vendor_completions.d/df2redis.fish
	rm -f $(units)/df2redis.service $(units)/df2redis@.service
	rm -f $(DESTDIR)$(PREFIX)/lib/sysusers.d/df2redis.conf $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/df2redis.conf
	rm -f $(sysconf)/init.d/df2redis
	$(put) --remove $(sysconf)/default packaging/default/df2redis
	$(put) --remove $(sysconf)/logrotate.d packaging/logrotate/df2redis
	rm -rf $(share)/doc/df2redis
	-rmdir --ignore-fail-on-non-empty $(sysconf)/df2redis

.PHONY: tools-redis tools-deb
tools-redis:
	packaging/tools redis

tools-deb:
	packaging/tools deb

tools:
	packaging/tools all
