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

// FileDeleted is the answer of DELETE /sandboxes/{id}/files.
type FileDeleted struct {
	SandboxID string `json:"sandbox_id"`
	Path      string `json:"path"`
	Deleted   bool   `json:"deleted"`
}

// DeleteFile is the body of DELETE /sandboxes/{id}/files; the query says the same.
type DeleteFile struct {
	Path      string `json:"path"`
	Recursive bool   `json:"recursive,omitempty"` // needed for folders that are not empty
}

// MakeFolder is the body of POST /sandboxes/{id}/files/mkdir.
type MakeFolder struct {
	Path      string `json:"path"`
	Recursive *bool  `json:"recursive,omitempty"` // nil: true, parents are made and an existing folder is fine
	Mode      string `json:"mode,omitempty"`      // octal; 0755
}

// MoveFile is the body of POST /sandboxes/{id}/files/rename and …/move.
type MoveFile struct {
	From      string `json:"from"`
	To        string `json:"to"`
	Overwrite *bool  `json:"overwrite,omitempty"` // nil: true
}

// CopyFile is the body of POST /sandboxes/{id}/files/copy.
type CopyFile struct {
	From      string `json:"from"`
	To        string `json:"to"`
	Recursive bool   `json:"recursive,omitempty"` // needed for folders
	Overwrite *bool  `json:"overwrite,omitempty"` // nil: true
}

// ChangeMode is the body of POST /sandboxes/{id}/files/chmod.
type ChangeMode struct {
	Path      string `json:"path"`
	Mode      string `json:"mode"` // octal
	Recursive bool   `json:"recursive,omitempty"`
}

// ChangeOwner is the body of POST /sandboxes/{id}/files/chown.
type ChangeOwner struct {
	Path      string  `json:"path"`
	UID       *uint32 `json:"uid,omitempty"`
	GID       *uint32 `json:"gid,omitempty"`
	Recursive bool    `json:"recursive,omitempty"`
}

// TreeNode is the answer of GET /sandboxes/{id}/files/tree, and every folder and
// file in it.
type TreeNode struct {
	Path       string      `json:"path"`
	Type       string      `json:"type"` // dir, file, symlink, other
	Name       string      `json:"name"`
	Size       *int64      `json:"size,omitempty"` // of files
	ModifiedAt *time.Time  `json:"modified_at,omitempty"`
	Children   []*TreeNode `json:"children,omitempty"`
	Truncated  bool        `json:"truncated,omitempty"` // of the root: there is more
}

// WriteFile is one file to write, its content in base64.
type WriteFile struct {
	Path    string `json:"path"`
	Content string `json:"content_base64"`
}

// WriteFiles is the body of POST /sandboxes/{id}/files/write-many.
type WriteFiles struct {
	Files []WriteFile `json:"files"`
}

// FilesWritten is the answer to that: every file is in one of the lists.
type FilesWritten struct {
	Written []FileStored  `json:"written"`
	Failed  []FileRefused `json:"failed"`
}

// FileStored is a file that was written.
type FileStored struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

// FileRefused is a file that was not.
type FileRefused struct {
	Path  string `json:"path"`
	Error string `json:"error"`
	Code  string `json:"code"`
}
