package account

import (
	"encoding/base64"
	"maps"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/covehq/cove"
)

// Defaults is what a request gets that does not say.
type Defaults struct {
	User    string // as Lookup reads it
	Env     map[string]string
	Workdir string // "" is the user's home
}

// unprivileged is who commands run as until somebody says otherwise.
const unprivileged = "1000"

// initial returns the defaults of a sandbox that was told none.
func initial() Defaults {
	if own := os.Geteuid(); own != 0 {
		return Defaults{User: strconv.Itoa(own)}
	}
	return Defaults{User: unprivileged}
}

// Defaults returns the present defaults. The caller does not modify the map.
func (b *Book) Defaults() Defaults {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.defaults
}

// SetDefaults replaces the defaults; an empty user leaves that as it is.
func (b *Book) SetDefaults(d Defaults) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d.User == "" {
		d.User = b.defaults.User
	}
	d.Env = maps.Clone(d.Env)
	b.defaults = d
}

// Of returns the account that a request names: by Basic authorization, whose password
// means nothing, or else the default user's.
func (b *Book) Of(header http.Header) (Account, error) {
	authorization := header.Get("Authorization")
	if authorization == "" {
		return b.Lookup(b.Defaults().User)
	}
	scheme, encoded, _ := strings.Cut(authorization, " ")
	decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if !strings.EqualFold(scheme, "Basic") || err != nil {
		return Account{}, cove.Errorf(cove.Unauthenticated, "", "", "the Authorization header names no user", `send Basic with "user:" in base64`)
	}
	// The password is what follows the last colon, so that "uid:gid:" names a group too.
	user := string(decoded)
	if colon := strings.LastIndexByte(user, ':'); colon >= 0 {
		user = user[:colon]
	}
	if user == "" {
		return b.Lookup(b.Defaults().User)
	}
	return b.Lookup(user)
}
