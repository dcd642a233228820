package server

import (
	"bufio"
	"encoding/base64"

	"silica.dev/silica/internal/guest/guestpb"
	"silica.dev/silica/sandbox"
)

const (
	outputBlock = 64 << 10
	runCost     = 16 // bytes that a change between the two streams is charged
	// outputFloor is what every command may keep even when others hold the whole
	// budget: a tenant with large outputs must not empty the small ones of all.
	outputFloor = outputBlock
)

// output keeps what a command writes, once, in the order it came: blocks of
// bytes, and runs that say which stream the next so many are of.
type output struct {
	blocks    [][]byte
	runs      []run
	left      int // bytes that may still be kept
	truncated bool
	// budget is shared by all commands; taken is what this one has of it, for tenant.
	budget *budget
	tenant sandbox.TenantID
	taken  int64
}

type run struct {
	stream guestpb.ProcessEvent_Stream
	n      int
}

func newOutput(limit int, budget *budget, tenant sandbox.TenantID) *output {
	return &output{left: limit, budget: budget, tenant: tenant}
}

// size is how many bytes are kept.
func (o *output) size() (n int64) {
	for _, b := range o.blocks {
		n += int64(len(b))
	}
	return n
}

// release gives the memory back to the other commands.
func (o *output) release() {
	o.budget.give(o.tenant, o.taken)
	o.taken, o.blocks, o.runs = 0, nil, nil
}

// add keeps p, or as much of it as may be kept.
func (o *output) add(stream guestpb.ProcessEvent_Stream, p []byte) {
	if o.truncated || len(p) == 0 {
		return
	}
	if len(o.runs) == 0 || o.runs[len(o.runs)-1].stream != stream {
		if o.left < runCost {
			o.truncated = true
			return
		}
		if len(o.runs) > 0 {
			o.left -= runCost
		}
		o.runs = append(o.runs, run{stream: stream})
	}
	last := &o.runs[len(o.runs)-1]
	if len(p) > o.left {
		p, o.truncated = p[:o.left], true
	}
	for len(p) > 0 {
		if len(o.blocks) == 0 || len(o.blocks[len(o.blocks)-1]) == cap(o.blocks[len(o.blocks)-1]) {
			size := min(outputBlock, max(len(p), 1<<10)) // small answers stay small
			if !o.budget.take(o.tenant, int64(size), o.taken < outputFloor) {
				o.truncated = true
				return
			}
			o.taken += int64(size)
			o.blocks = append(o.blocks, make([]byte, 0, size))
		}
		b := &o.blocks[len(o.blocks)-1]
		n := min(len(p), cap(*b)-len(*b))
		*b = append(*b, p[:n]...)
		p = p[n:]
		last.n += n
		o.left -= n
	}
}

// each calls f with what came on stream, piece by piece; 0 is both streams.
func (o *output) each(stream guestpb.ProcessEvent_Stream, f func([]byte)) {
	block, at := 0, 0
	for _, r := range o.runs {
		for n := r.n; n > 0; {
			if at == len(o.blocks[block]) {
				block, at = block+1, 0
				continue
			}
			p := o.blocks[block][at:min(at+n, len(o.blocks[block]))]
			at += len(p)
			n -= len(p)
			if stream == 0 || stream == r.stream {
				f(p)
			}
		}
	}
}

// writeText writes a stream as a JSON string and tells whether bytes had to be
// replaced.
func (o *output) writeText(w *bufio.Writer, stream guestpb.ProcessEvent_Stream) (bad bool) {
	var join pieces
	var buf []byte
	put := func(p []byte) {
		var b bool
		buf, b = escape(buf[:0], p)
		bad = bad || b
		_, _ = w.Write(buf)
	}
	_ = w.WriteByte('"')
	o.each(stream, func(p []byte) { put(join.whole(p)) })
	put(join.rest())
	_ = w.WriteByte('"')
	return bad
}

func (o *output) writeBase64(w *bufio.Writer, stream guestpb.ProcessEvent_Stream) {
	_ = w.WriteByte('"')
	enc := base64.NewEncoder(base64.StdEncoding, w)
	o.each(stream, func(p []byte) { _, _ = enc.Write(p) })
	_ = enc.Close()
	_ = w.WriteByte('"')
}

// text returns at most limit bytes of a stream.
func (o *output) text(stream guestpb.ProcessEvent_Stream, limit int) string {
	var all []byte
	o.each(stream, func(p []byte) {
		all = append(all, p[:min(len(p), limit-len(all))]...)
	})
	return string(all)
}
