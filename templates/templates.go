// Package templates carries the official catalogue inside the program, so that
// nobody has to install it: one recipe a file, in the words of package builder.
package templates

import "embed"

// Files holds the recipes, "<slug>.yaml" each.
//
//go:embed *.yaml
var Files embed.FS
