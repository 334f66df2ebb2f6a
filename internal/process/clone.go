package process

import (
	"errors"
	"fmt"

	"icvpn/internal/node"
	"icvpn/internal/state"
)

// fileClone is in the state directory of a machine whose identity another one
// has too, and that was not the last to be admitted: who said so. A start must
// not take the service back and forth between the two.
const fileClone = "clone"

// cloneError says what to do about a second machine.
type cloneError struct {
	why string
	dir string
	err error // what Run returned; nil at a later start
}

func (e *cloneError) Error() string {
	return fmt.Sprintf("%s: two machines were made of one state directory; remove %s here to join as a new machine, or start with icvpn up --take-over to be the member in the other's place", e.why, e.dir)
}

func (e *cloneError) Unwrap() error { return e.err }

// Is lets callers tell it by node.ErrClone, at a later start too.
func (e *cloneError) Is(target error) bool { return target == node.ErrClone }

// checkClone refuses to start where another machine took our place, unless the
// operator decides otherwise.
func checkClone(dir *state.Dir, takeOver bool) error {
	why, err := dir.Get(fileClone)
	switch {
	case errors.Is(err, state.ErrNotExist):
		return nil
	case err != nil:
		return err
	case takeOver:
		return dir.Delete(fileClone)
	}
	return &cloneError{why: string(why), dir: dir.Path()}
}

// markClone makes later starts stay away, if that is why a node ended.
func markClone(dir *state.Dir, err error) error {
	if !errors.Is(err, node.ErrClone) {
		return err
	}
	if perr := dir.Put(fileClone, []byte(err.Error())); perr != nil {
		return errors.Join(err, perr)
	}
	return &cloneError{why: err.Error(), dir: dir.Path(), err: err}
}
