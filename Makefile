# What a newcomer needs, and what CI runs. `make` lists it.

.PHONY: help run demo test chaos hostile check bench cost fuzz openapi schemathesis

help: ## lists the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: ## brings a MongoDB (unless MONGODB_URI is set), builds, serves a demo app
	@scripts/run.sh

demo: ## plays signed callbacks into the service of `make run` and shows the counts
	@scripts/demo.sh

test: ## brings what the tests need and runs them all
	@scripts/mongosh.py path >/dev/null || echo "without mongosh: the tests of docs/analysts.md are skipped"
	scripts/mongod.py run -- cargo test --locked

chaos: ## kills the service 200 times and MongoDB for 20 s under load, and counts what is lost
	CHAOS_KILLS=$(or $(KILLS),200) CHAOS_OUTAGE_SECONDS=20 scripts/mongod.py run -- \
		cargo test --locked --release --test it -- --nocapture --test-threads 1 chaos:: failover::

check: ## format, lints and docs, warnings denied
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items

# The load has a thousand connections, and ten thousand subscribers.
bench: ## each goal beside its yardsticks, into docs/benchmarks.md; parts: ONLY="ingest unread", small: QUICK=1
	cd bench/express && npm install --no-package-lock --no-fund --no-audit --silent
	ulimit -n 16384 && MONGOD_CACHE_GB=default QUICK=$(QUICK) scripts/mongod.py run -- \
		cargo bench --locked --bench yardsticks -- $(ONLY) $(CONNECTIONS)
	$(if $(ONLY)$(CONNECTIONS),,scripts/cost.py)

cost: ## instructions and allocations a callback, under valgrind, beside those kept; RENEW=1 keeps them
	scripts/cost.py $(if $(RENEW),--renew)

# A thousand clients have two sockets each, one in the service and one in the program that attacks it.
hostile: ## callbacks a second among 1,000 slow clients and garbage, beside none
	ulimit -n 8192 && scripts/mongod.py run -- cargo bench --locked --bench hostile -- $(CLIENTS)

fuzz: ## tries the properties of tests/properties with a fuzzer, ten minutes each or SECONDS
	scripts/fuzz.sh $(SECONDS)

openapi: ## writes docs/openapi.json, which a test compares with the code
	OPENAPI_RENEW=1 cargo test --locked --quiet --lib http::openapi

schemathesis: ## asks a service what Schemathesis makes up from its document, and fails on what that does not say
	scripts/mongod.py run -- scripts/schemathesis.py
