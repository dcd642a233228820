package server

import (
	"encoding/json"
	"net/http"
	"strconv"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func writeJSON(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		// Only values of our own types come here.
		panic("answer can't be encoded: " + err.Error())
	}
	writeRaw(w, status, raw)
}

func writeRaw(w http.ResponseWriter, status int, raw []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	w.WriteHeader(status)
	_, _ = w.Write(raw) // a client that has left is no error of ours
}

// writeOne answers with one thing: its fields at the top level, and below
// "data" once more, because public clients read either.
func writeOne(w http.ResponseWriter, status int, v any) {
	raw, err := json.Marshal(v)
	if err != nil || len(raw) < 2 || raw[0] != '{' {
		panic("answer is no object")
	}
	out := make([]byte, 0, 2*len(raw)+16)
	out = append(out, raw[:len(raw)-1]...)
	if len(raw) > 2 {
		out = append(out, ',')
	}
	out = append(out, `"data":`...)
	out = append(out, raw...)
	out = append(out, '}')
	writeRaw(w, status, out)
}

// paging reads the paging parameters of every public dialect. size 0 means
// that there were none.
func paging(r *http.Request) (page, size int, err error) {
	q := r.URL.Query()
	number := func(name string, most int) (int, error) {
		v := q.Get(name)
		if v == "" {
			return 0, nil
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			return 0, sandbox.Field(name, "must be a positive number")
		}
		return min(n, most), nil
	}
	if page, err = number("page", 1<<20); err != nil {
		return 0, 0, err
	}
	for _, name := range []string{"page_size", "per_page", "limit"} {
		if size, err = number(name, 1000); err != nil {
			return 0, 0, err
		} else if size > 0 {
			break
		}
	}
	if page > 0 && size == 0 {
		size = 20
	}
	return max(page, 1), size, nil
}

// writeList answers with a list, or the page of it that was asked for.
func writeList[T any](w http.ResponseWriter, r *http.Request, all []T) error {
	page, size, err := paging(r)
	if err != nil {
		return err
	}
	total, part := len(all), all
	if size > 0 {
		from := min((page-1)*size, total)
		part = all[from:min(from+size, total)]
	} else {
		size = max(total, 1)
	}
	if part == nil {
		part = []T{}
	}
	writeJSON(w, http.StatusOK, api.List[T]{
		Data: part,
		Meta: api.Meta{Total: total, Page: page, PerPage: size},
		Page: api.Page{Page: page, PageSize: size, Total: total},
	})
	return nil
}
