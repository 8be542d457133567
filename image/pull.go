package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/covehq/cove"
)

// PullRequest says which image is wanted, and when it is fetched.
type PullRequest struct {
	Reference string
	Platform  string          // os/architecture[/variant]; "" is this machine's
	Policy    cove.PullPolicy // "" is cove.PullMissing
}

// layersAtOnce is how many layers of an image are fetched at the same time.
const layersAtOnce = 4

// progressInterval is the time between two reports.
const progressInterval = 100 * time.Millisecond

// Pull makes sure that an image is in the store, flattened, and describes it. Those who
// ask for the same image at the same time share the work, which goes on as long as one of
// them waits. progress may be nil; it is called from this goroutine.
//
// The error is cove.NotFound for an image that does not exist, or is not here and may not
// be fetched, cove.Forbidden where the registry wants to know who asks, cove.Invalid for
// an image that is broken or hostile, cove.TooLarge above the limits, cove.NoSpace for a
// full disk and cove.Unavailable for a registry that does not answer. What was fetched by
// then shortens the next attempt.
func (s *Store) Pull(ctx context.Context, request PullRequest, progress func(cove.PullProgress)) (*cove.Image, error) {
	if progress == nil {
		progress = func(cove.PullProgress) {}
	}
	image, err := s.pull(ctx, request, progress)
	if err != nil {
		return nil, cove.Wrap(err, "image", request.Reference[:min(len(request.Reference), 200)])
	}
	progress(cove.PullProgress{Phase: "done"})
	return image, nil
}

func (s *Store) pull(ctx context.Context, request PullRequest, progress func(cove.PullProgress)) (*cove.Image, error) {
	if request.Reference == cove.DefaultImage || strings.HasPrefix(request.Reference, "rootfs:") {
		_, err := s.Resolve(ctx, request.Reference)
		return &cove.Image{Reference: request.Reference}, err
	}
	reference, err := parseReference(request.Reference)
	if err != nil {
		return nil, err
	}
	platform, err := parsePlatform(request.Platform)
	if err != nil {
		return nil, err
	}
	if image, err := s.local(ctx, reference, platform, request.Policy); image != nil || err != nil {
		return image, err
	}
	return s.share(ctx, reference, platform, progress)
}

// local returns the image if the policy is content with what is here, an error if it has
// to be, and neither where the image is to be fetched.
func (s *Store) local(ctx context.Context, reference reference, platform v1.Platform, policy cove.PullPolicy) (*cove.Image, error) {
	name := reference.String()
	known, _, image, err := s.find(name, platform.String())
	if errors.Is(err, fs.ErrNotExist) && reference.pinned() != "" {
		image, err = s.adopt(ctx, reference, platform)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	switch {
	case policy == cove.PullNever && err != nil:
		return nil, notHere(name)
	case err != nil:
		return nil, nil
	case policy == cove.PullNever || reference.pinned() != "":
		return image, nil
	case policy == cove.PullAlways:
		return nil, nil
	case reference.scheme == fromRegistry:
		return image, nil
	}
	stamp, err := s.stamp(ctx, reference)
	if err != nil || stamp != known.Stamp {
		return nil, err
	}
	return image, nil
}

func notHere(name string) error {
	return cove.Errorf(cove.NotFound, "", "", "the image is not here", "fetch it with cove image pull "+name)
}

// adopt names an image that is here by its digest and was fetched under another name.
func (s *Store) adopt(ctx context.Context, reference reference, platform v1.Platform) (*cove.Image, error) {
	r, image, err := s.findDigest(reference.pinned(), reference.String())
	if err != nil {
		return nil, err
	}
	if r.Platform != platform.String() {
		return nil, fs.ErrNotExist
	}
	return image, s.enter(ctx, tag{Reference: image.Reference, Platform: r.Platform, Digest: r.Digest}, r)
}

// job is the fetching of an image on behalf of all who wait for it.
type job struct {
	cancel  context.CancelFunc
	done    chan struct{}
	waiting int // guarded by Store.mu

	mu       sync.Mutex
	progress cove.PullProgress

	image *cove.Image // when done
	err   error
}

func (j *job) update(change func(*cove.PullProgress)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	change(&j.progress)
}

func (j *job) snapshot() cove.PullProgress {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.progress
}

// share joins the job that fetches an image, or begins it.
func (s *Store) share(ctx context.Context, reference reference, platform v1.Platform, progress func(cove.PullProgress)) (*cove.Image, error) {
	key := reference.String() + " " + platform.String()
	s.mu.Lock()
	j := s.jobs[key]
	if j == nil {
		j = &job{done: make(chan struct{}), progress: cove.PullProgress{Phase: "resolving"}}
		work, cancel := context.WithCancel(context.WithoutCancel(ctx))
		j.cancel = cancel
		s.jobs[key] = j
		go func() { // whoever leaves last waits for it
			defer close(j.done)
			defer cancel()
			j.image, j.err = s.get(work, j, reference, platform)
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.jobs[key] == j {
				delete(s.jobs, key)
			}
		}()
	}
	j.waiting++
	s.mu.Unlock()
	defer s.leave(key, j)

	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for last := (cove.PullProgress{}); ; {
		if now := j.snapshot(); now != last {
			progress(now)
			last = now
		}
		select {
		case <-j.done:
			if j.err != nil {
				return nil, j.err
			}
			copied := *j.image
			return &copied, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// leave ends the job when nobody waits for it any more.
func (s *Store) leave(key string, j *job) {
	s.mu.Lock()
	j.waiting--
	last := j.waiting == 0
	if last && s.jobs[key] == j {
		delete(s.jobs, key) // whoever comes now begins anew
	}
	s.mu.Unlock()
	if last {
		j.cancel()
		<-j.done
	}
}

// get fetches and flattens an image and enters it into the index.
func (s *Store) get(ctx context.Context, j *job, reference reference, platform v1.Platform) (*cove.Image, error) {
	stamp, err := s.stamp(ctx, reference)
	if err != nil {
		return nil, err
	}
	from, err := s.origin(ctx, reference)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	return s.take(ctx, j, from, tag{Reference: reference.String(), Platform: platform.String(), Stamp: stamp}, platform)
}

// origin opens where an image comes from.
func (s *Store) origin(ctx context.Context, reference reference) (origin, error) {
	switch reference.scheme {
	case fromRegistry:
		return s.registryOrigin(reference)
	case fromLayout:
		return openLayout(reference.path, reference.inner)
	case fromEngine:
		return s.engineOrigin(ctx, reference.inner)
	}
	return s.archiveOrigin(ctx, reference)
}

// take makes the image of an origin be here, under a name. Until it is in the index, a
// lock keeps what it is made of from being collected.
func (s *Store) take(ctx context.Context, j *job, from origin, t tag, platform v1.Platform) (*cove.Image, error) {
	lock, err := os.OpenFile(filepath.Join(s.dir, "pull.lock"), os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, diskError(err)
	}
	defer lock.Close()
	if err := flock(ctx, lock, unix.LOCK_SH); err != nil {
		return nil, err
	}
	m, err := from.manifest(ctx, platform)
	if err != nil {
		return nil, err
	}
	t.Digest = m.digest
	if r, image, err := s.findDigest(m.digest, t.Reference); err == nil {
		return image, s.enter(ctx, t, r)
	}
	r, err := s.assemble(ctx, j, from, m, platform)
	if err != nil {
		return nil, err
	}
	if err := s.enter(ctx, t, r); err != nil {
		return nil, err
	}
	_, image, err := s.findDigest(m.digest, t.Reference)
	return image, err
}

// assemble fetches the parts of an image and makes its tree.
func (s *Store) assemble(ctx context.Context, j *job, from origin, m *manifest, platform v1.Platform) (record, error) {
	var total int64
	for _, layer := range m.layers {
		if layer.Size > int64(s.options.Limits.Fetched)-total {
			return record{}, cove.Errorf(cove.TooLarge, "", "", fmt.Sprintf("the image has more than %v to be fetched", s.options.Limits.Fetched), "use a smaller image")
		}
		total += layer.Size
	}
	j.update(func(p *cove.PullProgress) {
		*p = cove.PullProgress{Phase: "pulling", Layers: len(m.layers), Total: cove.Bytes(total)}
	})
	if err := s.blobs.fetch(ctx, from, m.config, func(int64) {}); err != nil {
		return record{}, err
	}
	raw, err := os.ReadFile(s.blobs.path(m.config))
	if err != nil {
		return record{}, err
	}
	file, config, err := parseConfig(raw, m, platform)
	if err != nil {
		return record{}, err
	}
	r := record{Digest: m.digest, Platform: platform.String(), CreatedAt: time.Now().UTC().Truncate(time.Microsecond), Blobs: []string{m.config.Digest.Hex}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	layers, wait := s.fetchLayers(ctx, cancel, j, from, m, file.RootFS.DiffIDs)
	_, err = s.derive(ctx, s.treeName(m.digest), func(dir string) error {
		size, err := flatten(ctx, dir, layers, &config, s.options.Limits)
		if err != nil {
			return err
		}
		r.Size = size
		config.User, err = settleUser(dir, config.User)
		return err
	})
	cancel(err) // where the tree was here already, the layers are not needed
	wait()
	if err != nil {
		return record{}, firstCause(ctx, err)
	}
	if r.Size == 0 && len(layers) > 0 { // another process made the tree
		r.Size = cove.Bytes(total)
		if config.User, err = settleUser(s.tree(m.digest), config.User); err != nil {
			return record{}, err
		}
	}
	for _, layer := range m.layers {
		r.Blobs = append(r.Blobs, layer.Digest.Hex)
	}
	slices.Sort(r.Blobs)
	r.Blobs, r.Config = slices.Compact(r.Blobs), config
	return r, nil
}

// firstCause is what ended ctx, where that is why err happened.
func firstCause(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// fetchLayers fetches layers in the background, the lowest first. Each of the sources that
// it returns waits for its own. The first failure ends ctx. The caller calls wait.
func (s *Store) fetchLayers(ctx context.Context, cancel context.CancelCauseFunc, j *job, from origin, m *manifest, diffIDs []string) (sources []layerSource, wait func()) {
	var group sync.WaitGroup
	next := make(chan int)
	ready := make([]chan struct{}, len(m.layers))
	for i, d := range m.layers {
		ready[i] = make(chan struct{})
		sources = append(sources, layerSource{diffID: diffIDs[i], open: func(ctx context.Context) (io.ReadCloser, error) {
			select {
			case <-ready[i]:
				return s.blobs.open(d)
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}})
	}
	group.Go(func() {
		defer close(next)
		for i := range m.layers {
			select {
			case next <- i:
			case <-ctx.Done():
				return
			}
		}
	})
	for range min(layersAtOnce, len(m.layers)) {
		group.Go(func() {
			for i := range next {
				if err := s.blobs.fetch(ctx, from, m.layers[i], j.count); err != nil {
					cancel(err)
					return
				}
				j.update(func(p *cove.PullProgress) {
					if p.Complete++; p.Complete == p.Layers {
						p.Phase = "unpacking"
					}
				})
				close(ready[i])
			}
		})
	}
	return sources, group.Wait
}

// count adds to the bytes that have come.
func (j *job) count(n int64) {
	j.update(func(p *cove.PullProgress) { p.Bytes += cove.Bytes(n) })
}
