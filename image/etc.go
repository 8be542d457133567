package image

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
)

// etcFile is one entry of a host image's /etc: written by us (content), a symlink
// (target), or copied from the host (source).
type etcFile struct {
	name     string // below /etc
	mode     fs.FileMode
	content  string
	target   string
	source   string
	size     int64
	modified int64
}

// etcWritten is what we say ourselves. "x" in passwd with no shadow file: nobody can log
// in with a password.
var etcWritten = []etcFile{
	{name: "passwd", content: "root:x:0:0:root:/root:/bin/sh\n" +
		"daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n" +
		"bin:x:2:2:bin:/bin:/usr/sbin/nologin\n" +
		"mail:x:8:8:mail:/var/mail:/usr/sbin/nologin\n" +
		"www-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\n" +
		fmt.Sprintf("user:x:%d:%d:user:/home/user:/bin/bash\n", UserID, UserID) +
		"nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"},
	{name: "group", content: "root:x:0:\ndaemon:x:1:\nbin:x:2:\nadm:x:4:\ntty:x:5:\nmail:x:8:\nwww-data:x:33:\nshadow:x:42:\nutmp:x:43:\nstaff:x:50:\n" +
		fmt.Sprintf("user:x:%d:\n", UserID) + "nogroup:x:65534:\n"},
	{name: "nsswitch.conf", content: "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n"},
	{name: "host.conf", content: "multi on\n"},
	{name: "profile", content: "export PATH=\"${PATH:-/usr/local/bin:/usr/bin:/bin}\"\nif [ \"${BASH-}\" ] && [ \"$BASH\" != /bin/sh ]; then PS1='\\u@\\h:\\w\\$ '; else PS1='$ '; fi\n"},
	{name: "bash.bashrc", content: "[ -z \"$PS1\" ] && return\nPS1='\\u@\\h:\\w\\$ '\nshopt -s checkwinsize\n"},
	{name: "shells", content: "/bin/sh\n/bin/bash\n/usr/bin/sh\n/usr/bin/bash\n"},
	{name: "timezone", content: "Etc/UTC\n"},
	{name: "machine-id", content: ""},
	{name: "mtab", target: "/proc/mounts"},
	{name: "localtime", target: "/usr/share/zoneinfo/Etc/UTC"},
}

// Hostname is every sandbox's.
const Hostname = "cove"

// Hosts is the /etc/hosts of every image, in lines.
const Hosts = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t" + Hostname + "\n"

// Resolvers are the name servers in the /etc/resolv.conf of every sandbox. The agent answers
// at the first address, or at the second where the kernel can't lead it packets: there the
// first is an error at once. Neither is outside of the sandbox.
var Resolvers = []string{"198.18.0.1", "127.0.0.1"}

// etcNames are the files by which programs find names.
var etcNames = []etcFile{
	{name: "hosts", mode: 0o644, content: Hosts},
	{name: "hostname", mode: 0o644, content: Hostname + "\n"},
	{name: "resolv.conf", mode: 0o644, content: "# The sandbox resolves names by itself.\nnameserver " + strings.Join(Resolvers, "\nnameserver ") + "\noptions timeout:5 attempts:2\n"},
}

// etcCopied names what distributions install in /etc for their programs to work, and
// administrators don't put secrets in: the dynamic linker's tables, alternatives,
// certificates, and what language runtimes and libraries read. A name with * is a
// pattern. Everything else of the host's /etc is left out.
var etcCopied = []string{
	"ld.so.cache", "ld.so.conf", "ld.so.conf.d", "ld-musl-*.path", "alternatives",
	"ssl/certs", "ssl/openssl.cnf", "ssl/cert.pem", "ca-certificates.conf", "pki/tls/certs", "pki/tls/cert.pem",
	"pki/tls/openssl.cnf", "pki/ca-trust/extracted", "crypto-policies/back-ends", "gcrypt",
	"os-release", "lsb-release", "debian_version", "redhat-release", "alpine-release", "arch-release",
	"services", "protocols", "rpc", "networks", "ethertypes", "mime.types", "magic", "magic.mime", "mailcap",
	"locale.alias", "locale.conf", "inputrc", "terminfo", "gai.conf", "skel",
	"python*", "perl", "java*", "jvm*", "fonts", "ImageMagick-*", "ghostscript", "texmf", "R", "ruby*", "lua*", "php*/*/mods-available",
	"emacs", "vim", "nanorc", "less*", "dictionaries-common", "openmpi", "OpenCL", "vulkan", "glvnd", "matplotlibrc",
}

// etc lists the entries of the image's /etc, sorted by name.
func (h hostSource) etc() ([]etcFile, error) {
	root := filepath.Join(h.root, "etc")
	byName := map[string]etcFile{}
	for _, pattern := range etcCopied {
		matches, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		for _, match := range matches {
			if err := collect(root, match, byName); err != nil {
				return nil, err
			}
		}
	}
	for _, file := range slices.Concat(etcWritten, etcNames) {
		file.mode = 0o644
		byName[file.name] = file
	}
	files := make([]etcFile, 0, len(byName))
	for _, file := range byName {
		files = append(files, file)
	}
	sort.Slice(files, func(i, j int) bool { return files[i].name < files[j].name })
	return files, nil
}

// maxCopied bounds one copied file; certificate bundles have a few hundred KiB.
const maxCopied = 16 << 20

// collect adds the entries at and below path. Only what every user of the host may read
// is taken: a private key beside certificates stays out.
func collect(root, path string, into map[string]etcFile) error {
	return filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // unreadable or gone meanwhile: not for everybody, so not for us
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return nil
		}
		switch mode := info.Mode(); {
		case mode.IsDir():
			if mode.Perm()&0o005 != 0o005 {
				return fs.SkipDir
			}
		case mode&fs.ModeSymlink != 0:
			collectLink(root, path, name, into)
		case mode.IsRegular() && mode.Perm()&0o004 != 0 && info.Size() <= maxCopied:
			size, modified := statOf(info)
			into[name] = etcFile{name: name, mode: mode.Perm() & 0o755, source: path, size: size, modified: modified}
		}
		return nil
	})
}

// collectLink keeps a symlink into a system directory or within /etc as it is, and takes
// the content of any other that leads to a readable file.
func collectLink(root, path, name string, into map[string]etcFile) {
	target, err := os.Readlink(path)
	if err != nil {
		return
	}
	inside := !filepath.IsAbs(target) && !strings.HasPrefix(filepath.Clean(filepath.Join(filepath.Dir(name), target)), "..")
	toSystem := filepath.IsAbs(target) && isSystemDir(firstElement(target)) ||
		!filepath.IsAbs(target) && isSystemDir(firstElement(filepath.Clean(filepath.Join("/etc", filepath.Dir(name), target))))
	if inside || toSystem || strings.HasPrefix(target, "/etc/alternatives/") {
		into[name] = etcFile{name: name, target: target}
		return
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o004 == 0 || info.Size() > maxCopied {
		return
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil || !publicPath(real) {
		return
	}
	size, modified := statOf(info)
	into[name] = etcFile{name: name, mode: 0o644, source: path, size: size, modified: modified}
}

// publicPath reports whether every user may reach path.
func publicPath(path string) bool {
	for dir := filepath.Dir(path); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
	}
	return true
}

// write makes the entry below dir.
func (f etcFile) write(dir string) error {
	path := filepath.Join(dir, f.name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if f.target != "" {
		return os.Symlink(f.target, path)
	}
	out, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, f.mode)
	if err != nil {
		return err
	}
	defer out.Close()
	if f.source == "" {
		_, err = out.WriteString(f.content)
	} else {
		err = copyFile(out, f.source)
	}
	if err != nil {
		return err
	}
	if err := out.Chmod(f.mode); err != nil {
		return err
	}
	return out.Close()
}

func copyFile(out *os.File, source string) error {
	in, err := os.Open(source)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(out, io.LimitReader(in, maxCopied))
	return err
}
