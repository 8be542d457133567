package cove

import "time"

// FileType is what a path leads to.
type FileType string

// The file types.
const (
	TypeFile      FileType = "file"
	TypeDirectory FileType = "directory"
	TypeSymlink   FileType = "symlink"
	TypeOther     FileType = "other"
)

// FileInfo describes a file inside a sandbox.
type FileInfo struct {
	Name       string            `json:"name"`
	Path       string            `json:"path" doc:"absolute"`
	Type       FileType          `json:"type" enum:"file,directory,symlink,other"`
	Size       int64             `json:"size" doc:"bytes"`
	Mode       uint32            `json:"mode" doc:"permission bits"`
	Owner      string            `json:"owner"`
	Group      string            `json:"group"`
	ModifiedAt time.Time         `json:"modified_at"`
	Target     string            `json:"target,omitempty" doc:"where a symlink points"`
	Metadata   map[string]string `json:"metadata,omitempty" doc:"extended attributes set at upload"`
}

// FileEventType says what happened to a file.
type FileEventType string

// The file events, in inotify's meaning.
const (
	FileCreate FileEventType = "create"
	FileWrite  FileEventType = "write"
	FileRemove FileEventType = "remove"
	FileRename FileEventType = "rename"
	FileChmod  FileEventType = "chmod"
)

// FileEvent is something that happened below a watched directory.
type FileEvent struct {
	Type FileEventType `json:"type" enum:"create,write,remove,rename,chmod"`
	Name string        `json:"name" doc:"path below the watched directory"`
	Info *FileInfo     `json:"info,omitempty" doc:"the file after the event, where it exists and was asked for"`
}
