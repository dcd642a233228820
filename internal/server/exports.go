package server

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/internal/guest"
	"silica.dev/silica/sandbox"
)

// How long a link to files is good for, unless the request says otherwise.
const (
	linkLife    = time.Hour
	maxLinkLife = 7 * 24 * time.Hour
)

// link is what a URL gives to whoever has it: some files of one sandbox, for a
// while. It is signed, so nothing is stored; destroying the sandbox ends it.
type link struct {
	Tenant  sandbox.TenantID `json:"t"`
	Sandbox string           `json:"s"`
	Paths   []string         `json:"p"`
	Name    string           `json:"n"`           // what to store it as
	Format  string           `json:"f,omitempty"` // of an archive; empty: one file as it is
	Until   int64            `json:"e"`           // seconds since the epoch
}

func (s *Server) sign(payload string) []byte {
	m := hmac.New(sha256.New, s.cfg.SigningKey)
	m.Write([]byte("export link\n" + payload))
	return m.Sum(nil)
}

// seal makes the URL of a link.
func (s *Server) seal(r *http.Request, l link) string {
	raw, err := json.Marshal(l)
	if err != nil {
		panic("link can't be encoded: " + err.Error())
	}
	enc := base64.RawURLEncoding
	payload := enc.EncodeToString(raw)
	u := url.URL{Path: v1 + "/sandboxes/" + l.Sandbox + "/exports/files/" + path.Base("/"+l.Name)}
	u.RawQuery = "token=" + payload + "." + enc.EncodeToString(s.sign(payload))
	return s.baseURL(r) + u.String()
}

// baseURL is where the caller reaches the API.
func (s *Server) baseURL(r *http.Request) string {
	switch {
	case s.cfg.PublicURL != "":
		return strings.TrimSuffix(s.cfg.PublicURL, "/")
	case r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https":
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

var errLink = sandbox.E(sandbox.Forbidden, sandbox.CodeForbidden, "this link is not one of ours, or has expired")

// unseal checks a link.
func (s *Server) unseal(token string, now time.Time) (l link, err error) {
	payload, mac, _ := strings.Cut(token, ".")
	enc := base64.RawURLEncoding
	sum, err := enc.DecodeString(mac)
	if err != nil || !hmac.Equal(sum, s.sign(payload)) {
		return l, errLink
	}
	raw, err := enc.DecodeString(payload)
	if err != nil {
		return l, errLink.Because(err)
	}
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, errLink.Because(err)
	}
	if now.Unix() >= l.Until {
		return l, errLink
	}
	return l, nil
}

// exported serves what a link names. It needs no key; the tenant's limits hold.
func (s *Server) exported(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	l, err := s.unseal(r.URL.Query().Get("token"), time.Now())
	if err != nil {
		return err
	}
	if param(r, "id") != l.Sandbox {
		return errLink
	}
	c := sandbox.Caller{Tenant: l.Tenant, Scopes: sandbox.ScopesOf(sandboxesRead)}
	leave, err := s.inFlight.enter(c.Tenant, false)
	if err != nil {
		return err
	}
	defer leave()
	workspace, err := s.locateSandbox(r.Context(), c, l.Sandbox)
	if err != nil {
		return err
	}
	if err := s.ration(counted, c, workspace); err != nil {
		return err
	}
	return s.sendExport(w, r, c, l)
}

// sendExport sends one file as it is, or an archive.
func (s *Server) sendExport(w http.ResponseWriter, r *http.Request, c sandbox.Caller, l link) error {
	if l.Format == "" {
		w.Header().Set("Content-Disposition", attachment(l.Name))
		return s.downloadOf(w, r, c, l.Sandbox, l.Paths[0])
	}
	ctx, g, _, err := s.deps.Sandboxes.Guest(r.Context(), c, l.Sandbox)
	if err != nil {
		return err
	}
	return s.sendArchive(ctx, w, g, guest.Pack{Paths: l.Paths, From: commonParent(l.Paths), Format: l.Format}, l.Name)
}

// commonParent is the deepest folder that all paths are in.
func commonParent(paths []string) string {
	parent := path.Dir(path.Clean(paths[0]))
	for _, p := range paths[1:] {
		for parent != "/" && !strings.HasPrefix(path.Clean(p), parent+"/") {
			parent = path.Dir(parent)
		}
	}
	return parent
}

// exportPaths reads what to export.
func (f *fields) exportPaths() []string {
	paths, _ := read(f, "an array of strings", decodeAs[[]string], "paths")
	if one := f.text(maxPath, "path"); one != "" {
		paths = append(paths, one)
	}
	switch {
	case len(paths) == 0:
		f.reject("path", "is missing")
	case len(paths) > maxFiles:
		f.reject("paths", "must not be more than %d", maxFiles)
	}
	total := 0
	for i, p := range paths {
		clean, err := cleanPath(fmt.Sprintf("paths[%d]", i), p)
		if err != nil && f.err == nil {
			f.err = err
		}
		paths[i] = clean
		total += len(clean)
	}
	if total > maxNamed {
		f.reject("paths", "must not have more than %d bytes together", maxNamed)
	}
	return paths
}

// exportName is what an export is stored as: the name asked for, or that of its
// only path, with the ending of its format.
func exportName(asked string, paths []string, format string) string {
	name := asked
	if name == "" {
		name = "export"
		if len(paths) == 1 && path.Clean(paths[0]) != "/" {
			name = path.Base(paths[0])
		}
	}
	if format != "" && !strings.HasSuffix(name, "."+format) {
		name += "." + format
	}
	return name
}

// readExport reads a request for links, and looks whether what it names is there.
func (s *Server) readExport(r *http.Request, c sandbox.Caller, f *fields) (l link, isDir []bool, err error) {
	l.Paths = f.exportPaths()
	l.Name = f.label(maxLabel, "filename")
	if strings.ContainsRune(l.Name, '/') {
		f.reject("filename", "must not contain a slash")
	}
	_ = f.label(maxLabel, "label") // for people; nothing is kept of it
	if l.Format = f.text(16, "format"); f.err == nil {
		l.Format, f.err = archiveFormat(l.Format)
	}
	life := int64(linkLife / time.Second)
	if n, ok := f.integer(1, int64(maxLinkLife/time.Second), "expires_in", "expires_in_seconds"); ok {
		life = n
	}
	if f.err != nil {
		return l, nil, f.err
	}
	ctx, g, sb, err := s.deps.Sandboxes.Guest(r.Context(), c, param(r, "id"))
	if err != nil {
		return l, nil, err
	}
	ctx, agent, cancel := s.patient(ctx)
	defer cancel()
	for _, p := range l.Paths {
		agent.wait()
		e, err := g.Stat(ctx, p)
		if err != nil {
			return l, nil, err
		}
		isDir = append(isDir, e.GetIsDir())
	}
	l.Tenant, l.Sandbox, l.Until = sb.Tenant, string(sb.ID), time.Now().Unix()+life
	return l, isDir, nil
}

// exportFile answers with a URL of one file, or of a folder's archive, that
// needs no key.
func (s *Server) exportFile(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	l, isDir, err := s.readExport(r, c, f)
	if err != nil {
		return err
	}
	if len(l.Paths) == 1 && !isDir[0] {
		l.Format = ""
	}
	l.Name = exportName(l.Name, l.Paths, l.Format)
	writeOne(w, http.StatusOK, api.FileLink{URL: s.seal(r, l), ExpiresAt: time.Unix(l.Until, 0).UTC()})
	return nil
}

// createExport answers with a URL for every path, and one of an archive of all.
func (s *Server) createExport(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	l, isDir, err := s.readExport(r, c, f)
	if err != nil {
		return err
	}
	out := api.Export{ID: sandbox.NewName("exp_"), SandboxID: l.Sandbox, ExpiresAt: time.Unix(l.Until, 0).UTC()}
	for i, p := range l.Paths {
		one := l
		one.Paths = []string{p}
		if !isDir[i] {
			one.Format = ""
		}
		one.Name = exportName("", one.Paths, one.Format)
		if len(l.Paths) == 1 && l.Name != "" && !isDir[i] {
			one.Name = l.Name
		}
		out.Files = append(out.Files, api.ExportedFile{Path: p, DownloadURL: s.seal(r, one)})
	}
	l.Name = exportName(l.Name, l.Paths, l.Format)
	out.ArchiveDownloadURL = s.seal(r, l)
	writeOne(w, http.StatusCreated, out)
	return nil
}

// downloadExport is an export at once: one file as it is, or an archive.
func (s *Server) downloadExport(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	q := r.URL.Query()
	f := &fields{m: map[string]json.RawMessage{}}
	paths := slices.Concat(q["path"], q["paths[]"], q["paths"])
	for i, p := range paths {
		paths[i] = guest.Spell(guest.Unspell(p)) // in a query it may be any bytes
	}
	for name, v := range map[string]any{"paths": paths, "filename": q.Get("filename"), "format": q.Get("format")} {
		raw, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("encode %s: %w", name, err)
		}
		f.m[name] = raw
	}
	l, isDir, err := s.readExport(r, c, f)
	if err != nil {
		return err
	}
	if len(l.Paths) == 1 && !isDir[0] && q.Get("format") == "" {
		l.Format = ""
	}
	l.Name = exportName(l.Name, l.Paths, l.Format)
	return s.sendExport(w, r, c, l)
}
