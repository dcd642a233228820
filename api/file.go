package api

import "time"

// FileEntry describes one file, folder, symlink or other thing.
type FileEntry struct {
	Name          string    `json:"name"`
	Path          string    `json:"path"`
	Type          string    `json:"type"` // file, directory, symlink, other
	IsDir         bool      `json:"is_dir"`
	IsSymlink     bool      `json:"is_symlink"`
	SymlinkTarget *string   `json:"symlink_target"`
	Size          int64     `json:"size"`
	SizeBytes     int64     `json:"size_bytes"` // size again
	Mode          string    `json:"mode"`       // octal, "0644"
	UID           uint32    `json:"uid"`
	GID           uint32    `json:"gid"`
	ModifiedAt    time.Time `json:"modified_at"`
}

// FileList is the answer of GET /sandboxes/{id}/files?path=.
type FileList struct {
	SandboxID string      `json:"sandbox_id"`
	Path      string      `json:"path"`
	Entries   []FileEntry `json:"entries"`
}

// FileWritten is the answer to an upload.
type FileWritten struct {
	SandboxID string `json:"sandbox_id"`
	Path      string `json:"path"`
	Size      int64  `json:"size"`
}

// FilePathRequest is the body of POST /sandboxes/{id}/files/stat.
type FilePathRequest struct {
	Path string `json:"path"`
}
