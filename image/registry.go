package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/covehq/cove"
)

// registryOrigin has an image in the repositories of a registry and its mirrors.
type registryOrigin struct {
	reference reference
	store     *Store
	clients   []*repository // the best first

	mu   sync.Mutex
	best int // of clients, the one that answered last
}

func (s *Store) registryOrigin(r reference) (*registryOrigin, error) {
	repositories, err := r.origins(s.options.Mirrors)
	if err != nil {
		return nil, err
	}
	origin := &registryOrigin{reference: r, store: s}
	for _, one := range repositories {
		origin.clients = append(origin.clients, &repository{name: one, keychain: s.options.Keychain, base: s.options.Transport})
	}
	return origin, nil
}

// manifest implements origin.
func (o *registryOrigin) manifest(ctx context.Context, platform v1.Platform) (*manifest, error) {
	var found *manifest
	err := o.each(ctx, func(r *repository) error {
		raw, err := r.manifest(ctx, o.reference.identifier())
		if err != nil {
			return err
		}
		if pinned := o.reference.pinned(); pinned != "" && digestOf(raw) != pinned {
			return corrupt("the registry answered with another manifest than that of " + pinned)
		}
		found, err = chooseManifest(raw, platform, func(d v1.Descriptor) ([]byte, error) {
			return r.manifest(ctx, d.Digest.String())
		})
		return err
	})
	return found, err
}

// blob implements origin.
func (o *registryOrigin) blob(ctx context.Context, d v1.Descriptor, from int64) (body io.ReadCloser, start int64, err error) {
	err = o.each(ctx, func(r *repository) error {
		body, start, err = r.blob(ctx, d, from)
		return err
	})
	return body, start, err
}

// Close implements origin.
func (o *registryOrigin) Close() error { return nil }

// each asks one repository after the other, beginning with the one that answered last,
// until one succeeds. The error is the last one's, which is the registry's own.
func (o *registryOrigin) each(ctx context.Context, ask func(*repository) error) error {
	o.mu.Lock()
	first := o.best
	o.mu.Unlock()
	var err error
	for i := first; i < len(o.clients); i++ {
		if err = ask(o.clients[i]); err == nil || ctx.Err() != nil {
			o.mu.Lock()
			o.best = i
			o.mu.Unlock()
			return err
		}
	}
	return err
}

// repository speaks to one repository of one registry.
type repository struct {
	name     name.Repository
	keychain authn.Keychain
	base     http.RoundTripper

	mu     sync.Mutex
	client *http.Client // authorised; nil until it is needed
}

// connect returns a client that has been let in.
func (r *repository) connect(ctx context.Context) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		return r.client, nil
	}
	login, err := authn.Resolve(ctx, r.keychain, r.name)
	if err != nil {
		return nil, err
	}
	guarded := &guard{next: r.base, local: isLoopback(r.name.RegistryStr())}
	ready, err := transport.NewWithContext(ctx, r.name.Registry, login, guarded, []string{r.name.Scope(transport.PullScope)})
	if err != nil {
		return nil, err
	}
	r.client = &http.Client{Transport: ready}
	return r.client, nil
}

// manifest fetches a manifest by tag or digest. One by digest is verified.
func (r *repository) manifest(ctx context.Context, identifier string) ([]byte, error) {
	var raw []byte
	err := retry(ctx, func() error {
		response, err := r.get(ctx, "manifests", identifier, http.Header{"Accept": {manifestTypes}})
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if raw, err = readAll(response.Body, maxManifest, "manifest"); err != nil {
			return cutOff(err)
		}
		return nil
	})
	if err == nil && isDigest(identifier) && digestOf(raw) != identifier {
		return nil, corrupt("the registry answered with another manifest than that of " + identifier)
	}
	return raw, err
}

// blob begins to fetch a blob at an offset, or at the start where the registry can't.
func (r *repository) blob(ctx context.Context, d v1.Descriptor, from int64) (io.ReadCloser, int64, error) {
	header := http.Header{"Accept-Encoding": {"identity"}}
	if from > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", from, d.Size-1))
	}
	ctx = context.WithValue(ctx, largeReply{}, true)
	response, err := r.get(ctx, "blobs", d.Digest.String(), header)
	if errors.Is(err, errRange) {
		header.Del("Range")
		response, err = r.get(ctx, "blobs", d.Digest.String(), header)
	}
	if err != nil {
		return nil, 0, err
	}
	if response.StatusCode == http.StatusPartialContent {
		begins, _, _ := strings.Cut(strings.TrimPrefix(response.Header.Get("Content-Range"), "bytes "), "-")
		if start, err := strconv.ParseInt(begins, 10, 64); err != nil || start != from {
			response.Body.Close()
			return nil, 0, fmt.Errorf("the registry answered with another range than the one asked for")
		}
		return response.Body, from, nil
	}
	return response.Body, 0, nil
}

func (r *repository) get(ctx context.Context, kind, identifier string, header http.Header) (*http.Response, error) {
	client, err := r.connect(ctx)
	if err != nil {
		return nil, r.explain(err)
	}
	where := url.URL{Scheme: "https", Host: r.name.RegistryStr(), Path: "/v2/" + r.name.RepositoryStr() + "/" + kind + "/" + identifier}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, where.String(), nil)
	if err != nil {
		return nil, err
	}
	for key, values := range header {
		request.Header[key] = values
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, r.explain(err)
	}
	if err := transport.CheckError(response, http.StatusOK, http.StatusPartialContent); err != nil {
		response.Body.Close()
		return nil, r.explain(err)
	}
	return response, nil
}

// explain makes an error of ours of a registry's.
func (r *repository) explain(err error) error {
	var refused *transport.Error
	host := r.name.RegistryStr()
	if !errors.As(err, &refused) {
		var urlError *url.Error
		if errors.As(err, &urlError) { // its text has the address, with what a redirect put there
			err = urlError.Err
		}
		if cove.CodeOf(err) != cove.Internal {
			return err
		}
		return &cove.Error{Code: cove.Unavailable, Err: fmt.Errorf("registry %s: %w", host, err), Hint: "check the name of the registry, and the network of the daemon"}
	}
	said := fmt.Errorf("registry %s answered %d", host, refused.StatusCode)
	if len(refused.Errors) > 0 {
		said = fmt.Errorf("registry %s answered %d: %.200q", host, refused.StatusCode, cmp.Or(refused.Errors[0].Message, string(refused.Errors[0].Code)))
	}
	switch status := refused.StatusCode; {
	case status == http.StatusRequestedRangeNotSatisfiable:
		return errRange
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return &cove.Error{Code: cove.Forbidden, Err: said, Hint: "check the name of the image; if it is private, run docker login " + host + " as the daemon's user"}
	case status == http.StatusNotFound:
		return &cove.Error{Code: cove.NotFound, Err: said, Hint: "check the name and the tag of the image"}
	case status == http.StatusTooManyRequests:
		return &cove.Error{Code: cove.Exhausted, Err: said, Hint: "try again later, log in for a higher limit, or configure a mirror"}
	case status >= http.StatusInternalServerError:
		return &cove.Error{Code: cove.Unavailable, Err: said, Hint: "try again later, or configure a mirror"}
	}
	return &cove.Error{Code: cove.Invalid, Err: said, Hint: "check the name of the image"}
}

var errRange = errors.New("the registry sends no parts of a blob")

// largeReply marks the context of a request whose reply has a bound of its own.
type largeReply struct{}

// guard keeps a registry from leading us elsewhere than to where an image may be: plain
// HTTP is for registries on this machine, and nothing but such a one may send us to this
// machine. All replies but blobs are bounded.
type guard struct {
	next  http.RoundTripper
	local bool
}

// RoundTrip implements http.RoundTripper.
func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	here := isLoopback(request.URL.Host)
	switch {
	case here && !g.local:
		return nil, cove.Errorf(cove.Forbidden, "", "", "the registry leads to the daemon's own machine", "pull from another registry")
	case request.URL.Scheme != "https" && !here:
		return nil, cove.Errorf(cove.Forbidden, "", "", "the registry is not reached by HTTPS", "plain HTTP is for registries on localhost alone")
	}
	response, err := g.next.RoundTrip(request)
	if err == nil && (request.Context().Value(largeReply{}) == nil || response.StatusCode/100 != 2) {
		response.Body = &boundedBody{ReadCloser: response.Body, left: maxReply}
	}
	return response, err
}

// maxReply bounds what a registry says that is not a blob.
const maxReply = maxManifest + 1<<20

// boundedBody fails a reply that is too long.
type boundedBody struct {
	io.ReadCloser
	left int64
}

// Read reads.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, corrupt("the registry's reply is too long")
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// isLoopback reports whether an address, with or without a port, is this machine's own.
func isLoopback(address string) bool {
	host := address
	if name, _, err := net.SplitHostPort(address); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// newTransport returns what carries requests to registries.
func newTransport() http.RoundTripper {
	dialer := &net.Dialer{Timeout: 15 * time.Second, KeepAlive: 15 * time.Second}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    15 * time.Second,
		ResponseHeaderTimeout:  time.Minute,
		MaxResponseHeaderBytes: 256 << 10,
		MaxIdleConnsPerHost:    layersAtOnce,
		IdleConnTimeout:        30 * time.Second,
		DisableCompression:     true, // what is compressed is so by its media type
	}
}

// corrupt is the error of content that is not what was promised.
func corrupt(problem string) error {
	return cove.Errorf(cove.Invalid, "", "", problem, "the image is damaged or the registry lies: pull it from elsewhere")
}

const (
	// retries is how often in a row something may fail without any progress.
	retries = 5
	// maxPause bounds the pause before trying again.
	maxPause = 10 * time.Second
)

// retry calls do again while it fails in a way that may pass.
func retry(ctx context.Context, do func() error) error {
	for failed := 0; ; {
		err := do()
		failed++
		if err == nil || failed > retries || !passing(err) || !pause(ctx, failed) {
			return err
		}
	}
}

// passing reports whether an error may be gone at the next attempt.
func passing(err error) bool {
	code := cove.CodeOf(err)
	return code == cove.Unavailable || code == cove.Exhausted
}

// pause waits before attempt n+1. It returns false when ctx ended meanwhile.
func pause(ctx context.Context, n int) bool {
	timer := time.NewTimer(min(firstPause<<(n-1), maxPause))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// firstPause is the pause after the first failure; it doubles with each.
const firstPause = 100 * time.Millisecond
