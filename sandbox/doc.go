// Package sandbox names the things Silica is about, so that every other
// package, the API and the documentation spell them the same way.
//
// It is a leaf: it imports nothing of ours and touches neither host nor
// network. Rules about the words themselves live here as data (which state may
// follow which, what each kind of error asks of the caller).
package sandbox
