// Package driver provides the contract between Cove and what isolates: a driver boots,
// finds and removes sandboxes, and does nothing else. What happens inside a sandbox is
// the guest agent's, reached over the stream that Machine.Dial returns.
package driver

import (
	"context"
	"net"

	"github.com/covehq/cove"
)

// Driver makes sandboxes of one runtime. Its methods may be called concurrently.
type Driver interface {
	// Probe says whether this host can run the runtime, by looking at what is really
	// there. An error means that it can't, and says why; where something can be done
	// about it, the error is a *cove.Error with a Hint. Probe changes nothing.
	Probe(ctx context.Context) (Info, error)

	// Create boots a sandbox and returns when its guest agent can be dialled.
	//
	// The id is unique, is a ValidID (^[a-z0-9]{1,40}$), and was written to the store before
	// the call, so everything that Create makes on the host can be derived from it.
	// The spec is non-nil, validated and complete: no field is left to a default, and
	// the driver does not modify it. On error, also when ctx ends, nothing is left behind.
	//
	// The Source of a bind mount is a bind.Path: it leads to a file or directory that was
	// checked, and is valid until Create returns. bind.Mount shows it at a place of the
	// driver's own.
	Create(ctx context.Context, id string, spec *cove.Spec) (Machine, error)

	// Attach finds the sandbox that an earlier process of ours created, by the handle
	// that its Machine gave. It returns an error that is cove.NotFound when that
	// sandbox does not run any more; what is left of it is then Remove's to clear.
	Attach(ctx context.Context, id string, handle []byte) (Machine, error)
}

// Lister is implemented by every driver that makes things on a host which outlive the
// daemon: the sweep lists them and removes what nobody owns.
type Lister interface {
	// List returns the ids of everything on this host that this driver made, whole or
	// half-made, running or dead, in any order.
	List(ctx context.Context) ([]string, error)

	// Remove clears whatever carries this id, in whatever state a crash left it. It
	// succeeds when there is nothing.
	Remove(ctx context.Context, id string) error
}

// Imager is implemented by drivers that take images other than the host's.
type Imager interface {
	// Image makes sure that the image of spec.Image for spec.Platform is here, fetching it
	// as spec.Pull says, and describes it. The Create that follows uses exactly that image
	// and fetches nothing. What the description says of the image's configuration is whoever
	// made the image's, and hostile. progress may be nil; it is called from one goroutine at
	// a time and must not block. The error is cove.NotFound for an image that is not there.
	Image(ctx context.Context, spec *cove.Spec, progress func(cove.PullProgress)) (*cove.Image, error)
}

// Statter is implemented by machines that can tell what they use from outside, where the
// guest can't distort it. Of the rest, the guest is asked.
type Statter interface {
	// Stats returns what the sandbox uses now. Fields that the driver can't tell are nil.
	Stats(ctx context.Context) (*cove.Stats, error)
}

// Machine is a driver's handle on one running sandbox. Its methods may be called
// concurrently; after Destroy, Dial returns an error that is cove.Gone.
type Machine interface {
	// Handle returns what Attach needs to find this sandbox after a restart: opaque,
	// versioned by the driver, below 64 KiB, the same at every call.
	Handle() []byte

	// Dial opens a fresh stream to the guest agent. The agent speaks HTTP/1.1 and
	// HTTP/2 on it. Bytes that come out of it are the guest's, and hostile.
	Dial(ctx context.Context) (net.Conn, error)

	// Wait returns when the sandbox is gone, within 2 s of it, and says why. It returns
	// early only when ctx ends, with ctx's error. It may be called many times, also
	// after the end.
	Wait(ctx context.Context) (Exit, error)

	// Destroy ends the sandbox and removes everything that Create made on the host:
	// processes, mounts, cgroups, namespaces, files. A second call succeeds. It does
	// its work also when the sandbox is already dead.
	Destroy(ctx context.Context) error
}

// Exit is why a sandbox is gone.
type Exit struct {
	Reason  cove.Reason // ReasonOOM, ReasonKilled or ReasonExited
	Message string      // the reason in words, for people
}

// Info describes a runtime on this host.
type Info struct {
	Isolation cove.Isolation
	Version   string
	// Warnings are what an administrator should know of this runtime here, in words: a
	// version that has a known vulnerability, above all.
	Warnings []string
	// Controls says for every control how far the runtime enforces it here.
	Controls map[cove.Control]cove.Enforcement
	// Floor is the smallest limits with which a sandbox starts.
	Floor cove.Limits
	// Features are the parts of a spec that not every runtime has and this one has: the
	// driver gets no spec that uses another one.
	Features []cove.Feature
}

// Opener returns the driver of one variant of a runtime family: "" for a bare driver
// name, else what follows the colon. It returns an error that is cove.Invalid for a
// variant that can't exist.
type Opener func(variant string) (Driver, error)
