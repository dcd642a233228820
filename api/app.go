package api

import "time"

// StartApp is the body of POST /sandboxes/{id}/template/start. What is left out
// is the template's.
type StartApp struct {
	Install        bool   `json:"install,omitempty"` // run the install command first
	InstallCommand string `json:"install_command,omitempty"`
	StartCommand   string `json:"start_command,omitempty"`
	Port           int    `json:"port,omitempty"`
	Workdir        string `json:"workdir,omitempty"`
	Restart        bool   `json:"restart,omitempty"` // end the one that runs first, even if it is the same
}

// What the app of a template is doing.
const (
	AppNotStarted = "not_started"
	AppInstalling = "installing" // its install command runs; the start command follows by itself
	AppStarted    = "started"    // it runs
	AppExited     = "exited"     // it ended by itself, well
	AppFailed     = "failed"
)

// App is the answer of POST /sandboxes/{id}/template/start.
type App struct {
	Status        string   `json:"status"` // started or installing
	SandboxID     string   `json:"sandbox_id"`
	TemplateID    string   `json:"template_id"`
	Workdir       string   `json:"workdir"`
	PreviewPort   *int     `json:"preview_port"`
	PreviewURL    *string  `json:"preview_url"`
	LogsPath      string   `json:"logs_path"`
	PIDPath       string   `json:"pid_path"`
	ArtifactPaths []string `json:"artifact_paths"`
	AlreadyRuns   bool     `json:"already_running"` // this call has started nothing
}

// Artifacts is the answer of GET /sandboxes/{id}/artifacts: where a template's
// results are, and what its app is doing.
type Artifacts struct {
	SandboxID     string       `json:"sandbox_id"`
	TemplateID    string       `json:"template_id"`
	Workdir       string       `json:"workdir"`
	ArtifactPaths []string     `json:"artifact_paths"`
	Preview       AppPreview   `json:"preview"`
	Lifecycle     AppLifecycle `json:"lifecycle"`
	LogsPath      string       `json:"logs_path"`
	PIDPath       string       `json:"pid_path"`
}

// AppPreview is where an app can be seen.
type AppPreview struct {
	URL  *string `json:"url"`
	Port *int    `json:"port"`
}

// AppLifecycle is what an app is doing.
type AppLifecycle struct {
	Status       string     `json:"status"` // one of the words above
	StartCommand *string    `json:"start_command"`
	LogsPath     string     `json:"logs_path"`
	PIDPath      string     `json:"pid_path"`
	PID          *string    `json:"pid"`
	ExitCode     *int32     `json:"exit_code"`
	StartedAt    *time.Time `json:"started_at"`
	EndedAt      *time.Time `json:"ended_at"`
}
