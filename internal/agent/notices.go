package agent

import (
	"context"
	"sync"
	"time"

	"silica.dev/silica/internal/guest/guestpb"
)

// kept is how many notices wait for a host that is away.
const kept = 256

// notices is the record of what befell the sandbox. Nobody who reads can hold up
// who writes.
type notices struct {
	mu   sync.Mutex
	seq  uint64
	list []*guestpb.Notice // the last few, oldest first
	more chan struct{}     // closed when one is added
}

func newNotices() *notices { return &notices{more: make(chan struct{})} }

func (n *notices) add(kind guestpb.Notice_Kind, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seq++
	if len(n.list) == kept {
		copy(n.list, n.list[1:])
		n.list = n.list[:kept-1]
	}
	n.list = append(n.list, &guestpb.Notice{Seq: n.seq, Kind: kind, Message: text, UnixNano: time.Now().UnixNano()})
	close(n.more)
	n.more = make(chan struct{})
}

// after returns the notices behind seq, and what is closed when there are more.
func (n *notices) after(seq uint64) ([]*guestpb.Notice, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := len(n.list)
	for i > 0 && n.list[i-1].Seq > seq {
		i--
	}
	return append([]*guestpb.Notice(nil), n.list[i:]...), n.more
}

// follow sends READY, what is behind seq, and then whatever comes, until ctx
// ends or send fails.
func (n *notices) follow(ctx context.Context, seq uint64, send func(*guestpb.Notice) error) error {
	ready := &guestpb.Notice{Seq: seq, Kind: guestpb.Notice_READY, UnixNano: time.Now().UnixNano()}
	if err := send(ready); err != nil {
		return err
	}
	for {
		list, more := n.after(seq)
		for _, notice := range list {
			if err := send(notice); err != nil {
				return err
			}
			seq = notice.Seq
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
