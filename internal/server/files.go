package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

// homeDir is the folder that is listed when none is named.
const homeDir = "/root"

// maxDepth is how many levels of folders a listing or tree may have.
const maxDepth = 512

// folder reads which folder a query is about, and how deep.
func folder(r *http.Request, standard string, levels uint32) (path string, depth uint32, err error) {
	q := r.URL.Query()
	if path = q.Get("path"); path == "" {
		path = standard
	}
	if path, err = cleanPath("path", path); err != nil {
		return "", 0, err
	}
	if v := q.Get("depth"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n < 1 || n > maxDepth {
			return "", 0, sandbox.Field("depth", fmt.Sprintf("must be from 1 to %d", maxDepth))
		}
		levels = uint32(n)
	}
	return path, levels, nil
}

func (s *Server) listFiles(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	path, depth, err := folder(r, homeDir, 1)
	if err != nil {
		return err
	}
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	entries, err := g.ListDir(ctx, path, depth)
	if err != nil {
		return err
	}
	writeFiles(w, sb.ID, path, entries)
	return nil
}

// writeFiles writes api.FileList in the hybrid form, entry by entry: a folder
// may hold very many.
func writeFiles(w http.ResponseWriter, id sandbox.ID, path string, entries []*guestpb.Entry) {
	head, err := json.Marshal(struct {
		SandboxID string `json:"sandbox_id"`
		Path      string `json:"path"`
	}{string(id), path})
	if err != nil {
		panic("file list can't be encoded: " + err.Error())
	}
	bw := openRows(w, 2*len(entries)*512)
	object := func() {
		_, _ = bw.Write(head[:len(head)-1])
		_, _ = bw.WriteString(`,"entries":`)
		writeRows(bw, entries, wireEntry)
	}
	object()
	_, _ = bw.WriteString(`,"data":`)
	object()
	_, _ = bw.WriteString("}}")
	_ = bw.Flush() // a client that has left is no error of ours
}

func (s *Server) statFile(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	path := f.text(maxPath, "path")
	if f.err != nil {
		return f.err
	}
	if path, err = cleanPath("path", path); err != nil {
		return err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, _, cancel := s.patient(ctx)
	defer cancel()
	e, err := g.Stat(ctx, path)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireEntry(e))
	return nil
}

var typeNames = map[guestpb.Entry_Type]string{
	guestpb.Entry_FILE: "file", guestpb.Entry_DIRECTORY: "directory", guestpb.Entry_SYMLINK: "symlink",
}

func typeOf(e *guestpb.Entry) string {
	if name, ok := typeNames[e.GetType()]; ok {
		return name
	}
	return "other"
}

func wireEntry(e *guestpb.Entry) api.FileEntry {
	return api.FileEntry{
		Name: e.GetName(), Path: e.GetPath(), Type: typeOf(e),
		IsDir:     e.GetIsDir() || e.GetType() == guestpb.Entry_DIRECTORY,
		IsSymlink: e.GetType() == guestpb.Entry_SYMLINK, SymlinkTarget: orNull(e.GetSymlinkTarget()),
		Size: e.GetSize(), SizeBytes: e.GetSize(), Mode: fmt.Sprintf("%04o", e.GetMode()&0o7777),
		UID: e.GetUid(), GID: e.GetGid(), ModifiedAt: time.Unix(0, e.GetModifiedUnixNano()).UTC(),
	}
}

const (
	treeDir   = "/workspace" // the folder whose tree is told when none is named
	treeDepth = 3
	// maxTree is how many files and folders one tree has at most: what lies
	// deeper is left out first.
	maxTree = 10_000
)

func (s *Server) fileTree(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	path, depth, err := folder(r, treeDir, treeDepth)
	if err != nil {
		return err
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return err
	}
	ctx, agent, cancel := s.patient(ctx)
	defer cancel()
	e, err := g.Stat(ctx, path)
	if err != nil {
		return err
	}
	root := treeNode(e)
	if e.GetIsDir() {
		agent.wait()
		entries, more, err := g.ListSome(ctx, path, depth, maxTree)
		if err != nil {
			return err
		}
		root = plant(e, entries)
		root.Truncated = more
	}
	writeOne(w, http.StatusOK, root)
	return nil
}

// plant makes a tree of what was listed below root.
func plant(root *guestpb.Entry, entries []*guestpb.Entry) *api.TreeNode {
	top := treeNode(root)
	top.Type, top.Size = treeFolder, nil // also when it is a symlink to one
	nodes := map[string]*api.TreeNode{strings.TrimSuffix(root.GetPath(), "/"): top}
	for _, e := range entries {
		n := treeNode(e)
		if n.Type == treeFolder {
			nodes[n.Path] = n
		}
	}
	for _, e := range entries { // sorted by path, so children are by name
		i := strings.LastIndexByte(e.GetPath(), '/')
		parent := nodes[e.GetPath()[:max(i, 0)]]
		if parent == nil {
			continue // no honest agent lists it
		}
		n := nodes[e.GetPath()]
		if n == nil {
			n = treeNode(e)
		}
		if n != parent && n != top {
			parent.Children = append(parent.Children, n)
		}
	}
	return top
}

// treeFolder is what the tree alone calls a folder.
const treeFolder = "dir"

func treeNode(e *guestpb.Entry) *api.TreeNode {
	at := time.Unix(0, e.GetModifiedUnixNano()).UTC()
	n := &api.TreeNode{Path: e.GetPath(), Name: e.GetName(), Type: typeOf(e), ModifiedAt: &at}
	switch e.GetType() {
	case guestpb.Entry_DIRECTORY:
		n.Type = treeFolder
	case guestpb.Entry_FILE:
		size := e.GetSize()
		n.Size = &size
	}
	return n
}
