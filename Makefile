# icvpn. Start with `make demo`; `make help` lists everything.
# Needed: Go, git and make. What the tests need beyond that they install
# themselves, and say so.

SHELL         := /bin/bash
.SHELLFLAGS   := -eu -o pipefail -c
.DEFAULT_GOAL := help
# One thing after another: each uses all cores, and tests measure time.
.NOTPARALLEL:

GO ?= go
# A release is a tag; any other tree calls itself devel, and shows its commit.
VERSION ?= $(shell git describe --tags --exact-match --match 'v*' 2>/dev/null | sed 's/^v//' | grep . || echo devel)
# A clone owned by somebody else, as in some CI containers: git refuses to read
# it, and no build must fail for want of a commit's name.
ifneq ($(shell git rev-parse HEAD >/dev/null 2>&1 && echo yes),yes)
export GOFLAGS += -buildvcs=false
endif
# One static binary that runs anywhere: no C, no paths of the builder's machine.
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'

# Named ways out: what is left out is reported as skipped, never as passed.
export ICVPN_SKIP_INTEROP ICVPN_SKIP_NETNS
export MAKE_TARGET ?= $(firstword $(MAKECMDGOALS))

# make fuzz FUZZ=overlay FUZZTIME=5m; each target has a core of its own
FUZZTIME ?= 10s
FUZZ     ?= .
# Parsers of bytes that anybody, or any member, can send.
STRANGERS := (abe|admission|directory|esp|keyex|overlay|datapath|filter|ippkt|keypool|manual|node|offload|port|provision|relay|seal|service|underlay|wire) Fuzz

EVERY = $(patsubst icvpn/%,./%,$(shell $(GO) list ./...))
# Tests with processes of the binary: alone, for they starve each other, and not
# under the race detector, without which the processes are built.
PROCESSES := ./test/e2e
# Of those, the ones that mostly wait run together: as many as there are.
WAITING   := 8
# Tests in a testing/synctest bubble crash the race detector's own runtime with
# more than one thread (golang.org/issue/78156). With one it still finds every
# pair of accesses that nothing orders.
BUBBLES = $(shell grep -rl --exclude-dir=bin --include='*_test.go' '"testing/synctest"' . | xargs -n1 dirname | sort -u)
# Simulations of one goroutine, where the detector has nothing to look for.
ALONE := ./internal/promote ./internal/sim
# The pairings of CP-ABE and big numbers share no memory and are ten times slower
# under the detector: left out, the run takes three minutes and not ten.
RACE := CGO_ENABLED=1 $(GO) test -race -short -shuffle=on -gcflags='github.com/cloudflare/circl/...=-race=false' -gcflags='filippo.io/bigmod/...=-race=false'

# Needs no newer Go than go.mod says; raise both together.
GOLANGCI_LINT_VERSION := v2.15.0
GOVULNCHECK_VERSION   := v1.9.0
GOLANGCI_LINT := $(CURDIR)/bin/tools/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint

.PHONY: help go build demo test unit netns race smoke-fuzz fuzz vectors bench lint gen verify clean
.PHONY: fmt vet tidy cross vuln interop-tools verdict

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

go:
	@command -v $(GO) >/dev/null || { echo 'Go is missing: install it from https://go.dev/dl/ (the version in go.mod or newer) and put its bin directory into PATH' >&2; exit 1; }

build: go ## bin/icvpn, one static binary
	$(BUILD) -o bin/icvpn ./cmd/icvpn

demo: build ## two clouds, six machines, one network, on this machine
	bin/icvpn demo

test: go fmt vet interop-tools unit netns race smoke-fuzz verdict ## everything that must hold, under ten minutes on two cores

unit: go ## every test but those with processes
	CGO_ENABLED=0 $(GO) test -shuffle=on $(filter-out $(PROCESSES),$(EVERY))

netns: go ## real processes in network namespaces
	CGO_ENABLED=0 $(GO) test -count=1 -parallel $(WAITING) $(PROCESSES)

race: go ## under the race detector, long tests shortened
	@if ! command -v "$$($(GO) env CC)" >/dev/null; then \
		if [ "$(ICVPN_SKIP_INTEROP)" = 1 ]; then echo 'SKIPPED: the race detector needs a C compiler'; exit 0; fi; \
		echo 'the race detector needs a C compiler; make interop-tools installs one' >&2; exit 1; \
	fi; set -x; \
	$(RACE) $(filter-out $(BUBBLES) $(PROCESSES) $(ALONE),$(EVERY)); \
	$(RACE) -cpu 1 $(filter $(BUBBLES),$(EVERY))

smoke-fuzz: go
	@.ci/fuzz 1s '$(STRANGERS)'

fuzz: go ## every fuzz target for FUZZTIME (10s); FUZZ=PATTERN chooses
	@.ci/fuzz $(FUZZTIME) '$(FUZZ)'

vectors: go interop-tools ## make test vectors again, in Python, compare, and test against them
	@for it in admission/testdata/vectors.py,vectors.json admission/testdata/datagram.py,datagram.json internal/seal/testdata/vectors.py,vectors.txt internal/relay/testdata/vectors.py,vectors.txt esp/testdata/make_framing.py,framing.txt; do \
		script=$${it%,*}; made=$$(dirname $$script)/$${it#*,}; \
		/usr/bin/python3 -B $$script | cmp - $$made || { echo "$$script does not make what stands in $$made" >&2; exit 1; }; \
		echo "$$made: as $$script makes it"; \
	done
	CGO_ENABLED=0 $(GO) test -count=1 -run 'Vector|RFC|Appendix|Framing|BEP44|Scapy|Tshark|Libcrypto|GnuTLS|Interop' ./abe ./admission ./esp ./keyex ./overlay ./internal/relay ./internal/seal

bench: build ## figures of this machine: joins, pings, throughput, memory
	$(GO) run ./bench -icvpn bin/icvpn

# For benchstat and for comparing runs; -run, -settings and the like: ESP='-list'.
.PHONY: bench-esp
bench-esp: build ## ESP alone, each suite and kernel, and icvpn beside wireguard-go in namespaces
	CGO_ENABLED=0 $(GO) test -run '^$$' -bench '^Benchmark(Seal|Open)$$' -benchtime $(or $(BENCHTIME),20ms) -count $(or $(COUNT),3) ./esp | tee bin/bench-esp.txt
	CGO_ENABLED=0 $(GO) run ./bench/esp -icvpn bin/icvpn -json bin/bench-esp.json $(ESP)

.PHONY: kernel
kernel: ## ESP against Debian's Linux kernel in a virtual machine: every suite both ways (root, amd64; some 7 minutes)
	@.ci/kernel

lint: go $(GOLANGCI_LINT) ## golangci-lint; .golangci.yml gives the reason for each linter
	$(GOLANGCI_LINT) run

$(GOLANGCI_LINT):
	GOBIN=$(@D) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

gen: go ## write assembly and recorded test data anew, after a change on purpose
	$(GO) generate ./esp/internal/lanes ./esp/internal/gcm
	$(GO) test -count=1 ./keyex ./internal/control -update

verify: ## what is checked before a release: test, lint, tidy, other systems, every fuzz target
	@$(MAKE) tidy lint cross vuln vectors test
	@$(MAKE) fuzz FUZZTIME=60s

clean: ## remove what make made
	rm -rf bin

fmt: go
	@out=$$(gofmt -l $$(find . -name '*.go' -not -path './bin/*')); \
	if [ -n "$$out" ]; then printf 'gofmt would change:\n%s\n' "$$out" >&2; exit 1; fi

vet: go
	$(GO) vet ./...

tidy: go
	$(GO) mod tidy -diff
	$(GO) mod verify

cross: go
	for arch in amd64 arm64 arm; do CGO_ENABLED=0 GOOS=linux GOARCH=$$arch $(GO) vet ./...; done

# 3 is a finding; anything else, such as no way to the database, is no verdict.
vuln: go
	@code=0; $(GO) run golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION) ./... || code=$$?; \
	case $$code in 0|3) exit $$code;; *) echo 'SKIPPED: govulncheck gave no verdict';; esac

interop-tools:
	@if [ "$(ICVPN_SKIP_INTEROP)" != 1 ]; then .ci/interop-tools; else echo 'SKIPPED: comparisons with other implementations (ICVPN_SKIP_INTEROP=1)'; fi

# The last line must not say more than was done.
verdict:
	@skipped=; \
	if [ "$(ICVPN_SKIP_INTEROP)" = 1 ]; then skipped+=', comparisons with other implementations'; fi; \
	if [ "$(ICVPN_SKIP_NETNS)" = 1 ]; then skipped+=', tests in network namespaces'; fi; \
	if ! command -v "$$($(GO) env CC)" >/dev/null; then skipped+=', the race detector'; fi; \
	if [ -n "$$skipped" ]; then echo "make test: what was run passed. SKIPPED, not passed: $${skipped#, }"; else echo 'make test: ok'; fi
