package server

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"strconv"

	"silica.dev/silica/sandbox"
)

// jsonUpload is an upload as JSON: {"path": …, "content": base64}, in any
// order. It reads the object itself because a JSON decoder would hold the whole
// content in memory.
type jsonUpload struct {
	r       *bufio.Reader
	within  bool // the object is a part of something: what follows is not ours
	begun   bool // the opening brace has been read
	has     bool // the content has been seen
	to      string
	hasPath bool
	spent   int // bytes of what is not content

	// The content while it is being read.
	block  int    // how many characters are decoded at once
	coded  []byte // base64 characters read, not decoded
	plain  []byte // decoded, not handed out
	store  []byte // what plain is a part of
	count  int    // characters, for the padding that some leave out
	padded bool   // a padding character was decoded
	ended  bool   // the closing quote has been read
	err    error
}

// newJSONUpload reads from body, which has length bytes (-1: unknown). A small
// body gets small buffers.
func newJSONUpload(body io.Reader, length int64) *jsonUpload {
	size := bufferFor(length)
	return &jsonUpload{r: bufio.NewReaderSize(body, size), block: size / 2}
}

func (u *jsonUpload) path() (string, bool) { return u.to, u.hasPath }

// syntax is the error for a body that is not JSON.
func syntax(err error) error {
	if err != nil && err != io.EOF && !errors.Is(err, io.ErrUnexpectedEOF) {
		return bodyError(err)
	}
	return sandbox.E(sandbox.Malformed, sandbox.CodeBadRequest, "the body is not JSON, or broke off")
}

// begin reads members up to the content.
func (u *jsonUpload) begin() (bool, error) {
	if !u.begun {
		c, err := u.next()
		if err != nil {
			return false, syntax(err)
		}
		if c != '{' {
			if c == '[' || c == '"' {
				return false, sandbox.Field("body", "must be a JSON object")
			}
			return false, syntax(nil)
		}
		u.begun = true
		if c, err = u.next(); err != nil {
			return false, syntax(err)
		}
		if c == '}' {
			return false, u.end()
		}
		_ = u.r.UnreadByte()
	} else if more, err := u.comma(); err != nil || !more {
		return false, err
	}
	for {
		if content, err := u.member(); err != nil || content {
			return content, err
		}
		if more, err := u.comma(); err != nil || !more {
			return false, err
		}
	}
}

// comma reads what stands between two members, or the end.
func (u *jsonUpload) comma() (more bool, err error) {
	switch c, err := u.next(); {
	case err != nil:
		return false, syntax(err)
	case c == ',':
		return true, nil
	case c == '}':
		return false, u.end()
	}
	return false, syntax(nil)
}

// end makes sure that nothing follows the object.
func (u *jsonUpload) end() error {
	if u.within {
		return nil
	}
	if _, err := u.next(); err != io.EOF {
		return syntax(err)
	}
	return nil
}

// member reads one member, of the content only the opening quote.
func (u *jsonUpload) member() (content bool, err error) {
	raw, err := u.value()
	if err != nil {
		return false, err
	}
	name, ok := decodeAs[string](raw)
	if !ok || raw[0] != '"' {
		return false, syntax(nil)
	}
	if c, err := u.next(); err != nil || c != ':' {
		return false, syntax(err)
	}
	if name == "content" || name == "content_base64" {
		c, err := u.next()
		if err != nil {
			return false, syntax(err)
		}
		if c == '"' {
			if u.has {
				return false, sandbox.Field(name, "must be given once")
			}
			u.has = true
			if u.store == nil {
				u.coded = make([]byte, 0, u.block)
				u.store = make([]byte, u.block/4*3)
			}
			return true, nil
		}
		_ = u.r.UnreadByte()
	}
	if raw, err = u.value(); err != nil {
		return false, err
	}
	if string(raw) == "null" {
		return false, nil
	}
	switch name {
	case "path":
		if u.to, u.hasPath = decodeAs[string](raw); !u.hasPath {
			return false, sandbox.Field("path", "must be a string")
		}
	case "content", "content_base64":
		return false, sandbox.Field(name, "must be a string")
	}
	return false, nil
}

// next returns the next byte that is no space.
func (u *jsonUpload) next() (byte, error) {
	for {
		c, err := u.r.ReadByte()
		if err != nil {
			return 0, err
		}
		if c != ' ' && c != '\n' && c != '\r' && c != '\t' {
			return c, nil
		}
		if u.spent++; u.spent > otherThanContent {
			return 0, errBodyTooLarge
		}
	}
}

var errBodyTooLarge = sandbox.E(sandbox.TooLarge, sandbox.CodeBodyTooLarge, "there is too much in the body besides the content")

// value reads one JSON value of any kind.
func (u *jsonUpload) value() (json.RawMessage, error) {
	c, err := u.next()
	if err != nil {
		return nil, syntax(err)
	}
	raw := []byte{c}
	depth, quoted := 0, c == '"'
	nested := c == '{' || c == '['
	if nested {
		depth = 1
	}
	for quoted || depth > 0 || !nested && c != '"' {
		if c, err = u.r.ReadByte(); err != nil {
			return nil, syntax(err)
		}
		if !quoted && depth == 0 && bytes.IndexByte([]byte(",}] \n\r\t:"), c) >= 0 {
			_ = u.r.UnreadByte() // a number or a word ends before it
			break
		}
		if u.spent++; u.spent > otherThanContent {
			return nil, errBodyTooLarge
		}
		raw = append(raw, c)
		switch {
		case quoted && c == '\\':
			if c, err = u.r.ReadByte(); err != nil {
				return nil, syntax(err)
			}
			raw = append(raw, c)
			c = 0
		case c == '"':
			quoted = !quoted
			if !quoted && depth == 0 {
				return checked(raw)
			}
		case !quoted && (c == '{' || c == '['):
			depth++
		case !quoted && (c == '}' || c == ']'):
			depth--
		}
		if nested && depth == 0 {
			break
		}
	}
	return checked(raw)
}

func checked(raw []byte) (json.RawMessage, error) {
	if !json.Valid(raw) {
		return nil, syntax(nil)
	}
	return raw, nil
}

func (u *jsonUpload) Read(p []byte) (int, error) {
	for len(u.plain) == 0 {
		if u.err != nil {
			return 0, u.err
		}
		u.err = u.fill()
	}
	n := copy(p, u.plain)
	u.plain = u.plain[n:]
	return n, nil
}

var errBase64 = sandbox.Field("content", "is not base64")

// fill decodes the next block, or reads what follows the content and returns
// io.EOF.
func (u *jsonUpload) fill() error {
	for !u.ended && len(u.coded) < u.block {
		if err := u.characters(); err != nil {
			return err
		}
	}
	n := len(u.coded) / 4 * 4
	if u.ended {
		for ; u.count%4 != 0; u.count++ { // padding left out
			u.coded = append(u.coded, '=')
		}
		n = len(u.coded)
	}
	if n > 0 {
		if u.padded {
			return errBase64
		}
		m, err := base64.StdEncoding.Decode(u.store, u.coded[:n])
		if err != nil {
			return errBase64.Because(err)
		}
		u.padded = u.coded[n-1] == '='
		u.plain = u.store[:m]
		u.coded = append(u.coded[:0], u.coded[n:]...)
		return nil
	}
	again, err := u.begin()
	if err == nil && again {
		err = sandbox.Field("content", "must be given once")
	}
	if err != nil {
		return err
	}
	return io.EOF
}

// characters reads some of the string's characters into u.coded.
func (u *jsonUpload) characters() error {
	if _, err := u.r.Peek(1); err != nil {
		return syntax(err)
	}
	some, _ := u.r.Peek(min(u.r.Buffered(), u.block-len(u.coded)))
	stop := bytes.IndexByte(some, '"')
	if stop >= 0 {
		some = some[:stop]
	}
	if i := bytes.IndexByte(some, '\\'); i >= 0 {
		some, stop = some[:i], -2
	}
	u.coded = append(u.coded, some...)
	u.count += len(some)
	_, _ = u.r.Discard(len(some))
	switch {
	case stop == -2:
		return u.escaped()
	case stop >= 0:
		_, _ = u.r.Discard(1)
		u.ended = true
	}
	return nil
}

// escaped reads an escape: encoders write '/' and '+' that way, and line ends.
func (u *jsonUpload) escaped() error {
	two, err := u.r.Peek(2)
	if err != nil {
		return syntax(err)
	}
	c := two[1]
	width := 2
	switch c {
	case 'n', 'r':
		_, _ = u.r.Discard(width)
		return nil
	case '/':
	case 'u':
		six, err := u.r.Peek(6)
		if err != nil {
			return syntax(err)
		}
		v, err := strconv.ParseUint(string(six[2:]), 16, 16)
		if err != nil || v >= 0x80 {
			return errBase64
		}
		c, width = byte(v), 6
	default:
		return errBase64
	}
	_, _ = u.r.Discard(width)
	u.coded = append(u.coded, c)
	u.count++
	return nil
}

// inner returns an upload for an object that is a part of this one's body. It
// uses the same buffers: have one at a time.
func (u *jsonUpload) inner() *jsonUpload {
	if u.store == nil {
		u.coded, u.store = make([]byte, 0, u.block), make([]byte, u.block/4*3)
	}
	return &jsonUpload{r: u.r, block: u.block, within: true, coded: u.coded[:0], store: u.store}
}

// drain reads what is left of the object, whatever its content is.
func (u *jsonUpload) drain() error {
	if u.err == io.EOF || !u.has {
		return nil
	}
	for !u.ended {
		u.coded = u.coded[:0]
		if err := u.characters(); errors.Is(err, errBase64) {
			_, _ = u.r.Discard(2) // an escape that no base64 has
		} else if err != nil {
			return err
		}
	}
	for {
		again, err := u.begin()
		if err != nil || !again {
			return err
		}
	}
}
