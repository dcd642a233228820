package client

import (
	"context"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"

	"silica.dev/silica/api"
)

// call is one request of any endpoint.
type call struct {
	method string
	path   string // below the server's root
	query  url.Values
	header http.Header
	body   any       // sent as JSON when not nil
	stream io.Reader // sent as it is instead of body; never repeated
	size   int64     // of stream; -1 when unknown

	// repeat says that doing it twice is the same as doing it once.
	repeat bool
}

// get reads what is below the API's prefix, and may be repeated.
func get(path string) call {
	return call{method: http.MethodGet, path: api.Base + path, repeat: true}
}

// post does something; unless it says so, never twice.
func post(path string, body any) call {
	return call{method: http.MethodPost, path: api.Base + path, body: body}
}

// put and patch set things to what body says, so that they may be repeated.
func put(path string, body any) call {
	return call{method: http.MethodPut, path: api.Base + path, body: body, repeat: true}
}

func patch(path string, body any) call {
	return call{method: http.MethodPatch, path: api.Base + path, body: body, repeat: true}
}

// del removes something. It may be repeated: see open.
func del(path string) call {
	return call{method: http.MethodDelete, path: api.Base + path, repeat: true}
}

// again marks a call that may be repeated.
func (cl call) again() call {
	cl.repeat = true
	return cl
}

// with sets a parameter of the query, unless it is empty.
func (cl call) with(name string, values ...string) call {
	cl.query = maps.Clone(cl.query)
	if cl.query == nil {
		cl.query = url.Values{}
	}
	for _, v := range values {
		if v != "" {
			cl.query.Add(name, v)
		}
	}
	return cl
}

// asking sets the whole query.
func (cl call) asking(q url.Values) call {
	cl.query = q
	return cl
}

// headed sets a header.
func (cl call) headed(name, value string) call {
	cl.header = cl.header.Clone()
	if cl.header == nil {
		cl.header = http.Header{}
	}
	cl.header.Set(name, value)
	return cl
}

// fetch makes a call and returns what it answers.
func fetch[T any](ctx context.Context, c *Client, cl call) (*T, error) {
	out := new(T)
	if err := c.do(ctx, cl, out); err != nil {
		return nil, err
	}
	return out, nil
}

// rows makes a call that answers with a list, and returns its rows; all of them
// unless cl asks for a page.
func rows[T any](ctx context.Context, c *Client, cl call) ([]T, error) {
	out := []T{}
	for row, err := range all[T](ctx, c, cl) {
		if err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, nil
}

// pages yields the rows of a list from page to page. next makes the call for
// the page that a cursor begins; the first is the empty one.
func pages[T any](ctx context.Context, c *Client, next func(cursor string) call) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		for cursor := ""; ; {
			l, err := fetch[api.List[T]](ctx, c, next(cursor))
			if err != nil {
				yield(none, err)
				return
			}
			for _, row := range l.Data {
				if !yield(row, nil) {
					return
				}
			}
			if l.NextCursor == nil || *l.NextCursor == "" || *l.NextCursor == cursor {
				return
			}
			cursor = *l.NextCursor
		}
	}
}

// all yields the rows of a list that counts its pages, from page to page. The
// first has as many as the server gives to who asks for no page.
func all[T any](ctx context.Context, c *Client, cl call) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		seen := 0
		for page := 1; ; page++ {
			if page > 1 {
				cl = cl.with("page") // a query of its own
				cl.query.Set("page", strconv.Itoa(page))
				cl.query.Set("page_size", strconv.Itoa(seen/(page-1)))
			}
			l, err := fetch[api.List[T]](ctx, c, cl)
			if err != nil {
				yield(none, err)
				return
			}
			for _, row := range l.Data {
				if !yield(row, nil) {
					return
				}
			}
			if seen += len(l.Data); len(l.Data) == 0 || seen >= l.Page.Total {
				return
			}
		}
	}
}
