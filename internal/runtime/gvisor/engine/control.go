package engine

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/control/client"
	"gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/state/checkpointfiles"
	"gvisor.dev/gvisor/pkg/state/statefile"
	"gvisor.dev/gvisor/pkg/urpc"
	"gvisor.dev/gvisor/runsc/boot"

	"silica.dev/silica/internal/runtime/gvisor/wire"
)

// What the engine asks of a sentry over its control socket.

// boot starts the agent in an empty sentry: from snapshot, or cold. It returns
// when the sentry has accepted; ready waits for the agent. net is used up.
func (s *sentry) boot(snapshot string, net *boot.CreateLinksAndRoutesArgs) error {
	defer func() {
		for _, f := range net.FilePayload.Files {
			f.Close()
		}
	}()
	// The agent may read the byte whenever it comes to life.
	if _, err := s.poke.Write([]byte{'?'}); err != nil {
		return fmt.Errorf("poke agent: %w", err)
	}
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Call(boot.ContMgrCreateLinksAndRoutes, net, nil); err != nil {
		return fmt.Errorf("set up network: %w", err)
	}
	if snapshot == "" {
		if err := conn.Call(boot.ContMgrRootContainerStart, &s.box.ID, nil); err != nil {
			return fmt.Errorf("start agent: %w", err)
		}
		return nil
	}
	files, err := openCheckpoint(snapshot, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer closeAll(files)
	err = conn.Call(boot.ContMgrRestore, &boot.RestoreOpts{
		FilePayload:   urpc.FilePayload{Files: files},
		HavePagesFile: true,
		Background:    true, // pages follow while the sandbox runs already
	}, nil)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	return nil
}

// ready waits for the agent's answer and closes the pipes.
func (s *sentry) ready(ctx context.Context) error {
	defer s.closePipes()
	stop := context.AfterFunc(ctx, func() { s.answer.SetReadDeadline(longAgo) })
	defer stop()
	_, err := io.ReadFull(s.answer, make([]byte, 1))
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("wait for agent: %w", err)
	}
	return nil
}

// lazily is how large a snapshot's pages are, in bytes, for a sandbox to be said to
// run before they are all in.
const lazily = 32 << 20

// loaded waits until what a sandbox starts with is in. Without room on the disk for
// its layer that fails after the agent has answered, and then whatever reads such a
// page does: kept files would look lost. Of a snapshot that is large it does not
// wait: the sentry ends itself then, and the sandbox falls back to its files.
func (s *sentry) loaded(req wire.StartRequest) error {
	method, args := boot.ContMgrWaitRestore, any(nil)
	switch {
	case req.Files != "":
		method, args = boot.ContMgrWaitFSRestore, &boot.WaitFSRestoreArgs{CID: s.box.ID}
	case req.Snapshot == "":
		return nil
	default:
		info, err := os.Stat(filepath.Join(req.Snapshot, checkpointfiles.PagesFileName))
		if err != nil || info.Size() > lazily {
			return err
		}
	}
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Call(method, args, nil); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// checkpoint saves memory and files to an empty folder and goes on running.
func (s *sentry) checkpoint(dir string) error {
	files, err := openCheckpoint(dir, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return err
	}
	defer closeAll(files)
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.Call(boot.ContMgrCheckpoint, &control.SaveOpts{
		// Compressed, it would be one file that can't be restored lazily.
		Metadata:      statefile.CompressionLevelNone.ToMetadata(),
		HavePagesFile: true,
		FilePayload:   urpc.FilePayload{Files: files},
		Resume:        true,
	}, nil)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return nil
}

// saveFiles writes the root's writable layer to an empty folder. The kernel itself
// holds every process meanwhile.
//
// What is saved is gVisor's file system checkpoint. Its tar of the layer was
// found unusable: making and reading it takes each file, and reading it all
// files together, as one piece of the sandbox's own memory, so a file larger
// than what is free there ends the sandbox.
func (s *sentry) saveFiles(dir string) error {
	files, err := openAll(dir, layerFiles, os.O_CREATE|os.O_EXCL|os.O_RDWR)
	if err != nil {
		return err
	}
	defer closeAll(files)
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Call(boot.ContMgrFSSave, &boot.FSSaveArgs{FilePayload: urpc.FilePayload{Files: files}}, nil); err != nil {
		return fmt.Errorf("save files: %w", err)
	}
	return nil
}

// pause has the kernel hold every process; resume lets them go. Two pauses need
// two resumes, and a resume too many ends the kernel.
func (s *sentry) pause() error  { return s.command(boot.ContMgrPause) }
func (s *sentry) resume() error { return s.command(boot.ContMgrResume) }

func (s *sentry) command(method string) error {
	conn, err := s.connect()
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Call(method, nil, nil); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

// layerFiles are the files of a saved writable layer, in the order that gVisor
// wants.
var layerFiles = []string{
	checkpointfiles.FSCheckpointManifestFileName, checkpointfiles.FSCheckpointMultiTarFileName,
	checkpointfiles.PagesMetadataFileName, checkpointfiles.PagesFileName,
}

// openCheckpoint opens a checkpoint's files in the order that gVisor wants.
func openCheckpoint(dir string, flags int) ([]*os.File, error) {
	return openAll(dir, []string{checkpointfiles.StateFileName, checkpointfiles.PagesMetadataFileName, checkpointfiles.PagesFileName}, flags)
}

func openAll(dir string, names []string, flags int) ([]*os.File, error) {
	var files []*os.File
	for _, name := range names {
		f, err := os.OpenFile(filepath.Join(dir, name), flags, 0o644)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("open %s: %w", name, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (s *sentry) closePipes() {
	for _, f := range []**os.File{&s.poke, &s.answer} {
		if *f != nil {
			(*f).Close()
			*f = nil
		}
	}
}

// connect opens the control socket, whose path may be too long for an address.
//
// The library opens it without close-on-exec. Inherited by a sentry that is
// created at this moment, it would let that one command this one; so no process
// is started until the mark is set.
func (s *sentry) connect() (*urpc.Client, error) {
	f, err := os.OpenFile(s.box.ControlSocketPath, unix.O_PATH, 0)
	if err != nil {
		return nil, fmt.Errorf("connect to sentry: %w", err)
	}
	defer f.Close()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	conn, err := client.ConnectTo("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err == nil {
		err = closeAllOnExec()
	}
	if err != nil {
		return nil, fmt.Errorf("connect to sentry: %w", err)
	}
	return conn, nil
}

// closeAllOnExec marks every descriptor of this process but the first three.
// Processes we start are given theirs by name.
func closeAllOnExec() error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range fds {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd) // one that is closed by now is no concern
		}
	}
	return nil
}
