package api

import "time"

// Template is one entry of the catalogue: the union of what public clients read.
// ID is the slug of an official one. Sizes and what is run are of the revision
// that serves, or, before there is one, of BuildSpec.
type Template struct {
	ID              string          `json:"id"`
	Slug            string          `json:"slug"`
	Name            string          `json:"name"`
	Description     string          `json:"description"`
	TenantID        *string         `json:"tenant_id"` // null: official
	ImageID         string          `json:"image_id"`
	ImageRef        string          `json:"image_ref"`
	Category        string          `json:"category"`
	Categories      []string        `json:"categories"`
	Tags            []string        `json:"tags"`
	Runtimes        []string        `json:"runtimes"`
	CPUCount        int64           `json:"cpu_count"`
	VCPUs           int64           `json:"vcpus"`
	DefaultCPU      int64           `json:"default_cpu"`
	MemoryMB        int64           `json:"memory_mb"`
	DefaultMemoryMB int64           `json:"default_memory_mb"`
	DiskMB          int64           `json:"disk_mb"`
	Workdir         string          `json:"workdir"`
	PreviewPort     *int            `json:"preview_port"`
	InstallCommand  *string         `json:"install_command"`
	StartCommand    *string         `json:"start_command"`
	ReadinessProbe  *ReadinessProbe `json:"readiness_probe"`
	ArtifactPaths   []string        `json:"artifact_paths"`
	BuildSpec       BuildSpec       `json:"build_spec"` // as last set
	Pool            Pool            `json:"pool"`
	Metadata        map[string]any  `json:"metadata"`
	Status          string          `json:"status"`   // draft, building, ready or failed
	Revision        *string         `json:"revision"` // that serves; null: none yet
	// PendingRevision is the id of the build whose revision serves next; null: none is on its way.
	PendingRevision *string   `json:"pending_revision"`
	CurrentBuildID  *string   `json:"current_build_id"` // the newest build
	AliasOf         *string   `json:"alias_of,omitempty"`
	Default         bool      `json:"default"`
	BuiltIn         bool      `json:"built_in"`
	IsOfficial      bool      `json:"is_official"`
	Public          bool      `json:"public"`
	CreatedAt       time.Time `json:"created_at"`
	InsertedAt      time.Time `json:"inserted_at"`
	UpdatedAt       time.Time `json:"updated_at"`
}

// ReadinessProbe says how to find out that a template's app answers.
type ReadinessProbe struct {
	Type    string `json:"type"` // http or command
	URL     string `json:"url,omitempty"`
	Command string `json:"command,omitempty"`
}

// Pool bounds the warm members of a template.
type Pool struct {
	MinIdle int `json:"minIdle"`
	MaxIdle int `json:"maxIdle"`
}

// BuildStep is one step of a build; each of the three may be set.
type BuildStep struct {
	Run     string            `json:"run,omitempty"`
	Workdir string            `json:"workdir,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
}

// BuildSpec says what a template is made of. Only From is needed.
type BuildSpec struct {
	From          string            `json:"from"`
	VCPU          int64             `json:"vcpu,omitempty"`
	MemoryMiB     int64             `json:"memoryMib,omitempty"`
	DiskMiB       int64             `json:"diskMib,omitempty"`
	Steps         []BuildStep       `json:"steps"`
	Env           map[string]string `json:"env"`
	Workdir       string            `json:"workdir,omitempty"`
	User          string            `json:"user,omitempty"`
	StartCmd      string            `json:"startCmd,omitempty"`
	ReadyCmd      string            `json:"readyCmd,omitempty"`
	PreviewPort   int               `json:"previewPort,omitempty"`
	ArtifactPaths []string          `json:"artifactPaths"`

	Packages   []string `json:"packages,omitempty"`
	InstallCmd string   `json:"installCmd,omitempty"`
	WarmStart  bool     `json:"warm_start,omitempty"`
}

// TemplateList is the answer of GET /sandbox-templates.
type TemplateList struct {
	DefaultTemplateID string     `json:"default_template_id"`
	Data              []Template `json:"data"`
}

// TemplateRequest is the body of POST and PUT /sandbox-templates. BuildSpec is a
// [BuildSpec] or whatever has its JSON form. In a PUT what is nil stays.
type TemplateRequest struct {
	Name        string         `json:"name,omitempty"`
	Slug        string         `json:"slug,omitempty"` // POST only
	Description *string        `json:"description,omitempty"`
	Tags        []string       `json:"tags,omitempty"`
	Metadata    map[string]any `json:"metadata,omitempty"`
	Pool        *Pool          `json:"pool,omitempty"`
	BuildSpec   any            `json:"build_spec,omitempty"`
}

// BuildRequest is the body of POST /sandbox-templates/{id}/builds.
type BuildRequest struct {
	BuildSpec any `json:"build_spec,omitempty"` // nil: the template's
}

// ValidBuildSpec is the answer of POST /sandbox-templates/validate.
type ValidBuildSpec struct {
	Valid     bool      `json:"valid"`
	BuildSpec BuildSpec `json:"build_spec"`
	Errors    []Problem `json:"errors"`
}

// Problem is one thing that is wrong with a BuildSpec.
type Problem struct {
	Code    string `json:"code"`
	Field   string `json:"field"`
	Message string `json:"message"`
}

// Build is one attempt to make a template's BuildSpec its revision.
type Build struct {
	ID                string        `json:"id"`
	SandboxTemplateID string        `json:"sandbox_template_id"`
	TemplateID        string        `json:"template_id"`
	SourceType        string        `json:"source_type"`
	State             string        `json:"state"`
	Status            string        `json:"status"`
	BuildSpec         BuildSpec     `json:"build_spec"`
	BaseDigest        *string       `json:"base_digest"`
	Revision          *string       `json:"revision"`
	ImageID           *string       `json:"image_id"`
	LogURL            string        `json:"log_url"`
	ErrorCode         *string       `json:"error_code"`
	ErrorMessage      *string       `json:"error_message"`
	Error             *string       `json:"error"` // text, never an object
	Certification     *string       `json:"certification"`
	Metadata          BuildMetadata `json:"metadata"`
	StartedAt         *time.Time    `json:"started_at"`
	FinishedAt        *time.Time    `json:"finished_at"`
	DurationMS        *int64        `json:"duration_ms"`
	InsertedAt        time.Time     `json:"inserted_at"`
	CreatedAt         time.Time     `json:"created_at"`
	UpdatedAt         time.Time     `json:"updated_at"`
}

// BuildMetadata holds a build's changes of state, without its output.
type BuildMetadata struct {
	Events []BuildEvent `json:"events"`
}

// Final tells whether nothing follows the build's state.
func (b Build) Final() bool {
	return b.State == "ready" || b.State == "failed" || b.State == "cancelled"
}

// BuildEvent is one line of a build's log.
type BuildEvent struct {
	Seq        int64     `json:"seq"`
	Event      string    `json:"event"` // a state, step_started, step_output, step_finished, step_cached, progress or error
	State      string    `json:"state"`
	Step       int       `json:"step,omitempty"` // from 1
	Text       string    `json:"text,omitempty"`
	DurationMS *int64    `json:"duration_ms,omitempty"`
	At         time.Time `json:"at"`
}

// BuildLog is the answer of GET /sandbox-template-builds/{id}/logs.
type BuildLog struct {
	BuildID string       `json:"build_id"`
	State   string       `json:"state"`
	Events  []BuildEvent `json:"events"`
	Data    []BuildEvent `json:"data"` // the same
}

// Status is the answer of GET /healthz and GET /readyz.
type Status struct {
	Status  string `json:"status"`
	Version string `json:"version,omitempty"`
}
