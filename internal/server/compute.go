package server

import (
	"net/http"
	"slices"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

// computeRoutes publish what can be had, for clients that show a catalogue.
func (s *Server) computeRoutes() []route {
	return []route{
		{"GET", v1 + "/compute/catalog", templatesRead, counted, s.catalog},
		{"GET", v1 + "/compute/sizes", templatesRead, counted, s.sizes},
		{"GET", v1 + "/compute/regions", templatesRead, counted, s.regions},
		{"GET", v1 + "/compute/templates", templatesRead, counted, s.computeTemplates},
		{"GET", v1 + "/templates", templatesRead, counted, s.productTemplates},
	}
}

// product is what all sandboxes are.
const product = "sandbox"

func contractOf(z *api.Size) *api.ResourceContract {
	return &api.ResourceContract{
		ID: product + "/" + z.Name + "@v1", Product: product, Size: z.Name, Version: "v1",
		VCPUs: z.CPUCount, MemoryMB: z.MemoryMB, DiskSizeMB: z.DiskSize,
	}
}

// allowed tells whether a named size is within the operator's caps.
func (s *Server) allowed(z api.Size) bool {
	res, caps := resourcesOf(z), s.cfg.NamedCaps
	return res.MilliCPU <= caps.MilliCPU && res.Memory <= caps.Memory && res.Disk <= caps.Disk
}

func (s *Server) computeSizes() []api.ComputeSize {
	list := []api.ComputeSize{}
	for _, z := range api.Sizes {
		list = append(list, api.ComputeSize{
			Slug: z.Name, Name: z.Name, VCPUs: z.CPUCount, MemoryMB: z.MemoryMB, DiskGB: z.DiskSize / 1024, DiskSizeMB: z.DiskSize,
			Available: s.allowed(z), ResourceContract: *contractOf(&z),
		})
	}
	return list
}

// computeRegions is the one region there is.
func computeRegions() []api.Region {
	return []api.Region{{ID: "local", Slug: "local", Name: "This installation", Available: true, Default: true}}
}

func data[T any](w http.ResponseWriter, list []T) {
	writeJSON(w, http.StatusOK, struct {
		Data []T `json:"data"`
	}{list})
}

func (s *Server) catalog(w http.ResponseWriter, _ *http.Request, _ sandbox.Caller) error {
	writeOne(w, http.StatusOK, api.Catalog{
		Products: []api.Product{{ID: product, Slug: product, Name: "Sandbox"}},
		Sizes:    s.computeSizes(), Regions: computeRegions(), GeneratedAt: time.Now().UTC(),
	})
	return nil
}

func (s *Server) sizes(w http.ResponseWriter, _ *http.Request, _ sandbox.Caller) error {
	data(w, s.computeSizes())
	return nil
}

func (s *Server) regions(w http.ResponseWriter, _ *http.Request, _ sandbox.Caller) error {
	data(w, computeRegions())
	return nil
}

func (s *Server) computeTemplates(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	list, err := s.products(r, c)
	if err != nil {
		return err
	}
	data(w, list)
	return nil
}

func (s *Server) productTemplates(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	list, err := s.products(r, c)
	if err != nil {
		return err
	}
	shapes := []api.ShapeContract{}
	for _, z := range api.Sizes {
		k := contractOf(&z)
		shapes = append(shapes, api.ShapeContract{
			ContractID: k.ID, ContractVersion: k.Version, Product: product, Size: z.Name,
			VCPUs: z.CPUCount, MemoryMB: z.MemoryMB, DiskSizeMB: z.DiskSize,
		})
	}
	writeJSON(w, http.StatusOK, api.ProductTemplates{
		Data: list, Templates: list,
		ShapeContracts:  map[string][]api.ShapeContract{product: shapes, "computer": {}},
		ReadinessStates: []string{"ready", "building", "draft", "failed"},
	})
	return nil
}

func (s *Server) products(r *http.Request, c sandbox.Caller) ([]api.ProductTemplate, error) {
	found, err := s.deps.Templates.Templates(r.Context(), c)
	if err != nil {
		return nil, err
	}
	sizes := []api.TemplateSize{}
	for _, z := range api.Sizes {
		if s.allowed(z) {
			sizes = append(sizes, api.TemplateSize{Size: z.Name, State: "ready", ResourceContract: *contractOf(&z)})
		}
	}
	var standard *string
	if z := sizeOf(s.cfg.Defaults); z != nil {
		standard = &z.Name
	}
	aliases := map[string][]string{}
	for name, slug := range s.deps.Templates.Aliases() {
		aliases[slug] = append(aliases[slug], name)
	}
	list := []api.ProductTemplate{}
	for _, t := range found {
		w := s.wireTemplate(t)
		other := append([]string{}, aliases[w.ID]...)
		slices.Sort(other)
		list = append(list, api.ProductTemplate{
			ID: w.ID, Name: w.Name, Product: product, DefaultSize: standard, Primitive: product, SDKName: w.ID, CLIName: w.ID,
			InstalledTools: []string{}, ReadinessContract: "agent@v1", BenchmarkLane: "snapshot", Aliases: other,
			Sizes: sizes, Readiness: w.Status,
		})
	}
	return list, nil
}
