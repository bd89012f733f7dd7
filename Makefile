# What a person types most. The checks of a change are all in .ci/run.

PKG ?= ./...
BENCH ?= .
FUZZTIME ?= 30s
STATICCHECK = go run honnef.co/go/tools/cmd/staticcheck@v0.8.2
SCRIPTS = .ci/run scripts/deploy scripts/teardown terraform/wait-for-apis.sh

.PHONY: help run image test check bench fuzz

help: ## list the targets (the default)
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

run: ## run all of Push Inbox on this machine; needs only Go
	go run ./scripts/pushinbox local

image: ## write pushinbox.tar, a container image of it; needs no container engine
	go run ./scripts/image

test: ## run the tests and list what was skipped; PKG=./shared/verify for one package
	@PUSHINBOX_SKIPPED=$$(mktemp); export PUSHINBOX_SKIPPED; trap 'rm -f "$$PUSHINBOX_SKIPPED"' EXIT; \
	status=0; go test $(PKG) || status=$$?; \
	if test -s "$$PUSHINBOX_SKIPPED"; then \
	  echo; echo "Skipped, with how many tests:"; sort "$$PUSHINBOX_SKIPPED" | uniq -c; \
	fi; \
	exit $$status

check: ## gofmt, go vet, staticcheck, shellcheck, terraform fmt
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not formatted, run gofmt -w:" $$unformatted >&2; exit 1; }
	go vet $(PKG)
	$(STATICCHECK) $(PKG)
	shellcheck $(SCRIPTS)
	terraform -chdir=terraform fmt -check -diff -recursive

bench: ## run the benchmarks, one package at a time; PKG= and BENCH= (a regexp) choose
	go test -p 1 -run '^$$' -bench '$(BENCH)' $(PKG)

fuzz: ## run each fuzz test for FUZZTIME=30s; PKG= chooses the packages
	@set -e; for package in $$(go list $(PKG)); do \
	  for target in $$(go test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
	    echo "== $$package $$target"; \
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
	  done; \
	done
