// Package api is the wire of /api/v1: paths, JSON bodies and the error body, so
// that server and clients cannot disagree about a spelling.
//
// Every answer about one thing is a hybrid: its fields stand at the top level
// and once more below "data", because public clients read either. The types
// here describe the top level; [List] describes lists.
package api

import _ "embed" // openapi.yaml

// OpenAPI is the machine-readable contract, as YAML.
//
//go:embed openapi.yaml
var OpenAPI []byte
