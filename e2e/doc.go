// Package e2e tests Silica the way its users meet it: it starts "bin/silica
// serve", speaks raw HTTP to it, and looks at the host from outside, so that
// nothing inside the program can vouch for itself.
//
// It needs root and a built bin/silica. The default template is built once and
// kept below SILICA_TEST_CACHE (the user's cache folder by default).
package e2e
