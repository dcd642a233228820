// Package e2e tests the finished program from outside, so that nothing need be
// believed that a user can't see.
package e2e
