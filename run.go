package cove

// RunReturn says what a run gives back beside the results of its commands.
type RunReturn string

// What a run may give back.
const (
	ReturnArchive RunReturn = "archive" // what is new, as a gzipped tar
	ReturnPatch   RunReturn = "patch"   // what changed, as git apply takes it
	ReturnBoth    RunReturn = "both"
	ReturnNone    RunReturn = "none" // not even the list of changes
)

// RunRequest is a one-shot run: files in, commands, and what they changed out. The
// sandbox is made for it and gone after it.
type RunRequest struct {
	Spec      Spec      `json:"spec,omitzero" doc:"the sandbox to run in; default as for POST /v1/sandboxes"`
	Archive   []byte    `json:"archive,omitempty" doc:"a tar, plain or packed by gzip, bzip2 or zstd, that is unpacked into the sandbox's workdir first; large ones are sent as a part of multipart/form-data"`
	Commands  []Command `json:"commands" minItems:"1" maxItems:"100" doc:"run one after another: shell lines, or arrays that no shell sees"`
	Cwd       string    `json:"cwd,omitempty" maxLength:"4096" doc:"directory that the commands run in, below the sandbox's workdir; default that" example:"src"`
	FailFast  bool      `json:"fail_fast,omitempty" doc:"run no more commands after one that failed"`
	Retry     Retry     `json:"retry,omitzero" doc:"whether commands that fail are run again"`
	Timeout   Duration  `json:"timeout,omitempty" doc:"longest time each try of a command may take; default the sandbox's timeout"`
	MaxOutput Bytes     `json:"max_output,omitempty" doc:"most that is kept of each stream of each command, head and tail; default 1MiB"`
	Encoding  Encoding  `json:"encoding,omitempty" enum:"utf-8,base64" doc:"how stdout and stderr are written in JSON; default utf-8, with invalid bytes replaced"`
	Return    RunReturn `json:"return,omitempty" enum:"archive,patch,both,none" doc:"what is given back of the files that changed; default archive"`
}

// Retry is when a command that failed is run again.
type Retry struct {
	Attempts  int      `json:"attempts,omitempty" minimum:"0" maximum:"10" doc:"most times that a command is run; default 1"`
	Backoff   Duration `json:"backoff,omitempty" doc:"pause before the second try, doubled before each further one, at most 1m; default 1s"`
	ExitCodes []int    `json:"exit_codes,omitempty" maxItems:"256" doc:"run again only after these; default after each but 0. One that timed out is not run again"`
}

// RunResult is what a run gives back.
type RunResult struct {
	Results []CommandResult `json:"results" doc:"one for each command that was run"`
	Changes []Change        `json:"changes" doc:"what all commands together changed below the workdir, by path; nothing named .git is looked at"`
	Archive []byte          `json:"archive" doc:"gzipped tar of what was added, renamed or modified; null when nothing was, or not asked for"`
	Patch   *string         `json:"patch" doc:"what changed, as git apply takes it; null when nothing did, or not asked for"`
}

// CommandResult is how a command of a run ended. One that can't be started has the exit
// code 127 or 126, as shells have it, and says why in stderr.
type CommandResult struct {
	Command  Command `json:"command"`
	Attempts int     `json:"attempts" doc:"how many times it was run; the rest is of the last time"`
	ExecResult
}

// ChangeKind is what happened to a file.
type ChangeKind string

// The kinds of changes.
const (
	ChangeAdded    ChangeKind = "added"
	ChangeModified ChangeKind = "modified"
	ChangeDeleted  ChangeKind = "deleted"
	ChangeRenamed  ChangeKind = "renamed"
)

// Change is what happened to a file, a directory or a symlink.
type Change struct {
	Path string     `json:"path" doc:"relative to the workdir"`
	From string     `json:"from,omitempty" doc:"its path before, when it was renamed"`
	Kind ChangeKind `json:"kind" enum:"added,modified,deleted,renamed"`
	Type FileType   `json:"type" doc:"of what is there now, or was before it was deleted"`
	Mode string     `json:"mode" doc:"permission bits in octal" example:"0644"`
}
