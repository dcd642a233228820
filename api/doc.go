// Package api is the wire of /api/v1: paths, JSON bodies and the error body, so
// that server and clients cannot disagree about a spelling.
//
// Every answer about one thing is a hybrid: its fields stand at the top level
// and once more below "data", because public clients read either. The types
// here describe the top level; [List] describes lists.
package api

import "embed"

// OpenAPI is the machine-readable contract: YAML files, one a resource, whose
// paths and components together make one document. base.yaml holds the rest.
//
//go:embed openapi/*.yaml
var OpenAPI embed.FS
