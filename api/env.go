package api

// EnvVar is a variable of a sandbox as it is shown: without its value.
type EnvVar struct {
	Key       string `json:"key"`
	Name      string `json:"name"`      // the key again
	Encrypted bool   `json:"encrypted"` // at rest: false
}

// SetEnvVar is a variable to be set.
type SetEnvVar struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// SetEnv is the body of PUT /sandboxes/{id}/env. Others stay as they are, unless
// ?replace=true.
type SetEnv struct {
	Vars []SetEnvVar `json:"vars"`
}

// EnvList is the answer of GET and PUT …/env, sorted by key.
type EnvList struct {
	Data []EnvVar `json:"data"`
}

// DeletedEnvVar is the answer of DELETE …/env/{key}.
type DeletedEnvVar struct {
	Deleted bool   `json:"deleted"`
	Key     string `json:"key"`
	Name    string `json:"name"`
}
