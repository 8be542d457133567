package cove

import (
	"encoding/json"
	"errors"
	"time"
)

// Command is what to run: a line for the sandbox's shell, or an argument vector that no
// shell sees. In JSON it is a string or an array of strings.
type Command struct {
	Line string
	Argv []string
}

// Args returns the vector to execute: Argv, or the line handed to /bin/sh.
func (c Command) Args() []string {
	if c.Argv != nil {
		return c.Argv
	}
	return []string{"/bin/sh", "-c", c.Line}
}

// IsZero reports whether nothing is to be run.
func (c Command) IsZero() bool { return c.Line == "" && len(c.Argv) == 0 }

// MarshalJSON writes a string or an array.
func (c Command) MarshalJSON() ([]byte, error) {
	if c.Argv != nil {
		return json.Marshal(c.Argv)
	}
	return json.Marshal(c.Line)
}

// UnmarshalJSON reads a string or an array of strings.
func (c *Command) UnmarshalJSON(data []byte) error {
	*c = Command{}
	if len(data) > 0 && data[0] == '[' {
		return json.Unmarshal(data, &c.Argv)
	}
	if err := json.Unmarshal(data, &c.Line); err != nil {
		return errors.New("command is neither a string nor an array of strings")
	}
	return nil
}

// ExecRequest runs a command and waits for it.
type ExecRequest struct {
	Command   Command           `json:"command" doc:"a shell line, or an array that no shell sees"`
	Cwd       string            `json:"cwd,omitempty" doc:"working directory; default the sandbox's workdir"`
	Env       map[string]string `json:"env,omitempty" doc:"added to the sandbox's environment"`
	User      string            `json:"user,omitempty" doc:"default the sandbox's user"`
	Stdin     string            `json:"stdin,omitempty" doc:"its whole standard input"`
	Timeout   Duration          `json:"timeout,omitempty" doc:"then it and everything it started is killed; default the sandbox's timeout"`
	MaxOutput Bytes             `json:"max_output,omitempty" doc:"most that is kept of each stream, head and tail; default 1MiB"`
	Encoding  Encoding          `json:"encoding,omitempty" enum:"utf-8,base64" doc:"how stdin, stdout and stderr are written in JSON; default utf-8, with invalid bytes replaced"`
}

// Encoding says how bytes are written in JSON.
type Encoding string

// The encodings.
const (
	EncodingUTF8   Encoding = "utf-8"
	EncodingBase64 Encoding = "base64"
)

// ExecResult is how a command ended and what it wrote.
type ExecResult struct {
	PID        int      `json:"pid"`
	ExitCode   int      `json:"exit_code" doc:"-1 when a signal ended it"`
	Stdout     string   `json:"stdout"`
	Stderr     string   `json:"stderr"`
	Encoding   Encoding `json:"encoding"`
	Truncated  bool     `json:"truncated" doc:"bytes between head and tail of a stream were left out"`
	TimedOut   bool     `json:"timed_out"`
	Signal     string   `json:"signal,omitempty" doc:"the signal that ended it" example:"SIGKILL"`
	DurationMS float64  `json:"duration_ms"`
}

// TerminalSize is the size of a terminal in characters.
type TerminalSize struct {
	Cols uint16 `json:"cols" minimum:"1" example:"80"`
	Rows uint16 `json:"rows" minimum:"1" example:"24"`
}

// ProcessRequest starts a command in the background.
type ProcessRequest struct {
	Command Command           `json:"command" doc:"a shell line, or an array that no shell sees"`
	Cwd     string            `json:"cwd,omitempty" doc:"working directory; default the sandbox's workdir"`
	Env     map[string]string `json:"env,omitempty" doc:"added to the sandbox's environment"`
	User    string            `json:"user,omitempty" doc:"default the sandbox's user"`
	Stdin   bool              `json:"stdin,omitempty" doc:"keep standard input open for writing; otherwise it is empty"`
	TTY     *TerminalSize     `json:"tty,omitempty" doc:"give it a terminal of this size"`
	Timeout Duration          `json:"timeout,omitempty" doc:"then it and everything it started is killed; default never"`
	Tag     string            `json:"tag,omitempty" doc:"a name to find it by"`
}

// Process is something started inside a sandbox, while it runs and for as long as it is
// retained afterwards.
type Process struct {
	PID         int       `json:"pid" doc:"process id inside the sandbox"`
	Command     []string  `json:"command"`
	Cwd         string    `json:"cwd,omitempty"`
	User        string    `json:"user,omitempty"`
	Tag         string    `json:"tag,omitempty"`
	TTY         bool      `json:"tty,omitempty"`
	Running     bool      `json:"running"`
	StartedAt   time.Time `json:"started_at"`
	StdoutBytes uint64    `json:"stdout_bytes" doc:"bytes written so far; the last 64 MiB are kept"`
	StderrBytes uint64    `json:"stderr_bytes"`
	Exit        *Exit     `json:"exit,omitempty" doc:"how it ended"`
}

// Exit is how a process ended.
type Exit struct {
	Code       int     `json:"code" doc:"-1 when a signal ended it"`
	Signal     string  `json:"signal,omitempty" example:"SIGKILL"`
	TimedOut   bool    `json:"timed_out"`
	Error      string  `json:"error,omitempty"`
	DurationMS float64 `json:"duration_ms"`
}

// Stream names one output of a process.
type Stream string

// The streams. A terminal has one.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
	PTY    Stream = "pty"
)

// Output is one piece of what a process does: its start, bytes that it wrote, or its end.
// Exactly one of PID (with neither Data nor Exit), Data and Exit is meaningful.
type Output struct {
	PID    int    `json:"pid,omitempty"`
	Stream Stream `json:"stream,omitempty"`
	Offset uint64 `json:"offset" doc:"position of the first byte in its stream; a jump means that bytes were dropped"`
	Data   []byte `json:"data,omitempty"`
	Exit   *Exit  `json:"exit,omitempty"`
}

// Offsets says where to begin reading a process's output. Nil means only what comes from
// now on; a terminal's output counts as stdout.
type Offsets struct {
	Stdout *uint64
	Stderr *uint64
}

// FromStart reads everything that is retained.
func FromStart() Offsets { return Offsets{Stdout: new(uint64), Stderr: new(uint64)} }
