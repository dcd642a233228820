package sandbox

import "time"

// Change is what a user may change of a sandbox that lives. nil leaves a field
// as it is.
type Change struct {
	Name     *string
	Slug     *string
	Tags     *[]string
	Metadata *map[string]any // in place of the old, not merged
	AlwaysOn *bool
	Timeout  *time.Duration // 0: the server's default
	Idle     *time.Duration // 0: no idle limit
	Persist  *bool
}

// Fields names what is set, as the wire spells it.
func (c Change) Fields() []string {
	var names []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"name", c.Name != nil}, {"slug", c.Slug != nil}, {"tags", c.Tags != nil}, {"metadata", c.Metadata != nil},
		{"always_on", c.AlwaysOn != nil}, {"timeout_sec", c.Timeout != nil}, {"idle_timeout_sec", c.Idle != nil},
	} {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

// Apply sets what c changes.
func (c Change) Apply(sb *Sandbox) {
	set(&sb.Name, c.Name)
	set(&sb.Slug, c.Slug)
	set(&sb.Tags, c.Tags)
	set(&sb.Metadata, c.Metadata)
	set(&sb.AlwaysOn, c.AlwaysOn)
	set(&sb.Timeout, c.Timeout)
	set(&sb.Idle, c.Idle)
	set(&sb.Persist, c.Persist)
}

func set[T any](field, value *T) {
	if value != nil {
		*field = *value
	}
}
