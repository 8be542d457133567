package server

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/covehq/cove"
	"github.com/covehq/cove/internal/httpapi"
	"github.com/covehq/cove/key"
	"github.com/covehq/cove/sandbox"
)

// withKey has a request answered on behalf of the key that it shows, for as long as that
// is good. From then on nothing of the request has the key in it.
func (s *Server) withKey(w *response, r *http.Request, info *requestInfo, handle func(*response, *http.Request)) {
	grant, err := s.authenticate(r, info)
	if err != nil {
		s.turnAway(w, r, err)
		return
	}
	info.key = grant.Name
	if !s.door.rates.allow(grant.ID) {
		s.fail(w, r, cove.Errorf(cove.Exhausted, "", "", "key "+grant.Name+" makes too many requests", "slow down; key_rate of the daemon's configuration is the limit"))
		return
	}
	if !s.door.inUse.enter(grant.ID) {
		s.fail(w, r, cove.Errorf(cove.Exhausted, "", "", "key "+grant.Name+" has too many requests in progress", "end streams that are not needed"))
		return
	}
	defer s.door.inUse.leave(grant.ID)
	if err := s.door.authorize(grant, info.route); err != nil {
		s.fail(w, r, err)
		return
	}
	ctx := sandbox.As(r.Context(), sandbox.Caller{Owner: grant.Owner, All: grant.Scope == cove.ScopeAdmin})
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(grant.Life(), func() {
		cancel(context.Cause(grant.Life()))
		// What waits for the client, or has taken the connection over.
		_ = w.controller.SetReadDeadline(time.Unix(1, 0))
		_ = w.controller.SetWriteDeadline(time.Unix(1, 0))
	})
	defer stop()
	r = r.WithContext(ctx)
	if err := s.owns(r); err != nil {
		s.fail(w, r, err)
		return
	}
	handle(w, r)
	if grant.Life().Err() != nil && w.wrote && !w.hijacked {
		panic(http.ErrAbortHandler) // not as if the stream had come to its end
	}
}

// authenticate returns what the key of a request gives. Who shows none that is good is
// slowed down by address; who shows a good one is not, since it may share the address
// with others, and 256 bits can't be guessed at any speed.
func (s *Server) authenticate(r *http.Request, info *requestInfo) (key.Grant, error) {
	secret, err := credential(r.Header)
	if err == nil {
		var grant key.Grant
		if grant, err = s.keys.Check(secret); err == nil {
			return grant, nil
		}
	}
	if !s.door.failures.allow(network(info.client)) {
		return key.Grant{}, cove.Errorf(cove.Exhausted, "", "", "there were too many requests without a key from this address", "wait, and send a key")
	}
	return key.Grant{}, err
}

// credential takes the key out of a request's headers. It is looked for nowhere else: what
// is in an URL ends up in logs, and a cookie is sent by pages of others.
func credential(header http.Header) (string, error) {
	bearers, keys := header["Authorization"], header[httpapi.HeaderAPIKey]
	header.Del("Authorization")
	if len(keys) > 0 && (len(bearers) == 0 || key.Looks(keys[0])) { // else it is for a program inside
		header.Del(httpapi.HeaderAPIKey)
	}
	switch {
	case len(bearers) == 0 && len(keys) == 0:
		return "", cove.Errorf(cove.Unauthenticated, "", "", "there is no key",
			"send one as Authorization: Bearer KEY (COVE_API_KEY for cove and the SDKs); cove key create NAME on the daemon's machine makes one")
	case len(bearers) == 1:
		scheme, secret, _ := strings.Cut(bearers[0], " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(secret), nil
		}
	case len(bearers) == 0 && len(keys) == 1:
		return keys[0], nil
	}
	return "", cove.Errorf(cove.Unauthenticated, "", "", "the key is not written as it should be",
		"send one header Authorization: Bearer KEY, or X-API-Key: KEY")
}

// authorize returns nil where a key's scope includes that of a route. A path that is no
// route is answered to every key.
func (d *door) authorize(grant key.Grant, pattern string) error {
	if pattern == "" {
		return nil
	}
	needed, known := d.scopes[pattern]
	if !known {
		needed = cove.ScopeAdmin
	}
	if grant.Scope.Includes(needed) {
		return nil
	}
	return cove.Errorf(cove.Forbidden, "", "", "key "+grant.Name+" has the scope "+string(grant.Scope)+", and this needs "+string(needed),
		"use a key made with cove key create --scope "+string(needed))
}

// owns returns nil for a request that names no sandbox, or one that its caller sees. Each
// handler finds by itself only what its caller sees; that none of them tells what a body
// is worth for a sandbox of somebody else is seen to here.
func (s *Server) owns(r *http.Request) error {
	tail, ok := strings.CutPrefix(r.URL.EscapedPath(), "/v1/sandboxes/")
	if !ok {
		return nil
	}
	segment, _, _ := strings.Cut(tail, "/")
	id, err := url.PathUnescape(segment)
	if err != nil {
		return nil // no route takes it
	}
	if _, err := s.host.Sandbox(r.Context(), id); errors.Is(err, cove.NotFound) {
		return err
	}
	return nil
}
