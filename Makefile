# Everything is built and tested with Go and make; see README.md.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

export GOFLAGS := -buildvcs=false
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X github.com/covehq/cove.Version=$(VERSION)
BUILD   := CGO_ENABLED=0 go build -trimpath

.PHONY: help
help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/cove, bin/cove-agent and bin/cove-runsc
	@mkdir -p bin
	$(BUILD) -ldflags='$(LDFLAGS)' -o bin/ ./cmd/cove ./cmd/cove-agent
	$(BUILD) -ldflags='-s -w' -o bin/ ./cmd/cove-runsc

.PHONY: run
run: build ## Build, then fix a bug of a small Python project in a gVisor sandbox
	PATH="$(CURDIR)/bin:$$PATH" examples/fixbug/fix.sh

.PHONY: check
check: lint ## Format, vet, staticcheck, house rules, drift, and unit tests with -race
	go test -race -short ./...

.PHONY: lint
lint:
	@unformatted="$$(gofmt -l $$(git ls-files '*.go'))"; \
	if [ -n "$$unformatted" ]; then echo "gofmt wants: $$unformatted"; exit 1; fi
	go vet ./...
	go tool staticcheck ./...

# Suites that fill an engine, or the machine, by themselves: one after another.
HEAVY := runtime/oci|runtime/docker|runtime/containerd|test/e2e

.PHONY: test
test: build lint ## Every test that this machine can run; COVE_REQUIRE names runtimes that may not be skipped
	COVE_BIN="$(CURDIR)/bin" go test -race -timeout 20m $$(go list ./... | grep -vE '/($(HEAVY))$$')
	go test -race -run '^$$' $$(go list ./... | grep -E '/($(HEAVY))$$') >/dev/null # builds them, on all processors
	COVE_BIN="$(CURDIR)/bin" go test -race -timeout 20m -p 1 $$(go list ./... | grep -E '/($(HEAVY))$$')
	@# The SDKs wait for sandboxes more than for processors: side by side.
	sdk/python/scripts/test & python=$$!; \
	COVE_BIN="$(CURDIR)/bin" scripts/test-typescript && typescript=0 || typescript=$$?; \
	wait $$python && exit $$typescript

.PHONY: wheel
wheel: build ## Build the Python package with the programs inside, into sdk/python/dist
	sdk/python/scripts/wheel

.PHONY: test-python
test-python: build ## Test the Python package, as a wheel, on every Python from 3.10 on that is here
	sdk/python/scripts/test

.PHONY: test-typescript
test-typescript: build ## Test the TypeScript SDK, packed and installed, against a daemon
	COVE_BIN="$(CURDIR)/bin" scripts/test-typescript

.PHONY: generate
generate: ## Make anew what is generated: the protocol, the OpenAPI document, the sync half of the Python SDK
	go generate ./...
	sdk/python/scripts/generate

.PHONY: bench
bench: build ## Measure speed and memory beside their floors; writes bench/results/
	PATH="$(CURDIR)/bin:$$PATH" go run ./bench

FUZZTIME ?= 10m
.PHONY: fuzz
fuzz: ## Fuzz what reads hostile bytes, FUZZTIME (10m) each
	go test -run '^$$' -fuzz FuzzUnpack -fuzztime $(FUZZTIME) ./image
	go test -run '^$$' -fuzz FuzzLayer -fuzztime $(FUZZTIME) -fuzzminimizetime 20x ./image

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin
