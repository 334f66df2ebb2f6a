package process

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An archive from elsewhere is not read beyond what a super peer can have.
func TestRestoreRefusesWhatNoBackupIs(t *testing.T) {
	for want, write := range map[string]func(*tar.Writer) error{
		"too large": func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{Name: "ledger.db", Typeflag: tar.TypeReg, Mode: 0o600, Size: maxBackup + 1})
		},
		"twice": func(w *tar.Writer) error {
			for range 2 {
				if err := w.WriteHeader(&tar.Header{Name: "ledger.db", Typeflag: tar.TypeReg, Mode: 0o600, Size: 1}); err != nil {
					return err
				}
				if _, err := w.Write([]byte{1}); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		path := filepath.Join(t.TempDir(), "backup")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		w := tar.NewWriter(f)
		if err := write(w); err != nil {
			t.Fatal(err)
		}
		_ = w.Flush() // the size of a file that is not there is an error, and meant
		f.Close()
		if err := Restore(RestoreOptions{StateDir: t.TempDir(), File: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
