# Nereid. The two commands: make demo, make test. As root, on Debian 12 or 13.

SHELL     := /bin/sh
CACHE     ?= $(or $(NEREID_CACHE),$(HOME)/.cache/nereid)
PLATFORM  := $(CACHE)/platform
IMAGES    := $(CACHE)/images
VERSION   := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
GOFLAGS_R := -trimpath -ldflags "-s -w -X main.version=$(VERSION)"
PACKAGES  := integration/lab/packages.sh
RESULTS   := go run ./integration/results
export CGO_ENABLED ?= 0
export NEREID_CACHE := $(CACHE)

.PHONY: help demo test unit netns vm bench build platform images fuzz clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: build platform ## a head node, two blank servers and two zones, from power-on to a ping (KEEP=1 leaves them on)
	@echo "== image debian -> $(IMAGES)"
	rm -rf $(IMAGES)/debian
	bin/nereid image build debian --out $(IMAGES)/debian --cache $(CACHE)
	bin/nereid-demo --bin bin --platform $(PLATFORM) --image $(IMAGES)/debian $(if $(KEEP),--keep)

test: unit netns vm ## all three tiers, and the ten slowest tests
	@$(RESULTS) slowest unit netns vm

unit: ## tests without privileges, and the project's rules
	@$(PACKAGES) build
	@echo "== unit tests"
	$(RESULTS) run unit go test ./...

netns: build ## tests against real kernels and foreign programs, in network namespaces (root)
	@$(PACKAGES) build lab test vagrant
	@echo "== Vagrantfile"
	vagrant validate
	@echo "== netns tests"
	NEREID_BIN=$(CURDIR)/bin $(RESULTS) run netns go test -tags netns -run 'NetNS' -count=1 -p 2 -timeout 15m \
		./integration/fabric ./agent/router ./...

vm: build platform images ## tests with real firmware, ZFS and systemd in QEMU (root)
	@echo "== vm tests"
	NEREID_BIN=$(CURDIR)/bin NEREID_PLATFORM=$(PLATFORM) NEREID_IMAGES=$(IMAGES) bin/nereid-rack $(RESULTS) run vm -v go test -tags vm -run 'VM' -count=1 -p 2 -timeout 60m \
		./integration/instance ./integration/setup ./integration/pxe ./bootserver ./integration/...

bench: build platform images ## speed and memory, against the alternatives, in one run
	@$(PACKAGES) test bench
	NEREID_BIN=$(CURDIR)/bin NEREID_PLATFORM=$(PLATFORM) NEREID_IMAGES=$(IMAGES) go test -tags vm -run Bench -count=1 -p 1 -timeout 90m -v ./integration/bench
	go test -run '^$$' -bench . ./headnode/... ./bootserver/... ./images/... ./agent/...
	go test -tags netns -run '^$$' -bench NetNS -benchtime 1x ./agent ./agent/network ./agent/firewall
	NEREID_BIN=$(CURDIR)/bin go test -tags netns -run Bench -count=1 -timeout 60m -v ./integration/bench

build: ## the programs, into bin/
	@mkdir -p bin
	@echo "== programs -> bin/"
	go build $(GOFLAGS_R) -o bin/ ./cmd/...
	go build $(GOFLAGS_R) -o bin/nereid-demo ./integration/demo
	go build $(GOFLAGS_R) -o bin/ ./integration/fleet/nereid-fleet
	go build $(GOFLAGS_R) -o bin/nereid-rack ./integration/rack

platform: build ## the platform image, into the cache
	@$(PACKAGES) build lab
	@echo "== platform image -> $(PLATFORM)"
	bin/nereid platform build --out $(PLATFORM) --cache $(CACHE) --key $(CACHE)/platform-key.pem
	@cmp -s $(PLATFORM)/manifest.json $(CACHE)/measured.json || \
		{ bin/nereid-demo --bin bin --platform $(PLATFORM) --measure && cp $(PLATFORM)/manifest.json $(CACHE)/measured.json; }

images: build ## small images of zones, into the cache
	@$(PACKAGES) build lab
	@echo "== images of zones -> $(IMAGES)"
	for image in tiny debian; do rm -rf $(IMAGES)/$$image; bin/nereid image build $$image --out $(IMAGES)/$$image --cache $(CACHE) || exit 1; done

fuzz: ## every fuzz target for 30 s each
	@go list -f '{{.Dir}} {{.ImportPath}}' ./... | while read -r dir pkg; do \
		grep -hoE '^func (Fuzz[A-Za-z0-9_]+)' $$dir/*_test.go 2>/dev/null | sed 's/func //' | while read -r f; do \
			echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime 30s $$pkg || exit 1; done || exit 1; done

clean: ## bin/ (the cache stays: rm -r it yourself)
	rm -rf bin
