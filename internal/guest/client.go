package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/internal/guest/guestpb/guestpbconnect"
	"silica.dev/silica/sandbox"
)

// Limits on what an agent's answers may make the host hold.
const (
	maxMessage   = 4 << 20 // one RPC message; see also maxFields
	maxHeader    = 64 << 10
	maxErrorBody = 4 << 10
	maxErrorText = 1 << 10
)

// lost is what callers see when the sandbox stops answering.
var lost = sandbox.E(sandbox.Conflict, sandbox.CodeSandboxGone, "the sandbox stopped answering")

// Client talks to one sandbox's agent. It keeps connections open between calls
// and may be used by many goroutines.
type Client struct {
	rpc  guestpbconnect.AgentClient
	http *http.Client
}

// NewClient returns a client that reaches the agent through dial.
func NewClient(dial func(context.Context) (net.Conn, error)) *Client {
	t := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return aborting(dial(ctx)) },
		MaxIdleConnsPerHost: 4,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true,
		ReadBufferSize:      4 << 10,
		WriteBufferSize:     32 << 10,
		ForceAttemptHTTP2:   false,

		MaxResponseHeaderBytes: maxHeader,
	}
	hc := &http.Client{
		Transport: t,
		// An agent has nowhere to send us.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return &Client{
		http: hc,
		rpc: guestpbconnect.NewAgentClient(hc, base, connect.WithReadMaxBytes(maxMessage), connect.WithCodec(codec{}),
			// Nothing compressed is asked for, or unpacked should it come all the same.
			connect.WithAcceptCompression("gzip", nil, nil)),
	}
}

// aborting has a connection end at once when it is closed, which is after its last
// answer. Else the host would repeat its goodbye for minutes, to whoever has the
// sandbox's address by then; one that comes while a kernel is being restored can
// leave the agent's port there deaf.
func aborting(c net.Conn, err error) (net.Conn, error) {
	if t, ok := c.(interface{ SetLinger(sec int) error }); ok && err == nil {
		err = t.SetLinger(0)
	}
	return c, err
}

// base is the URL prefix; the host part is never looked up.
const base = "http://agent"

// Close drops the kept connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// unary makes one call and classifies its error.
func unary[Req, Res any](ctx context.Context, call func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error), req *Req) (*Res, error) {
	res, err := call(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, classify(ctx, err)
	}
	return res.Msg, nil
}

// Init gives the sandbox its identity; see the RPC.
func (c *Client) Init(ctx context.Context, req *guestpb.InitRequest) (*guestpb.InitResponse, error) {
	return unary(ctx, c.rpc.Init, req)
}

// SetEnv replaces the environment of what is started from now on.
func (c *Client) SetEnv(ctx context.Context, env map[string]string) error {
	_, err := unary(ctx, c.rpc.SetEnv, &guestpb.SetEnvRequest{Env: env})
	return err
}

// Metrics reads memory, disk and process counts as seen inside.
func (c *Client) Metrics(ctx context.Context) (*guestpb.MetricsResponse, error) {
	return unary(ctx, c.rpc.Metrics, &guestpb.MetricsRequest{})
}

// Relieve ends the process that holds the most memory.
func (c *Client) Relieve(ctx context.Context) (*guestpb.RelieveResponse, error) {
	return unary(ctx, c.rpc.Relieve, &guestpb.RelieveRequest{})
}

// SendInput writes to a process's stdin or terminal.
func (c *Client) SendInput(ctx context.Context, req *guestpb.SendInputRequest) error {
	_, err := unary(ctx, c.rpc.SendInput, req)
	return err
}

// Resize changes a terminal's size.
func (c *Client) Resize(ctx context.Context, req *guestpb.ResizeRequest) error {
	_, err := unary(ctx, c.rpc.Resize, req)
	return err
}

// Signal sends a signal to a process or its whole tree.
func (c *Client) Signal(ctx context.Context, req *guestpb.SignalRequest) error {
	_, err := unary(ctx, c.rpc.Signal, req)
	return err
}

// Processes lists what was started and is still known: of one kind of spawned
// processes or, if that is empty, all.
func (c *Client) Processes(ctx context.Context, kind string) ([]*guestpb.Process, error) {
	res, err := unary(ctx, c.rpc.ListProcesses, &guestpb.ListProcessesRequest{Kind: kind})
	if err != nil {
		return nil, err
	}
	return res.Processes, nil
}

// Process describes a spawned process.
func (c *Client) Process(ctx context.Context, id uint64) (*guestpb.Process, error) {
	res, err := unary(ctx, c.rpc.ListProcesses, &guestpb.ListProcessesRequest{Id: id})
	if err != nil {
		return nil, err
	}
	if len(res.Processes) != 1 || res.Processes[0] == nil {
		return nil, lost
	}
	return res.Processes[0], nil
}

// Spawn starts a process that goes on without its caller; see the RPC.
func (c *Client) Spawn(ctx context.Context, req *guestpb.SpawnRequest) (*guestpb.Process, error) {
	res, err := unary(ctx, c.rpc.Spawn, req)
	if err != nil {
		return nil, err
	}
	if res.Process.GetId() == 0 {
		return nil, lost
	}
	return res.Process, nil
}

// Attach yields what a spawned process wrote and writes: Attached first, Exited
// last. Leaving the loop, or cancelling ctx, leaves the process alone.
func (c *Client) Attach(ctx context.Context, req *guestpb.AttachRequest) iter.Seq2[*guestpb.AttachEvent, error] {
	return stream(ctx, c.rpc.Attach, req, func(ev *guestpb.AttachEvent) bool { return ev.GetExited() != nil })
}

// CreateService adds a service and starts it.
func (c *Client) CreateService(ctx context.Context, sv *guestpb.Service) (*guestpb.Service, error) {
	return service(unary(ctx, c.rpc.CreateService, &guestpb.CreateServiceRequest{Service: sv}))
}

// Services lists the services there are.
func (c *Client) Services(ctx context.Context) ([]*guestpb.Service, error) {
	res, err := unary(ctx, c.rpc.ListServices, &guestpb.ListServicesRequest{})
	if err != nil {
		return nil, err
	}
	return res.Services, nil
}

// ControlService does something to a service, named by id or name.
func (c *Client) ControlService(ctx context.Context, ref string, action guestpb.ControlServiceRequest_Action) (*guestpb.Service, error) {
	return service(unary(ctx, c.rpc.ControlService, &guestpb.ControlServiceRequest{Service: ref, Action: action}))
}

func service(res *guestpb.ServiceResponse, err error) (*guestpb.Service, error) {
	if err != nil {
		return nil, err
	}
	if res.Service == nil {
		return nil, lost
	}
	return res.Service, nil
}

// Stat describes a path without following a final symlink.
func (c *Client) Stat(ctx context.Context, path string) (*guestpb.Entry, error) {
	res, err := unary(ctx, c.rpc.Stat, &guestpb.StatRequest{Path: path})
	return res.GetEntry(), err
}

// ListDir lists a folder, depth levels deep, sorted by path.
func (c *Client) ListDir(ctx context.Context, path string, depth uint32) ([]*guestpb.Entry, error) {
	res, err := unary(ctx, c.rpc.ListDir, &guestpb.ListDirRequest{Path: path, Depth: depth})
	return res.GetEntries(), err
}

// ListSome lists at most limit entries, those of the upper levels first, and
// tells whether there are more.
func (c *Client) ListSome(ctx context.Context, path string, depth, limit uint32) (entries []*guestpb.Entry, more bool, err error) {
	res, err := unary(ctx, c.rpc.ListDir, &guestpb.ListDirRequest{Path: path, Depth: depth, Limit: limit})
	return res.GetEntries(), res.GetTruncated(), err
}

// MakeDir makes a folder.
func (c *Client) MakeDir(ctx context.Context, req *guestpb.MakeDirRequest) (*guestpb.Entry, error) {
	res, err := unary(ctx, c.rpc.MakeDir, req)
	return res.GetEntry(), err
}

// Move renames a file or folder.
func (c *Client) Move(ctx context.Context, req *guestpb.MoveRequest) (*guestpb.Entry, error) {
	res, err := unary(ctx, c.rpc.Move, req)
	return res.GetEntry(), err
}

// Copy copies a file or folder.
func (c *Client) Copy(ctx context.Context, req *guestpb.CopyRequest) (*guestpb.Entry, error) {
	res, err := unary(ctx, c.rpc.Copy, req)
	return res.GetEntry(), err
}

// Change sets permissions and owners.
func (c *Client) Change(ctx context.Context, req *guestpb.ChangeRequest) (*guestpb.Entry, error) {
	res, err := unary(ctx, c.rpc.Change, req)
	return res.GetEntry(), err
}

// Glob finds files and folders by name.
func (c *Client) Glob(ctx context.Context, req *guestpb.GlobRequest) (*guestpb.GlobResponse, error) {
	return unary(ctx, c.rpc.Glob, req)
}

// Search finds lines in files.
func (c *Client) Search(ctx context.Context, req *guestpb.SearchRequest) (*guestpb.SearchResponse, error) {
	return unary(ctx, c.rpc.Search, req)
}

// Replace changes what Search would find.
func (c *Client) Replace(ctx context.Context, req *guestpb.ReplaceRequest) (*guestpb.ReplaceResponse, error) {
	return unary(ctx, c.rpc.Replace, req)
}

// Remove deletes a file or folder.
func (c *Client) Remove(ctx context.Context, path string, recursive bool) error {
	_, err := unary(ctx, c.rpc.Remove, &guestpb.RemoveRequest{Path: path, Recursive: recursive})
	return err
}

// Start runs a process and yields its events in order: Started first, Exited
// last. Leaving the loop, or cancelling ctx, ends the stream, and with it the
// process tree. After an error the sequence ends.
func (c *Client) Start(ctx context.Context, req *guestpb.StartRequest) iter.Seq2[*guestpb.ProcessEvent, error] {
	return stream(ctx, c.rpc.Start, req, func(ev *guestpb.ProcessEvent) bool { return ev.GetExited() != nil })
}

// Watch yields changes below a folder until ctx is cancelled.
func (c *Client) Watch(ctx context.Context, req *guestpb.WatchRequest) iter.Seq2[*guestpb.WatchEvent, error] {
	return stream(ctx, c.rpc.Watch, req, endless)
}

// Notices yields what befalls the sandbox until the connection breaks.
func (c *Client) Notices(ctx context.Context, after uint64) iter.Seq2[*guestpb.Notice, error] {
	return stream(ctx, c.rpc.Notices, &guestpb.NoticesRequest{After: after}, endless)
}

// endless is for streams without a last message.
func endless[Msg any](*Msg) bool { return false }

// trailer is how long the polite end of a stream may take after its last message.
const trailer = time.Second

func stream[Req, Msg any](ctx context.Context, call func(context.Context, *connect.Request[Req]) (*connect.ServerStreamForClient[Msg], error), req *Req, last func(*Msg) bool) iter.Seq2[*Msg, error] {
	return func(yield func(*Msg, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := call(ctx, connect.NewRequest(req))
		if err != nil {
			yield(nil, classify(ctx, err))
			return
		}
		for s.Receive() {
			msg := s.Msg()
			// After the last message only the end follows. Who stops here keeps
			// the connection for the next call.
			done := last(msg)
			if !yield(msg, nil) {
				if !done {
					cancel()
				}
				timer := time.AfterFunc(trailer, cancel)
				for s.Receive() {
				}
				timer.Stop()
				_ = s.Close()
				return
			}
		}
		if err := s.Err(); err != nil {
			yield(nil, classify(ctx, err))
		}
		_ = s.Close()
	}
}

// File is a file's body being read.
type File struct {
	io.ReadCloser
	Size     int64 // of the whole file; -1 if unknown, as some of /proc
	Modified time.Time
	ETag     string // changes with the content; empty if unknown
}

// saneTag is the form in which an agent names a file's content.
var saneTag = regexp.MustCompile(`^"[0-9a-f-]{1,60}"$`)

// ReadFile opens a regular file from byte offset on.
func (c *Client) ReadFile(ctx context.Context, path string, offset int64) (*File, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/files?path="+url.QueryEscape(path), nil)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	res, err := c.do(req)
	if err != nil {
		return nil, err
	}
	if offset > 0 && res.StatusCode != http.StatusPartialContent {
		res.Body.Close()
		return nil, lost.Because(fmt.Errorf("read %q: asked for a part, answered with status %d", path, res.StatusCode))
	}
	f := &File{ReadCloser: res.Body, Size: res.ContentLength}
	if f.Size >= 0 {
		f.Size += offset
	}
	f.Modified, _ = http.ParseTime(res.Header.Get("Last-Modified"))
	if tag := res.Header.Get("ETag"); saneTag.MatchString(tag) {
		f.ETag = tag
	}
	return f, nil
}

// WriteFile replaces the file at path with body, whole or not at all. mode 0
// keeps an existing file's permissions, or 0644.
func (c *Client) WriteFile(ctx context.Context, path string, mode uint32, body io.Reader) (size int64, err error) {
	u := base + "/files?path=" + url.QueryEscape(path)
	if mode != 0 {
		u += "&mode=" + strconv.FormatUint(uint64(mode), 8)
	}
	return c.put(ctx, http.MethodPut, u, body)
}

// Spool stores body under a fresh name inside the sandbox, for a caller that
// does not know the path yet. Commit or Remove it.
func (c *Client) Spool(ctx context.Context, body io.Reader) (path string, size int64, err error) {
	res, err := c.send(ctx, http.MethodPost, base+"/files/spool", body)
	return res.Path, res.Size, err
}

// Commit moves a spooled file to its place, making parents.
func (c *Client) Commit(ctx context.Context, from, to string) error {
	_, err := c.put(ctx, http.MethodPost, base+"/files/commit?from="+url.QueryEscape(from)+"&to="+url.QueryEscape(to), nil)
	return err
}

// Pack is what to put into an archive.
type Pack struct {
	Paths  []string
	From   string // the folder that names in it start from; "": the only path
	Format string // tar, tar.gz or zip
}

// ReadArchive packs files and folders. The archive has no known size; one that
// breaks off ends in an error.
func (c *Client) ReadArchive(ctx context.Context, p Pack) (io.ReadCloser, error) {
	q := url.Values{"path": p.Paths, "from": {p.From}, "format": {p.Format}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/files/archive?"+q.Encode(), nil)
	if err != nil {
		return nil, fmt.Errorf("pack %q: %w", p.Paths, err)
	}
	res, err := c.do(req)
	if err != nil {
		return nil, err
	}
	return res.Body, nil
}

// Unpacked counts what came out of an archive.
type Unpacked struct {
	Entries int64 `json:"entries"`
	Files   int64 `json:"files"`
	Bytes   int64 `json:"bytes"`
	Skipped int64 `json:"skipped"` // devices, FIFOs and the like
}

// WriteArchive unpacks a tar archive, compressed with gzip or not, into the folder
// at path. owners says that the archive's owners are kept.
func (c *Client) WriteArchive(ctx context.Context, path string, owners bool, body io.Reader) (n Unpacked, err error) {
	q := url.Values{"path": {path}, "owners": {strconv.FormatBool(owners)}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, base+"/files/archive?"+q.Encode(), bulk{body})
	if err != nil {
		return n, fmt.Errorf("unpack to %q: %w", path, err)
	}
	res, err := c.do(req)
	if err != nil {
		return n, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxErrorBody)).Decode(&n); err != nil {
		return n, lost.Because(err)
	}
	return n, nil
}

// written is the agent's answer on the writing file routes.
type written struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

func (c *Client) put(ctx context.Context, method, u string, body io.Reader) (int64, error) {
	res, err := c.send(ctx, method, u, body)
	return res.Size, err
}

func (c *Client) send(ctx context.Context, method, u string, body io.Reader) (w written, err error) {
	if body != nil {
		body = bulk{body}
	}
	req, err := http.NewRequestWithContext(ctx, method, u, body)
	if err != nil {
		return w, fmt.Errorf("%s: %w", method, err)
	}
	res, err := c.do(req)
	if err != nil {
		return w, err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(io.LimitReader(res.Body, maxErrorBody)).Decode(&w); err != nil {
		return w, lost.Because(err)
	}
	return w, nil
}

// do sends a request to a file route and turns any other answer than a success
// into a classified error.
func (c *Client) do(req *http.Request) (*http.Response, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, classify(req.Context(), err)
	}
	if res.StatusCode < 300 {
		return res, nil
	}
	defer res.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(res.Body, maxErrorText))
	return nil, believed(res.Header.Get(CodeHeader), string(text))
}

// classify turns an error of the transport or of the agent into one of ours.
// The caller's own cancellation stays what it is.
func classify(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var mine *sandbox.Error
	if errors.As(err, &mine) { // from dial, or from the body we were sending
		return err
	}
	var ce *connect.Error
	if errors.As(err, &ce) && connect.IsWireError(err) {
		return believed(ce.Meta().Get(CodeHeader), ce.Message())
	}
	return lost.Because(err)
}

func believed(code, message string) error {
	if len(message) > maxErrorText {
		message = message[:maxErrorText]
	}
	kind, ok := codes[code]
	if !ok {
		return fmt.Errorf("agent answered %q: %s", code, message)
	}
	return sandbox.E(kind, code, message)
}
