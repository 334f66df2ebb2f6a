package process

import (
	"context"
	"fmt"
	"io"
	"os"

	"icvpn/internal/control"
	"icvpn/internal/service"
)

var _ control.Updater = (*host)(nil)

// Update implements control.Updater.
func (h *host) Update(ctx context.Context, path string) (control.Update, error) {
	b, err := readUpdate(path)
	if err != nil {
		return control.Update{}, err
	}
	u, err := h.Host.Update(ctx, b)
	if err != nil {
		return u, fmt.Errorf("%s: %w", path, err)
	}
	return u, nil
}

// readUpdate reads a file that may be anything: we read it for somebody else.
func readUpdate(path string) ([]byte, error) {
	info, err := os.Stat(path) // before it is opened, which waits at a pipe
	if err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(path)
	}
	if err != nil {
		return nil, fmt.Errorf("the super peer cannot read %s: %w; put the file where the user that it runs as may read it", path, unwrapPath(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(service.MaxUpdate)+1))
	if err == nil && len(b) > service.MaxUpdate {
		err = fmt.Errorf("it has more than %d bytes: this is not an icvpn update file", service.MaxUpdate)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return b, nil
}
