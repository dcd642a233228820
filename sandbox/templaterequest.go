package sandbox

// TemplateRequest asks for a template of a tenant's own.
type TemplateRequest struct {
	Name        string
	Slug        string // empty: made of Name
	Description string
	Tags        []string
	Metadata    map[string]any
	Pool        PoolSize
	Spec        BuildSpec
}

// TemplateChange changes a template. What is nil stays as it is.
type TemplateChange struct {
	Name, Description *string
	Tags              *[]string
	Metadata          *map[string]any
	Pool              *PoolSize
	Spec              *BuildSpec // another one is built, and serves once that is done
}
