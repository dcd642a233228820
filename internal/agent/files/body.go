package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"silica.dev/silica/sandbox"
)

const (
	// endless bounds files whose size is unknown: those of /proc and /sys.
	endless = 16 << 20
	// spoolDir holds bodies whose place is not known yet, on the same file
	// system as most of what they can become.
	spoolDir = "/var/tmp/.silica-spool"
	// abandoned is the age at which a spooled file is nobody's any more.
	abandoned = time.Hour
	// parentMode is that of folders made on the way.
	parentMode = 0o755
	// keepMode asks Write to leave the permissions alone.
	keepMode = 0
	fileMode = 0o644
)

// Serve answers a GET or HEAD with a regular file's bytes. Whatever is no
// regular file is refused without being read, and nothing here ever waits for
// a FIFO's other end.
func (f *Files) Serve(w http.ResponseWriter, r *http.Request, name string) error {
	p, err := Clean(name)
	if err != nil {
		return err
	}
	// Look before opening: to open a device or a FIFO may already have effects.
	if err := regular(p); err != nil {
		return f.classify(p, err)
	}
	fd, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return f.classify(p, err)
	}
	_ = unix.SetNonblock(fd, false) // regular, or refused below: no need for the poller
	file := os.NewFile(uintptr(fd), p)
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return f.classify(p, err)
	}
	if info.IsDir() {
		return isDirectory(p)
	}
	if !info.Mode().IsRegular() {
		return notRegular(p)
	}
	h := w.Header()
	h.Set("Last-Modified", info.ModTime().UTC().Format(http.TimeFormat))
	h.Set("Content-Type", "application/octet-stream")
	if info.Size() > 0 { // files of /proc change without a trace
		h.Set("ETag", etag(info))
	}
	if info.Size() == 0 {
		return f.serveUnsized(w, r, p, file)
	}
	from, length, partial, err := byteRange(r.Header.Get("Range"), info.Size())
	if err != nil {
		return err
	}
	if from > 0 {
		if _, err := file.Seek(from, io.SeekStart); err != nil {
			return f.classify(p, err)
		}
	}
	h.Set("Accept-Ranges", "bytes")
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	if partial {
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, from+length-1, info.Size()))
		w.WriteHeader(http.StatusPartialContent)
	}
	if r.Method == http.MethodHead {
		return nil
	}
	f.send(w, io.LimitReader(file, length), length)
	return nil
}

// etag names what a file holds just now.
func etag(info fs.FileInfo) string {
	var inode uint64
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
	}
	return fmt.Sprintf(`"%x-%x-%x"`, info.ModTime().UnixNano(), info.Size(), inode)
}

// serveUnsized sends a file that says to be empty: most are, those of /proc
// say so always. Errors show before the first byte or never.
func (f *Files) serveUnsized(w http.ResponseWriter, r *http.Request, p string, file *os.File) error {
	buf := f.buffer()
	defer f.putBuffer(buf)
	n, err := io.ReadFull(file, buf[:])
	switch {
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		if from, _, partial, err := byteRange(r.Header.Get("Range"), int64(n)); err != nil || partial && from > 0 {
			return errRange
		}
		w.Header().Set("Content-Length", strconv.Itoa(n))
		if r.Method != http.MethodHead {
			_, _ = w.Write(buf[:n]) // the reader has gone
		}
		return nil
	case err != nil:
		return f.classify(p, err)
	}
	if r.Header.Get("Range") != "" {
		return errRange
	}
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := w.Write(buf[:n]); err == nil {
		_, _ = io.CopyBuffer(onlyWriter{w}, onlyReader{io.LimitReader(file, endless-int64(n))}, buf[:])
	}
	return nil
}

// send copies what was promised; a file that turned out shorter breaks the
// connection, so that nobody takes the part for the whole.
func (f *Files) send(w http.ResponseWriter, r io.Reader, length int64) {
	buf := f.buffer()
	defer f.putBuffer(buf)
	n, _ := io.CopyBuffer(onlyWriter{w}, onlyReader{r}, buf[:])
	if n < length {
		panic(http.ErrAbortHandler)
	}
}

// The wrappers hide ReadFrom and WriteTo: one copy through a large buffer is
// faster inside a user-space kernel than its splice, and equally fast outside.
type (
	onlyWriter struct{ io.Writer }
	onlyReader struct{ io.Reader }
)

var errRange = sandbox.Field("Range", "starts behind the end of the file")

// byteRange reads a Range header of one range. Others are ignored, as allowed.
func byteRange(header string, size int64) (from, length int64, partial bool, err error) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(spec, "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return 0, size, false, nil
	}
	if first == "" { // the last n bytes
		n, err := strconv.ParseInt(last, 10, 64)
		if err != nil || n <= 0 {
			return 0, size, false, nil
		}
		n = min(n, size)
		return size - n, n, true, nil
	}
	from, perr := strconv.ParseInt(first, 10, 64)
	if perr != nil || from < 0 {
		return 0, size, false, nil
	}
	to := size - 1
	if last != "" {
		if to, perr = strconv.ParseInt(last, 10, 64); perr != nil || to < from {
			return 0, size, false, nil
		}
		to = min(to, size-1)
	}
	if from >= size {
		return 0, 0, false, errRange
	}
	return from, to - from + 1, true, nil
}

// regular refuses everything but regular files; symlinks are followed.
func regular(p string) error {
	var st unix.Stat_t
	if err := unix.Stat(p, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		return isDirectory(p)
	}
	return notRegular(p)
}

// Write replaces the file at name with body, whole or not at all. mode 0 keeps
// the permissions of an existing file; so is its owner kept.
func (f *Files) Write(name string, mode uint32, body io.Reader) (size int64, err error) {
	p, err := f.writable(name)
	if err != nil {
		return 0, err
	}
	temp, err := createTemp(path.Dir(p))
	if err != nil {
		return 0, f.classify(p, err)
	}
	if size, err = f.fill(temp, body); err == nil {
		err = f.place(temp.Name(), p, mode)
	}
	if err != nil {
		os.Remove(temp.Name())
		return 0, f.classify(p, err)
	}
	return size, nil
}

// writable returns where a write to name goes, and makes its parents.
func (f *Files) writable(name string) (string, error) {
	p, err := Clean(name)
	if err != nil {
		return "", err
	}
	if name[len(name)-1] == '/' {
		return "", isDirectory(p)
	}
	if p, err = follow(p); err != nil {
		return "", f.classify(name, err)
	}
	if err := regular(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", f.classify(p, err)
	}
	if err := os.MkdirAll(path.Dir(p), parentMode); err != nil {
		return "", f.classify(p, err)
	}
	return p, nil
}

// fill copies body into file and closes it.
func (f *Files) fill(file *os.File, body io.Reader) (size int64, err error) {
	buf := f.buffer()
	size, err = io.CopyBuffer(onlyWriter{file}, onlyReader{body}, buf[:])
	f.putBuffer(buf)
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return size, err
}

// place renames temp to p, with the owner and permissions p had or is to have.
func (f *Files) place(temp, p string, mode uint32) error {
	var st unix.Stat_t
	switch err := unix.Stat(p, &st); {
	case err == nil:
		if err := os.Chown(temp, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		if mode == keepMode {
			mode = st.Mode & 0o7777
		}
	case mode == keepMode:
		mode = fileMode
	}
	if err := unix.Chmod(temp, mode); err != nil { // after chown, which clears set-id bits
		return err
	}
	return os.Rename(temp, p)
}

// Spool stores body under a fresh name.
func (f *Files) Spool(body io.Reader) (name string, size int64, err error) {
	if err := os.MkdirAll(spoolDir, 0o700); err != nil {
		return "", 0, f.classify(spoolDir, err)
	}
	sweep()
	file, err := createTemp(spoolDir)
	if err != nil {
		return "", 0, f.classify(spoolDir, err)
	}
	if size, err = f.fill(file, body); err != nil {
		os.Remove(file.Name())
		return "", 0, f.classify(spoolDir, err)
	}
	return file.Name(), size, nil
}

// sweep removes what was never committed. Nothing wakes for it: the next spool does it.
func sweep() {
	entries, _ := os.ReadDir(spoolDir) // gone: nothing to sweep
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(path.Join(spoolDir, e.Name()))
		}
	}
}

// Commit moves a spooled file to its place.
func (f *Files) Commit(from, to string) (size int64, err error) {
	from, err = Clean(from)
	if err != nil {
		return 0, err
	}
	if path.Dir(from) != spoolDir || !IsTemp(path.Base(from)) {
		return 0, sandbox.E(sandbox.Invalid, sandbox.CodeInvalidPath, "only a spooled file can be committed")
	}
	info, err := os.Lstat(from)
	if err != nil {
		return 0, f.classify(from, err)
	}
	if !info.Mode().IsRegular() {
		return 0, notRegular(from)
	}
	p, err := f.writable(to)
	if err != nil {
		return 0, err
	}
	err = f.place(from, p, keepMode)
	if errors.Is(err, unix.EXDEV) {
		err = f.commitCopy(from, p)
	}
	return info.Size(), f.classify(p, err)
}

// commitCopy is for a place on another file system.
func (f *Files) commitCopy(from, to string) error {
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	if _, err := f.Write(to, keepMode, src); err != nil {
		return err
	}
	return os.Remove(from)
}
