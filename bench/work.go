package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"silica.dev/silica/api"
)

// one returns a ready sandbox and what ends it.
func (t target) one(ctx context.Context) (id string, end func(), err error) {
	s := t.begin(ctx)
	if s.cause != nil {
		t.end(ctx, s.id)
		return "", nil, s.cause
	}
	return s.id, func() { t.end(ctx, s.id) }, nil
}

func (t target) exec(ctx context.Context) (Section, error) {
	s := Section{Title: "Exec", Note: "One command in a sandbox that runs, over one held connection."}
	id, end, err := t.one(ctx)
	if err != nil {
		return s, err
	}
	defer end()
	for _, c := range []struct {
		command, goal string
		pause         time.Duration
	}{{"true", "p50 ≤ 8 ms", 0}, {"true", "", t.Refill}, {"/bin/true", "", 0}, {"python3 -c pass", "", 0}} {
		took, err := measure(ctx, t.rounds(200), c.pause, func(int) (time.Duration, error) {
			begun := time.Now()
			res, err := t.client.Exec(ctx, id, api.ExecRequest{Command: c.command})
			if err == nil && res.ExitCode != 0 {
				err = fmt.Errorf("exit code %d", res.ExitCode)
			}
			return time.Since(begun), err
		})
		if err != nil {
			return s, fmt.Errorf("exec of %s: %w", c.command, err)
		}
		s.Rows = append(s.Rows, Row{What: c.command + apart(c.pause), Goal: c.goal, Stats: summarise(took, 0)})
	}
	return s, ctx.Err()
}

// fileSize is the largest file the API takes.
const fileSize = 100_000_000

// noise gives n bytes that don't compress, cheaply.
func noise(n int64) io.Reader {
	block := make([]byte, 1<<20)
	src := rand.NewChaCha8([32]byte{})
	_, _ = src.Read(block) // never fails
	return &sizedReader{io.LimitReader(&repeat{block: block}, n), int(n)}
}

type repeat struct {
	block []byte
	at    int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.block[r.at:])
	r.at = (r.at + n) % len(r.block)
	return n, nil
}

// sizedReader tells the client its length, so that the request does too.
type sizedReader struct {
	io.Reader
	n int
}

func (s *sizedReader) Len() int { return s.n }

func (t target) files(ctx context.Context) (Section, error) {
	s := Section{Title: "Files", Note: "100 MB that do not compress, over HTTP, into the sandbox's file system and out of it."}
	id, end, err := t.one(ctx)
	if err != nil {
		return s, err
	}
	defer end()
	peak := t.peak()
	var up, down []time.Duration
	for range t.rounds(10) {
		begun := time.Now()
		if _, err := t.client.Upload(ctx, id, "/root/bench.bin", noise(fileSize)); err != nil {
			return s, fmt.Errorf("upload: %w", err)
		}
		up = append(up, time.Since(begun))
		begun = time.Now()
		if err := t.fetch(ctx, id, "/root/bench.bin"); err != nil {
			return s, fmt.Errorf("download: %w", err)
		}
		down = append(down, time.Since(begun))
	}
	for _, m := range []struct {
		what string
		took []time.Duration
	}{{"up", up}, {"down", down}} {
		st := summarise(m.took, 0)
		s.Rows = append(s.Rows, Row{What: m.what, Goal: "≥ 200 MB/s", Stats: st})
		s.Facts = append(s.Facts, Fact{"speed " + m.what, fmt.Sprintf("%.0f MB/s (p50)", fileSize/1e6/st.P50.Seconds()), "≥ 200 MB/s"})
	}
	if grown, ok := peak(); ok {
		s.Facts = append(s.Facts, Fact{"growth of the daemon's memory, at its peak", mib(grown), "< 16 MiB"})
	}
	return s, nil
}

func (t target) fetch(ctx context.Context, id, path string) error {
	f, err := t.client.Download(ctx, id, path)
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := io.Copy(io.Discard, f)
	if err == nil && n != fileSize {
		err = fmt.Errorf("got %d bytes of %d", n, fileSize)
	}
	return err
}

func (t target) destroys(ctx context.Context) (Section, error) {
	s := Section{Title: "Destroy", Note: "From the request to its answer; and to the end of the last process of it on the host."}
	var answered, gone []time.Duration
	failed := 0
	for range t.rounds(100) {
		st := t.begin(ctx)
		if st.cause != nil {
			return s, st.cause
		}
		before := t.sentries()
		begun := time.Now()
		if _, err := t.client.Delete(ctx, st.id); err != nil {
			failed++
			continue
		}
		answered = append(answered, time.Since(begun))
		if t.data == "" {
			continue // something else starts sandboxes here: nothing to count
		}
		left, err := until(ctx, 10*time.Second, func() bool { return t.sentries() < before })
		if err != nil {
			return s, fmt.Errorf("the sentry of %s did not end: %w", st.id, err)
		}
		gone = append(gone, time.Since(begun)-left)
	}
	s.Rows = append(s.Rows, Row{What: "answered", Goal: "p50 ≤ 20 ms", Stats: summarise(answered, failed)})
	if len(gone) > 0 {
		s.Rows = append(s.Rows, Row{What: "everything gone", Goal: "≤ 1 s", Stats: summarise(gone, 0)})
	}
	return s, ctx.Err()
}

var errNotYet = errors.New("not within the time")

// until polls a condition. What it returns is how long the last look itself
// took, which is not the measured one's time.
func until(ctx context.Context, within time.Duration, cond func() bool) (time.Duration, error) {
	deadline := time.Now().Add(within)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		looked := time.Now()
		if cond() {
			return time.Since(looked), nil
		}
		if time.Now().After(deadline) {
			return 0, errNotYet
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}
