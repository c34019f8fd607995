# Everything here needs Go and make only; what a target needs beyond that it
# fetches into bin/tools at the version given below.

GO ?= go

# The versions of the tools that are not part of Go.
GOLANGCI_LINT_VERSION := v2.15.0
HELM_VERSION          := v4.1.4
KUBE_SCORE_VERSION    := v1.20.0
NFPM_VERSION          := v2.45.2
CYCLONEDX_VERSION     := v1.10.0
PEBBLE_VERSION := v2.10.1

FUZZTIME  ?= 20s
BENCHTIME ?= 1s
LOADTIME  ?= 30s
SOAKTIME  ?= 1h
SCHEDULES ?= 10000
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
# The most that the stripped program may weigh, in bytes.
SIZE_LIMIT := 30000000

# The version comes from git. In a tree without git, or with one that git does
# not trust, the programs call themselves (devel).
VCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo auto || echo false)
BUILD := $(GO) build -trimpath -buildvcs=$(VCS) -ldflags '-s -w'

TOOLS := $(CURDIR)/bin/tools
PROMTOOL := $(or $(shell command -v promtool),$(TOOLS)/promtool)
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
DEPLOY_TOOLS  := $(TOOLS)/helm-$(HELM_VERSION) $(TOOLS)/kube-score-$(KUBE_SCORE_VERSION)
RELEASE_TOOLS := $(TOOLS)/nfpm-$(NFPM_VERSION) $(TOOLS)/cyclonedx-gomod-$(CYCLONEDX_VERSION)
PEBBLE := $(TOOLS)/pebble-$(PEBBLE_VERSION)

# Static programs, and tests of them as they are built. Only the race detector
# wants a C compiler.
export CGO_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help
help: ## Print this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build both programs, static and stripped, into bin/
	$(BUILD) -o bin/ ./cmd/...

.PHONY: demo
demo: build ## Show the proxy at work against a simulated Pleo, in some seconds
	@demo/demo.sh

.PHONY: test
test: ## Vet, and run all tests but the long ones
	$(GO) vet ./...
	$(GO) test -shuffle=on -timeout 10m ./...

.PHONY: race
race: ## Run the tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 20m $(TESTFLAGS) ./...

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters of .golangci.yml
	$(GOLANGCI_LINT) run --allow-parallel-runners ./...
	cd deploy && $(GOLANGCI_LINT) run --allow-parallel-runners ./...

# Not linked into anything of ours, so it is fetched by version and not by go.mod.
$(GOLANGCI_LINT):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)
	mv $(TOOLS)/golangci-lint $@

# Each is fetched as TOOL-VERSION, and used under its own name.
install = @mkdir -p $(TOOLS) && GOBIN=$(TOOLS) GOFLAGS= $(GO) install -trimpath $(1) && cp $(TOOLS)/$(notdir $(firstword $(subst @, ,$(1)))) $@

$(TOOLS)/helm-$(HELM_VERSION):
	$(call install,helm.sh/helm/v4/cmd/helm@$(HELM_VERSION))
$(TOOLS)/kube-score-$(KUBE_SCORE_VERSION):
	$(call install,github.com/zegl/kube-score/cmd/kube-score@$(KUBE_SCORE_VERSION))
$(TOOLS)/nfpm-$(NFPM_VERSION):
	$(call install,github.com/goreleaser/nfpm/v2/cmd/nfpm@$(NFPM_VERSION))
$(TOOLS)/cyclonedx-gomod-$(CYCLONEDX_VERSION):
	$(call install,github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$(CYCLONEDX_VERSION))

# The files of the images, by architecture. The Dockerfile runs this rule in a container,
# make image on the host.
IMAGE_FILES ?= dist/image-files/image
.PHONY: image-files
image-files: cross ## Lay out the files of the images in IMAGE_FILES
	@set -e; umask 022; for p in $(PLATFORMS); do \
		[ "$${p%/*}" = linux ] || continue; arch=$${p#*/}; dir=$(IMAGE_FILES)/$$arch; rm -rf $$dir; \
		install -d $$dir/proxy/etc/ssl/certs $$dir/proxy/var/lib $$dir/simulator; install -d -m 0700 $$dir/state/pleo-auth-proxy $$dir/state/pleo-auth-proxy-keyset; \
		install -m 0644 /etc/ssl/certs/ca-certificates.crt $$dir/proxy/etc/ssl/certs/; \
		install dist/linux-$$arch/pleo-auth-proxy $$dir/proxy/; install dist/linux-$$arch/pleo-sim $$dir/simulator/; \
	done

# BuildKit's daemon and client, at the version in deploy/go.mod.
$(TOOLS)/buildkitd $(TOOLS)/buildctl &: deploy/go.mod
	cd deploy && $(GO) build -trimpath -o $(TOOLS)/ github.com/moby/buildkit/cmd/buildkitd github.com/moby/buildkit/cmd/buildctl

.PHONY: image
image: image-files $(TOOLS)/buildkitd ## Build the images for linux/amd64 and linux/arm64 into dist/image/, as OCI layouts (needs root and runc)
	PATH=$(TOOLS):$$PATH deploy/image dist/image/pleo-auth-proxy --opt build-arg:REVISION=$$(git rev-parse HEAD)
	PATH=$(TOOLS):$$PATH deploy/image dist/image/pleo-sim --opt target=simulator

.PHONY: release-snapshot
release-snapshot: cross $(RELEASE_TOOLS) ## Make archives, Debian packages, SBOMs and checksums of the commit into dist/release/
	PLATFORMS='$(PLATFORMS)' deploy/release

.PHONY: deploy-check
deploy-check: build image release-snapshot $(DEPLOY_TOOLS) ## Check image, charts, compose files, unit and packages, and run them (needs root)
	cd deploy && $(GO) mod tidy -diff && $(GO) vet ./... && $(GO) test -v -count=1 -timeout 10m ./... -args -require

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the code and sort its imports
	$(GOLANGCI_LINT) fmt ./...

# go test fuzzes one target at a time.
.PHONY: fuzz
fuzz: ## Run every fuzz target in turn, FUZZTIME each
	@set -e; grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | \
	while IFS=: read -r file name; do \
		name=$${name#func }; echo "== $$name in $$(dirname $$file), $(FUZZTIME)"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname $$file)" </dev/null; \
	done

.PHONY: bench
bench: ## Run the benchmarks, with allocations; TESTFLAGS=-short makes small stores of the largest
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(TESTFLAGS) ./...

.PHONY: acme
acme: $(PEBBLE) ## Get and renew certificates from a real ACME server, which is away for a minute at first
	$(GO) test -v -count=1 -timeout 5m -run '^TestACME' ./cmd/pleo-auth-proxy ./cmd/pleo-auth-proxy/internal/autocert -args -pebble $(PEBBLE)

$(PEBBLE):
	@mkdir -p $(TOOLS)
	GOBIN=$(TOOLS) GOFLAGS= $(GO) install github.com/letsencrypt/pebble/v2/cmd/pebble@$(PEBBLE_VERSION)
	mv $(TOOLS)/pebble $@

.PHONY: simulate
simulate: ## Put the refresh protocol through SCHEDULES orders of faults, and check that broken ones are noticed
	$(GO) test -v -count=1 -timeout 20m -run Simulation ./internal/refresh -args -schedules $(SCHEDULES) -mutations

.PHONY: postgres
postgres: ## Try the store in PostgreSQL: the newest that is installed, or the one of PLEO_TEST_POSTGRES
	$(GO) test -v -count=1 -timeout 10m -run Postgres ./credstore/sqlstore ./internal/refresh
	$(GO) test -v -count=1 -timeout 10m -run Postgres ./cmd/pleo-auth-proxy -args -idle 110s

.PHONY: fault-suite
fault-suite: ## Kill, pause and cut off the real program, a tenth of a full run's trials
	$(GO) test -v -count=1 -timeout 20m ./internal/faults -args -share 10 -require

.PHONY: faults
faults: simulate fault-suite ## Try to lose a token: both of the above

.PHONY: faults-full
faults-full: ## Both with ten times as many, for half an hour or more; writes the table in docs/reliability.md
	$(GO) test -v -count=1 -timeout 2h -run Simulation ./internal/refresh -args -schedules $(SCHEDULES)0 -mutations
	$(GO) test -v -count=1 -timeout 4h ./internal/faults -args -share 100 -require -doc ../../docs/reliability.md

.PHONY: clients
clients: ## Run the clients in examples/, which need PHP, Python, Node.js, Java and jq
	$(GO) test -v -count=1 ./examples -args -clients

# What the tests need from npm is named in internal/browsertest/package-lock.json.
.PHONY: browser
browser: internal/browsertest/node_modules ## Use the pages with a real Chromium; SCREENSHOTS=DIR leaves pictures there (needs chromium and npm)
	SCREENSHOTS=$(abspath $(SCREENSHOTS)) $(GO) test -count=1 -timeout 5m -tags browser $(TESTFLAGS) -run Browser ./internal/browsertest ./internal/admin ./cmd/pleo-auth-proxy

internal/browsertest/node_modules: internal/browsertest/package-lock.json
	cd $(@D) && npm ci --ignore-scripts
	@touch $@

.PHONY: docs
docs: ## Run every command in README and docs, as it is written; needs what clients does
	$(GO) test -v -count=1 -timeout 20m ./docs -args -commands

.PHONY: alerts
alerts: $(PROMTOOL) ## Check the alert rules, and try them on worlds in which they should fire or not
	$(PROMTOOL) check rules charts/pleo-auth-proxy/files/alerts.yaml
	cd deploy/prometheus && $(PROMTOOL) test rules alerts_test.yaml

# Building promtool takes minutes; Debian has it in its package prometheus, of
# which nothing else is wanted.
$(TOOLS)/promtool:
	@mkdir -p $(TOOLS)
	set -e; dir=$$(mktemp -d); cd $$dir; apt-get -qq update; apt-get -qq download prometheus; \
	dpkg-deb -x prometheus_*.deb .; mv usr/bin/promtool $@; rm -rf $$dir

.PHONY: load
load: ## Put 10 connections under load for LOADTIME while their tokens live 4 seconds; then 50 at once, a gigabyte each way, slow clients
	$(GO) test -v -count=1 -run '^TestLoadUnderRotation$$' ./cmd/pleo-auth-proxy -args -load $(LOADTIME)
	$(GO) test -v -count=1 -tags heavy -run '^(TestGigabyteBothWays|TestSlowClientsDoNotSlowOthers|TestManyConnectionsAtOnce)$$' ./cmd/pleo-auth-proxy

.PHONY: soak
soak: ## Mix all that clients do for SOAKTIME, and look at descriptors, goroutines and memory
	$(GO) test -v -count=1 -timeout 0 -tags heavy -run '^TestSoak$$' ./cmd/pleo-auth-proxy -args -soak $(SOAKTIME)

.PHONY: compare
compare: build ## Measure the program beside nginx and a bare ReverseProxy; writes the table in docs/performance.md
	$(GO) build -trimpath -o bin/tools/bench ./bench
	bin/tools/bench -program bin/pleo-auth-proxy -doc docs/performance.md

.PHONY: cover
cover: ## Run the tests and print which share of the code they reach
	$(GO) test -coverpkg=./... -coverprofile=coverage.out ./...
	@$(GO) tool cover -func=coverage.out | tail -n 1

.PHONY: cross
cross: ## Build both programs for PLATFORMS into dist/
	@set -e; for p in $(PLATFORMS); do \
		dir=dist/$${p%/*}-$${p#*/}; mkdir -p $$dir; echo "$(BUILD) -o $$dir/ ./cmd/... # $$p"; \
		GOOS=$${p%/*} GOARCH=$${p#*/} $(BUILD) -o $$dir/ ./cmd/...; \
	done

.PHONY: size
size: build ## Check that the program is not heavier than SIZE_LIMIT bytes
	@size=$$(wc -c <bin/pleo-auth-proxy | tr -d ' '); echo "bin/pleo-auth-proxy: $$size bytes of at most $(SIZE_LIMIT)"; \
	test "$$size" -le $(SIZE_LIMIT)

.PHONY: tidy-check
tidy-check: ## Check go.mod and go.sum, and the list of modules that the program links
	$(GO) mod tidy -diff
	$(GO) mod verify
	$(GO) test -count=1 -run '^(TestLinkedModules|TestNoReplace)$$' .

.PHONY: clean
clean: ## Remove what was built; fetched tools stay
	rm -rf dist .demo coverage.out bin/pleo-auth-proxy bin/pleo-sim

.PHONY: ci
ci: ## Run all that a change must pass
	.ci/run
