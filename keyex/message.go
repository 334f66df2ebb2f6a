package keyex

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Numbers of the messages in the KE header.
const (
	msgHelloA = 1
	msgHelloB = 2
	msgShareA = 3
	msgShareB = 4
)

// hash is a value of the running hash.
type hash = [sha256.Size]byte

// header is the KE header of one datagram.
type header struct {
	msg, index, total uint8
	x                 hash
	cookie            cookie
}

// parsePayload splits a datagram's payload. It refuses whatever fragment would
// never have written: one message has one division into datagrams.
func parsePayload(b []byte) (h header, body []byte, ok bool) {
	if len(b) <= headerSize {
		return h, nil, false
	}
	h = header{msg: b[0], index: b[1], total: b[2], x: hash(b[3:35]), cookie: cookie(b[35:headerSize])}
	body = b[headerSize:]
	switch {
	case h.msg < msgHelloA || h.msg > msgShareB,
		h.total < 1 || h.total > maxFragments || h.index >= h.total,
		h.total > 1 && h.msg <= msgHelloB,
		len(body) > fragmentSize,
		h.index+1 < h.total && len(body) != fragmentSize,
		(h.msg == msgHelloA || h.msg == msgShareB) && h.cookie != cookie{}:
		return h, nil, false
	}
	return h, body, true
}

// fragment divides a body into payloads.
func fragment(msg uint8, x hash, c cookie, body []byte) [][]byte {
	total := (len(body) + fragmentSize - 1) / fragmentSize
	out := make([][]byte, 0, total)
	for i := range total {
		part := body[i*fragmentSize:]
		part = part[:min(len(part), fragmentSize)]
		p := make([]byte, 0, headerSize+len(part))
		p = append(p, msg, uint8(i), uint8(total))
		p = append(p, x[:]...)
		p = append(p, c[:]...)
		out = append(out, append(p, part...))
	}
	return out
}

// m1 is Hello(A). Groups and Suites are byte strings, one number a byte, the
// sender's favourite first.
type m1 struct {
	_       struct{} `cbor:",toarray"`
	Version uint8
	PIDA    id.ID
	PIDB    id.ID
	NonceA  [32]byte
	Groups  []byte
	Suites  []byte
	RekeyID *[8]byte
	Caps    uint32 // none defined; unknown bits are ignored
}

func parseM1(b []byte) (m m1, ok bool) {
	if wire.Unmarshal(b, &m, maxM1) != nil {
		return m, false
	}
	return m, m.Version == version && m.PIDA != m.PIDB &&
		isOffer(m.Groups, maxGroups) && isOffer(m.Suites, maxSuites)
}

// isOffer says whether list has 1 to limit distinct numbers.
func isOffer(list []byte, limit int) bool {
	if len(list) < 1 || len(list) > limit {
		return false
	}
	for i, v := range list {
		if bytes.IndexByte(list[i+1:], v) >= 0 {
			return false
		}
	}
	return true
}

// m2 is Hello(B).
type m2 struct {
	_       struct{} `cbor:",toarray"`
	PIDB    id.ID
	NonceB  [32]byte
	Group   Group
	Suite   Suite
	RekeyOK bool
	Caps    uint32
}

func parseM2(b []byte) (m m2, ok bool) {
	return m, wire.Unmarshal(b, &m, maxM2) == nil
}

// fits says whether m2 is a possible answer to m1.
func (m m2) fits(q m1) bool {
	return m.PIDB == q.PIDB &&
		bytes.IndexByte(q.Groups, byte(m.Group)) >= 0 &&
		bytes.IndexByte(q.Suites, byte(m.Suite)) >= 0 &&
		(!m.RekeyOK || q.RekeyID != nil)
}

// m3 is DH(A); the signature follows it in the body.
type m3 struct {
	_     struct{} `cbor:",toarray"`
	M1    []byte
	M2    []byte
	Share []byte
	SPI   uint32
	Cred  []byte
}

func parseM3(body []byte) (m m3, raw, sig []byte, ok bool) {
	if len(body) <= ed25519.SignatureSize || len(body) > maxM3 {
		return m, nil, nil, false
	}
	n := len(body) - ed25519.SignatureSize
	raw, sig = body[:n], body[n:]
	if wire.Unmarshal(raw, &m, maxM3) != nil {
		return m, nil, nil, false
	}
	return m, raw, sig, m.SPI >= minSPI && isCredential(m.Cred)
}

// m4 is DH(B). The signature follows it in the body and, when Status is
// StatusOK, the confirmation MAC.
type m4 struct {
	_      struct{} `cbor:",toarray"`
	Status Status
	Share  []byte
	SPI    uint32
	Cred   []byte
}

// statusOffset is where the one-byte status stands: after the array head.
const statusOffset = 1

func parseM4(body []byte) (m m4, raw, sig, mac []byte, ok bool) {
	trailer := ed25519.SignatureSize
	if len(body) > statusOffset && body[statusOffset] == byte(StatusOK) {
		trailer += sha256.Size
	}
	if len(body) <= trailer || len(body) > maxM4 {
		return m, nil, nil, nil, false
	}
	n := len(body) - trailer
	raw, sig, mac = body[:n], body[n:n+ed25519.SignatureSize], body[n+ed25519.SignatureSize:]
	if wire.Unmarshal(raw, &m, maxM4) != nil {
		return m, nil, nil, nil, false
	}
	good := m.SPI >= minSPI
	if m.Status != StatusOK {
		good = m.SPI == 0 && m.Share != nil && len(m.Share) == 0
	}
	return m, raw, sig, mac, good && isCredential(m.Cred)
}

func isCredential(b []byte) bool { return len(b) > 0 && len(b) <= MaxCredential }
