package agent

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"silica.dev/silica/internal/guest/guestpb"
)

func TestNoticesAreBounded(t *testing.T) {
	n := newNotices()
	for i := range 3 * kept {
		n.add(guestpb.Notice_DISK_FULL, fmt.Sprint(i))
	}
	list, _ := n.after(0)
	if len(list) != kept || list[0].Seq != 2*kept+1 || list[kept-1].Seq != 3*kept {
		t.Errorf("%d notices, from %d to %d", len(list), list[0].Seq, list[len(list)-1].Seq)
	}
	if list, _ := n.after(3*kept - 1); len(list) != 1 {
		t.Errorf("after the last but one: %d", len(list))
	}
	if list, _ := n.after(1 << 60); len(list) != 0 {
		t.Errorf("after the future: %d", len(list))
	}
}

func TestNoticesEndWithTheReader(t *testing.T) {
	n := newNotices()
	n.add(guestpb.Notice_DISK_FULL, "x")
	broken := errors.New("broken")
	if err := n.follow(context.Background(), 0, func(*guestpb.Notice) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var got []guestpb.Notice_Kind
	err := n.follow(ctx, 0, func(m *guestpb.Notice) error {
		if got = append(got, m.Kind); len(got) == 2 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || len(got) != 2 || got[0] != guestpb.Notice_READY {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWithHost(t *testing.T) {
	for in, want := range map[string]string{
		"":                                 "127.0.1.1\tnew\n",
		"127.0.0.1 localhost":              "127.0.0.1 localhost\n127.0.1.1\tnew\n",
		"a b\n127.0.1.1 old alias\nc d\n":  "a b\nc d\n127.0.1.1\tnew\n",
		"# 127.0.1.1 comment\n\n127.0.1.1": "# 127.0.1.1 comment\n\n127.0.1.1\tnew\n",
	} {
		if got := string(withHost([]byte(in), "new")); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
