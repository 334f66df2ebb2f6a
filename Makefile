# icvpn. Start with `make demo`; `make help` lists everything.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
export ICVPN_SKIP_INTEROP ICVPN_SKIP_NETNS

# Packages with goroutines of their own run under the race detector.
CONCURRENT = ./internal/node ./internal/superpeer ./internal/port ./internal/control ./internal/seal ./internal/underlay/... ./overlay ./esp ./tun/...
FUZZTIME  ?= 10s
LINT       = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.12.2

.PHONY: help build demo test unit race fuzz smoke-fuzz vectors bench lint fmt gen verify interop-tools clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

build: ## bin/icvpn, one static binary
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/icvpn ./cmd/icvpn

demo: build ## two clouds, six machines, one network, on this machine
	bin/icvpn demo

test: interop-tools fmt unit race smoke-fuzz ## everything that must hold, some 8 minutes on two cores
	@if [ "$$ICVPN_SKIP_INTEROP" = 1 ]; then echo "NOT CHECKED: comparison with other implementations (ICVPN_SKIP_INTEROP=1)"; fi
	@if [ "$$ICVPN_SKIP_NETNS" = 1 ]; then echo "NOT CHECKED: network namespaces (ICVPN_SKIP_NETNS=1)"; fi
	@echo "make test: ok"

unit: ## vet and every test
	$(GO) vet ./...
	$(GO) test -shuffle=on -timeout 10m ./...

race: ## the packages with goroutines, under the race detector
	$(GO) test -race -short -timeout 15m $(CONCURRENT)

fuzz: ## every fuzz target, FUZZTIME each
	.ci/fuzz $(FUZZTIME)

smoke-fuzz: ## the parsers that meet strangers' bytes, 3 s each
	.ci/fuzz 3s '(seal|keyex|esp|admission|overlay|port|filter) '

vectors: ## the tests against published vectors
	$(GO) test -run 'Vector|RFC|Appendix' ./esp ./keyex ./admission ./abe ./internal/seal

bench: build ## figures of this machine: joins, pings, throughput, memory
	$(GO) run ./bench

lint: ## golangci-lint, configured with reasons in .golangci.yml
	$(GO) run $(LINT) run ./...

fmt:
	@out=$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go')); if [ -n "$$out" ]; then echo "gofmt would change: $$out"; exit 1; fi

gen: ## rewrite test vectors after a change on purpose
	$(GO) test ./keyex ./internal/seal -run Vector -update

verify: test lint ## what is checked before a release
	$(GO) mod tidy -diff
	GOARCH=arm64 CGO_ENABLED=0 $(GO) build ./...

interop-tools:
	@if [ "$$ICVPN_SKIP_INTEROP" != 1 ]; then .ci/interop-tools; fi

clean: ## remove what make made
	rm -rf bin
