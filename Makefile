# "make help" lists what there is. Everything a fresh machine needs is installed
# by the first two targets; the only thing they want beforehand is Go and root.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

# What is embedded is built reproducibly: the agent is part of every snapshot,
# so its bytes may change with its source only.
STATIC  := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false
PACKED  := cmd/silica/embedded/files

.PHONY: help run test reliability build install stop tools generate bench fmt clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: ## install what is needed, build, start a server and run Python in a sandbox (root)
	@GO=$(GO) scripts/run.sh

test: ## install what the tests need and run all of them (root)
	@GO=$(GO) scripts/test.sh

FOR ?= 1h
reliability: build ## random load, kills and full disks against a model, for FOR=1h (root)
	$(GO) test ./e2e -run 'TestReliability$$' -count=1 -v -timeout 0 -args -reliability.for=$(FOR) -reliability.report=$(CURDIR)/bin/reliability.md

build: ## build bin/silica, with agent and engine inside
	@scripts/check-go.sh $(GO)
	$(STATIC) -ldflags '-s -w' -o bin/silica-agent ./cmd/silica-agent
	version=$$(scripts/engine-version.sh $(GO)) && \
	$(STATIC) -ldflags "-s -w -X main.version=$$version" -o bin/silica-engine ./cmd/silica-engine && \
	$(GO) run ./cmd/silica/embedded/pack -version "$$version" -to $(PACKED) bin/silica-engine
	$(GO) run ./cmd/silica/embedded/pack -to $(PACKED) bin/silica-agent
	$(STATIC) -ldflags '-s -w -X main.version=$(VERSION)' -o bin/silica ./cmd/silica

# Not a dependency on build: "sudo make install" should not need root's Go.
install: ## install bin/silica, its manual and its systemd unit (root; after make build)
	@test -x bin/silica || { echo 'run "make build" first' >&2; exit 1; }
	install -D -m 0755 bin/silica $(DESTDIR)/usr/local/bin/silica
	bin/silica man $(DESTDIR)/usr/local/share/man/man1
	install -D -m 0644 deploy/systemd/silica.service $(DESTDIR)/etc/systemd/system/silica.service
	test -e $(DESTDIR)/etc/silica/silica.yaml || install -D -m 0600 deploy/systemd/silica.yaml $(DESTDIR)/etc/silica/silica.yaml
	@echo 'start it: systemctl daemon-reload && systemctl enable --now silica'

stop: ## stop the server "make run" started; its sandboxes go on
	@scripts/stop.sh

tools: ## build the pinned tools of tools/go.mod into bin/tools
	@scripts/check-go.sh $(GO)
	cd tools && GOBIN=$(CURDIR)/bin/tools $(GO) install tool

generate: ## make generated code anew
	$(GO) generate ./...

bench: build ## measure and write docs/bench.md (root)
	@GO=$(GO) scripts/bench.sh

fmt: ## format Go code
	$(GO) fmt ./...

clean: ## remove what builds left
	rm -rf bin $(PACKED)/*.zst $(PACKED)/*.json
