package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"silica.dev/silica/internal/server"
	"silica.dev/silica/internal/store"
	"silica.dev/silica/internal/telemetry"
	"silica.dev/silica/sandbox"
)

// sharedEvery is how soon a key that another server has revoked is refused here.
const sharedEvery = time.Second

// openStore opens the database, as the node that the data folder is of.
func openStore(ctx context.Context, c Config, at net.Addr, metrics *telemetry.Metrics, log *slog.Logger) (*store.Store, error) {
	node, err := nodeID(filepath.Join(c.Data, "node.id"))
	if err != nil {
		return nil, err
	}
	cfg := store.Config{
		Path:         filepath.Join(c.Data, "silica.db"),
		Node:         node,
		OnCommit:     metrics.Committed,
		KeepAudit:    c.KeepAudit,
		Prices:       c.prices(),
		OnPruneError: func(err error) { log.Warn("rows not kept in order", "err", err) },
	}
	if c.Database != "" {
		cfg.URL, cfg.Version, cfg.SharedEvery = c.Database, version, sharedEvery
		if cfg.NodeURL = advertised(c, at); cfg.NodeURL == "" {
			log.Warn("other servers on this database can't reach this one's sandboxes: set --advertise-url")
		}
		log.Info("using PostgreSQL", "node", node, "advertise", cfg.NodeURL)
	}
	return store.Open(ctx, cfg)
}

// nodeID names the data folder among those on one database. It is made once.
func nodeID(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		id := sandbox.NewName("node_")
		if err := writeDurably(path, id+"\n"); err != nil {
			return "", fmt.Errorf("keep the node's id: %w", err)
		}
		return id, nil
	}
	if err != nil {
		return "", fmt.Errorf("read the node's id: %w", err)
	}
	id := strings.TrimSpace(string(text))
	if !strings.HasPrefix(id, "node_") {
		return "", fmt.Errorf("%s holds no node id", path)
	}
	return id, nil
}

// advertised is where other servers reach this one: as the operator says, or
// where it listens, unless that is everywhere.
func advertised(c Config, at net.Addr) string {
	if c.Advertise != "" {
		return c.Advertise
	}
	if tcp, ok := at.(*net.TCPAddr); !ok || tcp.IP.IsUnspecified() {
		return ""
	}
	return "http://" + at.String()
}

// neighbours returns what the server asks about others on the database; nil when
// there can't be any.
func neighbours(ctx context.Context, c Config, rows *store.Store) (server.Nodes, []byte, error) {
	if c.Database == "" {
		return nil, nil, nil
	}
	secret, err := rows.NodeSecret(ctx)
	return rows, secret, err
}
