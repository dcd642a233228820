package api

import "time"

// ComputeSize is a published size.
type ComputeSize struct {
	Slug             string           `json:"slug"`
	Name             string           `json:"name"`
	VCPUs            int64            `json:"vcpus"`
	MemoryMB         int64            `json:"memory_mb"`
	DiskGB           int64            `json:"disk_gb"`
	DiskSizeMB       int64            `json:"disk_size_mb"`
	PriceHour        int64            `json:"price_hour"`
	Available        bool             `json:"available"` // within the operator's caps
	ResourceContract ResourceContract `json:"resource_contract"`
}

// Region is where sandboxes run: this installation.
type Region struct {
	ID        string `json:"id"`
	Slug      string `json:"slug"`
	Name      string `json:"name"`
	Available bool   `json:"available"`
	Default   bool   `json:"default"`
}

// Product is a kind of compute.
type Product struct {
	ID   string `json:"id"`
	Slug string `json:"slug"`
	Name string `json:"name"`
}

// Catalog is the answer of GET /compute/catalog.
type Catalog struct {
	Products    []Product     `json:"products"`
	Sizes       []ComputeSize `json:"sizes"`
	Regions     []Region      `json:"regions"`
	GeneratedAt time.Time     `json:"generated_at"`
}

// ShapeContract is a size as GET /templates publishes it.
type ShapeContract struct {
	ContractID      string `json:"contract_id"`
	ContractVersion string `json:"contract_version"`
	Product         string `json:"product"`
	Size            string `json:"size"`
	VCPUs           int64  `json:"vcpus"`
	MemoryMB        int64  `json:"memory_mb"`
	DiskSizeMB      int64  `json:"disk_size_mb"`
}

// ProductTemplate is a template as GET /templates shows it.
type ProductTemplate struct {
	ID                string         `json:"id"`
	Name              string         `json:"name"`
	Product           string         `json:"product"`
	DefaultSize       *string        `json:"default_size"` // null: no published one
	Primitive         string         `json:"primitive"`
	SDKName           string         `json:"sdk_name"`
	CLIName           string         `json:"cli_name"`
	InstalledTools    []string       `json:"installed_tools"`
	ReadinessContract string         `json:"readiness_contract"`
	BenchmarkLane     string         `json:"benchmark_lane"`
	Aliases           []string       `json:"aliases"`
	Sizes             []TemplateSize `json:"sizes"`
	Readiness         string         `json:"readiness"`
}

// TemplateSize is a size in which a template can be had.
type TemplateSize struct {
	Size             string           `json:"size"`
	State            string           `json:"state"`
	ResourceContract ResourceContract `json:"resource_contract"`
}

// ProductTemplates is the answer of GET /templates.
type ProductTemplates struct {
	Data            []ProductTemplate          `json:"data"`
	Templates       []ProductTemplate          `json:"templates"` // data again
	ShapeContracts  map[string][]ShapeContract `json:"shape_contracts"`
	ReadinessStates []string                   `json:"readiness_states"`
}
