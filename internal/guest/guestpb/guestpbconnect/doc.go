// Package guestpbconnect is generated from guest.proto: the Connect client and
// handler of the agent's service.
package guestpbconnect
