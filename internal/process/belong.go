package process

import (
	"bytes"
	"errors"
	"fmt"

	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/state"
)

// fileService says whose a peer's state directory is: ServiceID 20 ‖ name.
const fileService = "service"

// checkService refuses a state directory of another service: what is in it,
// membership and highest sequence numbers, would be taken for this service's.
func checkService(dir *state.Dir, tok service.Token) error {
	b, err := dir.Get(fileService)
	if errors.Is(err, state.ErrNotExist) {
		return nil // never joined
	}
	if err != nil {
		return err
	}
	if len(b) < id.Size {
		return fmt.Errorf("%s.sealed in %s is damaged; remove that file", fileService, dir.Path())
	}
	old := id.ID(b[:id.Size])
	if old == tok.Service {
		return nil
	}
	return fmt.Errorf("state directory %s belongs to service %s (%s), but the token is for service %s (%s); give each service a directory of its own with --state-dir, or remove this one",
		dir.Path(), b[id.Size:], old.Short(), tok.Name, tok.Service.Short())
}

// keepService writes down whose the directory is, once.
func keepService(dir *state.Dir, tok service.Token) error {
	want := append(tok.Service[:len(tok.Service):len(tok.Service)], tok.Name...)
	if b, err := dir.Get(fileService); err == nil && bytes.Equal(b, want) {
		return nil
	}
	return dir.Put(fileService, want)
}
