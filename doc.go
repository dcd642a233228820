// Package silica holds what the whole house keeps to, as tests: who may import
// whom.
package silica
