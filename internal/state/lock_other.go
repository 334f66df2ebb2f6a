//go:build !unix

package state

import "io/fs"

func owner(fs.FileInfo) (uid int, known bool) { return 0, false }

// acquire refuses: without flock and file modes the guarantees do not hold.
func (d *Dir) acquire() error {
	return problemf(ErrAccess, "state directories are not supported on this system")
}
