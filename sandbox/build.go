package sandbox

import "time"

// BuildState is where a build of a template stands.
type BuildState string

const (
	BuildQueued       BuildState = "queued"
	BuildBuilding     BuildState = "building"     // base image and steps
	BuildSnapshotting BuildState = "snapshotting" // started once, and its memory kept
	BuildCertifying   BuildState = "certifying"   // copies are tested
	BuildDistributing BuildState = "distributing" // artifacts are synced and read back
	BuildReady        BuildState = "ready"        // final: its revision serves
	BuildFailed       BuildState = "failed"       // final
	BuildCancelled    BuildState = "cancelled"    // final
)

// buildMoves lists every legal change of state. A crash leads back to queued.
var buildMoves = map[BuildState][]BuildState{
	BuildQueued:       {BuildBuilding, BuildFailed, BuildCancelled},
	BuildBuilding:     {BuildSnapshotting, BuildQueued, BuildFailed, BuildCancelled},
	BuildSnapshotting: {BuildCertifying, BuildQueued, BuildFailed, BuildCancelled},
	BuildCertifying:   {BuildDistributing, BuildQueued, BuildFailed, BuildCancelled},
	BuildDistributing: {BuildReady, BuildQueued, BuildFailed, BuildCancelled},
}

// CanBecome tells whether the move from s to next is legal.
func (s BuildState) CanBecome(next BuildState) bool {
	for _, m := range buildMoves[s] {
		if m == next {
			return true
		}
	}
	return false
}

// Final tells whether nothing follows s.
func (s BuildState) Final() bool { return len(buildMoves[s]) == 0 }

// Build is one attempt to make a template's spec its revision.
type Build struct {
	ID       string // "bld_…"
	Tenant   TenantID
	Template string // ID
	State    BuildState
	Spec     BuildSpec
	Base     string // digest of the base image, once it is known
	Revision string // of what was built, once it is known
	Code     string // stable, of a failure: "BUILD_STEP_FAILED"
	Message  string // of a failure, for the user

	CreatedAt  time.Time
	StartedAt  time.Time
	FinishedAt time.Time
	UpdatedAt  time.Time
}

// BuildEvent is one line of a build's history. Seq rises within a build.
type BuildEvent struct {
	Build string
	Seq   int64
	Event string // a BuildState, "step_started", "step_output", "step_finished", "step_cached", "error"
	State BuildState
	Step  int    // from 1; 0: of none
	Text  string // output, or what is done
	Took  time.Duration
	At    time.Time
}
