package sandbox

import (
	"strings"
	"time"
)

// Step is one step of a build: each of the three may be set, and Workdir and Env
// hold for those after it, too. Env stays for the time sandboxes run, as Docker's does.
type Step struct {
	Run     string            `json:"run,omitempty"`
	Workdir string            `json:"workdir,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
}

// BuildSpec says what a template is made of: the public BuildSpec's fields, and
// below them ours. It is normalised: no defaults are left open.
type BuildSpec struct {
	From          string            `json:"from"` // base image, "template:" and the slug of another template, or see IsCaptured
	VCPU          int64             `json:"vcpu"`
	MemoryMiB     int64             `json:"memoryMib"`
	DiskMiB       int64             `json:"diskMib"`
	Steps         []Step            `json:"steps"`
	Env           map[string]string `json:"env"` // wins over the steps'
	Workdir       string            `json:"workdir"`
	User          string            `json:"user"`
	StartCmd      string            `json:"startCmd,omitempty"`
	ReadyCmd      string            `json:"readyCmd,omitempty"`
	PreviewPort   int               `json:"previewPort,omitempty"` // 0: none
	ArtifactPaths []string          `json:"artifactPaths"`

	Packages   []string `json:"packages,omitempty"`   // the base image's own, before the steps
	InstallCmd string   `json:"installCmd,omitempty"` // run by template/start before StartCmd
	// WarmStart has StartCmd run already, and ReadyCmd hold, in the memory that
	// copies start from.
	WarmStart bool `json:"warm_start,omitempty"`
}

// Resources is the size a sandbox of this template has by default.
func (b BuildSpec) Resources() Resources {
	return Resources{MilliCPU: b.VCPU * Core, Memory: b.MemoryMiB * MiB, Disk: b.DiskMiB * MiB}
}

// capturedBase begins the From of a template made of a sandbox: the sandbox's ID
// and, behind an @, what its files were stored as.
const capturedBase = "sandbox:"

// CapturedBase names the files that were captured of a sandbox as a base.
func CapturedBase(of ID, files Ref) string { return capturedBase + string(of) + "@" + string(files) }

// IsCaptured tells whether the spec stands on files of a sandbox, and on which.
func (b BuildSpec) IsCaptured() (Ref, bool) {
	rest, ok := strings.CutPrefix(b.From, capturedBase)
	_, files, _ := strings.Cut(rest, "@")
	return Ref(files), ok
}

// PoolSize bounds the warm members of a template: at least MinIdle stand ready,
// and up to MaxIdle while they are asked for.
type PoolSize struct {
	MinIdle int `json:"minIdle"`
	MaxIdle int `json:"maxIdle"`
}

// TemplateStatus is how far a template is.
type TemplateStatus string

const (
	TemplateDraft    TemplateStatus = "draft"    // never built
	TemplateBuilding TemplateStatus = "building" // has no revision yet, and one is being built
	TemplateReady    TemplateStatus = "ready"    // has a revision that serves
	TemplateBroken   TemplateStatus = "failed"   // has none, and the last build failed
)

// Template is a named, versioned recipe and what was built from it. Its fields
// from Revision to Env are of the revision that serves.
type Template struct {
	ID          string   // an official one's slug, else "tpl_…"
	Tenant      TenantID // empty: official, everybody's
	Slug        string   // "miosa-sandbox"; unique among the official and the tenant's own
	Name        string
	Description string
	Category    string
	Tags        []string
	Metadata    map[string]any
	Pool        PoolSize
	Status      TemplateStatus
	Spec        BuildSpec // as last set; Revision may still be of an earlier one

	Revision string // hash of the effective recipe; empty: none was ever built
	Image    Ref    // root file system, one EROFS file
	Workdir  string // where commands start; "/root" unless the recipe sets one
	User     string // who runs commands; empty: root
	Env      map[string]string
	Built    BuildSpec // the spec of Revision

	Pending   string // ID of the build that will replace Revision; empty: none
	LastBuild string // ID of the newest build

	CreatedAt time.Time
	UpdatedAt time.Time
	DeletedAt time.Time // set: it lives on only for what was started from it
}

// Seed is the memory and writable layer of a template's sandbox at rest, from
// which copies start.
type Seed struct {
	Template string // ID
	Revision string
	// Key is the driver's word for what this seed fixes beyond the revision:
	// its own version and whatever of the size can't change at restore.
	Key       string
	Ref       Ref
	CreatedAt time.Time
}
