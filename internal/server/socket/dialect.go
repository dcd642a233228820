package socket

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// BinaryProtocol is the subprotocol of the binary dialect.
const BinaryProtocol = "miosa-exec-v1"

// Dialect is how one family of clients frames a program's streams.
type Dialect interface {
	// Decode reads one message of the client. One that means nothing is an
	// Input of kind Nothing; an error is for the client to read.
	Decode(text bool, p []byte) (Input, error)
	// Output sends a piece of what the program wrote.
	Output(c *Conn, stream Stream, p []byte) error
	// Exit sends how the program ended, and says how to close.
	Exit(c *Conn, code int) (status int, reason string, err error)
	// Complain tells what could not be done, if there are words for it.
	Complain(c *Conn, code, message string)
}

// Stream names where output came from.
type Stream int

// The streams. A terminal has only Stdout.
const (
	Stdout Stream = iota + 1
	Stderr
)

// Kind says what a client wants.
type Kind int

// The kinds of input.
const (
	Nothing Kind = iota
	Data         // bytes for standard input
	End          // the end of standard input
	Resize       // of the terminal
	Signal
)

// Input is one message of a client.
type Input struct {
	Kind       Kind
	Data       []byte
	Cols, Rows int
	Signal     string
}

// control is a JSON message of a client.
type control struct {
	Type   string          `json:"type"`
	Data   string          `json:"data"`
	Cols   json.Number     `json:"cols"`
	Rows   json.Number     `json:"rows"`
	Signal json.RawMessage `json:"signal"`
}

// decodeControl reads a JSON message. ok is false when it is none.
func decodeControl(p []byte) (in Input, ok bool) {
	var m control
	if json.Unmarshal(p, &m) != nil || m.Type == "" {
		return Input{}, false
	}
	switch m.Type {
	case "stdin":
		return Input{Kind: Data, Data: []byte(m.Data)}, true
	case "stdin_close", "eof":
		return Input{Kind: End}, true
	case "resize":
		return Input{Kind: Resize, Cols: number(m.Cols), Rows: number(m.Rows)}, true
	case "signal":
		name := string(m.Signal)
		if unquoted, err := strconv.Unquote(name); err == nil {
			name = unquoted
		}
		return Input{Kind: Signal, Signal: name}, true
	}
	return Input{}, true // a newer client's: nothing we know
}

// number is -1 for what is none.
func number(n json.Number) int {
	v, err := strconv.Atoi(n.String())
	if err != nil {
		return -1
	}
	return v
}

// ErrNotJSON is Decode's complaint about a text message.
var ErrNotJSON = errors.New("a text message must be a JSON object with a type")

// Spawn is the dialect of …/exec/spawn. Two clients share the URL: one reads
// binary frames whose first byte names the stream, the other JSON. Each ignores
// what is the other's, and both send what Decode understands.
type Spawn struct {
	// Binary and JSON say which of the two is spoken to.
	Binary, JSON bool

	buf  []byte
	held [3][]byte // by stream: the beginning of a character that was cut
}

func (d *Spawn) Decode(text bool, p []byte) (Input, error) {
	if !text {
		return Input{Kind: Data, Data: p}, nil
	}
	in, ok := decodeControl(p)
	if !ok {
		return in, ErrNotJSON
	}
	return in, nil
}

func (d *Spawn) Output(c *Conn, stream Stream, p []byte) error {
	if d.Binary {
		for rest := p; len(rest) > 0; {
			n := min(len(rest), maxFrame)
			d.buf = append(append(d.buf[:0], byte(stream)), rest[:n]...)
			if err := c.Binary(d.buf); err != nil {
				return err
			}
			rest = rest[n:]
		}
	}
	if d.JSON {
		p = append(d.held[stream], p...)
		n := len(p) - unfinished(p)
		d.held[stream] = append([]byte(nil), p[n:]...)
		return d.json(c, stream, p[:n])
	}
	return nil
}

func (d *Spawn) json(c *Conn, stream Stream, p []byte) error {
	name := "stdout"
	if stream == Stderr {
		name = "stderr"
	}
	for len(p) > 0 {
		n := min(len(p), maxFrame/2)
		if n < len(p) {
			n -= unfinished(p[:n])
		}
		if err := sendJSON(c, map[string]any{"type": name, "data": string(p[:n])}); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// Exit sends one frame for both clients: they look for the code under different
// names, and the first stops reading there.
func (d *Spawn) Exit(c *Conn, code int) (int, string, error) {
	if d.JSON {
		for _, stream := range []Stream{Stdout, Stderr} {
			if err := d.json(c, stream, d.held[stream]); err != nil {
				return 0, "", err
			}
		}
	}
	err := sendJSON(c, map[string]any{"type": "exit", "exit": code, "code": code})
	return Normal, exitReason(code), err
}

func (d *Spawn) Complain(c *Conn, code, message string) { complain(c, code, message) }

// Binary is the dialect of subprotocol miosa-exec-v1: the first byte of every
// frame says what the rest is.
type Binary struct{ buf []byte }

// Types of the binary dialect's frames.
const (
	frameStdin  = 0x00
	frameStdout = 0x01
	frameStderr = 0x02
	frameExit   = 0x03
	frameResize = 0x05
)

func (d *Binary) Decode(text bool, p []byte) (Input, error) {
	if text { // not of the dialect, but the only words for an end or a signal
		in, _ := decodeControl(p)
		return in, nil
	}
	switch {
	case len(p) == 0:
	case p[0] == frameStdin:
		return Input{Kind: Data, Data: p[1:]}, nil
	case p[0] == frameResize && len(p) >= 5:
		return Input{Kind: Resize, Rows: int(binary.BigEndian.Uint16(p[1:])), Cols: int(binary.BigEndian.Uint16(p[3:]))}, nil
	}
	return Input{}, nil
}

func (d *Binary) Output(c *Conn, stream Stream, p []byte) error {
	kind := byte(frameStdout)
	if stream == Stderr {
		kind = frameStderr
	}
	for len(p) > 0 {
		n := min(len(p), maxFrame)
		d.buf = append(append(d.buf[:0], kind), p[:n]...)
		if err := c.Binary(d.buf); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (d *Binary) Exit(c *Conn, code int) (int, string, error) {
	return Normal, exitReason(code), c.Binary(binary.BigEndian.AppendUint32([]byte{frameExit}, uint32(code)))
}

// Complain has no words in this dialect; the closing frame says it.
func (d *Binary) Complain(*Conn, string, string) {}

// CloseCode is the dialect of …/exec/ws: output is raw, and the closing frame's
// code is the exit code and 1000.
type CloseCode struct{}

func (CloseCode) Decode(text bool, p []byte) (Input, error) {
	if text && len(p) > 0 && p[0] == '{' {
		// What only looks like a message of ours is keyboard input.
		if in, ok := decodeControl(p); ok && (in.Kind == Resize || in.Kind == Signal) {
			return in, nil
		}
	}
	return Input{Kind: Data, Data: p}, nil
}

func (CloseCode) Output(c *Conn, _ Stream, p []byte) error { return sendRaw(c, p) }

func (CloseCode) Exit(_ *Conn, code int) (int, string, error) {
	return Normal + min(max(code, 0), 999), exitReason(code), nil
}

func (CloseCode) Complain(*Conn, string, string) {}

// Terminal is the dialect of terminals: binary frames are the bytes of the
// terminal both ways, text frames are JSON.
type Terminal struct{}

func (Terminal) Decode(text bool, p []byte) (Input, error) { return (&Spawn{}).Decode(text, p) }

func (Terminal) Output(c *Conn, _ Stream, p []byte) error { return sendRaw(c, p) }

func (Terminal) Exit(_ *Conn, code int) (int, string, error) { return Normal, exitReason(code), nil }

func (Terminal) Complain(c *Conn, code, message string) { complain(c, code, message) }

func exitReason(code int) string { return fmt.Sprintf("exit %d", code) }

func sendRaw(c *Conn, p []byte) error {
	for len(p) > 0 {
		n := min(len(p), maxFrame)
		if err := c.Binary(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func complain(c *Conn, code, message string) {
	_ = sendJSON(c, map[string]any{"type": "error", "code": code, "message": message}) // Receive tells of a client that has left
}

func sendJSON(c *Conn, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		panic("message can't be encoded: " + err.Error()) // only our own come here
	}
	return c.Text(raw)
}

// unfinished returns how many bytes at the end of p begin a character whose
// rest may be in the next piece.
func unfinished(p []byte) int {
	for n := 1; n <= min(len(p), utf8.UTFMax-1); n++ {
		if c := p[len(p)-n]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(p[len(p)-n:]) {
				return n
			}
			return 0
		}
	}
	return 0
}
