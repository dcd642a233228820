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

// UploadFile is the body of POST /sandboxes/{id}/files for small files; Content
// travels as base64.
type UploadFile struct {
	Path    string `json:"path"`
	Content []byte `json:"content"`
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

// Unpacked is the answer to an archive that was sent to
// /sandboxes/{id}/files/archive?path=.
type Unpacked struct {
	SandboxID string `json:"sandbox_id"`
	Path      string `json:"path"`
	Entries   int64  `json:"entries"`
	Files     int64  `json:"files"`
	Bytes     int64  `json:"bytes"`
	Skipped   int64  `json:"skipped"` // devices, FIFOs and the like
}

// ExportRequest is the body of POST /sandboxes/{id}/exports, and of …/files/export.
type ExportRequest struct {
	Path      string   `json:"path,omitempty"`
	Paths     []string `json:"paths,omitempty"`
	Label     string   `json:"label,omitempty"`
	Filename  string   `json:"filename,omitempty"`
	Format    string   `json:"format,omitempty"`     // of archives: tar.gz, tar, zip
	ExpiresIn int64    `json:"expires_in,omitempty"` // seconds; an hour, at most a week
}

// FileLink is a URL that needs no key.
type FileLink struct {
	URL       string    `json:"url"`
	ExpiresAt time.Time `json:"expires_at"`
}

// Export is the answer of POST /sandboxes/{id}/exports. Its URLs need no key.
type Export struct {
	ID                 string         `json:"id"`
	SandboxID          string         `json:"sandbox_id"`
	Files              []ExportedFile `json:"files"`
	ArchiveDownloadURL string         `json:"archive_download_url"`
	ExpiresAt          time.Time      `json:"expires_at"`
}

// ExportedFile is one path of an export.
type ExportedFile struct {
	Path        string `json:"path"`
	DownloadURL string `json:"download_url"`
}

// ChangesLost is the type of an event of a watch that says that there were more
// changes than could be told.
const ChangesLost = "overflow"

// FileChange is an event of GET /sandboxes/{id}/files/watch. Its name is "change".
type FileChange struct {
	Type      string    `json:"type"`  // created, modified, deleted, renamed, chmod
	Event     string    `json:"event"` // type again
	Path      string    `json:"path"`
	OldPath   *string   `json:"old_path"` // of renamed
	IsDir     bool      `json:"is_dir"`
	Size      int64     `json:"size"`
	SizeBytes int64     `json:"size_bytes"` // size again
	Timestamp time.Time `json:"timestamp"`
}

// FilesFound is the answer of GET /sandboxes/{id}/files/glob?pattern=&path=.
type FilesFound struct {
	SandboxID string      `json:"sandbox_id"`
	Path      string      `json:"path"`
	Pattern   string      `json:"pattern"`
	Entries   []FileEntry `json:"entries"`
	Truncated bool        `json:"truncated"` // there are more than the limit
	TimedOut  bool        `json:"timed_out"`
}

// SearchRequest is the body of POST /sandboxes/{id}/files/search.
type SearchRequest struct {
	Path          string   `json:"path,omitempty"` // a folder or a file; /workspace
	Query         string   `json:"query,omitempty"`
	Pattern       string   `json:"pattern,omitempty"`        // the same as an RE2 expression
	Regex         *bool    `json:"regex,omitempty"`          // nil: whether it came as pattern
	CaseSensitive *bool    `json:"case_sensitive,omitempty"` // nil: true
	Include       []string `json:"include,omitempty"`        // globs of files
	Exclude       []string `json:"exclude,omitempty"`        // globs of files and folders
	MaxResults    int      `json:"max_results,omitempty"`    // 1000, at most 10000
	Context       int      `json:"context,omitempty"`        // lines, at most 20
	All           bool     `json:"all,omitempty"`            // binary files and .git too
}

// SearchResult is the answer to that.
type SearchResult struct {
	Path          string        `json:"path"`
	Matches       []SearchMatch `json:"matches"`
	FilesSearched uint32        `json:"files_searched"`
	Truncated     bool          `json:"truncated"`
	TimedOut      bool          `json:"timed_out"`
}

// SearchMatch is a line with a match in it.
type SearchMatch struct {
	Path   string   `json:"path"`
	Line   uint32   `json:"line"`   // from 1
	Column uint32   `json:"column"` // in bytes, from 1
	Text   string   `json:"text"`
	Cut    bool     `json:"cut"` // text is a part of a long line
	Before []string `json:"before"`
	After  []string `json:"after"`
}

// ReplaceRequest is the body of POST /sandboxes/{id}/files/replace.
type ReplaceRequest struct {
	Path          string   `json:"path,omitempty"` // a folder or a file; /workspace
	Query         string   `json:"query,omitempty"`
	Pattern       string   `json:"pattern,omitempty"`
	Replacement   string   `json:"replacement"` // with regex, $1 and ${name} are groups
	Regex         *bool    `json:"regex,omitempty"`
	CaseSensitive *bool    `json:"case_sensitive,omitempty"`
	Include       []string `json:"include,omitempty"`
	Exclude       []string `json:"exclude,omitempty"`
	MaxFiles      int      `json:"max_files,omitempty"` // 1000, at most 10000
	DryRun        bool     `json:"dry_run,omitempty"`
	All           bool     `json:"all,omitempty"`
}

// ReplaceResult is the answer to that.
type ReplaceResult struct {
	Path         string         `json:"path"`
	Files        []ReplacedFile `json:"files"`
	Replacements int64          `json:"replacements"`
	Truncated    bool           `json:"truncated"`
	TimedOut     bool           `json:"timed_out"`
}

// ReplacedFile is a file in which something was found.
type ReplacedFile struct {
	Path         string  `json:"path"`
	Replacements uint32  `json:"replacements"`
	Error        *string `json:"error"` // why it stayed as it was
}
