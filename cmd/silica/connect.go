package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"silica.dev/silica/client"
)

const defaultURL = "http://127.0.0.1:8080"

// serverURL is where the commands look for the server.
func serverURL() string {
	if u := os.Getenv("SILICA_URL"); u != "" {
		return u
	}
	return defaultURL
}

// connect returns a client for the server the environment names.
func connect() (*client.Client, error) {
	c, err := client.New(serverURL(), apiKey(serverURL()), client.WithUserAgent("silica-cli/"+version))
	if err != nil {
		return nil, usageError{fmt.Errorf("SILICA_URL: %w", err)}
	}
	return c, nil
}

// apiKey is SILICA_API_KEY, else the key the server on this machine wrote for
// its administrator. That one never goes to another machine.
func apiKey(server string) string {
	if k := os.Getenv("SILICA_API_KEY"); k != "" {
		return k
	}
	if !onThisMachine(server) {
		return ""
	}
	b, _ := os.ReadFile(keyFile())
	return strings.TrimSpace(string(b))
}

func keyFile() string {
	data := os.Getenv("SILICA_DATA")
	if data == "" {
		data = defaultData
	}
	return filepath.Join(data, "admin.key")
}

func onThisMachine(server string) bool {
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	if u.Hostname() == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(u.Hostname())
	return err == nil && a.IsLoopback()
}

// explainServer puts what came out of a call into words: what happened, why,
// what to do next.
func explainServer(err error) (code int, text string, body any, ok bool) {
	var refused *client.Error
	if errors.As(err, &refused) {
		text := err.Error()
		if next := nextStep(refused); next != "" {
			text += "\n" + next
		}
		return exitFailure, text, map[string]any{
			"code": refused.Code, "message": refused.Message, "details": refused.Details, "request_id": refused.RequestID,
		}, true
	}
	text = unreachable(err)
	if text == "" {
		return 0, "", nil, false
	}
	return exitUnreachable, text, map[string]string{"code": "UNREACHABLE", "message": text}, true
}

// nextStep says what a person can do about a refusal, where the server's own
// words can't: it does not know about command lines.
func nextStep(e *client.Error) string {
	switch e.Code {
	case "UNAUTHORIZED":
		if os.Getenv("SILICA_API_KEY") != "" {
			return "SILICA_API_KEY is not a key of " + serverURL() + ". \"silica key create\" makes one."
		}
		if _, err := os.Stat(keyFile()); errors.Is(err, fs.ErrPermission) {
			return keyFile() + " can't be read by this user. Set SILICA_API_KEY, or run this as root."
		}
		return "Set SILICA_API_KEY. The server's administrator has the first key in admin.key in its data folder."
	case "FORBIDDEN":
		return "This needs an admin key. The server keeps the first one in admin.key in its data folder."
	case "NOT_FOUND":
		return "\"silica sandbox ls\" lists what there is."
	case "SANDBOX_NOT_RUNNING":
		return "\"silica sandbox get\" shows its state and why."
	case "SANDBOX_LIMIT_EXCEEDED":
		return "\"silica sandbox rm\" frees one; \"silica serve --max-sandboxes\" raises the limit."
	case "RATE_LIMITED":
		return "\"silica serve --rate-limit\" raises the limit."
	}
	return ""
}

// unreachable explains why no server answered; empty for other errors.
func unreachable(err error) string {
	server := serverURL()
	var dns *net.DNSError
	var cert *x509.UnknownAuthorityError
	var op *net.OpError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "no server answers at " + server + ": connection refused.\nIs it running? \"silica serve\" starts one; SILICA_URL names another place."
	case errors.As(err, &dns):
		return "no server at " + server + ": " + dns.Error() + ".\nCheck SILICA_URL."
	case errors.As(err, &cert):
		return server + " has a certificate this machine does not trust: " + cert.Error()
	case errors.Is(err, context.Canceled):
		return ""
	case errors.As(err, &op) && op.Op == "dial":
		return "no server answers at " + server + ": " + op.Err.Error() + ".\nCheck SILICA_URL, and whether a firewall is between."
	}
	return ""
}
