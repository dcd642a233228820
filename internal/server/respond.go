package server

import (
	"bufio"
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
	bound(w, int64(len(raw)))
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
	if rec, ok := w.(*response); ok && status == http.StatusCreated {
		var made struct{ ID string }
		_ = json.Unmarshal(raw, &made) // for the audit log; not everything has an id
		rec.made = made.ID
	}
	tail := []byte(`"data":`)
	if len(raw) > 2 {
		tail = []byte(`,"data":`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(2*len(raw)+len(tail)))
	bound(w, int64(2*len(raw)))
	w.WriteHeader(status)
	for _, part := range [][]byte{raw[:len(raw)-1], tail, raw, {'}'}} {
		_, _ = w.Write(part) // a client that has left is no error of ours
	}
}

// maxPage bounds the rows of one answer.
const maxPage = 1000

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
		if size, err = number(name, maxPage); err != nil {
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

// writeList answers with a list, or the page of it that was asked for, as rows
// made by wire. They are made and sent one by one: a list is never held twice.
func writeList[F, T any](w http.ResponseWriter, r *http.Request, all []F, wire func(F) T) error {
	page, size, err := paging(r)
	if err != nil {
		return err
	}
	total := len(all)
	if size == 0 {
		size = min(max(total, 1), maxPage)
	}
	from := min((page-1)*size, total)
	part := all[from:min(from+size, total)]
	stream := openRows(w, len(part)*maxMetadata)
	_, _ = stream.WriteString(`{"data":`)
	writeRows(stream, part, wire)
	tail, err := json.Marshal(struct {
		Meta api.Meta `json:"meta"`
		Page api.Page `json:"page"`
	}{api.Meta{Total: total, Page: page, PerPage: size}, api.Page{Page: page, PageSize: size, Total: total}})
	if err != nil {
		panic("answer can't be encoded: " + err.Error())
	}
	_ = stream.WriteByte(',')
	_, _ = stream.Write(tail[1:])
	_ = stream.Flush() // a client that has left is no error of ours
	return nil
}

// writeFetched is writeList for what is too much to read whole: fetch returns at
// most limit rows after offset, and how many there are.
func writeFetched[F, T any](w http.ResponseWriter, r *http.Request, fetch func(limit, offset int) ([]F, int, error), wire func(F) T) error {
	page, size, err := paging(r)
	if err != nil {
		return err
	}
	orElse(&size, maxPage)
	rows, total, err := fetch(size, (page-1)*size)
	if err != nil {
		return err
	}
	list := make([]T, len(rows))
	for i, row := range rows {
		list[i] = wire(row)
	}
	writeJSON(w, http.StatusOK, struct {
		Data []T      `json:"data"`
		Meta api.Meta `json:"meta"`
		Page api.Page `json:"page"`
	}{list, api.Meta{Total: total, Page: page, PerPage: size}, api.Page{Page: page, PageSize: size, Total: total}})
	return nil
}

// openRows begins an answer whose length, about size bytes, is not known before
// its end.
func openRows(w http.ResponseWriter, size int) *bufio.Writer {
	bound(w, int64(size))
	w.Header().Set("Content-Type", "application/json")
	return bufio.NewWriterSize(w, 32<<10)
}

// writeRows writes a JSON array.
func writeRows[F, T any](w *bufio.Writer, rows []F, wire func(F) T) {
	enc := json.NewEncoder(w)
	_ = w.WriteByte('[')
	for i, row := range rows {
		if i > 0 {
			_ = w.WriteByte(',')
		}
		if err := enc.Encode(wire(row)); err != nil {
			if w.Flush() != nil {
				return // the client has left
			}
			// Only values of our own types come here.
			panic("answer can't be encoded: " + err.Error())
		}
	}
	_ = w.WriteByte(']')
}
