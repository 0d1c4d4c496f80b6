# walstream: build, test and show it.

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
GO      ?= go

.PHONY: build test crash mutants fuzz memory backlog outage bench replay targets matrix chaos chaos-mutants lint demo clean

# One static binary: bin/walstream
build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/walstream ./cmd/walstream

# Every test, with the race detector, against a real PostgreSQL. On Debian and
# Ubuntu it installs what is missing.
test: .bin/versitygw .bin/toxiproxy
	@internal/setup/debian.sh test
	@# They wait for servers more than they compute, so more run beside each
	@# other than there are cores.
	$(GO) test -race -parallel 4 -timeout 30m ./...
	@# Power cuts at every step: without the race detector all of them fit.
	$(GO) test -tags crashpoint ./internal/crashpoint ./segment
	$(GO) test -tags crashpoint -run '^TestCrashPoints$$' ./archive

# Kills of walstream under load: three at each of its crash points, and 51 at
# random moments. It prints which phase each one hit.
crash:
	@internal/setup/debian.sh test
	$(GO) test ./cmd/walstream -run '^TestCrashPoints$$' -v -timeout 30m -rounds 3 -kills 17

# Mistakes that lose data are built in, one by one: the tests have to fail.
mutants:
	$(GO) test -v -count=1 -tags mutants ./internal/mutant

# Every fuzzer for FUZZTIME, of which not much goes into making inputs shorter.
# Their seeds are part of make test.
FUZZTIME ?= 30s
fuzz:
	@grep -r --include='*_test.go' '^func Fuzz' . | sed -E 's,/[^/]*:func (Fuzz[A-Za-z]+).*, \1,' | sort | \
	while read -r package name; do \
		echo "$$package $$name" && $(GO) test "$$package" -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x </dev/null || exit 1; \
	done

# The peak of the receiver's memory while 1 GiB of WAL is streamed and archived.
memory:
	@internal/setup/debian.sh test
	$(GO) test ./cmd/walstream -run '^TestReceiverMemory$$' -v -stream 1024

# 1,000 segments that an outage of an object store held back.
backlog: .bin/versitygw
	@internal/setup/debian.sh test
	$(GO) test ./cmd/walstream -run '^TestS3Backlog$$' -v -backlog 1000

# Commits go on while an S3 server is away for OUTAGE, and what it lacks then is
# drained, beside the rate at which the same WAL is caught up with.
OUTAGE ?= 10m
outage: .bin/versitygw .bin/toxiproxy
	@internal/setup/debian.sh test
	OUTAGE=$(OUTAGE) CGO_ENABLED=0 $(GO) test -count=1 -timeout 120m -tags bench -v -run '^TestOutage$$' ./internal/bench

# The receiver beside pg_receivewal on the same primary, see docs/benchmarks.md;
# BENCH=short only shows that all of it works.
bench: .bin/versitygw .bin/toxiproxy
	@internal/setup/debian.sh bench
	BENCH=$(BENCH) CGO_ENABLED=0 $(GO) test -count=1 -timeout 120m -tags bench -v ./internal/bench

# Every trouble during replay, without a target and with one, and while WAL is
# fetched ahead.
replay:
	@internal/setup/debian.sh test
	$(GO) test ./cmd/walstream -run '^TestTroubleDuringReplay' -v -full

# 1,000 random targets in a busy cluster with three timelines, each recovered by
# PostgreSQL and compared row for row, and 500 restores from a damaged archive.
# It prints its seed; TARGETS and DAMAGES make it shorter.
TARGETS ?= 1000
DAMAGES ?= 500
targets:
	@internal/setup/debian.sh test
	$(GO) test ./cmd/walstream -run '^TestTargets$$' -count=1 -v -timeout 60m -targets $(TARGETS) -damages $(DAMAGES)

# The whole path with every PostgreSQL version that is supported, whose server
# programs it fetches; MATRIX=short takes the oldest and the newest only. It
# prints what ran.
matrix:
	@internal/setup/debian.sh matrix
	MATRIX=$(MATRIX) $(GO) test -p 1 -timeout 60m -tags matrix -run 'Matrix|AdoptKeepsMajor' ./internal/testkit ./wal ./receiver ./backup
	MATRIX=$(MATRIX) $(GO) test -v -timeout 60m -tags matrix -run Matrix ./cmd/walstream

# Faults at random, in rounds of about 25 s: kills, power losses, lost disks,
# cut networks, failovers. Each round ends with the primary's disk destroyed,
# and no acknowledged commit may be missing in what is restored. 200 rounds are
# the long form. A round of seed N once more: CHAOS_SEED=N CHAOS_ROUNDS=1. With
# CHAOS_ACK=archive commits wait for the archive, and the spool is destroyed too.
CHAOS_ROUNDS ?= 3
chaos: .bin/toxiproxy
	@internal/setup/debian.sh test
	$(GO) test -count=1 -tags chaos ./internal/chaos
	CHAOS_ROUNDS=$(CHAOS_ROUNDS) CHAOS_SEED=$(CHAOS_SEED) CHAOS_MUTANT=$(CHAOS_MUTANT) CHAOS_ACK=$(CHAOS_ACK) $(GO) test -v -count=1 -timeout 0 -tags chaos -run '^TestChaos$$' ./cmd/walstream

# Mistakes that lose data are built in, one by one: make chaos has to find them.
chaos-mutants: .bin/toxiproxy
	$(GO) test -v -count=1 -timeout 0 -tags chaos -run '^TestChaosCatchesMutants$$' ./cmd/walstream

lint: .bin/golangci-lint
	test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	$(GO) vet ./...
	.bin/golangci-lint run ./...

# The linter is pinned in a module of its own, so that the product's go.mod
# holds only what the product needs.
.bin/golangci-lint: internal/tools/go.mod internal/tools/go.sum
	cd internal/tools && $(GO) build -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.bin/toxiproxy: internal/tools/toxiproxy/go.mod internal/tools/toxiproxy/go.sum
	cd internal/tools/toxiproxy && $(GO) build -o ../../../$@ github.com/Shopify/toxiproxy/v2/cmd/server

.bin/versitygw: internal/tools/versitygw/go.mod internal/tools/versitygw/go.sum
	cd internal/tools/versitygw && $(GO) build -o ../../../$@ github.com/versity/versitygw/cmd/versitygw

# The whole path on a throwaway cluster: stream, back up, lose, restore.
demo: build
	@internal/setup/debian.sh postgresql
	@internal/demo/demo.sh

clean:
	rm -rf bin .bin
