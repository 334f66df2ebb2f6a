package underlay

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// control is the ancillary data of one message (cmsg(3)): at most the segment
// size and the TOS. Its type gives it the alignment of struct cmsghdr.
type control [controlLen / 8]uint64

// controlLen has room for two control messages of an int each: 48 bytes with
// 64-bit headers, 32 with 32-bit ones.
const controlLen = 48

var (
	cmsgHeader = unix.CmsgLen(0)
	cmsgSpace  = unix.CmsgSpace(4)
)

// tosTypes are the level of the TOS control message of a family and its type.
func tosTypes(v6 bool) (level, typ int32) {
	if v6 {
		return unix.IPPROTO_IPV6, unix.IPV6_TCLASS
	}
	return unix.IPPROTO_IP, unix.IP_TOS
}

// encode writes what a message of the given segment size (0: not a train) and
// TOS needs, and returns its length: 0 where the kernel's defaults do.
func (c *control) encode(segment int, tos uint8, v6 bool) (length int) {
	if segment > 0 {
		*(*uint16)(c.put(length, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 2)) = uint16(segment)
		length += unix.CmsgSpace(2)
	}
	if tos != 0 {
		level, typ := tosTypes(v6)
		*(*int32)(c.put(length, level, typ, 4)) = int32(tos)
		length += cmsgSpace
	}
	return length
}

// put writes a header at an offset and returns where its data goes.
func (c *control) put(at int, level, typ int32, size int) unsafe.Pointer {
	h := (*unix.Cmsghdr)(unsafe.Add(unsafe.Pointer(c), at))
	h.Level, h.Type = level, typ
	h.SetLen(unix.CmsgLen(size))
	return unsafe.Add(unsafe.Pointer(c), at+cmsgHeader)
}

// decode reads what the kernel wrote in the first length bytes.
func (c *control) decode(length int, v6 bool) (segment int, tos uint8) {
	level, typ := tosTypes(v6)
	length = min(length, controlLen)
	for at := 0; at+cmsgHeader < length; {
		h := (*unix.Cmsghdr)(unsafe.Add(unsafe.Pointer(c), at))
		data := unsafe.Add(unsafe.Pointer(c), at+cmsgHeader)
		size := int(h.Len) - cmsgHeader
		if size <= 0 || size > length-at-cmsgHeader {
			break
		}
		switch {
		case h.Level == unix.IPPROTO_UDP && h.Type == unix.UDP_GRO && size >= 4:
			segment = int(*(*int32)(data))
		case h.Level == level && h.Type == typ && size >= 4: // IPv6: an int
			tos = uint8(*(*int32)(data))
		case h.Level == level && h.Type == typ: // IPv4: one byte
			tos = *(*uint8)(data)
		}
		at += unix.CmsgSpace(size)
	}
	return segment, tos
}
