package process

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"icvpn/internal/config"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/state"
)

// Where a super peer of several services keeps their state: that of the first
// one it ever served in its state directory, that of each other below it, in a
// state directory of its own. So a service can be added to a super peer, and
// taken away again, without a change to the files of the others.
//
//	STATE_DIR/                     lock, control.sock, the first service
//	STATE_DIR/services/SERVICEID/  one of the others
const dirServices = "services"

// fileHandOverName is the path of the file that the kept hand-over came in: which service is meant by a file that is there no more.
const fileHandOverName = "handover-name"

// serving is one service of a super peer process.
type serving struct {
	dir      *state.Dir
	handOver service.HandOver
	fresh    []byte // to be kept, nil if it is kept already
	file     string
}

// services are those of one process.
type services struct {
	root *state.Dir
	opts state.Options
	all  []*serving
	open []*state.Dir // below root, to be closed
}

// openServices finds the hand-over and the state directory of each service.
func openServices(root *state.Dir, c config.Super) (*services, error) {
	s := &services{root: root, opts: state.Options{KeyFile: c.SealKeyFile}}
	for _, h := range c.HandOvers {
		dir, err := s.dirOf(h, len(c.HandOvers) > 1)
		if err == nil {
			err = s.add(dir, h)
		}
		if err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func (s *services) add(dir *state.Dir, h config.HandOver) error {
	ho, fresh, err := handOver(dir, h)
	if err != nil {
		return err
	}
	s.all = append(s.all, &serving{dir: dir, handOver: ho, fresh: fresh, file: h.File})
	return nil
}

func (s *services) close() {
	for _, v := range s.all {
		clear(v.fresh)
	}
	for _, d := range s.open {
		d.Close()
	}
}

// dirOf returns the state directory of a hand-over.
func (s *services) dirOf(h config.HandOver, several bool) (*state.Dir, error) {
	given, err := readHandOver(h)
	if errors.Is(err, fs.ErrNotExist) {
		return s.dirNamed(h.File, several)
	}
	if err != nil {
		return nil, err
	}
	defer clear(given)
	ho, err := service.OpenHandOver(given[32:], given[:32])
	if err != nil {
		return s.root, nil // handOver says what is wrong
	}
	owner, taken := s.ownerOfRoot()
	_, err = os.Stat(s.below(ho.Service.ID))
	switch {
	case taken && owner == ho.Service.ID, !taken && len(s.all) == 0:
		return s.root, nil
	case err == nil, several:
		return s.openBelow(ho.Service.ID)
	}
	return s.root, nil // the only one, and of another service: handOver says so
}

// dirNamed returns the state directory of a service whose hand-over was taken
// over from this file, or, as files are moved, from one of the same name.
func (s *services) dirNamed(file string, several bool) (*state.Dir, error) {
	kept, err := s.kept()
	if err != nil {
		return nil, err
	}
	for _, same := range []func(string) bool{
		func(from string) bool { return from == file },
		func(from string) bool { return filepath.Base(from) == filepath.Base(file) },
		// Kept by a version that served one service, or none but this is meant.
		func(from string) bool { return from == "" || !several },
	} {
		for _, k := range kept {
			if !same(k.file) || s.uses(s.path(k.sid)) {
				continue
			}
			if k.sid.IsZero() {
				return s.root, nil
			}
			return s.openBelow(k.sid)
		}
	}
	return nil, errNotTaken(file)
}

// keptHandOver is where one was taken over from; the zero ID is for the state
// directory itself.
type keptHandOver struct {
	sid  id.ID
	file string // "" where that was not written down
}

// kept lists what former starts kept.
func (s *services) kept() (all []keptHandOver, err error) {
	b, err := s.root.Get(fileHandOverName)
	if err != nil && !errors.Is(err, state.ErrNotExist) {
		return nil, err
	}
	all = append(all, keptHandOver{file: string(b)})
	entries, err := os.ReadDir(filepath.Join(s.root.Path(), dirServices))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		sid, err := id.Parse(e.Name())
		if err != nil || s.uses(s.below(sid)) {
			continue // in use: its lock is ours already
		}
		dir, err := state.Open(s.below(sid), s.opts)
		if err != nil {
			return nil, err
		}
		if b, err := dir.Get(fileHandOverName); err == nil {
			all = append(all, keptHandOver{sid, string(b)})
		}
		dir.Close()
	}
	return all, nil
}

func (s *services) path(sid id.ID) string {
	if sid.IsZero() {
		return s.root.Path()
	}
	return s.below(sid)
}

// uses says whether a service has this directory already.
func (s *services) uses(path string) bool {
	return slices.ContainsFunc(s.all, func(v *serving) bool { return v.dir.Path() == path })
}

// ownerOfRoot returns the service whose state is in the state directory itself.
func (s *services) ownerOfRoot() (sid id.ID, taken bool) {
	kept, err := s.root.Get(fileHandOver)
	if err != nil {
		for _, v := range s.all { // taken by this start, and not kept yet
			if v.dir == s.root {
				return v.handOver.Service.ID, true
			}
		}
		return sid, false
	}
	defer clear(kept)
	h, err := openKept(kept, fileHandOver)
	return h.Service.ID, err == nil
}

// prefix is where a state directory lies below the first.
func (s *services) prefix(dir *state.Dir) string {
	if dir == s.root {
		return ""
	}
	return dirServices + "/" + filepath.Base(dir.Path()) + "/"
}

func (s *services) below(sid id.ID) string {
	return filepath.Join(s.root.Path(), dirServices, sid.String())
}

func (s *services) openBelow(sid id.ID) (*state.Dir, error) {
	if err := os.MkdirAll(filepath.Join(s.root.Path(), dirServices), 0o700); err != nil {
		return nil, err
	}
	dir, err := state.Open(s.below(sid), s.opts)
	if err == nil {
		s.open = append(s.open, dir)
	}
	return dir, err
}

// keep writes down hand-overs that have proved to be good.
func (s *services) keep(log *slog.Logger) error {
	for _, v := range s.all {
		if v.fresh == nil {
			continue
		}
		if err := errors.Join(v.dir.Put(fileHandOver, v.fresh), v.dir.Put(fileHandOverName, []byte(v.file))); err != nil {
			return err
		}
		log.Info("hand-over taken over into the state directory; its two files may be removed", "service", v.handOver.Service.ID.Short())
	}
	return nil
}
