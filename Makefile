# Everything here runs without root and, once the modules are downloaded,
# without a network. `make help` lists the targets.

GO       ?= go
FUZZTIME ?= 60s
FUZZ     ?= .
BENCHTIME ?= 1s
GOFIPS140 ?= v1.0.0
BENCH    ?= .
PEERS    ?=
RUN      ?= .
E2E      ?=
PROTOS    = internal/xds/workloadapi internal/identity/caapi internal/zds/zdsapi
export CGO_ENABLED ?= 0

.PHONY: help build build-fips demo test test-netns test-peers e2e e2e-build e2e-up e2e-down race lint vet fuzz fuzz-seeds bench bench-diff bench-peers h2proxy h2spec generate check clean tidy

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build waypoint, ztunnel and waystone into bin/
	@mkdir -p bin
	$(GO) build -trimpath -o bin/ ./cmd/...

build-fips: ## the same into bin/fips/, with Go's validated cryptographic module, in FIPS 140-3 mode
	@mkdir -p bin/fips
	GOFIPS140=$(GOFIPS140) $(GO) build -trimpath -o bin/fips/ ./cmd/...

demo: build ## a mesh on this machine: Istio's getting-started walk-through, step by step
	bin/waystone demo

test: ## unit, script and in-memory mesh tests (no root, no network)
	$(GO) test ./...
	cd e2e && $(GO) test -short ./...

test-peers: build h2proxy ## that Envoy, HAProxy, nginx and ours do the same in bench-peers, as far as they are installed
	cd e2e && $(GO) test -count=1 ./...

test-netns: ## tests in network namespaces of their own, with the kernel's redirection (needs root)
	@test "$$(id -u)" = 0 || { echo "test-netns: not root, so there are no network namespaces to test in"; exit 1; }
	$(GO) test -tags netns -count=1 $$(git grep -l '^//go:build netns' -- '*_test.go' | xargs -n 1 dirname | sort -u | sed 's,^,./,')

e2e: e2e-build ## in a Kubernetes cluster on this machine, with the real istiod and istio-cni (root); RUN picks tests
	cd e2e && WAYSTONE_E2E=$(or $(E2E),1) $(GO) test -count=1 -timeout 40m -v -run '$(RUN)' .

e2e-build: ## what that needs, into the cache: half an hour of CPU the first time
	cd e2e && $(GO) run ./cluster build

e2e-up: ## only that cluster, with the mesh in it, until make e2e-down; E2E=keep has make e2e use it
	cd e2e && $(GO) run ./cluster up mesh && $(GO) run ./cluster env

e2e-down:
	cd e2e && $(GO) run ./cluster down

race: ## the same under the race detector, which also poisons freed buffers (needs a C compiler)
	CGO_ENABLED=1 $(GO) test -race ./...

vet: ## go vet
	$(GO) vet ./...
	cd e2e && $(GO) vet ./...

lint: ## golangci-lint, and gofmt
	@fmt=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$fmt" || { echo "gofmt would change: $$fmt"; exit 1; }
	$(GO) build -C .ci/tools -o $(CURDIR)/bin/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	bin/golangci-lint run ./...
	cd e2e && ../bin/golangci-lint run ./...

fuzz: ## every fuzz target for FUZZTIME (60s), those that match FUZZ
	.ci/fuzz $(FUZZTIME) "$(FUZZ)"

bench: ## run the benchmarks matching BENCH, keep the figures in bench/new.txt
	@mkdir -p bench
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -benchtime $(BENCHTIME) ./... | tee bench/new.txt

bench-diff: ## compare bench/old.txt with bench/new.txt
	$(GO) build -C .ci/tools -o $(CURDIR)/bin/benchstat golang.org/x/perf/cmd/benchstat
	bin/benchstat bench/old.txt bench/new.txt

bench-peers: build h2proxy ## measure against Envoy, HAProxy, nginx and nothing; PEERS="-quick" and other flags of e2e/bench
	cd e2e && $(GO) run ./bench $(PEERS)

h2proxy:
	cd e2e && $(GO) build -trimpath -o ../bin/ ./bench/h2proxy

h2spec: build ## HTTP/2 conformance of the HBONE listener and of the server inside tunnels
	$(GO) build -C .ci/tools -o $(CURDIR)/bin/h2conformance ./h2conformance
	bin/h2conformance bin/waypoint

generate: ## Go messages of the .proto files
	$(GO) build -C .ci/tools -o $(CURDIR)/bin/protogen ./protogen
	cd .ci/tools && ../../bin/protogen $(addprefix ../../,$(PROTOS))

check: vet lint test race fuzz-seeds h2spec demo ## what CI runs
	@echo "check: all green"

fuzz-seeds: ## run every fuzz target on its seeds only
	$(GO) test -run '^Fuzz' ./...

clean: ## remove what was built
	rm -rf bin bench/new.txt

tidy: ## go mod tidy, all modules
	$(GO) mod tidy && (cd .ci/tools && $(GO) mod tidy) && cd e2e && $(GO) mod tidy
