package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/covehq/cove"
)

func TestConcurrentPullsOfOneImageShareTheWork(t *testing.T) {
	image := assembled(gzipped, nil, layerOf(file("f", "content")))
	const pulls = 20
	arrived := make(chan struct{})
	w := newWorld(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, image.layers[0]) {
			<-arrived
		}
		return false
	})
	ref := w.push("app", image)
	store := newStore(t, Options{})
	var wait sync.WaitGroup
	for i := range pulls {
		wait.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if i%4 == 0 {
				cancel() // one who goes does not take the others along
			}
			_, err := store.Pull(ctx, PullRequest{Reference: ref}, nil)
			if i%4 == 0 && !errors.Is(err, context.Canceled) || i%4 != 0 && err != nil {
				t.Errorf("pull %d: %v", i, err)
			}
		})
	}
	close(arrived)
	wait.Wait()
	if n := w.requests(image.layers[0]); n > 2 { // a second where all had gone before the others came
		t.Errorf("the layer was asked for %d times", n)
	}
	if len(store.jobs) != 0 {
		t.Errorf("%d jobs are left", len(store.jobs))
	}
}

func TestPullThatNobodyWaitsForEnds(t *testing.T) {
	image := assembled(gzipped, nil, layerOf(file("f", "content")))
	asked, ended := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, image.layers[0]) {
			return false
		}
		close(asked)
		<-r.Context().Done()
		close(ended)
		return true
	})
	ref := w.push("app", image)
	store := newStore(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := store.Pull(ctx, PullRequest{Reference: ref}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	<-ended
}

func TestMirrorsAreAskedFirst(t *testing.T) {
	image := assembled(gzipped, nil, layerOf(file("f", "content")))
	origin, mirror := newWorld(t, nil), newWorld(t, nil)
	empty := newWorld(t, nil)
	ref := origin.push("team/app", image)
	mirror.push("proxy/team/app", image)
	store := newStore(t, Options{Mirrors: map[string][]string{origin.host: {empty.host, mirror.host + "/proxy"}}})
	pulled(t, store, ref)
	if origin.requests("/") != 0 || mirror.requests(image.layers[0]) != 1 || empty.requests("manifests") != 1 {
		t.Errorf("requests: origin %v, mirror %v, empty %v", origin.seen, mirror.seen, empty.seen)
	}
	without := origin.push("other", image)
	if _, err := store.Pull(context.Background(), PullRequest{Reference: without}, nil); err != nil {
		t.Errorf("without a mirror that has it: %v", err)
	}
}

func TestRegistryThatStumblesIsAskedAgain(t *testing.T) {
	image := assembled(gzipped, nil, layerOf(file("f", "content")))
	failures := map[string]int{}
	var mu sync.Mutex
	w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if failures[r.URL.Path]++; failures[r.URL.Path] > 2 || r.URL.Path == "/v2/" {
			return false
		}
		rw.WriteHeader([]int{http.StatusBadGateway, http.StatusTooManyRequests}[failures[r.URL.Path]-1])
		return true
	})
	ref := w.push("app", image)
	if got := read(t, pulled(t, newStore(t, Options{}), ref), "f"); got != "content" {
		t.Errorf("got %q", got)
	}
}

func TestRegistrysAnswersHaveTheirCodes(t *testing.T) {
	for status, want := range map[int]error{
		http.StatusUnauthorized: cove.Forbidden, http.StatusForbidden: cove.Forbidden, http.StatusNotFound: cove.NotFound,
		http.StatusBadRequest: cove.Invalid,
	} {
		w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/v2/" {
				return false
			}
			rw.WriteHeader(status)
			return true
		})
		_, err := newStore(t, Options{}).Pull(context.Background(), PullRequest{Reference: w.host + "/app"}, nil)
		if !errors.Is(err, want) || cove.HintOf(err) == "" {
			t.Errorf("%d: got %v, hint %q, want %v", status, err, cove.HintOf(err), want)
		}
	}
}

// private is a registry over TLS that wants a login, and a store that trusts it.
func private(t *testing.T) (w *world, o Options) {
	t.Helper()
	w = newWorld(t, nil)
	inner := w.server
	open := false
	secure := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if !open && (user != "ada" || password != "l0velace") {
			rw.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.Config.Handler.ServeHTTP(rw, r)
	}))
	t.Cleanup(secure.Close)
	open = true
	w.server, w.host = secure, strings.TrimPrefix(secure.URL, "https://")
	w.push("app", assembled(gzipped, nil, layerOf(file("f", "private"))))
	open = false
	return w, Options{Transport: secure.Client().Transport}
}

func TestLoginsComeFromDockersConfiguration(t *testing.T) {
	write := func(t *testing.T, config map[string]any) {
		t.Helper()
		data := must(json.Marshal(config))
		if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	helper := func(t *testing.T, script string) {
		t.Helper()
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-test"), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
		t.Setenv("COVE_KEY", "secret")
	}
	login := base64.StdEncoding.EncodeToString([]byte("ada:l0velace"))
	for name, test := range map[string]struct {
		setUp func(t *testing.T, host string)
		want  error
	}{
		"nobody": {func(*testing.T, string) {}, cove.Forbidden},
		"in the file": {func(t *testing.T, host string) {
			write(t, map[string]any{"auths": map[string]any{host: map[string]any{"auth": login}}})
		}, nil},
		"in the file, by an address of old": {func(t *testing.T, host string) {
			write(t, map[string]any{"auths": map[string]any{"https://" + host + "/v1/": map[string]any{"auth": login}}})
		}, nil},
		"of another registry": {func(t *testing.T, host string) {
			write(t, map[string]any{"auths": map[string]any{"other.example": map[string]any{"auth": login}}})
		}, cove.Forbidden},
		"from a helper for all": {func(t *testing.T, host string) {
			helper(t, `read host; [ "$1" = get ] && [ "$host" = "`+host+`" ] && [ -z "$COVE_KEY" ] && echo '{"Username":"ada","Secret":"l0velace"}'`)
			write(t, map[string]any{"credsStore": "test"})
		}, nil},
		"from a helper for the registry": {func(t *testing.T, host string) {
			helper(t, `echo '{"Username":"ada","Secret":"l0velace"}'`)
			write(t, map[string]any{"credHelpers": map[string]any{host: "test"}, "credsStore": "none"})
		}, nil},
		"a helper that has none": {func(t *testing.T, host string) {
			helper(t, `echo "credentials not found in native keychain"; exit 1`)
			write(t, map[string]any{"credsStore": "test"})
		}, cove.Forbidden},
		"a helper that is not there": {func(t *testing.T, host string) {
			write(t, map[string]any{"credsStore": "missing"})
		}, cove.Forbidden},
		"a helper that is a path": {func(t *testing.T, host string) {
			write(t, map[string]any{"credsStore": "../../../bin/sh"})
		}, cove.Forbidden},
		"a file that makes no sense": {func(t *testing.T, host string) {
			write(t, map[string]any{"auths": 7})
		}, cove.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			w, o := private(t)
			store := newStore(t, o)
			test.setUp(t, w.host)
			_, err := store.Pull(context.Background(), PullRequest{Reference: w.host + "/app"}, nil)
			if test.want == nil && err != nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "l0velace") {
				t.Errorf("the error has the secret: %v", err)
			}
		})
	}
}

func TestRegistryCanNotLeadElsewhere(t *testing.T) {
	for name, test := range map[string]struct {
		url   string
		local bool
		ok    bool
	}{
		"HTTPS anywhere":                     {"https://registry.example/v2/", false, true},
		"HTTP anywhere":                      {"http://registry.example/v2/", false, false},
		"HTTP in a private network":          {"http://10.0.0.1:5000/v2/", false, false},
		"HTTP on this machine":               {"http://127.0.0.1:5000/v2/", true, true},
		"HTTP on this machine by name":       {"http://localhost:5000/v2/", true, true},
		"a stranger to this machine":         {"http://127.0.0.1:2375/containers", false, false},
		"a stranger to this machine, HTTPS":  {"https://[::1]:8443/", false, false},
		"a stranger to another name of it":   {"https://x.localhost/", false, false},
		"a stranger to a cloud's metadata":   {"http://169.254.169.254/latest", false, false},
		"this machine's registry to a cloud": {"http://169.254.169.254/latest", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			passed := false
			g := &guard{local: test.local, next: roundTrip(func(r *http.Request) (*http.Response, error) {
				passed = true
				return &http.Response{StatusCode: 200, Body: http.NoBody}, nil
			})}
			request := must(http.NewRequest(http.MethodGet, test.url, nil))
			response, err := g.RoundTrip(request)
			if err == nil {
				response.Body.Close()
			}
			if (err == nil) != test.ok || passed != test.ok {
				t.Errorf("got %v, passed %v, want %v", err, passed, test.ok)
			}
		})
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestIndexLeadsToThePlatformsImage(t *testing.T) {
	w := newWorld(t, nil)
	own := assembled(gzipped, nil, layerOf(file("f", "own")))
	other := assembled(gzipped, func(c *configFile) { c.Architecture = "s390x" }, layerOf(file("f", "s390x")))
	describe := func(b *built, platform *v1.Platform) v1.Descriptor {
		return v1.Descriptor{MediaType: types.OCIManifestSchema1, Size: int64(len(b.manifest)), Digest: must(v1.NewHash(digestOf(b.manifest))), Platform: platform}
	}
	for _, b := range []*built{own, other} {
		w.push("app", b)
		w.putManifest("app", digestOf(b.manifest), string(types.OCIManifestSchema1), b.manifest)
	}
	platform := must(parsePlatform(""))
	index := must(json.Marshal(v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{
		describe(other, &v1.Platform{OS: "linux", Architecture: "s390x"}),
		describe(own, &platform),
		describe(other, &v1.Platform{OS: "unknown", Architecture: "unknown"}),
	}}))
	w.putManifest("app", "latest", string(types.OCIImageIndex), index)
	store := newStore(t, Options{})
	if got := read(t, pulled(t, store, w.host+"/app"), "f"); got != "own" {
		t.Errorf("got %q, want this machine's", got)
	}
	image, err := store.Pull(context.Background(), PullRequest{Reference: w.host + "/app", Platform: "linux/s390x"}, nil)
	if err != nil || image.Platform != "linux/s390x" || image.Digest != digestOf(other.manifest) {
		t.Errorf("s390x: got %+v, %v", image, err)
	}
	_, err = store.Pull(context.Background(), PullRequest{Reference: w.host + "/app", Platform: "windows/amd64"}, nil)
	if !errors.Is(err, cove.NotFound) || !strings.Contains(cove.HintOf(err), "s390x") {
		t.Errorf("windows: got %v, hint %q, want not found and what there is", err, cove.HintOf(err))
	}
	// By the digest of the image itself no registry is needed any more.
	asked := w.requests("/")
	if _, err := store.Pull(context.Background(), PullRequest{Reference: w.host + "/app@" + digestOf(own.manifest), Policy: cove.PullNever}, nil); err != nil || w.requests("/") != asked {
		t.Errorf("by digest: %v", err)
	}
}

func TestManifestsThatMakeNoSenseAreRefused(t *testing.T) {
	good := assembled(plain, nil, layerOf(file("f", "x")))
	edit := func(change func(m map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(good.manifest, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		return must(json.Marshal(m))
	}
	for name, test := range map[string]struct {
		raw  []byte
		want error
	}{
		"no JSON":          {[]byte("<html>"), cove.Invalid},
		"nothing":          {[]byte("{}"), cove.Invalid},
		"both of two":      {edit(func(m map[string]any) { m["manifests"] = []any{} }), cove.Invalid},
		"one of 2015":      {[]byte(`{"schemaVersion":1,"fsLayers":[]}`), cove.NotSupported},
		"another digest":   {edit(func(m map[string]any) { m["config"].(map[string]any)["digest"] = "md5:00" }), cove.Invalid},
		"a digest to flee": {edit(func(m map[string]any) { m["config"].(map[string]any)["digest"] = "sha256:../../../x" }), cove.Invalid},
		"a size below 0":   {edit(func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)["size"] = -1 }), cove.Invalid},
		"too much to fetch": {edit(func(m map[string]any) {
			m["layers"].([]any)[0].(map[string]any)["size"] = int64(1) << 50
		}), cove.TooLarge},
		"another kind of thing": {edit(func(m map[string]any) {
			m["layers"].([]any)[0].(map[string]any)["mediaType"] = "application/vnd.cncf.helm.chart"
		}), cove.Invalid},
		"an encrypted layer": {edit(func(m map[string]any) {
			m["layers"].([]any)[0].(map[string]any)["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"
		}), cove.NotSupported},
		"600 layers": {edit(func(m map[string]any) {
			for range 600 {
				m["layers"] = append(m["layers"].([]any), m["layers"].([]any)[0])
			}
		}), cove.TooLarge},
		"fewer layers than configured": {edit(func(m map[string]any) { m["layers"] = []any{} }), cove.Invalid},
		"an index that leads to itself": {[]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.index.v1+json","digest":"` +
			digestOf([]byte("x")) + `","size":1}]}`), cove.Invalid},
		"too long": {append(append([]byte{}, good.manifest...), make([]byte, maxManifest)...), cove.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(rw http.ResponseWriter, r *http.Request) bool {
				if !strings.Contains(r.URL.Path, "/manifests/") {
					return false
				}
				_, _ = rw.Write(test.raw)
				return true
			})
			w.push("app", good)
			_, err := newStore(t, Options{}).Pull(context.Background(), PullRequest{Reference: w.host + "/app"}, nil)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestT09ConfigurationIsCheckedAndLabelsAreNothing(t *testing.T) {
	for name, edit := range map[string]func(*configFile){
		"a variable without a name":   func(c *configFile) { c.Config.Env = []string{"=x"} },
		"a variable without a value":  func(c *configFile) { c.Config.Env = []string{"x"} },
		"a variable with NUL":         func(c *configFile) { c.Config.Env = []string{"x=\x00"} },
		"too many variables":          func(c *configFile) { c.Config.Env = strings.Split(strings.Repeat("x=y ", 5000), " ") },
		"too much text":               func(c *configFile) { c.Config.Cmd = []string{strings.Repeat("x", 2<<20)} },
		"a relative workdir":          func(c *configFile) { c.Config.WorkingDir = "../x" },
		"a volume that is everything": func(c *configFile) { c.Config.Volumes = map[string]struct{}{"/x/..": {}} },
		"a volume over /proc":         func(c *configFile) { c.Config.Volumes = map[string]struct{}{"/proc/sys": {}} },
		"a volume over the agent":     func(c *configFile) { c.Config.Volumes = map[string]struct{}{"/.cove": {}} },
		"a relative volume":           func(c *configFile) { c.Config.Volumes = map[string]struct{}{"x": {}} },
		"a port that is a command":    func(c *configFile) { c.Config.ExposedPorts = map[string]struct{}{"80;id": {}} },
		"a group that is nowhere":     func(c *configFile) { c.Config.User = "app:nowhere" },
		"another architecture":        func(c *configFile) { c.Architecture = "pdp11" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			ref := w.push("app", assembled(gzipped, edit, layerOf(file("f", "x"))))
			store := newStore(t, Options{})
			_, err := store.Pull(context.Background(), PullRequest{Reference: ref}, nil)
			if !errors.Is(err, cove.Invalid) && !errors.Is(err, cove.NotFound) || !strings.Contains(err.Error(), ref) {
				t.Errorf("got %v, want an error that names the image", err)
			}
			if list, err := store.List(context.Background()); err != nil || len(list) != 0 {
				t.Errorf("got %v, %v, want no image", list, err)
			}
		})
	}
	t.Run("10,000 labels", func(t *testing.T) {
		w := newWorld(t, nil)
		image := assembled(gzipped, nil, layerOf(file("f", "x")))
		var config, list map[string]any
		var m v1.Manifest
		if err := errors.Join(json.Unmarshal(image.manifest, &m), json.Unmarshal(image.manifest, &list)); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(image.blobs[m.Config.Digest.String()], &config); err != nil {
			t.Fatal(err)
		}
		labels := map[string]string{"dev.gvisor.flag.network": "host"}
		for i := range 10_000 {
			labels[strings.Repeat("l", i%50)+string(rune('a'+i%26))+strings.Repeat("x", i/26%100)] = "v"
		}
		config["config"] = map[string]any{"Labels": labels, "Healthcheck": map[string]any{"Test": []string{"CMD", "x"}}, "OnBuild": []string{"RUN x"}, "StopSignal": "SIGKILL"}
		data := must(json.Marshal(config))
		image.blobs[digestOf(data)] = data
		list["config"] = map[string]any{"mediaType": types.OCIConfigJSON, "digest": digestOf(data), "size": len(data)}
		list["annotations"] = labels
		image.manifest = must(json.Marshal(list))
		root := pulled(t, newStore(t, Options{}), w.push("app", image))
		if got := must(json.Marshal(root.Config)); string(got) != "{}" {
			t.Errorf("config: got %s, want nothing", got)
		}
	})
}

func TestUserOfAnImageIsFoundInItsOwnFiles(t *testing.T) {
	accounts := layerOf(file("etc/passwd", "root:x:0:0\napp:x:1234:5\nbad:x:nan:5\n"), file("etc/group", "app:x:5:\nother:x:77:app\n"))
	linked := layerOf(link("etc/passwd", "../../../../../../etc/passwd"), link("etc/group", "/etc/group"))
	for user, test := range map[string]struct {
		layer []byte
		want  string
	}{
		"":            {accounts, ""},
		"app":         {accounts, "app"},
		"1000":        {accounts, "1000"},
		"app:other":   {accounts, "1234:77"},
		"app:99":      {accounts, "1234:99"},
		"7:other":     {accounts, "7:77"},
		"app:":        {accounts, "app"},
		"bad:other":   {accounts, "error"},
		"daemon:sys":  {linked, "error"}, // that are on this machine, and not in the image
		"root:root":   {linked, "0:0"},
		"nobody:sudo": {layerOf(folder("etc/passwd")), "error"},
	} {
		dir, err := flattened(t, Limits{}, test.layer)
		if err != nil {
			t.Fatal(err)
		}
		got, err := settleUser(dir, user)
		if err != nil {
			got = "error"
		}
		if got != test.want {
			t.Errorf("%q: got %q, %v, want %q", user, got, err, test.want)
		}
	}
}
