package sandbox

// EnvChange is what becomes of a sandbox's variables.
type EnvChange struct {
	Set     map[string]string
	Unset   []string // each must be there
	Replace bool     // drop all there were before
}
