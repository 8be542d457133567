package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/covehq/cove"
	"github.com/covehq/cove/client"
)

func (p *program) imageVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Fetch, list and remove the images of sandboxes",
		Long: `Fetch, list and remove images: root filesystems of sandboxes, from registries, archives
and the store of a Docker engine. run and create fetch what they need by themselves.`,
		Example: `  cove image pull python:3.12
  cove run --image python:3.12 -- python3 -c 'print(6*7)'`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	var runtime string
	cmd.PersistentFlags().StringVar(&runtime, "runtime", "", "whose images; default the daemon's default runtime")
	must(cmd.RegisterFlagCompletionFunc("runtime", p.completeRuntimes))
	cmd.AddCommand(p.imagePullVerb(&runtime), p.imageImportVerb(&runtime), p.imageListVerb(&runtime),
		p.imageInspectVerb(&runtime), p.imageRemoveVerb(&runtime), p.imagePruneVerb(&runtime))
	return cmd
}

// pullFlags adds the flags that say which image is fetched, and when.
func pullFlags(flags *pflag.FlagSet, policy *cove.PullPolicy, platform *string, usual string) {
	flags.StringVar((*string)(policy), "pull", "", "when the image is fetched: missing, always or never; default "+usual)
	flags.StringVar(platform, "platform", "", "os/architecture of the image, as in linux/arm64; default this machine's")
}

func completePull(cmd *cobra.Command) {
	must(cmd.RegisterFlagCompletionFunc("pull", cobra.FixedCompletions([]string{
		string(cove.PullMissing), string(cove.PullAlways), string(cove.PullNever),
	}, cobra.ShellCompDirectiveNoFileComp)))
}

func (p *program) imagePullVerb(runtime *string) *cobra.Command {
	var pull cove.ImagePull
	cmd := &cobra.Command{
		Use:   "pull [flags] IMAGE…",
		Short: "Fetch images and print their digests",
		Long: `Fetch images and print their digests. An image is a name in a registry, as docker pull
has it, or docker-archive:TAR, oci-archive:TAR, oci:DIR, docker-daemon:NAME. Logins are
those of docker login, of the user whom the daemon runs as. What was interrupted goes on
where it was.

With --json, prints the images as GET /v1/images lists them.`,
		Example: `  cove image pull python:3.12
  cove image pull docker-daemon:myapp:dev`,
		Args: arguments("IMAGE…"),
		RunE: verb(func(ctx context.Context, args []string) error {
			pull.Runtime, pull.Pull = *runtime, cmp.Or(pull.Pull, cove.PullAlways)
			return p.pullImages(ctx, pull, args)
		}),
	}
	pullFlags(cmd.Flags(), &pull.Pull, &pull.Platform, "always")
	completePull(cmd)
	return cmd
}

func (p *program) pullImages(ctx context.Context, pull cove.ImagePull, references []string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	images := []cove.Image{}
	var failures []error
	for _, reference := range references {
		pull.Reference = reference
		image, err := p.pull(ctx, c, pull)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		images = append(images, image)
		if !p.json {
			if _, err := fmt.Fprintln(p.Stdout, cmp.Or(image.Digest, image.Reference)); err != nil {
				return err
			}
		}
	}
	if p.json {
		failures = append(failures, p.writeJSON(map[string][]cove.Image{"images": images}))
	}
	return errors.Join(failures...)
}

// pull fetches an image, and shows on a terminal how far that is.
func (p *program) pull(ctx context.Context, c *client.Client, pull cove.ImagePull) (cove.Image, error) {
	if p.json || !isTerminal(p.Stderr) {
		return c.PullImage(ctx, pull, nil)
	}
	bar := &progressLine{to: p.Stderr, name: clean(pull.Reference, "")}
	defer bar.clear()
	return c.PullImage(ctx, pull, bar.show)
}

// progressLine is one line of a terminal that is written again and again.
type progressLine struct {
	to    io.Writer
	name  string
	drawn bool
}

// show draws how far a pull is.
func (l *progressLine) show(now cove.PullProgress) {
	text := now.Phase + " " + l.name
	switch {
	case now.Phase == "done":
		return
	case now.Total > 0:
		text += fmt.Sprintf("  %s of %s", sizeText(now.Bytes), sizeText(now.Total))
	}
	if now.Layers > 0 {
		text += fmt.Sprintf("  %d of %d layers", now.Complete, now.Layers)
	}
	const most = 78 // a longer line would break, and stay
	if len(text) > most {
		text = text[:most]
	}
	fmt.Fprintf(l.to, "\r\x1b[K%s", text)
	l.drawn = true
}

func (l *progressLine) clear() {
	if l.drawn {
		fmt.Fprint(l.to, "\r\x1b[K")
	}
}

// sizeText shows a size to people, in three digits.
func sizeText(size cove.Bytes) string {
	value, unit := float64(size), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1000 {
			break
		}
		value, unit = value/1024, next
	}
	if value < 10 && unit != "B" {
		return fmt.Sprintf("%.1f%s", value, unit)
	}
	return fmt.Sprintf("%.0f%s", value, unit)
}

// isFetched reports whether an image is one that has to be fetched from somewhere.
func isFetched(reference string) bool {
	return reference != "" && reference != cove.DefaultImage && !strings.HasPrefix(reference, "rootfs:")
}

// provide fetches the image of a spec before a create that would do so unseen, for people
// to see how far it is and for what the image says of itself. It returns nil for an image
// that is not fetched.
func (p *program) provide(ctx context.Context, c *client.Client, spec *cove.Spec) (*cove.Image, error) {
	if !isFetched(spec.Image) {
		return nil, nil
	}
	image, err := p.pull(ctx, c, cove.ImagePull{Reference: spec.Image, Runtime: spec.Runtime, Platform: spec.Platform, Pull: spec.Pull})
	if errors.Is(err, cove.NotSupported) {
		return nil, nil // create says it better
	}
	if err != nil {
		return nil, err
	}
	if spec.Pull == cove.PullAlways {
		spec.Pull = cove.PullMissing // it was now
	}
	return &image, nil
}

// commandOf is what an image runs that is not told what to run.
func commandOf(image *cove.Image) ([]string, error) {
	if image == nil {
		return nil, usage("missing command", "write it after --, as in: -- python3 -c 'print(6*7)'")
	}
	argv := append(append([]string{}, image.Config.Entrypoint...), image.Config.Cmd...)
	if len(argv) == 0 || argv[0] == "" {
		return nil, usage("missing command, and the image "+clean(image.Reference, "")+" names none", "write it after --, as in: -- sh -c 'echo hello'")
	}
	return argv, nil
}

func (p *program) imageImportVerb(runtime *string) *cobra.Command {
	return &cobra.Command{
		Use:   "import TAR NAME",
		Short: "Make an image of an archive and print its digest",
		Long: `Make an image of an archive, - for standard input, and print its digest. The archive is
what docker save wrote, an OCI layout, or a tar of a root filesystem; it may be compressed.

With --json, prints the image as GET /v1/images/{reference} does.`,
		Example: `  cove image import app.tar team/app:1
  docker export web | cove image import - web:copy`,
		Args: arguments("TAR", "NAME"),
		RunE: verb(func(ctx context.Context, args []string) error { return p.importImage(ctx, *runtime, args[0], args[1]) }),
	}
}

func (p *program) importImage(ctx context.Context, runtime, path, name string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	archive := p.Stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return problem("import image", path, err.Error(), "name a tar, or - for standard input")
		}
		defer file.Close()
		archive = file
	}
	image, err := c.ImportImage(ctx, runtime, name, archive)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(image)
	}
	_, err = fmt.Fprintln(p.Stdout, image.Digest)
	return err
}

func (p *program) imageListVerb(runtime *string) *cobra.Command {
	var quiet bool
	cmd := &cobra.Command{
		Use:   "ls [flags]",
		Short: "List images",
		Long: `List images by name.

With --json, prints what GET /v1/images replies.`,
		Example: `  cove image ls
  cove image rm $(cove image ls -q)`,
		Args: arguments(),
		RunE: verb(func(ctx context.Context, _ []string) error { return p.images(ctx, *runtime, quiet) }),
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print names only")
	return cmd
}

func (p *program) images(ctx context.Context, runtime string, quiet bool) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	images, err := c.Images(ctx, runtime)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(map[string][]cove.Image{"images": append([]cove.Image{}, images...)})
	}
	return p.imageTable(images, quiet)
}

func (p *program) imageTable(images []cove.Image, quiet bool) error {
	var rows [][]string
	for _, image := range images {
		if quiet {
			if _, err := fmt.Fprintln(p.Stdout, clean(image.Reference, "")); err != nil {
				return err
			}
			continue
		}
		rows = append(rows, []string{
			image.Reference, shortDigest(image.Digest), dash(image.Platform), sizeText(image.Size), ago(image.CreatedAt), ago(image.UsedAt),
		})
	}
	if quiet {
		return nil
	}
	return p.table([]string{"IMAGE", "DIGEST", "PLATFORM", "SIZE", "CREATED", "USED"}, rows)
}

func shortDigest(digest string) string {
	const most = len("sha256:") + 12
	return dash(digest[:min(len(digest), most)])
}

// ago shows when something was.
func ago(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return span(time.Since(*at)) + " ago"
}

func (p *program) imageInspectVerb(runtime *string) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect IMAGE",
		Short: "Show what an image is",
		Long: `Show what an image is and what it says of itself.

With --json, prints the image as GET /v1/images/{reference} does.`,
		Example: `  cove image inspect python:3.12
  cove image inspect python:3.12 --json | jq .config.env`,
		Args:              arguments("IMAGE"),
		ValidArgsFunction: p.completeImages(runtime),
		RunE:              verb(func(ctx context.Context, args []string) error { return p.inspectImage(ctx, *runtime, args[0]) }),
	}
}

func (p *program) inspectImage(ctx context.Context, runtime, reference string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	image, err := c.Image(ctx, runtime, reference)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(image)
	}
	config := image.Config
	return p.table([]string{"image", image.Reference}, [][]string{
		{"digest", dash(image.Digest)},
		{"platform", dash(image.Platform)},
		{"size", sizeText(image.Size)},
		{"created", ago(image.CreatedAt)},
		{"used", ago(image.UsedAt)},
		{"entrypoint", dash(commandLine(config.Entrypoint))},
		{"command", dash(commandLine(config.Cmd))},
		{"user", dash(config.User)},
		{"workdir", dash(config.Workdir)},
		{"variables", dash(strings.Join(config.Env, " "))},
		{"ports", dash(strings.Join(config.Ports, " "))},
		{"volumes", dash(strings.Join(config.Volumes, " "))},
	})
}

func (p *program) imageRemoveVerb(runtime *string) *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE…",
		Short: "Remove names from images, and images with their last one",
		Long: `Remove names from images, and images with their last one, and print the names. An image
of which a sandbox was made stays as long as that lives.

With --json, prints the images as they were, as GET /v1/images lists them.`,
		Example: `  cove image rm python:3.12`,
		Args:    arguments("IMAGE…"),

		ValidArgsFunction: p.completeImages(runtime),
		RunE:              verb(func(ctx context.Context, args []string) error { return p.removeImages(ctx, *runtime, args) }),
	}
}

func (p *program) removeImages(ctx context.Context, runtime string, references []string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	removed := []cove.Image{}
	var failures []error
	for _, reference := range references {
		image, err := c.Image(ctx, runtime, reference)
		if err == nil {
			err = c.RemoveImage(ctx, runtime, reference)
		}
		if err != nil {
			failures = append(failures, err)
			continue
		}
		removed = append(removed, image)
		if !p.json {
			fmt.Fprintln(p.Stdout, clean(image.Reference, ""))
		}
	}
	if p.json {
		failures = append(failures, p.writeJSON(map[string][]cove.Image{"images": removed}))
	}
	return errors.Join(failures...)
}

// completeImages offers the names of images.
func (p *program) completeImages(runtime *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
		defer cancel()
		var names []cobra.Completion
		if c := p.peek(ctx, cmd); c != nil {
			images, _ := c.Images(ctx, *runtime) // nobody wants an error for pressing Tab
			for _, image := range images {
				names = append(names, clean(image.Reference, ""))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func (p *program) imagePruneVerb(runtime *string) *cobra.Command {
	return &cobra.Command{
		Use:   "prune",
		Short: "Remove the images that no sandbox uses, and what pulls have left",
		Long: `Remove the images of which no living sandbox was made, and what earlier pulls have left,
and print the names.

With --json, prints what POST /v1/images/prune replies.`,
		Example: `  cove image prune`,
		Args:    arguments(),
		RunE:    verb(func(ctx context.Context, _ []string) error { return p.pruneImages(ctx, *runtime) }),
	}
}

func (p *program) pruneImages(ctx context.Context, runtime string) error {
	c, err := p.connect(ctx)
	if err != nil {
		return err
	}
	images, err := c.PruneImages(ctx, runtime)
	if err != nil {
		return err
	}
	if p.json {
		return p.writeJSON(map[string][]cove.Image{"images": append([]cove.Image{}, images...)})
	}
	return p.imageTable(images, true)
}
