# What can be done with this repository; "make" alone lists it.

.DEFAULT_GOAL := help
.PHONY: help setup guest guest-check

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what is missing to build, run and try Pileus (Debian 12/13, Ubuntu 24.04)
	@scripts/setup.sh all

guest: ## Build the guest image, target/guest/pileus-guest.qcow2
	@scripts/setup.sh guest
	@scripts/guest.sh

guest-check: guest ## Boot the guest image in bare QEMU and check what it does
	@scripts/guest-check.sh
