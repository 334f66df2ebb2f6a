package overlay

import (
	"bytes"
	"math"
	"strconv"
)

// reader walks bencode (BEP 3) in its one canonical form: integers and lengths
// without leading zeros, keys of a dictionary strictly ascending. It allocates
// nothing; strings it returns point into the datagram. Every method is false on
// bad input and leaves the reader unusable.
type reader struct {
	b []byte
}

func (r *reader) peek() byte {
	if len(r.b) == 0 {
		return 0
	}
	return r.b[0]
}

func (r *reader) take(c byte) bool {
	if r.peek() != c {
		return false
	}
	r.b = r.b[1:]
	return true
}

// digits reads a canonical non-negative decimal up to and including end.
func (r *reader) digits(end byte) (uint64, bool) {
	n := bytes.IndexByte(r.b[:min(len(r.b), 20)], end)
	if n < 1 || n > 1 && r.b[0] == '0' {
		return 0, false
	}
	var v uint64
	for _, c := range r.b[:n] {
		d := uint64(c - '0') // wraps far beyond 9 below '0'
		if d > 9 || v > (math.MaxInt64-d)/10 {
			return 0, false
		}
		v = 10*v + d
	}
	r.b = r.b[n+1:]
	return v, true
}

// str reads a byte string of at most limit bytes.
func (r *reader) str(limit int) ([]byte, bool) {
	n, ok := r.digits(':')
	if !ok || n > uint64(limit) || n > uint64(len(r.b)) {
		return nil, false
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s, true
}

// fixed reads a byte string of exactly len(dst) bytes.
func (r *reader) fixed(dst []byte) bool {
	s, ok := r.str(len(dst))
	return ok && copy(dst, s) == len(dst)
}

// num reads an integer. "-0" and integers that 63 bits do not hold are refused.
func (r *reader) num() (int64, bool) {
	if !r.take('i') {
		return 0, false
	}
	minus := r.take('-')
	v, ok := r.digits('e')
	if !ok || minus && v == 0 {
		return 0, false
	}
	if minus {
		return -int64(v), true
	}
	return int64(v), true
}

// dict calls field for each key of a dictionary; field reads the value.
func (r *reader) dict(field func(key []byte) bool) bool {
	if !r.take('d') {
		return false
	}
	var last []byte
	for first := true; !r.take('e'); first = false {
		key, ok := r.str(MaxPayload)
		if !ok || !first && bytes.Compare(key, last) <= 0 || !field(key) {
			return false
		}
		last = key
	}
	return true
}

// skip reads a value of any kind, nested at most depth deep.
func (r *reader) skip(depth int) bool {
	switch c := r.peek(); {
	case c == 'i':
		_, ok := r.num()
		return ok
	case c >= '0' && c <= '9':
		_, ok := r.str(MaxPayload)
		return ok
	case depth == 0:
		return false
	case c == 'l':
		for r.take('l'); !r.take('e'); {
			if !r.skip(depth - 1) {
				return false
			}
		}
		return true
	case c == 'd':
		return r.dict(func([]byte) bool { return r.skip(depth - 1) })
	}
	return false
}

func appendStr[T string | []byte](dst []byte, s T) []byte {
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, ':')
	return append(dst, s...)
}

func appendNum(dst []byte, v int64) []byte {
	dst = append(dst, 'i')
	dst = strconv.AppendInt(dst, v, 10)
	return append(dst, 'e')
}
