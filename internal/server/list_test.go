package server

import (
	"fmt"
	"net/url"
	"testing"

	"silica.dev/silica/sandbox"
)

// Contracts §2.8: "accept page, page_size, per_page, limit, cursor; return data,
// meta and page objects"; "return everything up to, say, 1000 when no paging
// parameter is given".
func TestListPagesInEveryDialect(t *testing.T) {
	_, _, base := serveWorld(t, Config{})
	base += "/api/v1/sandboxes"
	for i := range 7 {
		if a := request(t, "POST", base, fmt.Sprintf(`{"name":"n%d"}`, i)); a.status != 201 {
			t.Fatal(a.raw)
		}
	}
	for _, tt := range []struct {
		query            string
		rows, page, size int
		total            int
		more             bool
	}{
		{"", 7, 1, 1000, 7, false},
		{"?page=2&page_size=3", 3, 2, 3, 7, true},
		{"?page=3&per_page=3", 1, 3, 3, 7, false},
		{"?page=1", 7, 1, 20, 7, false},
		{"?limit=2", 2, 1, 2, 7, true},
		{"?page=9&per_page=3", 0, 9, 3, 7, false},
		{"?name=n3", 1, 1, 1000, 1, false},
		{"?state=running,paused&state=error", 7, 1, 1000, 7, false},
		{"?state=destroyed", 0, 1, 1000, 0, false},
		{"?template_id=miosa-sandbox", 7, 1, 1000, 7, false},
	} {
		a := request(t, "GET", base+tt.query, "")
		rows, _ := a.body["data"].([]any)
		meta, _ := a.body["meta"].(map[string]any)
		page, _ := a.body["page"].(map[string]any)
		if a.status != 200 || len(rows) != tt.rows {
			t.Errorf("%s: %d, %d rows, want %d: %.200s", tt.query, a.status, len(rows), tt.rows, a.raw)
			continue
		}
		for _, got := range []struct {
			name string
			got  any
			want int
		}{
			{"meta.total", meta["total"], tt.total}, {"meta.page", meta["page"], tt.page}, {"meta.per_page", meta["per_page"], tt.size},
			{"page.total", page["total"], tt.total}, {"page.page", page["page"], tt.page}, {"page.page_size", page["page_size"], tt.size},
		} {
			if got.got != float64(got.want) {
				t.Errorf("%s: %s = %v, want %d", tt.query, got.name, got.got, got.want)
			}
		}
		if (a.body["next_cursor"] != nil) != tt.more {
			t.Errorf("%s: next_cursor = %v", tt.query, a.body["next_cursor"])
		}
	}
	seen := map[any]bool{}
	next := ""
	for range 10 {
		a := request(t, "GET", base+"?limit=3&cursor="+url.QueryEscape(next), "")
		for _, row := range a.body["data"].([]any) {
			seen[row.(map[string]any)["name"]] = true
		}
		cursor, more := a.body["next_cursor"].(string)
		if next = cursor; !more {
			break
		}
	}
	if len(seen) != 7 || next != "" {
		t.Errorf("by cursor: %v, then %q", seen, next)
	}
	id := sandbox.Sandbox{ID: sandbox.NewID()}
	for _, query := range []string{
		"?cursor=x", "?cursor=" + url.QueryEscape("MS4xLng"), "?page=2&cursor=" + encodeCursor(id), "?page=0", "?limit=-1", "?page_size=x",
		"?state=warm", "?state=running,nope", "?metadata.=x", "?metadata.a=1&metadata.a=2",
	} {
		if a := request(t, "GET", base+query, ""); a.status != 422 {
			t.Errorf("%s: %d, want 422", query, a.status)
		}
	}
}

func TestLabelFilters(t *testing.T) {
	for _, tt := range []struct {
		query string
		want  string
	}{
		{"metadata.a=1&metadata[b c]=2", "map[a:1 b c:2] []"},
		{"metadata.a.b=1&metadata.empty=", "map[a.b:1 empty:] []"},
		{"tag=x&tag=y,z&tags=a,b", "map[] [x y,z a b]"},
		{"metadata=1&other=2", "map[] []"},
	} {
		q, err := url.ParseQuery(tt.query)
		if err != nil {
			t.Fatal(err)
		}
		var f sandbox.Filter
		if err := labelFilters(q, &f); err != nil {
			t.Errorf("%s: %v", tt.query, err)
		} else if got := fmt.Sprint(f.Metadata, f.Tags); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.query, got, tt.want)
		}
	}
}
