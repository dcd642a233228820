package client_test

import (
	"context"
	"io/fs"
	"iter"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"silica.dev/silica/api"
	"silica.dev/silica/client"
)

// sb is the sandbox that the calls below are about.
const sb = "sbx_1"

// drained reads a stream to its end and returns its error.
func drained[T any](seq iter.Seq2[T, error]) (last error) {
	for _, err := range seq {
		last = err
	}
	return last
}

// failed is the error of a call whose answer is of no interest.
func failed[T any](_ T, err error) error { return err }

// calls is how the client makes every operation of the contract.
var calls = map[string]func(ctx context.Context, c *client.Client) error{
	"health":  func(ctx context.Context, c *client.Client) error { return c.Health(ctx) },
	"ready":   func(ctx context.Context, c *client.Client) error { return c.Ready(ctx) },
	"openAPI": func(ctx context.Context, c *client.Client) error { return failed(c.OpenAPI(ctx)) },
	"metrics": func(ctx context.Context, c *client.Client) error { return failed(c.ServerMetrics(ctx)) },
	"drain":   func(ctx context.Context, c *client.Client) error { return failed(c.Drain(ctx)) },
	"listTemplates": func(ctx context.Context, c *client.Client) error {
		return failed(c.Templates(ctx, client.TemplateFilter{}))
	},
	"getBuildSpecSchema": func(ctx context.Context, c *client.Client) error { return failed(c.BuildSpecSchema(ctx)) },
	"validateBuildSpec":  func(ctx context.Context, c *client.Client) error { return failed(c.ValidateBuildSpec(ctx, nil)) },
	"createTemplate": func(ctx context.Context, c *client.Client) error {
		return failed(c.CreateTemplate(ctx, api.TemplateRequest{}))
	},
	"createTemplateFrom": func(ctx context.Context, c *client.Client) error {
		return failed(c.CreateTemplateFrom(ctx, "s", api.TemplateRequest{}))
	},
	"changeTemplate": func(ctx context.Context, c *client.Client) error {
		return failed(c.ChangeTemplate(ctx, "t", api.TemplateRequest{}))
	},
	"deleteTemplate": func(ctx context.Context, c *client.Client) error { return c.DeleteTemplate(ctx, "t") },
	"createBuild":    func(ctx context.Context, c *client.Client) error { return failed(c.BuildTemplate(ctx, "t", nil)) },
	"listBuilds":     func(ctx context.Context, c *client.Client) error { return failed(c.Builds(ctx, "t")) },
	"getBuild":       func(ctx context.Context, c *client.Client) error { return failed(c.Build(ctx, "b")) },
	"getBuildLog":    func(ctx context.Context, c *client.Client) error { return failed(c.BuildLog(ctx, "b")) },
	"buildLogStream": func(ctx context.Context, c *client.Client) error { return drained(c.FollowBuild(ctx, "b", 0)) },
	"cancelBuild":    func(ctx context.Context, c *client.Client) error { return failed(c.CancelBuild(ctx, "b")) },
	"retryBuild":     func(ctx context.Context, c *client.Client) error { return failed(c.RetryBuild(ctx, "b")) },
	"getTemplate":    func(ctx context.Context, c *client.Client) error { return failed(c.Template(ctx, "t")) },
	"catalog":        func(ctx context.Context, c *client.Client) error { return failed(c.Catalog(ctx)) },
	"sizes":          func(ctx context.Context, c *client.Client) error { return failed(c.Sizes(ctx)) },
	"regions":        func(ctx context.Context, c *client.Client) error { return failed(c.Regions(ctx)) },

	"createSandbox":    func(ctx context.Context, c *client.Client) error { return failed(c.Create(ctx, api.CreateSandbox{})) },
	"listSandboxes":    func(ctx context.Context, c *client.Client) error { return drained(c.All(ctx, api.SandboxFilter{})) },
	"getSandbox":       func(ctx context.Context, c *client.Client) error { return failed(c.Get(ctx, sb)) },
	"getSandboxByName": func(ctx context.Context, c *client.Client) error { return failed(c.GetByName(ctx, "a/b")) },
	"deleteSandbox":    func(ctx context.Context, c *client.Client) error { return failed(c.Delete(ctx, sb)) },
	"updateSandbox": func(ctx context.Context, c *client.Client) error {
		return failed(c.Update(ctx, sb, api.UpdateSandbox{}))
	},
	"setTags":        func(ctx context.Context, c *client.Client) error { return failed(c.SetTags(ctx, sb, "a")) },
	"extendSandbox":  func(ctx context.Context, c *client.Client) error { return failed(c.Extend(ctx, sb, 60)) },
	"stopSandbox":    func(ctx context.Context, c *client.Client) error { return failed(c.Stop(ctx, sb)) },
	"startSandbox":   func(ctx context.Context, c *client.Client) error { return failed(c.Start(ctx, sb)) },
	"restartSandbox": func(ctx context.Context, c *client.Client) error { return failed(c.Restart(ctx, sb)) },
	"listStorage":    func(ctx context.Context, c *client.Client) error { return failed(c.Storage(ctx)) },
	"collectGarbage": func(ctx context.Context, c *client.Client) error { return failed(c.CollectGarbage(ctx)) },
	"pauseSandbox":   func(ctx context.Context, c *client.Client) error { return failed(c.Pause(ctx, sb)) },
	"takeSnapshot": func(ctx context.Context, c *client.Client) error {
		return failed(c.TakeSnapshot(ctx, sb, api.CreateSnapshot{}))
	},
	"snapshotEvents":       func(ctx context.Context, c *client.Client) error { return drained(c.SnapshotEvents(ctx, sb, "s")) },
	"listSandboxSnapshots": func(ctx context.Context, c *client.Client) error { return failed(c.SandboxSnapshots(ctx, sb)) },
	"listSnapshots": func(ctx context.Context, c *client.Client) error {
		return failed(c.Snapshots(ctx, api.SnapshotFilter{SandboxID: sb}))
	},
	"getSnapshot":    func(ctx context.Context, c *client.Client) error { return failed(c.Snapshot(ctx, "s")) },
	"deleteSnapshot": func(ctx context.Context, c *client.Client) error { return failed(c.DeleteSnapshot(ctx, "s")) },
	"exportSnapshot": func(ctx context.Context, c *client.Client) error { return failed(c.ExportSnapshot(ctx, "s")) },
	"importSnapshot": func(ctx context.Context, c *client.Client) error {
		return failed(c.ImportSnapshot(ctx, "tnt_1", strings.NewReader("x")))
	},
	"restoreSnapshot": func(ctx context.Context, c *client.Client) error { return failed(c.Restore(ctx, "s")) },
	"forkSandbox":     func(ctx context.Context, c *client.Client) error { return failed(c.Fork(ctx, sb, api.ForkSandbox{})) },
	"forkSnapshot": func(ctx context.Context, c *client.Client) error {
		return failed(c.Fork(ctx, "", api.ForkSandbox{SnapshotID: "s"}))
	},
	"readiness":       func(ctx context.Context, c *client.Client) error { return failed(c.Readiness(ctx, sb)) },
	"readinessStream": func(ctx context.Context, c *client.Client) error { return failed(c.WaitUntilReady(ctx, sb)) },
	"sandboxEvents":   func(ctx context.Context, c *client.Client) error { return drained(c.Events(ctx, sb, "")) },

	"exec": func(ctx context.Context, c *client.Client) error { return failed(c.Exec(ctx, sb, api.ExecRequest{})) },
	"execPython": func(ctx context.Context, c *client.Client) error {
		return failed(c.ExecPython(ctx, sb, api.ExecPythonRequest{}))
	},
	"execStream": func(ctx context.Context, c *client.Client) error {
		return drained(c.ExecStream(ctx, sb, api.ExecRequest{}))
	},
	"execSocket": func(ctx context.Context, c *client.Client) error { return c.Command(sb, "true").Run(ctx) },
	"tunnel":     func(ctx context.Context, c *client.Client) error { return failed(c.DialPort(ctx, sb, 80)) },

	"createTerminal": func(ctx context.Context, c *client.Client) error {
		return failed(c.OpenTerminal(ctx, sb, api.TerminalRequest{}))
	},
	"terminalStream": func(ctx context.Context, c *client.Client) error { return failed(c.AttachTerminal(ctx, sb, "s", 0)) },
	"listTerminals":  func(ctx context.Context, c *client.Client) error { return failed(c.Terminals(ctx, sb)) },
	"deleteTerminal": func(ctx context.Context, c *client.Client) error { return c.DeleteTerminal(ctx, sb, "s") },
	"resizeTerminal": func(ctx context.Context, c *client.Client) error { return c.ResizeTerminal(ctx, sb, "s", 80, 24) },

	"startApp":         func(ctx context.Context, c *client.Client) error { return failed(c.StartApp(ctx, sb, api.StartApp{})) },
	"sandboxArtifacts": func(ctx context.Context, c *client.Client) error { return failed(c.Artifacts(ctx, sb)) },

	"createProcess": func(ctx context.Context, c *client.Client) error {
		return failed(c.StartProcess(ctx, sb, api.ProcessRequest{}))
	},
	"listProcesses": func(ctx context.Context, c *client.Client) error { return failed(c.Processes(ctx, sb, "")) },
	"getProcess":    func(ctx context.Context, c *client.Client) error { return failed(c.Process(ctx, sb, "1")) },
	"deleteProcess": func(ctx context.Context, c *client.Client) error { return failed(c.KillProcess(ctx, sb, "1")) },
	"processLogs":   func(ctx context.Context, c *client.Client) error { return failed(c.ProcessLogs(ctx, sb, "1", 5)) },
	"processStream": func(ctx context.Context, c *client.Client) error { return drained(c.ProcessStream(ctx, sb, "1", "")) },
	"processInput":  func(ctx context.Context, c *client.Client) error { return c.WriteProcess(ctx, sb, "1", nil) },
	"signalProcess": func(ctx context.Context, c *client.Client) error { return c.SignalProcess(ctx, sb, "1", "INT") },

	"createService": func(ctx context.Context, c *client.Client) error {
		return failed(c.CreateService(ctx, sb, api.ServiceRequest{}))
	},
	"listServices":   func(ctx context.Context, c *client.Client) error { return failed(c.Services(ctx, sb)) },
	"getService":     func(ctx context.Context, c *client.Client) error { return failed(c.Service(ctx, sb, "web")) },
	"deleteService":  func(ctx context.Context, c *client.Client) error { return c.DeleteService(ctx, sb, "web") },
	"startService":   func(ctx context.Context, c *client.Client) error { return failed(c.StartService(ctx, sb, "web")) },
	"stopService":    func(ctx context.Context, c *client.Client) error { return failed(c.StopService(ctx, sb, "web")) },
	"restartService": func(ctx context.Context, c *client.Client) error { return failed(c.RestartService(ctx, sb, "web")) },
	"serviceLogs":    func(ctx context.Context, c *client.Client) error { return failed(c.ServiceLogs(ctx, sb, "web", 5)) },

	"uploadFile": func(ctx context.Context, c *client.Client) error {
		return failed(c.Upload(ctx, sb, "/a", strings.NewReader("x")))
	},
	"writeFiles": func(ctx context.Context, c *client.Client) error {
		return failed(c.WriteFiles(ctx, sb, map[string][]byte{"/a": nil}))
	},
	"downloadFile": func(ctx context.Context, c *client.Client) error { return failed(c.Download(ctx, sb, "/a")) },
	"listFiles":    func(ctx context.Context, c *client.Client) error { return failed(c.ListFiles(ctx, sb, "/")) },
	"fileTree":     func(ctx context.Context, c *client.Client) error { return failed(c.Tree(ctx, sb, "/", 2)) },
	"statFile":     func(ctx context.Context, c *client.Client) error { return failed(c.Stat(ctx, sb, "/a")) },
	"deleteFile":   func(ctx context.Context, c *client.Client) error { return c.RemoveFile(ctx, sb, "/a", true) },
	"makeFolder": func(ctx context.Context, c *client.Client) error {
		return failed(c.MakeFolder(ctx, sb, api.MakeFolder{}))
	},
	"renameFile": func(ctx context.Context, c *client.Client) error { return failed(c.MoveFile(ctx, sb, api.MoveFile{})) },
	"copyFile":   func(ctx context.Context, c *client.Client) error { return failed(c.CopyFile(ctx, sb, api.CopyFile{})) },
	"changeMode": func(ctx context.Context, c *client.Client) error {
		return failed(c.ChangeMode(ctx, sb, api.ChangeMode{}))
	},
	"changeOwner": func(ctx context.Context, c *client.Client) error {
		return failed(c.ChangeOwner(ctx, sb, api.ChangeOwner{}))
	},
	"globFiles": func(ctx context.Context, c *client.Client) error { return failed(c.Glob(ctx, sb, api.GlobFilter{})) },
	"searchFiles": func(ctx context.Context, c *client.Client) error {
		return failed(c.Search(ctx, sb, api.SearchRequest{}))
	},
	"replaceInFiles": func(ctx context.Context, c *client.Client) error {
		return failed(c.Replace(ctx, sb, api.ReplaceRequest{}))
	},
	"watchFiles": func(ctx context.Context, c *client.Client) error { return drained(c.Watch(ctx, sb, "/", true)) },
	"packFolder": func(ctx context.Context, c *client.Client) error { return failed(c.Pack(ctx, sb, "/", "")) },
	"unpackArchive": func(ctx context.Context, c *client.Client) error {
		return failed(c.Unpack(ctx, sb, "/", strings.NewReader("x"), true))
	},
	"exportFile": func(ctx context.Context, c *client.Client) error {
		return failed(c.ExportFile(ctx, sb, api.ExportRequest{}))
	},
	"createExport": func(ctx context.Context, c *client.Client) error {
		return failed(c.CreateExport(ctx, sb, api.ExportRequest{}))
	},
	"downloadExport": func(ctx context.Context, c *client.Client) error { return failed(c.DownloadExport(ctx, sb, "", "/a")) },

	"listEnv": func(ctx context.Context, c *client.Client) error { return failed(c.Env(ctx, sb)) },
	"putEnv": func(ctx context.Context, c *client.Client) error {
		return failed(c.SetEnv(ctx, sb, map[string]string{"A": "b"}))
	},
	"deleteEnv":        func(ctx context.Context, c *client.Client) error { return c.DeleteEnv(ctx, sb, "A") },
	"sandboxUsage":     func(ctx context.Context, c *client.Client) error { return failed(c.Usage(ctx, sb)) },
	"sandboxMetrics":   func(ctx context.Context, c *client.Client) error { return failed(c.Metrics(ctx, sb, "15m")) },
	"sandboxLogs":      func(ctx context.Context, c *client.Client) error { return failed(c.Logs(ctx, sb, 5)) },
	"sandboxLogStream": func(ctx context.Context, c *client.Client) error { return drained(c.FollowLogs(ctx, sb, 5, "")) },
	"sandboxPorts":     func(ctx context.Context, c *client.Client) error { return failed(c.Ports(ctx, sb)) },

	"createTenant": func(ctx context.Context, c *client.Client) error {
		return failed(c.CreateTenant(ctx, api.CreateTenant{}))
	},
	"listTenants": func(ctx context.Context, c *client.Client) error { return failed(c.Tenants(ctx)) },
	"getTenant":   func(ctx context.Context, c *client.Client) error { return failed(c.Tenant(ctx, "t")) },
	"changeTenant": func(ctx context.Context, c *client.Client) error {
		return failed(c.ChangeTenant(ctx, "t", api.ChangeTenant{}))
	},
	"deleteTenant": func(ctx context.Context, c *client.Client) error { return c.DeleteTenant(ctx, "t") },
	"grantCredits": func(ctx context.Context, c *client.Client) error {
		return failed(c.GrantCredits(ctx, "t", "", api.GrantRequest{}))
	},
	"createKey": func(ctx context.Context, c *client.Client) error { return failed(c.CreateKey(ctx, api.CreateKey{})) },
	"listKeys":  func(ctx context.Context, c *client.Client) error { return failed(c.Keys(ctx, "")) },
	"deleteKey": func(ctx context.Context, c *client.Client) error { return c.DeleteKey(ctx, "", "k") },
	"createScopedToken": func(ctx context.Context, c *client.Client) error {
		return failed(c.CreateScopedToken(ctx, api.CreateScopedToken{}))
	},
	"createTicket": func(ctx context.Context, c *client.Client) error { return failed(c.CreateTicket(ctx)) },

	"listUsers":  func(ctx context.Context, c *client.Client) error { return failed(c.Users(ctx)) },
	"createUser": func(ctx context.Context, c *client.Client) error { return failed(c.CreateUser(ctx, api.UserRequest{})) },
	"getUser":    func(ctx context.Context, c *client.Client) error { return failed(c.User(ctx, "u")) },
	"changeUser": func(ctx context.Context, c *client.Client) error {
		return failed(c.ChangeUser(ctx, "u", api.UserRequest{}))
	},
	"deleteUser":     func(ctx context.Context, c *client.Client) error { return c.DeleteUser(ctx, "u") },
	"listWorkspaces": func(ctx context.Context, c *client.Client) error { return failed(c.Workspaces(ctx)) },
	"createWorkspace": func(ctx context.Context, c *client.Client) error {
		return failed(c.CreateWorkspace(ctx, api.WorkspaceRequest{}))
	},
	"getWorkspace": func(ctx context.Context, c *client.Client) error { return failed(c.Workspace(ctx, "w")) },
	"changeWorkspace": func(ctx context.Context, c *client.Client) error {
		return failed(c.ChangeWorkspace(ctx, "w", api.WorkspaceRequest{}))
	},
	"deleteWorkspace": func(ctx context.Context, c *client.Client) error { return c.DeleteWorkspace(ctx, "w") },
	"listMembers":     func(ctx context.Context, c *client.Client) error { return failed(c.Members(ctx, "w")) },
	"addMember":       func(ctx context.Context, c *client.Client) error { return failed(c.AddMember(ctx, "w", "u", "viewer")) },
	"changeMember": func(ctx context.Context, c *client.Client) error {
		return failed(c.ChangeMember(ctx, "w", "u", "viewer"))
	},
	"removeMember": func(ctx context.Context, c *client.Client) error { return c.RemoveMember(ctx, "w", "u") },
	"listProjects": func(ctx context.Context, c *client.Client) error { return failed(c.Projects(ctx, "")) },
	"createProject": func(ctx context.Context, c *client.Client) error {
		return failed(c.CreateProject(ctx, api.ProjectRequest{}))
	},
	"getProject":    func(ctx context.Context, c *client.Client) error { return failed(c.Project(ctx, "p")) },
	"deleteProject": func(ctx context.Context, c *client.Client) error { return c.DeleteProject(ctx, "p") },
	"getPlan":       func(ctx context.Context, c *client.Client) error { return failed(c.Plan(ctx)) },
	"getQuota":      func(ctx context.Context, c *client.Client) error { return failed(c.Quota(ctx, "a/b")) },
	"setQuota": func(ctx context.Context, c *client.Client) error {
		return failed(c.SetQuota(ctx, "u", api.QuotaRequest{}))
	},
	"deleteQuota": func(ctx context.Context, c *client.Client) error { return c.DeleteQuota(ctx, "u") },

	"getUsage": func(ctx context.Context, c *client.Client) error {
		return failed(c.UsageReport(ctx, api.UsageFilter{}))
	},
	"getUsageSummary": func(ctx context.Context, c *client.Client) error {
		return failed(c.UsageSummary(ctx, api.UsageFilter{}))
	},
	"listSessions": func(ctx context.Context, c *client.Client) error {
		return drained(c.UsageSessions(ctx, api.UsageFilter{}))
	},
	"getBalance":       func(ctx context.Context, c *client.Client) error { return failed(c.Balance(ctx)) },
	"listTransactions": func(ctx context.Context, c *client.Client) error { return drained(c.Transactions(ctx)) },
	"getCreditUsage": func(ctx context.Context, c *client.Client) error {
		return failed(c.CreditUsage(ctx, api.UsageFilter{}))
	},
	"listAudit": func(ctx context.Context, c *client.Client) error { return drained(c.Audit(ctx, api.AuditFilter{})) },
}

// without lists operations that have no method of their own, and why.
var without = map[string]string{
	"docs":                    "a page for people",
	"execSpawn":               "another dialect of execSocket",
	"execCloseCode":           "another dialect of execSocket",
	"resumeSandbox":           "another word for startSandbox",
	"takeSnapshotToo":         "another name of takeSnapshot",
	"getSandboxSnapshot":      "another path of getSnapshot",
	"deleteSandboxSnapshot":   "another path of deleteSnapshot",
	"restoreSandbox":          "another path of restoreSnapshot",
	"takeCheckpoint":          "another name of takeSnapshot",
	"listCheckpoints":         "another name of listSandboxSnapshots",
	"getCheckpoint":           "another name of getSnapshot",
	"deleteCheckpoint":        "another name of deleteSnapshot",
	"restoreCheckpoint":       "another name of restoreSnapshot",
	"restoreCheckpointStream": "another name of restoreSnapshot",
	"createCommand":           "another dialect of processes",
	"listCommands":            "another dialect of processes",
	"getCommand":              "another dialect of processes",
	"commandInput":            "another dialect of processes",
	"commandLogs":             "another dialect of processes",
	"killCommand":             "another dialect of processes",
	"execResize":              "another name of resizeTerminal",
	"sshTunnel":               "tunnel, to port 22",
	"headFile":                "statFile tells more",
	"headFileByPath":          "statFile tells more",
	"downloadFileByPath":      "downloadFile can read every path",
	"uploadFileToo":           "another name of uploadFile",
	"writeFile":               "another name of uploadFile",
	"writeFilesToo":           "another name of writeFiles",
	"moveFile":                "another name of renameFile",
	"listFilesToo":            "another name of listFiles",
	"readFolder":              "another name of listFiles",
	"readFile":                "another name of downloadFile",
	"findFiles":               "another name of globFiles",
	"unpackArchiveToo":        "another name of unpackArchive",
	"exported":                "what a URL names that is handed to others",
	"postEnv":                 "putEnv with one variable",
	"patchEnv":                "putEnv with one variable",
	"computeTemplates":        "the catalogue as another client reads it",
	"productTemplates":        "the catalogue as another client reads it",
	"listWorkspaceComputers":  "listSandboxes with workspace_id",
	"patchTemplate":           "another name of changeTemplate",
}

// operation is one of the contract.
type operation struct{ method, path string }

func operations(t *testing.T) map[string]operation {
	t.Helper()
	files, err := fs.Glob(api.OpenAPI, "openapi/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	ops := map[string]operation{}
	for _, name := range files {
		raw, err := api.OpenAPI.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Paths map[string]map[string]struct {
				OperationID string `yaml:"operationId"`
			}
		}
		if err := yaml.Unmarshal(raw, &doc); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for path, item := range doc.Paths {
			for method, op := range item {
				ops[op.OperationID] = operation{strings.ToUpper(method), path}
			}
		}
	}
	return ops
}

var parameter = regexp.MustCompile(`\\\{[^}]+\\\}`)

// Every operation of the contract can be called, and is what it says.
func TestEveryOperationHasMethod(t *testing.T) {
	ops := operations(t)
	for id, op := range ops {
		call, reason := calls[id], without[id]
		switch {
		case strings.HasPrefix(op.path, "/api/v1/computers"): // sandboxes in other words
		case call == nil && reason == "":
			t.Errorf("%s (%s %s) has no method", id, op.method, op.path)
		case call != nil && reason != "":
			t.Errorf("%s has a method, and a reason to have none", id)
		case call != nil:
			path := regexp.MustCompile("^" + parameter.ReplaceAllString(regexp.QuoteMeta(op.path), "[^/]+") + "$")
			seen := ""
			c, _ := serve(t, func(n int, w http.ResponseWriter, r *http.Request) {
				if n == 1 {
					seen = r.Method + " " + r.URL.EscapedPath()
				}
				refuse(w, http.StatusNotFound, "NOT_FOUND")
			})
			if err := call(t.Context(), c); !client.HasCode(err, "NOT_FOUND") {
				t.Errorf("%s: %v, want what the server answered", id, err)
			}
			if method, rest, _ := strings.Cut(seen, " "); method != op.method || !path.MatchString(rest) {
				t.Errorf("%s asks %s, want %s %s", id, seen, op.method, op.path)
			}
		}
	}
	for _, named := range []map[string]bool{keys(calls), keys(without)} {
		for id := range named {
			if _, ok := ops[id]; !ok {
				t.Errorf("%s is no operation of the contract", id)
			}
		}
	}
}

func keys[V any](m map[string]V) map[string]bool {
	set := map[string]bool{}
	for k := range m {
		set[k] = true
	}
	return set
}
