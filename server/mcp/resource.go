package mcp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"mime"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/covehq/cove"
	"github.com/covehq/cove/tools"
)

const (
	// scheme is that of the addresses of files: cove://SANDBOX/PATH, where ownSandbox is
	// the session's own and a path with a slash of its own is absolute.
	scheme     = "cove://"
	ownSandbox = "session"
	// maxResource bounds what a resource has, and maxResources a list of them.
	maxResource  = 1 << 20
	maxResources = 1000
)

// addResources adds the files of sandboxes.
func (s *Server) addResources() {
	s.server.AddResourceTemplate(&sdk.ResourceTemplate{
		Name: "file", Title: "File of a sandbox", URITemplate: scheme + "{sandbox}/{+path}",
		Description: "A file, up to 1 MiB. The sandbox is an id, or session for the session's own; a path without a slash of its own is below the working directory.",
	}, func(ctx context.Context, r *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		contents, err := s.read(ctx, r)
		if errors.Is(err, cove.NotFound) {
			return nil, sdk.ResourceNotFoundError(r.Params.URI)
		}
		if err != nil {
			return nil, errors.New(tools.Failed(cove.Wrap(err, "read resource", "")).Text)
		}
		return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{contents}}, nil
	})
	s.server.AddReceivingMiddleware(s.listing)
}

func (s *Server) read(ctx context.Context, r *sdk.ReadResourceRequest) (*sdk.ResourceContents, error) {
	session, err := s.session(ctx, r.Session)
	if err != nil {
		return nil, err
	}
	rest, ok := strings.CutPrefix(r.Params.URI, scheme)
	at, name, found := strings.Cut(rest, "/")
	name, err = url.PathUnescape(name)
	if !ok || !found || at == "" || name == "" || err != nil {
		return nil, cove.Errorf(cove.Invalid, "", "", "the address is none of a file", "write cove://session/PATH")
	}
	if at == ownSandbox {
		at = ""
	}
	_, sandbox, err := session.sandbox(ctx, at)
	if err != nil {
		return nil, err
	}
	file, err := sandbox.Open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxResource+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxResource {
		return nil, cove.Errorf(cove.TooLarge, "", name, "the file is larger than 1 MiB", "read parts of it with read_file")
	}
	contents := &sdk.ResourceContents{URI: r.Params.URI, MIMEType: mime.TypeByExtension(path.Ext(name))}
	if utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 {
		contents.MIMEType, contents.Text = cmp.Or(contents.MIMEType, "text/plain; charset=utf-8"), string(data)
	} else {
		contents.MIMEType, contents.Blob = cmp.Or(contents.MIMEType, "application/octet-stream"), data
	}
	return contents, nil
}

// listing answers what resources there are: the files in the working directory of the
// session's own sandbox, once there is one.
func (s *Server) listing(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, r sdk.Request) (sdk.Result, error) {
		at, ok := r.GetSession().(*sdk.ServerSession)
		if method != "resources/list" || !ok {
			return next(ctx, method, r)
		}
		result := &sdk.ListResourcesResult{Resources: []*sdk.Resource{}}
		session, err := s.session(ctx, at)
		if err != nil {
			return nil, err
		}
		if err := session.lock(ctx); err != nil {
			return nil, err
		}
		own := session.own
		session.unlock()
		if own == "" {
			return result, nil
		}
		_, sandbox, err := s.daemon.Open(ctx, own)
		if err != nil {
			return nil, errors.New(tools.Failed(err).Text)
		}
		files, err := sandbox.List(ctx, ".")
		if err != nil {
			return nil, errors.New(tools.Failed(err).Text)
		}
		slices.SortFunc(files, func(a, b cove.FileInfo) int { return strings.Compare(a.Name, b.Name) })
		for _, file := range files {
			if file.Type == cove.TypeFile && len(result.Resources) < maxResources {
				result.Resources = append(result.Resources, &sdk.Resource{
					URI: scheme + ownSandbox + "/" + url.PathEscape(file.Name), Name: file.Name, Size: file.Size,
					MIMEType: mime.TypeByExtension(path.Ext(file.Name)),
				})
			}
		}
		return result, nil
	}
}
