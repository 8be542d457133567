package server

import (
	"context"
	"net/http"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/sandbox"
)

const filesPath = "/v1/sandboxes/{id}/files"

// FileTarget is the file that an operation is about.
type FileTarget struct {
	Target
	Path string `query:"path" required:"true" minLength:"1" maxLength:"4096" pattern:"^[^\\x00]*$" patternDescription:"a path without NUL" doc:"path inside; a relative one is below the working directory" example:"/workspace/main.py"`
	User string `query:"user" doc:"with whose rights; default the sandbox's user"`
}

// files returns access to the files of the target's sandbox.
func (s *Server) files(ctx context.Context, id string) (*sandbox.Files, error) {
	box, err := s.host.Sandbox(ctx, id)
	if err != nil {
		return nil, err
	}
	return box.Files(), nil
}

// fileInfo is a reply that describes a file.
type fileInfo struct{ Body cove.FileInfo }

func infoReply(info cove.FileInfo, err error) (*fileInfo, error) {
	if err != nil {
		return nil, err
	}
	return &fileInfo{info}, nil
}

func (s *Server) registerFiles() {
	register(s, operation("stat-file", http.MethodGet, filesPath+"/stat", tagFiles, "Describe a file",
		"A symlink is described itself."), s.statFile)
	register(s, operation("list-files", http.MethodGet, filesPath+"/list", tagFiles, "List a directory", "One flat list, however deep."), s.listFiles)
	register(s, operation("make-directory", http.MethodPost, filesPath+"/mkdir", tagFiles, "Make a directory",
		"With its parents. One that exists is a conflict."), s.makeDir)
	register(s, operation("move-file", http.MethodPost, filesPath+"/move", tagFiles, "Move a file or directory", ""), s.moveFile)
	register(s, noContent(operation("remove-file", http.MethodDelete, filesPath, tagFiles, "Remove a file or directory",
		"A directory goes with everything in it. Succeeds where there is nothing.")), s.removeFile)
}

func (s *Server) statFile(ctx context.Context, in *FileTarget) (*fileInfo, error) {
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return infoReply(files.Stat(ctx, in.Path, in.User))
}

type listFilesInput struct {
	FileTarget
	Depth int `query:"depth" default:"1" minimum:"0" maximum:"100" doc:"how many levels; 0 is 1"`
}

func (s *Server) listFiles(ctx context.Context, in *listFilesInput) (*struct{ Body httpapi.Files }, error) {
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	entries, err := files.List(ctx, in.Path, in.Depth, in.User)
	if err != nil {
		return nil, err
	}
	if entries == nil {
		entries = []cove.FileInfo{}
	}
	return &struct{ Body httpapi.Files }{httpapi.Files{Entries: entries}}, nil
}

type makeDirInput struct {
	Target
	Body httpapi.MakeDirRequest
}

func (s *Server) makeDir(ctx context.Context, in *makeDirInput) (*fileInfo, error) {
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return infoReply(files.MakeDir(ctx, in.Body.Path, in.Body.User))
}

type moveInput struct {
	Target
	Body httpapi.MoveRequest
}

func (s *Server) moveFile(ctx context.Context, in *moveInput) (*fileInfo, error) {
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return infoReply(files.Move(ctx, in.Body.From, in.Body.To, in.Body.User))
}

func (s *Server) removeFile(ctx context.Context, in *FileTarget) (*struct{}, error) {
	files, err := s.files(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return nil, files.Remove(ctx, in.Path, in.User)
}
