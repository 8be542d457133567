package cove

import "time"

// State is where a sandbox stands.
type State string

// The states. After stopped or failed it is removed, and then gone.
const (
	StateCreating State = "creating"
	StateRunning  State = "running"
	StatePaused   State = "paused"
	StateStopped  State = "stopped"
	StateFailed   State = "failed"
)

// Reason says why a sandbox ended.
type Reason string

// The reasons. The list is append-only.
const (
	ReasonOOM     Reason = "oom"     // it used more memory than its limit
	ReasonKilled  Reason = "killed"  // a signal from outside ended its container or kernel
	ReasonExited  Reason = "exited"  // its first process ended by itself
	ReasonExpired Reason = "expired" // its ttl passed
	ReasonIdle    Reason = "idle"    // its idle limit passed
	ReasonLost    Reason = "lost"    // it was not there any more when the daemon came back
	ReasonRemoved Reason = "removed" // somebody asked for it
	ReasonCreate  Reason = "create"  // it never came up
)

// Acquired says how a sandbox came to be.
type Acquired string

// AcquiredCold is a sandbox booted for this request.
const AcquiredCold Acquired = "cold"

// Sandbox is one isolated computer, as the API shows it.
type Sandbox struct {
	ID        string                  `json:"id" doc:"unique for ever"`
	Name      string                  `json:"name,omitempty" doc:"unique among the living ones of its owner"`
	Owner     string                  `json:"owner,omitempty" doc:"of the key that it was created with; absent: nobody's, created through the Unix socket"`
	State     State                   `json:"state" enum:"creating,running,paused,stopped,failed"`
	Reason    Reason                  `json:"reason,omitempty" doc:"why it stopped or failed"`
	Message   string                  `json:"message,omitempty" doc:"the reason in words"`
	Runtime   string                  `json:"runtime"`
	Isolation Isolation               `json:"isolation" doc:"isolation class of the runtime"`
	Controls  map[Control]Enforcement `json:"controls" doc:"how far each control holds for this sandbox"`
	Acquired  Acquired                `json:"acquired" doc:"cold, pool or snapshot"`
	CreatedAt time.Time               `json:"created_at"`
	ExpiresAt *time.Time              `json:"expires_at,omitempty" doc:"when it is destroyed; absent: never"`
	Spec      Spec                    `json:"spec" doc:"what was asked for, with the defaults filled in"`
}

// SandboxUpdate changes a living sandbox. An absent field changes nothing.
type SandboxUpdate struct {
	TTL    *Duration          `json:"ttl,omitempty" doc:"new time until it is destroyed, from now"`
	Idle   *Duration          `json:"idle,omitempty" doc:"new time without use until it is destroyed"`
	Labels *map[string]string `json:"labels,omitempty" doc:"all labels anew"`
}

// EventType says what happened.
type EventType string

// The events. The list is append-only.
const (
	EventCreating EventType = "sandbox.creating"
	EventRunning  EventType = "sandbox.running"
	EventUpdated  EventType = "sandbox.updated"
	EventStopped  EventType = "sandbox.stopped"
	EventFailed   EventType = "sandbox.failed"
	EventRemoved  EventType = "sandbox.removed"

	// Ports that something inside begins and ends to listen on. They are looked for while
	// somebody follows events; what happened in between is told when somebody does again.
	// The end of a sandbox is the end of its ports, without more words.
	EventPortOpened EventType = "port.opened"
	EventPortClosed EventType = "port.closed"
)

// Event is something that happened to a sandbox.
type Event struct {
	Seq     uint64    `json:"seq" doc:"increases by one; restarts with the daemon"`
	Time    time.Time `json:"time"`
	Type    EventType `json:"type"`
	Sandbox Sandbox   `json:"sandbox" doc:"the sandbox after the event"`

	Port *ListeningPort `json:"port,omitempty" doc:"which one, of an event about a port"`
}
