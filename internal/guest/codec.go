package guest

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// maxFields is how many fields one message may have, entries of its lists
// included: more than an honest listing has, of which the agent cuts off at
// 100,000.
const maxFields = 128 << 10

// codec is Connect's own for protobuf, but for a bound on what a message takes
// once it is unpacked: an entry of a list is two bytes on the wire and a hundred
// times that in memory.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(message any) ([]byte, error) { return codec{}.MarshalAppend(nil, message) }

func (codec) MarshalAppend(dst []byte, message any) ([]byte, error) {
	m, ok := message.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%T is no message", message)
	}
	return proto.MarshalOptions{}.MarshalAppend(dst, m)
}

func (codec) Unmarshal(data []byte, message any) error {
	m, ok := message.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", message)
	}
	rest := data
	for n := 0; len(rest) > 0; n++ {
		_, _, size := protowire.ConsumeField(rest)
		if size < 0 {
			return fmt.Errorf("broken message: %w", protowire.ParseError(size))
		}
		if n == maxFields {
			return fmt.Errorf("a message of more than %d fields", maxFields)
		}
		rest = rest[size:]
	}
	return proto.Unmarshal(data, m)
}
