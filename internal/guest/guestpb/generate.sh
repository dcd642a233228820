#!/bin/sh
# Makes guest.pb.go and guestpbconnect/ anew. Needs protoc (Debian: protobuf-compiler);
# the Go plugins are tools of go.mod.
set -eu
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin" google.golang.org/protobuf/cmd/protoc-gen-go connectrpc.com/connect/cmd/protoc-gen-connect-go
PATH="$bin:$PATH" protoc --proto_path=. --go_out=. --go_opt=paths=source_relative \
	--connect-go_out=. --connect-go_opt=paths=source_relative guest.proto
