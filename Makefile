# Most targets need Go and make only. Go tools are fetched into bin/tools at the
# versions below; a target that needs more says so in its help.

GO ?= go

# The versions of the tools that are not part of Go.
GOLANGCI_LINT_VERSION := v2.15.0
HELM_VERSION          := v4.1.4
KUBE_SCORE_VERSION    := v1.20.0
NFPM_VERSION          := v2.45.2
CYCLONEDX_VERSION     := v1.10.0
PEBBLE_VERSION        := v2.10.1
DEADCODE_VERSION      := v0.52.0

FUZZTIME  ?= 20s
BENCHTIME ?= 1s
LOADTIME  ?= 30s
SOAKTIME  ?= 1h
SCHEDULES ?= 10000
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64
# The maximum size of the stripped program in bytes.
SIZE_LIMIT := 30000000

# The version comes from git. In a tree that is not a git repository, or that git
# does not trust, it is (devel).
VCS := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo auto || echo false)
BUILD := $(GO) build -trimpath -buildvcs=$(VCS) -ldflags '-s -w'

TOOLS := $(CURDIR)/bin/tools
PROMTOOL := $(or $(shell command -v promtool),$(TOOLS)/promtool)
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)
DEADCODE := $(TOOLS)/deadcode-$(DEADCODE_VERSION)
DEPLOY_TOOLS  := $(TOOLS)/helm-$(HELM_VERSION) $(TOOLS)/kube-score-$(KUBE_SCORE_VERSION)
RELEASE_TOOLS := $(TOOLS)/nfpm-$(NFPM_VERSION) $(TOOLS)/cyclonedx-gomod-$(CYCLONEDX_VERSION)
PEBBLE := $(TOOLS)/pebble-$(PEBBLE_VERSION)

# The programs are static, and tests run without cgo too. Only the race detector
# needs a C compiler.
export CGO_ENABLED := 0

.DEFAULT_GOAL := help
.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build both programs, static and stripped, into bin/
	$(BUILD) -o bin/ ./cmd/...

.PHONY: demo
demo: build ## Show the proxy at work against a simulated Pleo, in ten seconds
	@demo/demo.sh

.PHONY: test
test: ## Vet, and run all tests except the long ones
	$(GO) vet ./...
	$(GO) test -shuffle=on -timeout 10m ./...

.PHONY: race
race: ## Run the tests with the race detector; needs a C compiler
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 20m $(TESTFLAGS) ./...

.PHONY: lint
lint: $(GOLANGCI_LINT) $(DEADCODE) ## Run the linters of .golangci.yml, and find code that nothing uses
	$(GOLANGCI_LINT) run --allow-parallel-runners ./...
	cd deploy && $(GOLANGCI_LINT) run --allow-parallel-runners ./...
	$(call unused,./cmd/pleo-auth-proxy)
	$(call unused,-test -tags 'browser heavy' ./...)
	cd deploy && $(call unused,-test ./...)

# deadcode exits 0 whatever it finds.
unused = found=$$($(DEADCODE) $(1)) && { [ -z "$$found" ] || { echo "$$found"; false; }; }

# The tools are not part of the module, so their versions are above and not in
# go.mod. Each is installed as TOOL-VERSION, and under its own name for scripts.
install = @mkdir -p $(TOOLS) && GOBIN=$(TOOLS) GOFLAGS= $(GO) install -trimpath $(1) && cp $(TOOLS)/$(notdir $(firstword $(subst @, ,$(1)))) $@.part && mv $@.part $@

$(GOLANGCI_LINT):
	$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION))
$(DEADCODE):
	$(call install,golang.org/x/tools/cmd/deadcode@$(DEADCODE_VERSION))
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
image: image-files $(TOOLS)/buildkitd ## Build the images for linux/amd64 and linux/arm64 into dist/image/, as OCI layouts; needs root and runc
	PATH=$(TOOLS):$$PATH deploy/image dist/image/pleo-auth-proxy --opt build-arg:REVISION=$$(git rev-parse HEAD)
	PATH=$(TOOLS):$$PATH deploy/image dist/image/pleo-sim --opt target=simulator

.PHONY: release-snapshot
release-snapshot: cross $(RELEASE_TOOLS) ## Make archives, Debian packages, SBOMs and checksums of the commit into dist/release/
	PLATFORMS='$(PLATFORMS)' deploy/release

.PHONY: deploy-check
deploy-check: build image release-snapshot $(DEPLOY_TOOLS) ## Check and run image, charts, compose files, unit and packages; needs root
	cd deploy && $(GO) mod tidy -diff && $(GO) vet ./... && $(GO) test -v -count=1 -timeout 10m ./... -args -require

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the code and sort its imports
	$(GOLANGCI_LINT) fmt ./...

# go test runs one fuzz target at a time.
.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	@set -e; grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sort | \
	while IFS=: read -r file name; do \
		name=$${name#func }; echo "== $$name in $$(dirname $$file), $(FUZZTIME)"; \
		$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname $$file)" </dev/null; \
	done

.PHONY: bench
bench: ## Run the benchmarks with allocations; TESTFLAGS=-short makes the largest stores small
	$(GO) test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(TESTFLAGS) ./...

.PHONY: acme
acme: $(PEBBLE) ## Get and renew certificates from a real ACME server, which is unavailable at first
	$(GO) test -v -count=1 -timeout 5m -run '^TestACME' ./cmd/pleo-auth-proxy ./cmd/pleo-auth-proxy/internal/autocert -args -pebble $(PEBBLE)

$(PEBBLE):
	$(call install,github.com/letsencrypt/pebble/v2/cmd/pebble@$(PEBBLE_VERSION))

.PHONY: simulate
simulate: ## Run the refresh protocol through SCHEDULES schedules of faults, and check that they detect mutations
	$(GO) test -v -count=1 -timeout 20m -run Simulation ./internal/refresh -args -schedules $(SCHEDULES) -mutations

.PHONY: postgres
postgres: ## Test the store in PostgreSQL: the newest installed, or that of PLEO_TEST_POSTGRES
	$(GO) test -v -count=1 -timeout 10m -run Postgres ./credstore/sqlstore ./internal/refresh
	$(GO) test -v -count=1 -timeout 10m -run Postgres ./cmd/pleo-auth-proxy -args -idle 110s

.PHONY: fault-suite
fault-suite: ## Kill, pause and disconnect the real program, with a tenth of the trials of a full run
	$(GO) test -v -count=1 -timeout 20m ./internal/faults -args -share 10 -require

.PHONY: faults
faults: simulate fault-suite ## Try to lose a token: simulate and fault-suite

.PHONY: faults-full
faults-full: ## The same with ten times the trials, half an hour or more; update the table in docs/reliability.md
	$(GO) test -v -count=1 -timeout 2h -run Simulation ./internal/refresh -args -schedules $(SCHEDULES)0 -mutations
	$(GO) test -v -count=1 -timeout 4h ./internal/faults -args -share 100 -require -doc ../../docs/reliability.md

.PHONY: clients
clients: ## Run the clients in examples/; needs PHP, Python, Node.js, Java and jq
	$(GO) test -v -count=1 ./examples -args -clients

# internal/browsertest/package-lock.json names what the tests need from npm.
.PHONY: browser
browser: internal/browsertest/node_modules ## Test the pages in Chromium; SCREENSHOTS=DIR saves screenshots there; needs chromium and npm
	SCREENSHOTS=$(abspath $(SCREENSHOTS)) $(GO) test -count=1 -timeout 5m -tags browser $(TESTFLAGS) -run Browser ./internal/browsertest ./internal/dashboard ./cmd/pleo-auth-proxy

internal/browsertest/node_modules: internal/browsertest/package-lock.json
	cd $(@D) && npm ci --ignore-scripts
	@touch $@

.PHONY: docs
docs: ## Run every command in README and docs as it is written; needs what clients needs
	$(GO) test -v -count=1 -timeout 20m ./docs -args -commands

.PHONY: alerts
alerts: $(PROMTOOL) ## Check the alert rules, and test them on series for which they should fire or not
	$(PROMTOOL) check rules charts/pleo-auth-proxy/files/alerts.yaml
	cd deploy/prometheus && $(PROMTOOL) test rules alerts_test.yaml

# Building promtool takes minutes, so it is extracted from Debian's package
# prometheus.
$(TOOLS)/promtool:
	@mkdir -p $(TOOLS)
	set -e; dir=$$(mktemp -d); cd $$dir; apt-get -qq update; apt-get -qq download prometheus; \
	dpkg-deb -x prometheus_*.deb .; mv usr/bin/promtool $@; rm -rf $$dir

.PHONY: load
load: ## Load 10 connections with tokens of 4 seconds for LOADTIME; then 50 at once, a gigabyte each way, slow clients
	$(GO) test -v -count=1 -run '^TestLoadUnderRotation$$' ./cmd/pleo-auth-proxy -args -load $(LOADTIME)
	$(GO) test -v -count=1 -tags heavy -run '^(TestGigabyteBothWays|TestSlowClientsDoNotSlowOthers|TestManyConnectionsAtOnce)$$' ./cmd/pleo-auth-proxy

.PHONY: soak
soak: ## Mix all kinds of requests for SOAKTIME, and check descriptors, goroutines and memory
	$(GO) test -v -count=1 -timeout 0 -tags heavy -run '^TestSoak$$' ./cmd/pleo-auth-proxy -args -soak $(SOAKTIME)

.PHONY: compare
compare: build ## Compare the program with nginx and a bare ReverseProxy; update the table in docs/performance.md
	$(GO) build -trimpath -o bin/tools/bench ./bench
	bin/tools/bench -program bin/pleo-auth-proxy -doc docs/performance.md

.PHONY: cover
cover: ## Run the tests and print their coverage
	$(GO) test -coverpkg=./... -coverprofile=coverage.out ./...
	@$(GO) tool cover -func=coverage.out | tail -n 1

.PHONY: cross
cross: ## Build both programs for PLATFORMS into dist/
	@set -e; for p in $(PLATFORMS); do \
		dir=dist/$${p%/*}-$${p#*/}; mkdir -p $$dir; echo "$(BUILD) -o $$dir/ ./cmd/... # $$p"; \
		GOOS=$${p%/*} GOARCH=$${p#*/} $(BUILD) -o $$dir/ ./cmd/...; \
	done

.PHONY: size
size: build ## Check that the program has at most SIZE_LIMIT bytes
	@size=$$(wc -c <bin/pleo-auth-proxy | tr -d ' '); echo "bin/pleo-auth-proxy: $$size bytes of at most $(SIZE_LIMIT)"; \
	test "$$size" -le $(SIZE_LIMIT)

.PHONY: tidy-check
tidy-check: ## Check go.mod, go.sum and the list of modules that the program links
	$(GO) mod tidy -diff
	$(GO) mod verify
	$(GO) test -count=1 -run '^(TestLinkedModules|TestNoReplace)$$' .

.PHONY: clean
clean: ## Remove what was built, except for the tools
	rm -rf dist .demo coverage.out bin/pleo-auth-proxy bin/pleo-sim

.PHONY: ci
ci: ## Run everything that a change must pass
	.ci/run
