package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"
)

// hostFile is a body in a folder of the host's.
type hostFile struct {
	root *os.Root
	name string
}

func (h hostFile) open() (io.ReadCloser, error) { return h.root.Open(h.name) }

// readFolder reads the names below dir, which must stay as it is while the tree
// is used. Devices and the like are left out.
func readFolder(dir string) (*tree, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	t := newTree()
	t.close = root.Close
	linked := map[uint64]*node{} // by inode
	err = fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		n := &node{mode: st.Mode, uid: st.Uid, gid: st.Gid}
		switch {
		case n.isDir():
			n.children = map[string]*node{}
		case n.is(unix.S_IFLNK):
			if n.target, err = root.Readlink(name); err != nil {
				return err
			}
			n.size = int64(len(n.target))
		case n.is(unix.S_IFREG):
			if st.Nlink > 1 {
				if have := linked[st.Ino]; have != nil {
					n = have
					break
				}
				linked[st.Ino] = n
			}
			n.size, n.body, n.stamped = st.Size, hostFile{root, name}, isBytecode(name)
		default:
			return nil
		}
		if name == "." {
			t.root = n
			return nil
		}
		// Walked from the top without following links, so its folder is there.
		t.find(path.Dir(name), false).children[path.Base(name)] = n
		return t.count(n.size)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the base system: %w", err), root.Close())
	}
	return t, nil
}
