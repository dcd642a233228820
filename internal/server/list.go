package server

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// Bounds on what one list may ask for.
const (
	maxFilters     = 16  // values of metadata, and tags, together
	maxFilterValue = 256 // bytes; longer values are not found by
)

// listFilter reads what GET /sandboxes and GET /computers may ask for. states
// reads their words for states.
func listFilter(r *http.Request, states func(word string) []sandbox.State) (f sandbox.Filter, page int, err error) {
	q := r.URL.Query()
	f = sandbox.Filter{
		Workspace: q.Get("workspace_id"), Project: q.Get("project_id"), Name: q.Get("name"),
		Template: cmp.Or(q.Get("template_id"), q.Get("template_type")),
		External: sandbox.External{
			Workspace: q.Get("external_workspace_id"), User: q.Get("external_user_id"), Project: q.Get("external_project_id"),
		},
	}
	for _, word := range several(q["state"], q["status"]) {
		found := states(word)
		if len(found) == 0 {
			return f, 0, sandbox.Field("state", "must be one of provisioning, running, paused, destroyed, error")
		}
		f.States = append(f.States, found...)
	}
	if err := labelFilters(q, &f); err != nil {
		return f, 0, err
	}
	page, f.Limit, err = paging(r)
	if err != nil {
		return f, 0, err
	}
	if cursor := q.Get("cursor"); cursor != "" {
		if q.Get("page") != "" {
			return f, 0, sandbox.Field("cursor", "can't be used together with page")
		}
		if f.After, err = decodeCursor(cursor); err != nil {
			return f, 0, err
		}
	}
	if f.Limit == 0 {
		f.Limit = maxPage
	}
	f.Offset = (page - 1) * f.Limit
	return f, page, nil
}

// several takes a parameter that may be given more than once, or with commas.
func several(lists ...[]string) (values []string) {
	for _, v := range slices.Concat(lists...) {
		for part := range strings.SplitSeq(v, ",") {
			if part = strings.TrimSpace(part); part != "" && !slices.Contains(values, part) {
				values = append(values, part)
			}
		}
	}
	return values
}

// labelFilters reads metadata.<key>=<value> (and metadata[<key>]=<value>, which
// some languages write), tag=<tag> and tags=<tag>,<tag>. All must fit.
func labelFilters(q url.Values, f *sandbox.Filter) error {
	f.Tags = slices.Concat(q["tag"], several(q["tags"], q["tags[]"]))
	for name, values := range q {
		key, ok := strings.CutPrefix(name, "metadata.")
		if !ok {
			if key, ok = strings.CutPrefix(name, "metadata["); ok {
				key, ok = strings.CutSuffix(key, "]")
			}
		}
		if !ok {
			continue
		}
		if f.Metadata == nil {
			f.Metadata = map[string]string{}
		}
		for _, v := range values {
			if have, twice := f.Metadata[key]; key == "" || twice && have != v {
				return sandbox.Field(cutText(name, 64), "must name a key, and one value for it")
			}
			f.Metadata[key] = v
		}
	}
	if len(f.Metadata)+len(f.Tags) > maxFilters {
		return sandbox.Field("metadata", fmt.Sprintf("no more than %d values and tags can be asked for at once", maxFilters))
	}
	for k, v := range f.Metadata {
		if len(k)+len("metadata.") > maxFilterValue || len(v) > maxFilterValue {
			return sandbox.Field("metadata."+cutText(k, 64), fmt.Sprintf("only keys and values of up to %d bytes can be asked for", maxFilterValue))
		}
	}
	return nil
}

// sandboxStates reads a state as the wire of sandboxes spells it.
func sandboxStates(word string) []sandbox.State {
	if s := sandbox.State(word); s.Public() {
		return []sandbox.State{s}
	}
	return nil
}

// A cursor says where a list goes on. Clients must not look into it.
func encodeCursor(sb sandbox.Sandbox) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "1.%d.%s", sb.CreatedAt.UnixMicro(), sb.ID))
}

func decodeCursor(cursor string) (sandbox.Position, error) {
	bad := sandbox.Field("cursor", "is none that a list has answered with")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil {
		return sandbox.Position{}, bad
	}
	parts := strings.Split(string(raw), ".")
	if len(parts) != 3 || parts[0] != "1" || !sandbox.ValidID(parts[2]) {
		return sandbox.Position{}, bad
	}
	at, err := strconv.ParseInt(parts[1], 10, 64)
	if err != nil || at <= 0 {
		return sandbox.Position{}, bad
	}
	return sandbox.Position{CreatedAt: time.UnixMicro(at).UTC(), ID: sandbox.ID(parts[2])}, nil
}

// writePage answers with the page of a list that was read for f. Its rows are
// made by wire and sent one by one: a list is never held twice.
func writePage[T any](w http.ResponseWriter, l sandbox.Listing, f sandbox.Filter, page int, wire func(sandbox.Sandbox) T) {
	var next *string
	if l.More {
		cursor := encodeCursor(l.Sandboxes[len(l.Sandboxes)-1])
		next = &cursor
	}
	out := openRows(w, len(l.Sandboxes)*maxMetadata)
	_, _ = out.WriteString(`{"data":`)
	writeRows(out, l.Sandboxes, wire)
	tail, err := json.Marshal(struct {
		Meta api.Meta `json:"meta"`
		Page api.Page `json:"page"`
		Next *string  `json:"next_cursor"`
	}{
		api.Meta{Total: l.Total, Page: page, PerPage: f.Limit},
		api.Page{Page: page, PageSize: f.Limit, Total: l.Total}, next,
	})
	if err != nil {
		panic("answer can't be encoded: " + err.Error())
	}
	_ = out.WriteByte(',')
	_, _ = out.Write(tail[1:])
	_ = out.Flush() // a client that has left is no error of ours
}
