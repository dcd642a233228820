package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"strconv"

	"silica.dev/silica/sandbox"
)

// maxLabel bounds what can be looked for, in bytes. Longer values are kept in
// their sandbox's row, but not found by.
const maxLabel = 256

type label struct{ name, value string }

// labels are what a sandbox can be found by.
func labels(sb sandbox.Sandbox) map[label]bool {
	found := map[label]bool{}
	add := func(name, value string) {
		if len(name) <= maxLabel && len(value) <= maxLabel {
			found[label{name, value}] = true
		}
	}
	for _, tag := range sb.Tags {
		add("tag", tag)
	}
	for k, v := range sb.Metadata {
		if text, ok := plain(v); ok {
			add("metadata."+k, text)
		}
	}
	return found
}

// plain writes a value as a query would: objects, lists and null can't be asked for.
func plain(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case json.Number:
		return v.String(), true
	case int, int64, float64:
		return fmt.Sprint(v), true
	}
	return "", false
}

// label makes sb findable, if it is some tenant's.
func (t *tx) label(sb sandbox.Sandbox) error {
	if sb.Tenant == "" {
		return nil
	}
	for l := range labels(sb) {
		_, err := t.exec(`insert into labels (sandbox, tenant, name, value) values ($1, $2, $3, $4)`,
			string(sb.ID), string(sb.Tenant), l.name, l.value)
		if err != nil {
			return err
		}
	}
	return nil
}

// relabel makes sb findable by what it has now instead of what it had before.
func (t *tx) relabel(sb sandbox.Sandbox, before map[label]bool) error {
	if maps.Equal(labels(sb), before) {
		return nil
	}
	if _, err := t.exec(`delete from labels where sandbox = $1`, string(sb.ID)); err != nil {
		return err
	}
	return t.label(sb)
}
