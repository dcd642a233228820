package image

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// volume is the UUID of every image: content is told apart by digest.
const volume = "00000000-0000-4000-8000-000000000000"

// pack writes the folder root as an EROFS file system to file.
func pack(ctx context.Context, root, file string, report func(Progress)) error {
	var total int64
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		st, err := d.Info()
		if err == nil {
			total += st.Size()
		}
		return err
	})
	if err != nil {
		return err
	}
	stop := watchSize(file, total, report)
	defer stop()
	return run(ctx, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}, func(string) {},
		"mkfs.erofs", "--quiet",
		"-E", "noinline_data", // gVisor can't map what lies within inodes
		"-x-1", // nor does it know extended attributes
		"-T", strconv.FormatInt(epoch.Unix(), 10),
		"-U", volume,
		file, root)
}

// watchSize reports how much of the file is written until stop is called.
func watchSize(file string, total int64, report func(Progress)) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			var size int64
			if st, err := os.Stat(file); err == nil {
				size = st.Size()
			}
			// The file is a little larger than its content.
			report(Progress{Message: "packing the image, MB", Done: min(size, total) >> 20, Total: total >> 20})
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// String is "installing packages 143/312".
func (p Progress) String() string {
	if p.Total == 0 {
		return p.Message
	}
	return fmt.Sprintf("%s %d/%d", p.Message, p.Done, p.Total)
}
