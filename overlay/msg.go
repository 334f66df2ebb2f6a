package overlay

import (
	"crypto/ed25519"
	"encoding/binary"
	"math"
	"net/netip"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

// Node is a member of the overlay at an address.
type Node struct {
	ID   id.ID
	Addr netip.AddrPort
}

const nodeSize = id.Size + 16 + 2 // in nodes6 (BEP 32)

type kind byte

const (
	query    kind = 'q'
	response kind = 'r'
	refusal  kind = 'e'
)

type method string

const (
	ping     method = "ping"
	findNode method = "find_node"
	get      method = "get"
	put      method = "put"
)

// methodOf returns the method of that name, empty for one that is not known.
func methodOf(name []byte) method {
	switch string(name) {
	case string(ping):
		return ping
	case string(findNode):
		return findNode
	case string(get):
		return get
	case string(put):
		return put
	}
	return ""
}

// message is a KRPC message (BEP 5) with the fields of BEP 32 and BEP 44 that
// this overlay uses. Slices point into the datagram it was parsed from.
type message struct {
	kind kind
	t    []byte
	q    method

	// Arguments of a query or results of a response.
	has    field
	id     id.ID
	target id.ID
	token  []byte
	nodes  []byte // compact, a multiple of nodeSize
	key    [ed25519.PublicKeySize]byte
	salt   []byte
	seq    int64
	sig    [ed25519.SignatureSize]byte
	value  []byte
	life   int64 // of a chunk, in seconds

	// A refusal.
	code int64
	text []byte
}

// field is a set of optional fields that were there.
type field uint16

const (
	hasArgs field = 1 << iota
	hasResults
	hasID
	hasTarget
	hasToken
	hasNodes
	hasKey
	hasSalt
	hasSeq
	hasSig
	hasValue
	hasLife
	hasError
)

// all says whether every field of f is there.
func (m *message) all(f field) bool { return m.has&f == f }

func (m *message) any(f field) bool { return m.has&f != 0 }

// parse reads a datagram. It borrows b, which m then points into.
func parse(b []byte) (m message, why Drop) {
	if len(b) > MaxPayload {
		return m, DropTooLong
	}
	r := reader{b}
	if !r.dict(func(key []byte) bool { return m.topField(&r, key) }) || len(r.b) != 0 {
		return m, DropMalformed
	}
	return m, m.check()
}

func (m *message) topField(r *reader, key []byte) (ok bool) {
	switch string(key) {
	case "a":
		m.has |= hasArgs
		return r.dict(func(key []byte) bool { return m.field(r, key) })
	case "r":
		// Only one of both, or fields of one could be taken for the other's.
		if m.any(hasArgs) {
			return false
		}
		m.has |= hasResults
		return r.dict(func(key []byte) bool { return m.field(r, key) })
	case "e":
		m.has |= hasError
		return m.errorList(r)
	case "q":
		var s []byte
		if s, ok = r.str(MaxPayload); ok {
			m.q = methodOf(s)
		}
	case "t":
		m.t, ok = r.str(maxTransaction)
	case "y":
		var s []byte
		if s, ok = r.str(1); ok && len(s) == 1 {
			m.kind = kind(s[0])
		}
	default:
		// Room for extensions (BEP 5): unknown fields are read over, and nothing of
		// them goes further than this function.
		return r.skip(maxDepth)
	}
	return ok
}

func (m *message) field(r *reader, key []byte) (ok bool) {
	var f field
	switch string(key) {
	case "id":
		f, ok = hasID, r.fixed(m.id[:])
	case "target":
		f, ok = hasTarget, r.fixed(m.target[:])
	case "k":
		f, ok = hasKey, r.fixed(m.key[:])
	case "sig":
		f, ok = hasSig, r.fixed(m.sig[:])
	case "token":
		f = hasToken
		m.token, ok = r.str(maxToken)
	case "nodes6":
		f = hasNodes
		m.nodes, ok = r.str(bucketSize * nodeSize)
		ok = ok && len(m.nodes)%nodeSize == 0
	case "salt":
		f = hasSalt
		m.salt, ok = r.str(MaxPayload) // longer than MaxSalt earns a refusal, not silence
	case "seq":
		f = hasSeq
		m.seq, ok = r.num()
		ok = ok && m.seq >= 0
	case "v":
		f = hasValue
		m.value, ok = r.str(MaxPayload)
	case "life":
		f = hasLife
		m.life, ok = r.num()
		ok = ok && m.life >= 0
	default:
		return r.skip(maxDepth)
	}
	m.has |= f
	return ok
}

// errorList reads the list of code and text in a refusal.
func (m *message) errorList(r *reader) (ok bool) {
	if !r.take('l') {
		return false
	}
	if m.code, ok = r.num(); !ok || m.code < 0 || m.code > 999 {
		return false
	}
	m.text, ok = r.str(maxText)
	return ok && r.take('e')
}

// check is the guard proper: which fields each message must and may have.
func (m *message) check() Drop {
	switch m.kind {
	case query:
		return m.checkQuery()
	case response:
		// A response with a key but no sequence number is what crashes
		// exts/getput; a value comes with all of its proof or is a chunk.
		if !m.all(hasResults|hasID) || m.id.IsZero() || m.any(hasKey|hasSig) && !m.all(hasKey|hasSig|hasSeq|hasValue) || len(m.value) > MaxValue {
			return DropMalformed
		}
	case refusal:
		if !m.all(hasError) {
			return DropMalformed
		}
	default:
		return DropMalformed
	}
	if len(m.t) <= tagSize {
		return DropUnasked
	}
	return DropNone
}

func (m *message) checkQuery() Drop {
	var need field
	switch m.q {
	case ping:
	case findNode, get:
		need = hasTarget
	case put:
		need = hasValue | hasToken
		if m.any(hasKey | hasSig | hasSeq | hasSalt) {
			need |= hasKey | hasSig | hasSeq
		}
	default:
		return DropMethod
	}
	if !m.all(hasArgs | hasID) {
		return DropNoArguments
	}
	if !m.all(need) || len(m.t) == 0 || m.id.IsZero() {
		return DropMalformed
	}
	return DropNone
}

// item returns the mutable item in m with the salt the reader asked for, since
// answers do not repeat it.
func (m *message) item(salt []byte) Item {
	return Item{Key: m.key[:], Salt: salt, Seq: m.seq, Value: m.value, Sig: m.sig}
}

// lifetime returns how long the chunk in m is of use, zero if m does not say.
func (m *message) lifetime() time.Duration {
	return time.Duration(min(m.life, int64(math.MaxInt64/time.Second))) * time.Second
}

func (m *message) setItem(it Item) {
	m.has |= hasKey | hasSeq | hasSig | hasValue
	copy(m.key[:], it.Key)
	m.seq, m.sig, m.value = it.Seq, it.Sig, it.Value
}

// append writes m in canonical form. Fields are those m.has names.
func (m *message) append(dst []byte) []byte {
	dst = append(dst, 'd')
	switch m.kind {
	case query:
		dst = append(dst, "1:a"...)
		dst = m.appendFields(dst)
		dst = append(dst, "1:q"...)
		dst = appendStr(dst, string(m.q))
	case refusal:
		dst = append(dst, "1:el"...)
		dst = appendNum(dst, m.code)
		dst = appendStr(dst, m.text)
		dst = append(dst, 'e')
	case response:
		dst = append(dst, "1:r"...)
		dst = m.appendFields(dst)
	}
	dst = append(dst, "1:t"...)
	dst = appendStr(dst, m.t)
	dst = append(dst, "1:y"...)
	dst = appendStr(dst, string(m.kind))
	return append(dst, 'e')
}

func (m *message) appendFields(dst []byte) []byte {
	str := func(f field, key string, v []byte) {
		if m.has&f != 0 {
			dst = appendStr(dst, key)
			dst = appendStr(dst, v)
		}
	}
	dst = append(dst, 'd')
	str(hasID, "id", m.id[:])
	str(hasKey, "k", m.key[:])
	if m.has&hasLife != 0 {
		dst = appendStr(dst, "life")
		dst = appendNum(dst, m.life)
	}
	str(hasNodes, "nodes6", m.nodes)
	str(hasSalt, "salt", m.salt)
	if m.has&hasSeq != 0 {
		dst = appendStr(dst, "seq")
		dst = appendNum(dst, m.seq)
	}
	str(hasSig, "sig", m.sig[:])
	str(hasTarget, "target", m.target[:])
	str(hasToken, "token", m.token)
	str(hasValue, "v", m.value)
	return append(dst, 'e')
}

// appendNode writes one entry of nodes6. IPv4 stands there as ::ffff:a.b.c.d, so
// that one list, and one datagram, carries both families.
func appendNode(dst []byte, n Node) []byte {
	ip := n.Addr.Addr().As16()
	dst = append(dst, n.ID[:]...)
	dst = append(dst, ip[:]...)
	return binary.BigEndian.AppendUint16(dst, n.Addr.Port())
}

// readNodes returns the entries of nodes6 whose address a node can have.
func readNodes(b []byte) []Node {
	nodes := make([]Node, 0, bucketSize)
	for ; len(b) >= nodeSize && len(nodes) < bucketSize; b = b[nodeSize:] {
		ip := netip.AddrFrom16([16]byte(b[id.Size : id.Size+16])).Unmap()
		n := Node{id.ID(b[:id.Size]), netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[id.Size+16:]))}
		if !n.ID.IsZero() && dialable(n.Addr) {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// dialable says whether a node may have this address at all.
func dialable(a netip.AddrPort) bool {
	ip := a.Addr()
	return a.Port() != 0 && ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() &&
		!(ip.Is4() && (ip.As4()[0] == 0 || ip.As4()[0] >= 240)) && ip.Zone() == "" && !wire.Discard.Contains(ip)
}

// IsAnswer says whether a datagram of this overlay answers a query. It borrows
// pkt.
func IsAnswer(pkt []byte) bool {
	m, why := parse(pkt)
	return why == DropNone && m.kind != query
}

// PaddedLen returns the size a datagram of this overlay must be padded to before
// it is sealed, and that a received query must have had for its answer never to
// be larger: MaxPayload for get and put, 450 for find_node, its own length for a
// ping, whose answer is shorter, and for anything else. It borrows pkt.
func PaddedLen(pkt []byte) int {
	m, why := parse(pkt)
	if why != DropNone {
		return len(pkt)
	}
	return m.padded(len(pkt))
}

// padded is PaddedLen for m in a datagram of n bytes.
func (m *message) padded(n int) int {
	switch {
	case m.kind != query || m.q == ping:
		return n
	case m.q == findNode:
		return max(minQuery, n)
	}
	return MaxPayload
}
