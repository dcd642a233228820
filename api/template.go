package api

import "time"

// Template is one entry of the catalogue: the union of what public clients read.
type Template struct {
	ID              string    `json:"id"`
	Slug            string    `json:"slug"`
	Name            string    `json:"name"`
	Description     string    `json:"description"`
	ImageID         string    `json:"image_id"`
	Category        string    `json:"category"`
	Categories      []string  `json:"categories"`
	Tags            []string  `json:"tags"`
	CPUCount        int64     `json:"cpu_count"`
	VCPUs           int64     `json:"vcpus"`
	DefaultCPU      int64     `json:"default_cpu"`
	MemoryMB        int64     `json:"memory_mb"`
	DefaultMemoryMB int64     `json:"default_memory_mb"`
	DiskMB          int64     `json:"disk_mb"`
	Workdir         string    `json:"workdir"`
	Status          string    `json:"status"`
	Default         bool      `json:"default"`
	BuiltIn         bool      `json:"built_in"`
	IsOfficial      bool      `json:"is_official"`
	Public          bool      `json:"public"`
	CreatedAt       time.Time `json:"created_at"`
	InsertedAt      time.Time `json:"inserted_at"`
	UpdatedAt       time.Time `json:"updated_at"`
}

// TemplateList is the answer of GET /sandbox-templates.
type TemplateList struct {
	DefaultTemplateID string     `json:"default_template_id"`
	Data              []Template `json:"data"`
}

// Status is the answer of GET /healthz and GET /readyz.
type Status struct {
	Status  string `json:"status"`
	Version string `json:"version,omitempty"`
}
