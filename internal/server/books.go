package server

import (
	"math"
	"net/http"
	"time"

	"silica.dev/silica/api"
	"silica.dev/silica/sandbox"
)

func wireQuota(q sandbox.ExternalQuota) api.Quota {
	return api.Quota{
		ExternalUserID: q.User, MaxSandboxes: q.MaxSandboxes, MaxConcurrent: q.MaxConcurrent, MaxStorageGB: q.MaxStorageGB,
		MaxCreditCents: q.MaxCreditCents, CurrentSandboxes: q.Sandboxes,
	}
}

// externalUser reads the tenant's own name of a user from the path.
func externalUser(r *http.Request, c sandbox.Caller) (string, error) {
	if !tenantWide(c) {
		return "", errConfined
	}
	id := param(r, "external_user_id")
	f := fields{}
	if f.check("external_user_id", id, maxLabel); id == "" {
		f.reject("external_user_id", "is missing")
	}
	return id, f.err
}

func (s *Server) getQuota(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	user, err := externalUser(r, c)
	if err != nil {
		return err
	}
	q, err := s.deps.Books.Quota(r.Context(), c.Tenant, user)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, wireQuota(q))
	return nil
}

func (s *Server) setQuota(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	user, err := externalUser(r, c)
	if err != nil {
		return err
	}
	f, err := readFields(r)
	if err != nil {
		return err
	}
	number := func(name string) int64 {
		n, _ := f.integer(0, 1<<30, name)
		return n
	}
	q := sandbox.ExternalQuota{
		User: user, MaxSandboxes: number("max_sandboxes"), MaxConcurrent: number("max_concurrent"),
		MaxStorageGB: number("max_storage_gb"), MaxCreditCents: number("max_credit_cents"),
	}
	if f.err != nil {
		return f.err
	}
	if err := s.deps.Books.SetQuota(r.Context(), c.Tenant, q); err != nil {
		return err
	}
	return s.getQuota(w, r, c)
}

func (s *Server) deleteQuota(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	user, err := externalUser(r, c)
	if err != nil {
		return err
	}
	if err := s.deps.Books.DeleteQuota(r.Context(), c.Tenant, user); err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Deleted{ID: user, Deleted: true})
	return nil
}

// getPlan tells what the tenant may have and has, in integers only: a public
// client decodes nothing else.
func (s *Server) getPlan(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !tenantWide(c) {
		return errConfined
	}
	t, err := s.deps.Accounts.Tenant(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	has, err := s.deps.Books.Use(r.Context(), c.Tenant)
	if err != nil {
		return err
	}
	most := t.MaxSandboxes
	if most == 0 {
		most = s.cfg.MaxSandboxes
	}
	writeOne(w, http.StatusOK, api.Plan{
		TenantID: string(t.ID), Plan: t.Plan, Name: t.Name,
		Limits: map[string]int64{
			"max_sandboxes": int64(most), "max_vcpus": t.Limits.MilliCPU / sandbox.Core, "max_memory_mb": t.Limits.Memory / sandbox.MiB,
			"max_storage_mb": t.Limits.Disk / sandbox.MiB, "max_snapshots_mb": t.MaxSaved / sandbox.MiB, "max_api_keys": int64(t.MaxKeys), "requests_per_minute": int64(s.cfg.RateLimit),
		},
		Usage: map[string]int64{
			"sandboxes": has.Sandboxes, "sandboxes_kept": has.Kept, "vcpus": (has.MilliCPU + sandbox.Core - 1) / sandbox.Core,
			"memory_mb": has.Memory / sandbox.MiB, "storage_mb": has.Disk / sandbox.MiB, "snapshots_mb": has.Saved / sandbox.MiB, "api_keys": has.Keys,
		},
	})
	return nil
}

// usageFilter reads what usage is asked about: from and to, or period, which is
// day, week, month, or a month like 2030-01. Without any: this month.
func usageFilter(r *http.Request, c sandbox.Caller) (f sandbox.UsageFilter, err error) {
	q := r.URL.Query()
	f = sandbox.UsageFilter{
		Tenant: c.Tenant, Workspace: q.Get("workspace_id"), Project: q.Get("project_id"),
		External: sandbox.External{
			Workspace: q.Get("external_workspace_id"), User: q.Get("external_user_id"), Project: q.Get("external_project_id"),
		},
	}
	if f.Workspace != "" && !c.Sees(f.Workspace) {
		return f, noWorkspace
	}
	orElse(&f.Workspace, c.Workspace)
	now := time.Now().UTC()
	today := now.Truncate(24 * time.Hour)
	end := now
	switch period := q.Get("period"); period {
	case "", "month", "monthly", "current_month":
		f.Window.From = time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	case "hour":
		f.Window.From = now.Add(-time.Hour)
	case "day", "daily", "today":
		f.Window.From = today
	case "week", "weekly":
		f.Window.From = today.AddDate(0, 0, -(int(now.Weekday())+6)%7)
	default:
		month, err := time.Parse("2006-01", period)
		if err != nil || month.Year() < 1970 {
			return f, sandbox.Field("period", "must be hour, day, week, month, or a month like 2030-01")
		}
		f.Window.From, end = month, month.AddDate(0, 1, 0)
	}
	from, err := moment(q.Get("from"), "from")
	if err != nil {
		return f, err
	}
	to, err := moment(q.Get("to"), "to")
	if err != nil {
		return f, err
	}
	if !from.IsZero() {
		f.Window.From, end = from, now
	}
	if !to.IsZero() {
		end = to
	}
	if f.Window.To = end; end.After(now) {
		f.Window.To = now // nothing is used in the future
	}
	if f.Window.To.Before(f.Window.From) {
		if !to.IsZero() && to.Before(f.Window.From) {
			return f, sandbox.Field("to", "must not be before from")
		}
		f.Window.To = f.Window.From
	}
	return f, nil
}

func (s *Server) getUsage(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := usageFilter(r, c)
	if err != nil {
		return err
	}
	by := sandbox.GroupBy(r.URL.Query().Get("group_by"))
	if by == "workspace" || by == "project" || by == "external_user" || by == "external_workspace" || by == "external_project" {
		by += "_id"
	}
	sums, err := s.deps.Books.SumUsage(r.Context(), f, by)
	if err != nil {
		return err
	}
	report := api.UsageReport{PeriodStart: f.Window.From, PeriodEnd: f.Window.To, GroupBy: string(by), Results: []api.UsageResult{}}
	for _, u := range sums {
		res := api.UsageResult{
			SandboxSeconds: int64(u.Runtime / time.Second), ComputerSeconds: int64(u.Runtime / time.Second),
			ActiveCPUSeconds: round(u.CPU.Seconds()), StorageGBHours: round(gbHours(u)), NetworkInBytes: u.NetworkIn, NetworkOutBytes: u.NetworkOut,
			Sessions: u.Runs, CreditCents: s.cfg.Prices.Cost(u.MilliCPU, u.MemoryMiB).Whole(),
		}
		switch by {
		case sandbox.ByExternalUser:
			res.ExternalUserID = u.Group
		case sandbox.ByExternalProject:
			res.ExternalProjectID = u.Group
		case sandbox.ByExternalWorkspace:
			res.ExternalWorkspaceID = u.Group
		case sandbox.ByWorkspace:
			res.WorkspaceID = u.Group
		case sandbox.ByProject:
			res.ProjectID = u.Group
		case sandbox.ByDay:
			res.Date = u.Group
		}
		report.Results = append(report.Results, res)
	}
	writeOne(w, http.StatusOK, report)
	return nil
}

// gbHours is the disk of what ran, times how long.
func gbHours(u sandbox.UsageSum) float64 {
	return float64(u.DiskMiB) / 1024 / float64(time.Hour/time.Millisecond)
}

// round cuts what nobody reads from a number.
func round(x float64) float64 { return math.Round(x*1e4) / 1e4 }

func (s *Server) getUsageSummary(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := usageFilter(r, c)
	if err != nil {
		return err
	}
	sums, err := s.deps.Books.SumUsage(r.Context(), f, sandbox.ByNothing)
	if err != nil {
		return err
	}
	var all sandbox.UsageSum
	for _, u := range sums {
		all.Add(u)
	}
	a := api.UsageSummary{
		PeriodStart: f.Window.From, PeriodEnd: f.Window.To, ComputeHours: round(all.Runtime.Hours()),
		BandwidthGB: round(float64(all.NetworkIn+all.NetworkOut) / (1 << 30)), TotalCredits: s.cfg.Prices.Cost(all.MilliCPU, all.MemoryMiB).Whole(),
	}
	if hours := f.Window.To.Sub(f.Window.From).Hours(); hours > 0 {
		a.StorageGB = round(gbHours(all) / hours)
	}
	writeOne(w, http.StatusOK, a)
	return nil
}

func (s *Server) listSessions(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	f, err := usageFilter(r, c)
	if err != nil {
		return err
	}
	now := time.Now()
	return writeFetched(w, r, func(limit, offset int) ([]sandbox.Run, int, error) {
		return s.deps.Books.Runs(r.Context(), f, limit, offset)
	}, func(run sandbox.Run) api.UsageSession {
		end := run.EndedAt
		if end.IsZero() {
			end = now
		}
		ms := max(end.Sub(run.StartedAt).Milliseconds(), 0)
		return api.UsageSession{
			ID: string(run.Sandbox) + "@" + run.StartedAt.UTC().Format("20060102T150405.000000"), SandboxID: string(run.Sandbox), ComputerID: string(run.Sandbox),
			WorkspaceID: run.Workspace, ProjectID: run.Project,
			ExternalWorkspaceID: run.External.Workspace, ExternalUserID: run.External.User, ExternalProjectID: run.External.Project,
			StartedAt: run.StartedAt.UTC(), EndedAt: timeOrNull(run.EndedAt), DurationSeconds: ms / 1000, CPUMillis: run.CPU.Milliseconds(),
			NetworkInBytes: run.NetworkIn, NetworkOutBytes: run.NetworkOut,
			CreditCents: s.cfg.Prices.Cost(ms*run.MilliCPU, ms*(run.Memory/sandbox.MiB)).Whole(),
		}
	})
}

func (s *Server) getBalance(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !tenantWide(c) {
		return errConfined
	}
	balance, _, _, err := s.deps.Books.Balance(r.Context(), c.Tenant, sandbox.Window{})
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.Balance{Balance: balance.Whole(), BalanceCredits: balance.Whole(), Billing: s.cfg.Prices.On()})
	return nil
}

func wireCredit(e sandbox.Entry) api.CreditEntry {
	credits := func(c sandbox.Credits) float64 { return float64(c) / float64(sandbox.Credit) }
	return api.CreditEntry{
		ID: e.ID, Type: e.Kind, Amount: credits(e.Amount), BalanceAfter: credits(e.Balance), Description: e.Note,
		SandboxID: string(e.Sandbox), WorkspaceID: e.Workspace, ExternalUserID: e.User, CreatedAt: e.At.UTC(),
	}
}

func (s *Server) listTransactions(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !tenantWide(c) {
		return errConfined
	}
	return writeFetched(w, r, func(limit, offset int) ([]sandbox.Entry, int, error) {
		return s.deps.Books.Entries(r.Context(), c.Tenant, limit, offset)
	}, wireCredit)
}

func (s *Server) getCreditUsage(w http.ResponseWriter, r *http.Request, c sandbox.Caller) error {
	if !tenantWide(c) {
		return errConfined
	}
	f, err := usageFilter(r, c)
	if err != nil {
		return err
	}
	balance, granted, used, err := s.deps.Books.Balance(r.Context(), c.Tenant, f.Window)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusOK, api.CreditUsage{
		PeriodStart: f.Window.From, PeriodEnd: f.Window.To, Used: used.Whole(), Granted: granted.Whole(), Balance: balance.Whole(),
	})
	return nil
}

// maxGrant bounds one grant, so that sums stay countable.
const maxGrant = 1_000_000_000

func (s *Server) grantCredits(w http.ResponseWriter, r *http.Request, _ sandbox.Caller) error {
	f, err := readFields(r)
	if err != nil {
		return err
	}
	amount, ok := f.integer(-maxGrant, maxGrant, "amount", "credits")
	if !ok || amount == 0 {
		f.reject("amount", "is missing")
	}
	note := f.label(maxLabel, "note", "description")
	key := r.Header.Get(api.HeaderIdempotencyKey)
	f.check(api.HeaderIdempotencyKey, key, maxIdempotent)
	if f.err != nil {
		return f.err
	}
	e, err := s.deps.Books.Grant(r.Context(), sandbox.TenantID(param(r, "id")), sandbox.Credits(amount)*sandbox.Credit, note, key)
	if err != nil {
		return err
	}
	writeOne(w, http.StatusCreated, wireCredit(e))
	return nil
}
