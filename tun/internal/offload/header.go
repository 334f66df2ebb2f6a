package offload

import "encoding/binary"

// HeaderLen is the size of struct virtio_net_hdr, without the field that
// TUNSETVNETHDRSZ could add.
const HeaderLen = 10

// Flags and types of include/uapi/linux/virtio_net.h.
const (
	flagNeedsChecksum = 1

	gsoNone  = 0
	gsoTCPv4 = 1
	gsoTCPv6 = 4
	gsoUDP   = 5    // VIRTIO_NET_HDR_GSO_UDP_L4
	gsoECN   = 0x80 // the first segment has CWR set
)

// header is struct virtio_net_hdr. It is in the byte order of the machine.
type header struct {
	flags          byte
	gsoType        byte
	headersLen     uint16
	gsoSize        uint16 // payload of each segment but the last
	checksumStart  uint16
	checksumOffset uint16 // from checksumStart
}

func parseHeader(b []byte) header {
	_ = b[HeaderLen-1]
	return header{
		flags:          b[0],
		gsoType:        b[1],
		headersLen:     binary.NativeEndian.Uint16(b[2:]),
		gsoSize:        binary.NativeEndian.Uint16(b[4:]),
		checksumStart:  binary.NativeEndian.Uint16(b[6:]),
		checksumOffset: binary.NativeEndian.Uint16(b[8:]),
	}
}

func (h header) put(b []byte) {
	_ = b[HeaderLen-1]
	b[0], b[1] = h.flags, h.gsoType
	binary.NativeEndian.PutUint16(b[2:], h.headersLen)
	binary.NativeEndian.PutUint16(b[4:], h.gsoSize)
	binary.NativeEndian.PutUint16(b[6:], h.checksumStart)
	binary.NativeEndian.PutUint16(b[8:], h.checksumOffset)
}

// What is needed of IP, TCP and UDP headers: lengths and offsets.
const (
	ipv4Len = 20
	ipv6Len = 40
	tcpLen  = 20
	udpLen  = 8

	maxTCPLen = 60
	maxPacket = 65535 // IPv4's total length, IPv6's payload length

	protoTCP = 6
	protoUDP = 17

	tcpFlags    = 13 // offset of the flags
	tcpChecksum = 16
	udpChecksum = 6

	flagFIN = 0x01
	flagSYN = 0x02
	flagRST = 0x04
	flagPSH = 0x08
	flagACK = 0x10
	flagURG = 0x20
	flagCWR = 0x80
)

var be = binary.BigEndian
