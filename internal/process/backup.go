package process

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"icvpn/internal/control"
	"icvpn/internal/ledger"
	"icvpn/internal/state"
	"icvpn/internal/superpeer"
)

// A backup is a tar archive of what a super peer cannot make again: for each of
// its services the sealed files and the ledger, as they lie on the disk. What
// opens them, seal.key or the key file, is not in it.
//
//	manifest.json                          version, time, names of the others
//	handover.sealed, schema.sealed, ...    of the state directory itself
//	ledger.db
//	services/SERVICEID/handover.sealed ... of each further service
const (
	backupVersion  = 1
	backupManifest = "manifest.json"
	// maxBackup bounds the files of an archive that somebody hands us, all together:
	// five times the ledger of 65,000 members.
	maxBackup = 512 << 20
)

var backupName = regexp.MustCompile(`^(services/[0-9a-f]{40}/)?([a-z0-9][a-z0-9._-]*\.sealed|ledger\.db)$`)

type manifest struct {
	Version int       `json:"version"`
	Made    time.Time `json:"made"`
	Files   []string  `json:"files"`
}

// archived is one file of a backup.
type archived struct {
	name    string
	content []byte
}

// part is one state directory in a backup.
type part struct {
	prefix string // "" or "services/ID/"
	dir    *state.Dir
	ledger func(io.Writer) error
}

// host is a superpeer.Host that writes backups, for the control socket.
type host struct {
	*superpeer.Host
	parts []part
	count func() int // members
}

var _ control.Backuper = (*host)(nil)

// Backup implements control.Backuper. Admissions go on meanwhile.
func (h *host) Backup(_ context.Context, to string) (control.Backup, error) {
	n, err := writeBackup(to, h.parts)
	return control.Backup{Path: to, Bytes: n, Members: h.count()}, err
}

// BackupStopped writes a backup of a state directory that no process holds.
func BackupStopped(stateDir, keyFile, to string) (control.Backup, error) {
	if _, err := os.Stat(stateDir); err != nil {
		return control.Backup{}, fmt.Errorf("state directory %s: %w", stateDir, unwrapPath(err))
	}
	opts := state.Options{KeyFile: keyFile}
	root, err := state.Open(stateDir, opts)
	if err != nil {
		return control.Backup{}, err
	}
	defer root.Close()
	parts := []part{stopped("", root)}
	entries, err := os.ReadDir(filepath.Join(stateDir, dirServices))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return control.Backup{}, err
	}
	for _, e := range entries {
		sub, err := state.Open(filepath.Join(stateDir, dirServices, e.Name()), opts)
		if err != nil {
			return control.Backup{}, err
		}
		defer sub.Close()
		parts = append(parts, stopped(path.Join(dirServices, e.Name())+"/", sub))
	}
	n, err := writeBackup(to, parts)
	return control.Backup{Path: to, Bytes: n}, err
}

func stopped(prefix string, dir *state.Dir) part {
	return part{prefix, dir, func(w io.Writer) error { return ledger.Snapshot(dir, w) }}
}

// writeBackup makes the file to, which must not be there, with mode 0600. What
// is not complete is removed again.
func writeBackup(to string, parts []part) (n int64, err error) {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return 0, fmt.Errorf("%s exists already, and a backup overwrites nothing; name another file", to)
	}
	if err != nil {
		return 0, fmt.Errorf("%s: %w", to, unwrapPath(err))
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = os.Remove(to)
			err = fmt.Errorf("backup %s: %w", to, unwrapPath(err))
		}
	}()
	var files []archived
	for _, p := range parts {
		if files, err = addPart(files, p); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(writeArchive(f, files), f.Sync()); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func addPart(files []archived, p part) ([]archived, error) {
	names, err := p.dir.List()
	if err != nil {
		return nil, err
	}
	for _, name := range append(names, "schema") {
		b, err := os.ReadFile(filepath.Join(p.dir.Path(), name+".sealed"))
		if err != nil {
			return nil, err
		}
		files = append(files, archived{p.prefix + name + ".sealed", b})
	}
	var b bytes.Buffer
	if err := p.ledger(&b); err != nil {
		return nil, err
	}
	return append(files, archived{p.prefix + ledger.File, b.Bytes()}), nil
}

func writeArchive(f io.Writer, files []archived) error {
	about := manifest{Version: backupVersion, Made: time.Now().UTC().Truncate(time.Second)}
	for _, a := range files {
		about.Files = append(about.Files, a.name)
	}
	b, err := json.Marshal(about)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	for _, a := range append([]archived{{backupManifest, append(b, '\n')}}, files...) {
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: a.name, Mode: 0o600, Size: int64(len(a.content)), Format: tar.FormatPAX})
		if err == nil {
			_, err = w.Write(a.content)
		}
		if err != nil {
			return err
		}
	}
	return w.Close()
}

// RestoreOptions say how a backup is put back.
type RestoreOptions struct {
	StateDir string
	KeyFile  string // default: seal.key in the state directory, which must be there
	File     string
	// Replace allows a state directory that has a ledger. The old one is kept
	// beside it.
	Replace bool
	// Moved says that nobody was admitted since the backup was made: the super
	// peer was stopped, and moves to this machine.
	Moved bool
}

// Restore puts a backup into a state directory that no process holds.
func Restore(o RestoreOptions) error {
	files, err := readBackup(o.File)
	if err != nil {
		return err
	}
	for _, put := range []func(string, map[string][]byte, RestoreOptions) error{tryPart, restorePart} { // all of it, or nothing
		for prefix, content := range files {
			if err := put(filepath.Join(o.StateDir, filepath.FromSlash(prefix)), content, o); err != nil {
				return err
			}
		}
	}
	return nil
}

// readBackup reads a whole archive, by state directory and name.
func readBackup(file string) (map[string]map[string][]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("backup %s: %w", file, unwrapPath(err))
	}
	defer f.Close()
	bad := func(why any) error {
		return fmt.Errorf("%s is no whole backup of a super peer (%v); use another one", file, why)
	}
	var about manifest
	parts := map[string]map[string][]byte{}
	r := tar.NewReader(f)
	total := int64(0)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, bad(err)
		}
		if total += h.Size; h.Size < 0 || total > maxBackup {
			return nil, bad("it is too large")
		}
		b, err := io.ReadAll(r)
		if err != nil || int64(len(b)) != h.Size {
			return nil, bad("it is cut off")
		}
		switch {
		case h.Name == backupManifest:
			err = json.Unmarshal(b, &about)
		case h.Typeflag == tar.TypeReg && backupName.MatchString(h.Name):
			prefix, name := path.Split(h.Name)
			if parts[prefix] == nil {
				parts[prefix] = map[string][]byte{}
			}
			if parts[prefix][name] != nil {
				return nil, bad(fmt.Sprintf("it has %.80q twice", h.Name))
			}
			parts[prefix][name] = b
		default:
			err = fmt.Errorf("file %.80q does not belong there", h.Name)
		}
		if err != nil {
			return nil, bad(err)
		}
	}
	if about.Version != backupVersion {
		return nil, bad(fmt.Sprintf("version %d, this icvpn knows %d", about.Version, backupVersion))
	}
	for _, name := range about.Files {
		if prefix, base := path.Split(name); parts[prefix][base] == nil {
			return nil, bad(fmt.Sprintf("it lacks %.80q", name))
		}
	}
	for prefix, files := range parts {
		if files[ledger.File] == nil {
			return nil, bad("it lacks " + prefix + ledger.File)
		}
	}
	return parts, nil
}

// restorePart fills one state directory. The ledger comes last: without it the
// super peer does not know that it has been one before.
func restorePart(path string, files map[string][]byte, o RestoreOptions) error {
	dir, err := state.Open(path, state.Options{KeyFile: o.KeyFile})
	if err != nil {
		return err
	}
	defer dir.Close()
	for name, b := range files {
		name, sealed := strings.CutSuffix(name, ".sealed")
		if !sealed || name == "schema" {
			continue
		}
		if err := dir.PutSealed(name, b); err != nil {
			return err
		}
	}
	kept, err := keepOld(filepath.Join(path, ledger.File), o.Replace)
	if err != nil {
		return err
	}
	err = ledger.Restore(dir, bytes.NewReader(files[ledger.File]), o.Moved)
	if err != nil && kept != "" {
		_ = os.Remove(kept) // the old one is in its place still
	}
	return err
}

// tryPart opens what is sealed in a directory of its own, so that a wrong key leaves
// nothing behind in the one that the right key is for.
func tryPart(path string, files map[string][]byte, o RestoreOptions) error {
	key := o.KeyFile
	if key == "" && os.Getenv("CREDENTIALS_DIRECTORY") == "" {
		key = filepath.Join(path, "seal.key")
		if _, err := os.Stat(key); err != nil {
			return fmt.Errorf("%s is not there: a backup opens under the key it was made with; put that file there with mode 0600, in a directory of mode 0700, or name the key with --seal-key-file", key)
		}
	}
	trial, err := os.MkdirTemp("", "icvpn-restore-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(trial)
	dir, err := state.Open(filepath.Join(trial, "state"), state.Options{KeyFile: key})
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		base, sealed := strings.CutSuffix(name, ".sealed")
		if !sealed || base == "schema" {
			continue
		}
		if err := dir.PutSealed(base, files[name]); err != nil {
			return fmt.Errorf("%s in the backup does not open under the key in %s: the backup was made under another key, or is damaged; put the key there that it was made with", name, cmp.Or(key, "the systemd credential"))
		}
	}
	return nil
}

// keepOld gives a ledger that is to be replaced a second name, and returns it.
func keepOld(old string, replace bool) (kept string, err error) {
	if _, err := os.Lstat(old); errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if !replace {
		return "", fmt.Errorf("%s exists already; to put the backup in its place, and keep it under another name, give --replace", old)
	}
	kept = fmt.Sprintf("%s.replaced-%d", old, time.Now().Unix())
	return kept, os.Link(old, kept)
}
