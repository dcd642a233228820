// Package docs carries the pages of this folder that the server shows itself.
package docs

import _ "embed"

// Errors is errors.md: every code with its cause and its cure.
//
//go:embed errors.md
var Errors string
