package state

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"

	"icvpn/internal/wire"
)

// useKey derives what seals and what names the key.
func (d *Dir) useKey(key []byte) {
	d.aead = newAEAD(key, "icvpn/1 state seal")
	d.records = newAEAD(key, labelRecord)
	copy(d.keyID[:], expand(key, "icvpn/1 state key id", keyIDSize))
}

func newAEAD(key []byte, label string) cipher.AEAD {
	k := expand(key, label, keySize)
	defer clear(k)
	aead, err := chacha20poly1305.NewX(k)
	if err != nil {
		panic("state: internal error: " + err.Error())
	}
	return aead
}

func expand(key []byte, label string, n int) []byte {
	out, err := hkdf.Key(sha256.New, key, nil, string(wire.Label(label)), n)
	if err != nil {
		panic("state: internal error: " + err.Error())
	}
	return out
}

func (d *Dir) seal(file string, content []byte) ([]byte, error) {
	if d.aead == nil {
		return nil, errClosed
	}
	b := make([]byte, 0, overhead+len(content))
	b = append(b, magic...)
	b = append(b, formatVersion)
	b = append(b, d.keyID[:]...)
	nonce := randomBytes(nonceSize)
	aad := associated(b, file)
	b = append(b, nonce...)
	return d.aead.Seal(b, nonce, content, aad), nil
}

// associated ties content to its format, key and file name: a file renamed to
// another name does not open.
func associated(header []byte, file string) []byte {
	return append(bytes.Clone(header), file...)
}

func (d *Dir) unseal(file string, b []byte) ([]byte, error) {
	damaged := func(why string) error {
		return problemf(ErrDamaged, "%s is damaged (%s) and was left as it is; restore it from a backup, or move it away to start afresh", filepath.Join(d.path, file), why)
	}
	switch {
	case len(b) < overhead:
		return nil, damaged("too short")
	case len(b) > overhead+MaxSize:
		return nil, damaged("too long")
	case string(b[:len(magic)]) != magic:
		return nil, damaged("not a sealed file")
	case b[len(magic)] != formatVersion:
		return nil, problemf(ErrDamaged, "%s has format %d, this version of icvpn knows %d; use the version that wrote it", filepath.Join(d.path, file), b[len(magic)], formatVersion)
	case !bytes.Equal(b[headerSize-keyIDSize:headerSize], d.keyID[:]):
		return nil, problemf(ErrKey, "%s is sealed under another key and was left as it is; restore it or its key from a backup, or move it away to start afresh", filepath.Join(d.path, file))
	}
	nonce, sealed := b[headerSize:headerSize+nonceSize], b[headerSize+nonceSize:]
	content, err := d.aead.Open(nil, nonce, sealed, associated(b[:headerSize], file))
	if err != nil {
		return nil, damaged("its seal does not verify")
	}
	return content, nil
}

// sealingKey finds the key and says where it came from.
func (d *Dir) sealingKey(o Options) (key []byte, origin string, err error) {
	if o.KeyFile != "" {
		key, err = readKey(o.KeyFile, true)
		return key, o.KeyFile, err
	}
	if dir := os.Getenv(credentialEnv); dir != "" {
		path := filepath.Join(dir, credentialFile)
		// systemd guards credentials with ACLs, which show as group bits; it made
		// the directory for this unit alone, so modes are not checked.
		key, err := readKey(path, false)
		if !errors.Is(err, fs.ErrNotExist) {
			return key, path, err
		}
	}
	key, err = d.ownKey()
	return key, filepath.Join(d.path, keyFile), err
}

// ownKey reads seal.key, or makes it in a directory where nothing is sealed yet.
func (d *Dir) ownKey() ([]byte, error) {
	path := filepath.Join(d.path, keyFile)
	f, err := d.root.Open(keyFile)
	if err == nil {
		defer f.Close()
		return parseKey(path, f, true)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, d.ioProblem(keyFile, err)
	}
	files, err := d.filesLocked()
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if strings.HasSuffix(f, sealedSuffix) || strings.HasSuffix(f, counterSuffix) {
			return nil, problemf(ErrKey, "state directory %s holds sealed files but no %s; give the key file or systemd credential they were sealed under, or name another directory with --state-dir", d.path, keyFile)
		}
	}
	key := randomBytes(keySize)
	return key, d.replace(keyFile, []byte(hex.EncodeToString(key)+"\n"))
}

func readKey(path string, checkMode bool) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &problem{fmt.Sprintf("key file %s: %v", path, unwrapPath(err)), errors.Join(ErrKey, err)}
	}
	defer f.Close()
	return parseKey(path, f, checkMode)
}

func parseKey(path string, f *os.File, checkMode bool) ([]byte, error) {
	if checkMode {
		info, err := f.Stat()
		if err != nil {
			return nil, fmt.Errorf("state: key file %s: %w", path, err)
		}
		if m := info.Mode().Perm(); m&0o027 != 0 {
			return nil, problemf(ErrKey, "key file %s has mode %04o, so others could read or replace it; run: chmod 600 %s", path, m, path)
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return nil, fmt.Errorf("state: key file %s: %w", path, unwrapPath(err))
	}
	defer clear(b)
	if len(b) == keySize {
		return bytes.Clone(b), nil
	}
	key := make([]byte, keySize)
	if text := bytes.TrimSpace(b); len(text) == 2*keySize {
		if _, err := hex.Decode(key, text); err == nil {
			return key, nil
		}
	}
	return nil, problemf(ErrKey, "key file %s holds no key: want 32 bytes, or 64 hexadecimal digits", path)
}
