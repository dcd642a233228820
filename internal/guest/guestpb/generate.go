// Package guestpb is generated from guest.proto: the messages and the Connect
// service between host and agent.
package guestpb

//go:generate sh generate.sh
