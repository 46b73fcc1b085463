# What can be done with this repository; "make" alone lists it.

# One profile, cargo's dev profile, for build, demo and tests: they share every compiled dependency, which from cold are most
# of the time (on 2 cores about 3 minutes; a release build is that again and more). What would be slow without optimisation
# (password hashes, checksums) is optimised in it too, see Cargo.toml. For a server of your own take `make release`.
CARGO := PATH="$$PATH:$${CARGO_HOME:-$$HOME/.cargo}/bin" cargo

export EXAMPLES SEED

.DEFAULT_GOAL := help
.PHONY: help setup build release demo test soak guest debian-image guest-check fuzz openapi lint bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## See it work: a real VM from HTTP calls, made and removed; installs what is missing
	@scripts/demo.sh

test: ## Run all tests; installs what is missing
	@scripts/test.sh

soak: ## Sudden deaths in a churn of wishes, then an audit: make soak MINUTES=10
	@scripts/soak.sh $(or $(MINUTES),10)

setup: ## Install what is missing to build, run and try Pileus (Debian 12/13, Ubuntu 24.04)
	@scripts/setup.sh all

build: ## Build target/debug/pileus
	@scripts/setup.sh build
	@$(CARGO) build --bin pileus

release: ## Build target/release/pileus, optimised
	@scripts/setup.sh build
	@$(CARGO) build --release --bin pileus

guest: ## Build the guest image, target/guest/pileus-guest.qcow2
	@scripts/setup.sh guest
	@scripts/guest.sh

debian-image: ## Build a stock image of this machine's distribution, target/debian/debian.qcow2, which tests boot
	@scripts/setup.sh guest
	@scripts/debian-image.sh

guest-check: guest ## Boot the guest image in bare QEMU and check what it does
	@scripts/guest-check.sh

fuzz: ## Ask the API and the readers of foreign bytes other and more things than the tests do: make fuzz EXAMPLES=50 SEED=7
	@scripts/fuzz.sh

openapi: build ## Write the OpenAPI documents anew: openapi/
	@mkdir -p openapi
	@target/debug/pileus openapi > openapi/openapi.json
	@target/debug/pileus openapi --3.0 > openapi/openapi-3.0.json

lint: ## Formatting, clippy with warnings denied, licences and sources where cargo-deny is installed
	@$(CARGO) fmt --check
	@$(CARGO) clippy --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then $(CARGO) deny check licenses sources bans; \
	else echo "lint: cargo-deny is not installed, licences and sources were not checked"; fi

bench: ## Run the benchmarks (docs/performance.md says what they mean)
	@$(CARGO) bench --benches

clean: ## Remove everything that was built
	@$(CARGO) clean
