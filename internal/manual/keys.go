package manual

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"icvpn/esp"
	"icvpn/internal/config"
)

// maxKeyFile bounds a key file: the longest key has 64 bytes.
const maxKeyFile = 1024

// sa reads one direction: SPI and keys.
func (l *loader) sa(tunnel *config.Section, key string, t *Tunnel, sa *SA) {
	s := tunnel.Section(key)
	if s == nil {
		tunnel.Fail(key, "missing", "write "+key+": {spi: 0x1001, encryption_file: FILE, ...}")
		return
	}
	s.Only("spi", "encryption", "encryption_file", "integrity", "integrity_file")
	sa.SPI = spi(s)
	sizes := t.Suite.KeySizes()
	enc := l.key(s, "encryption", sizes.Enc+sizes.Salt, t.Suite)
	if len(enc) == sizes.Enc+sizes.Salt {
		sa.Keys.Enc, sa.Keys.Salt = enc[:sizes.Enc:sizes.Enc], enc[sizes.Enc:]
	}
	if sizes.Int > 0 {
		sa.Keys.Int = l.key(s, "integrity", sizes.Int, t.Suite)
	} else if s.Has("integrity") || s.Has("integrity_file") {
		s.Fail("integrity", "is not for "+t.Suite.String()+", which authenticates by itself", "remove it")
	}
	owner := fmt.Sprintf("the %s key of %q, %s", "encryption", t.Name, key)
	l.once(s, "encryption", sa.Keys.Enc, owner)
	l.once(s, "integrity", sa.Keys.Int, strings.Replace(owner, "encryption", "integrity", 1))
}

func spi(s *config.Section) uint32 {
	const rule = "use a number from 256 to 4294967295, also as 0x1001"
	text := s.Word("spi")
	if text == "" {
		s.Fail("spi", "missing", rule)
		return 0
	}
	n, err := strconv.ParseUint(text, 0, 32)
	switch {
	case err != nil:
		s.Fail("spi", quoted(text)+" is not an SPI", rule)
	case n < esp.MinSPI:
		s.Fail("spi", fmt.Sprintf("%d is reserved: 0 to 255 are no SPIs (RFC 4303, Section 2.1)", n), rule)
	}
	return uint32(n)
}

// key reads the field, or the file that the field with _file names.
func (l *loader) key(s *config.Section, field string, want int, suite esp.Suite) []byte {
	inline, file := s.Word(field), s.Text(field+"_file")
	var text []byte
	switch where := field; {
	case s.Err() != nil:
		return nil
	case inline != "" && file != "":
		s.Fail(field, "stands there and in a file", "keep one of "+field+" and "+field+"_file")
		return nil
	case inline != "":
		l.inline = true
		text = []byte(inline)
	case file != "":
		if text = l.keyFile(s, field+"_file", file); text == nil {
			return nil
		}
	default:
		s.Fail(where, "missing", fmt.Sprintf("write %s_file: FILE, a file of mode 0600 with %d bytes in hex (openssl rand -hex %d)", field, want, want))
		return nil
	}
	defer clear(text)
	b := make([]byte, hex.DecodedLen(len(text)))
	n, err := hex.Decode(b, bytes.TrimPrefix(text, []byte("0x")))
	b = b[:n]
	problem, wayOut := "", fmt.Sprintf("make one with openssl rand -hex %d", want)
	switch {
	case err != nil:
		problem = "is not in hex"
	case len(b) != want:
		problem = fmt.Sprintf("has %d bytes, and %s wants %d", len(b), suite, want)
		if suite.AEAD() {
			problem += " (key and salt)"
		}
	case weak(b):
		problem = "is a pattern and no key"
	}
	if problem != "" {
		clear(b)
		s.Fail(field, problem, wayOut)
		return nil
	}
	return b
}

// keyFile reads a key file without the white space around the key.
func (l *loader) keyFile(s *config.Section, field, path string) []byte {
	if !filepath.IsAbs(path) {
		path = filepath.Join(l.dir, path)
	}
	// Opened before it is looked at, so that the file checked is the file read;
	// without waiting, should it be a pipe.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		s.Fail(field, quoted(path)+" cannot be read: "+reason(err), "check the path and its permissions")
		return nil
	}
	defer f.Close()
	if problem, wayOut := privateFile(f.Stat()); problem != "" {
		s.Fail(field, quoted(path)+" "+problem, wayOut)
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	switch {
	case err != nil:
		s.Fail(field, quoted(path)+" cannot be read: "+reason(err), "check the path")
		return nil
	case len(b) > maxKeyFile:
		s.Fail(field, quoted(path)+" is too long for a key in hex", "check that it is the right file")
		return nil
	}
	return bytes.TrimSpace(b)
}

// private complains about a file that is no regular file, or that others may
// read: its keys are theirs then.
func private(path string) (problem, wayOut string) { return privateFile(os.Stat(path)) }

func privateFile(info os.FileInfo, err error) (problem, wayOut string) {
	switch {
	case err != nil:
		return "cannot be read: " + reason(err), "check the path"
	case !info.Mode().IsRegular():
		return "is not a file", "check the path"
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Sprintf("has mode %04o: other users may read it", info.Mode().Perm()), "chmod 600 it, and make new keys if anybody else may have read them"
	}
	return "", ""
}

func reason(err error) string {
	if pe := (*os.PathError)(nil); errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// weak says that b is the repetition of at most eight bytes: what people type,
// and what no generator makes once in 2^64 times.
func weak(b []byte) bool {
	for period := 1; period <= 8 && period*2 <= len(b); period++ {
		if bytes.Equal(b[period:], b[:len(b)-period]) {
			return true
		}
	}
	return false
}

// once wants every key to be used for one purpose. With one key in both
// directions a peer's packets could be sent back to it, and of two CBC streams
// under one key equal blocks could be compared. Prefixes count: an integrity key
// that begins with the encryption key is no second key.
func (l *loader) once(s *config.Section, field string, key []byte, owner string) {
	if len(key) < 16 || s.Err() != nil {
		return
	}
	sum := sha256.Sum256(key[:16])
	if prev, twice := l.keys[string(sum[:])]; twice {
		s.Fail(field, "repeats "+prev, "use a key of its own for each direction and purpose")
		return
	}
	l.keys[string(sum[:])] = owner
}
