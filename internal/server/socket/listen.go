package socket

import (
	"context"
	"sync"
)

// maxPending is how many bytes of a client's input may wait for a program that
// does not read. More stays in the network, and so with the client.
const maxPending = 256 << 10

// piece is how much input goes into a program at once.
const piece = 64 << 10

// Program is what a client's input goes to. An error is for the client to read.
type Program interface {
	// Input blocks while the program does not read, until ctx ends.
	Input(ctx context.Context, p []byte) error
	// End closes standard input.
	End(ctx context.Context) error
	Resize(ctx context.Context, cols, rows int) error
	Signal(ctx context.Context, name string) error
}

// Listen passes on what the client sends until it leaves. Input waits in a
// bounded queue, so that a program that does not read holds up neither signals
// nor the news that the client has left. explain puts an error of to into words
// for the client. left is called at once when the client leaves; Listen returns
// when what it sent before has been taken, or ctx has ended.
func (c *Conn) Listen(ctx context.Context, d Dialect, to Program, explain func(error) (code, message string), left func()) {
	q := newQueue()
	var feeding sync.WaitGroup
	defer feeding.Wait()
	defer left()
	defer q.close()
	feeding.Go(func() { q.feed(ctx, to) })
	for {
		text, p, err := c.Receive()
		if err != nil {
			return
		}
		in, err := d.Decode(text, p)
		switch {
		case err != nil:
		case in.Kind == Data:
			c.stalled.Store(true)
			q.put(ctx, c.gone, in.Data)
			c.stalled.Store(false)
		case in.Kind == End:
			q.end()
		case in.Kind == Resize:
			err = to.Resize(ctx, in.Cols, in.Rows)
		case in.Kind == Signal:
			err = to.Signal(ctx, in.Signal)
		}
		if err != nil && ctx.Err() == nil {
			code, message := explain(err)
			d.Complain(c, code, message)
		}
	}
}

// queue is input on its way into a program.
type queue struct {
	more, room chan struct{} // hold one token each

	mu     sync.Mutex
	buf    []byte
	ended  bool // the client has said so
	closed bool // the client has left
}

func newQueue() *queue {
	return &queue{more: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// put appends p and then waits until there is room for more, or the client is gone.
func (q *queue) put(ctx context.Context, gone <-chan struct{}, p []byte) {
	q.mu.Lock()
	if !q.ended {
		q.buf = append(q.buf, p...)
	}
	q.mu.Unlock()
	wake(q.more)
	for {
		q.mu.Lock()
		full := len(q.buf) >= maxPending
		q.mu.Unlock()
		if !full {
			return
		}
		select {
		case <-q.room:
		case <-gone:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (q *queue) end() {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	wake(q.more)
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	wake(q.more)
}

// feed carries the queue into the program. What a program does not take, because
// it has closed its input or ended, is dropped: its output goes on.
func (q *queue) feed(ctx context.Context, to Program) {
	var spare []byte
	for {
		q.mu.Lock()
		p, ended, closed := q.buf, q.ended, q.closed
		q.buf = spare[:0]
		q.mu.Unlock()
		wake(q.room)
		for rest := p; len(rest) > 0 && ctx.Err() == nil; {
			n := min(len(rest), piece)
			if to.Input(ctx, rest[:n]) != nil {
				break
			}
			rest = rest[n:]
		}
		spare = nil
		if cap(p) <= piece {
			spare = p
		}
		switch {
		case ctx.Err() != nil:
			return
		case len(p) > 0: // more may have come meanwhile
		case ended:
			_ = to.End(ctx) // it may have ended by itself
			return
		case closed:
			return
		default:
			select {
			case <-q.more:
			case <-ctx.Done():
				return
			}
		}
	}
}
