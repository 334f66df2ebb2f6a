// The ceiling: what packets cost between a TUN device and a UDP port, without a
// cipher, in the fewest system calls and copies that Linux offers a program.
// Usage: ceiling INTERFACE PORT ADDRESS PORT, its messages on standard error; it
// says "ready to carry packets", and ends with SIGTERM.
//
//	out: read a super-packet -> headers of its segments -> one sendmsg, UDP_SEGMENT
//	in:  recvmsg, UDP_GRO -> headers of one super-packet  -> one writev
//
// Segments are never copied: headers and pieces of payload are gathered by the
// kernel. Nothing is checked and no checksum is computed: the receiver hands TCP
// segments on as one super-packet whose checksum is marked as yet to come. So it
// is for one trusted TCP stream over IPv4 and what else fits one packet, and for
// nothing else.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

enum { SUPER = 1 << 17, SEGMENTS = 64, HEADERS = 128 };

static int device, port;
static struct sockaddr_in peer;

static void fail(const char *what) {
	perror(what);
	exit(1);
}

static int is_tcp(const uint8_t *p, size_t n) {
	return n >= 40 && p[0] == 0x45 && p[9] == IPPROTO_TCP && n >= 20 + (size_t)(p[32] >> 4) * 4;
}

static uint16_t fold(uint32_t sum) {
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static uint32_t add(uint32_t sum, const uint8_t *b, size_t n) {
	for (size_t i = 0; i + 1 < n; i += 2)
		sum += b[i] << 8 | b[i + 1];
	return sum;
}

static void put16(uint8_t *b, uint16_t v) { b[0] = v >> 8, b[1] = v; }
static void put32(uint8_t *b, uint32_t v) { put16(b, v >> 16), put16(b + 2, v); }
static uint32_t get32(const uint8_t *b) { return (uint32_t)b[0] << 24 | b[1] << 16 | b[2] << 8 | b[3]; }

// set_length writes an IPv4 header's length and checksum.
static void set_length(uint8_t *ip, uint16_t n) {
	put16(ip + 2, n);
	put16(ip + 10, 0);
	put16(ip + 10, ~fold(add(0, ip, 20)));
}

// send_super cuts what TCP wrote into segments.
static void send_super(uint8_t *p, size_t n, size_t size) {
	static uint8_t heads[SEGMENTS][HEADERS];
	struct iovec iov[2 * SEGMENTS];
	size_t head = 20 + (p[32] >> 4) * 4;
	uint16_t id = p[4] << 8 | p[5];
	for (size_t at = head; at < n;) {
		size_t k = 0, first = 0;
		for (; k < SEGMENTS && at < n && first + (k + 1) * (head + size) <= 65000; k++) {
			size_t m = n - at < size ? n - at : size;
			uint8_t *h = heads[k];
			memcpy(h, p, head);
			put16(h + 4, id++);
			set_length(h, head + m);
			put32(h + 24, get32(p + 24) + (at - head));
			if (at + m < n)
				h[33] &= ~9; // FIN, PSH
			iov[2 * k] = (struct iovec){h, head};
			iov[2 * k + 1] = (struct iovec){p + at, m};
			at += m;
		}
		char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
		struct msghdr msg = {.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = iov, .msg_iovlen = 2 * k,
			.msg_control = control, .msg_controllen = sizeof control};
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_UDP, c->cmsg_type = UDP_SEGMENT, c->cmsg_len = CMSG_LEN(sizeof(uint16_t));
		*(uint16_t *)CMSG_DATA(c) = head + size;
		if (k == 1)
			msg.msg_control = 0, msg.msg_controllen = 0;
		sendmsg(port, &msg, 0);
	}
}

static void *out_loop(void *arg) {
	static uint8_t buf[SUPER];
	for (;;) {
		ssize_t n = read(device, buf, sizeof buf);
		if (n < (ssize_t)sizeof(struct virtio_net_hdr))
			fail("read from the device");
		struct virtio_net_hdr *v = (void *)buf;
		uint8_t *p = buf + sizeof *v;
		n -= sizeof *v;
		if (v->gso_type != VIRTIO_NET_HDR_GSO_NONE && is_tcp(p, n)) {
			send_super(p, n, v->gso_size);
			continue;
		}
		if (v->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
			uint16_t sum = ~fold(add(0, p + v->csum_start, n - v->csum_start) + ((n - v->csum_start) & 1 ? p[n - 1] << 8 : 0));
			put16(p + v->csum_start + v->csum_offset, sum ? sum : 0xffff);
		}
		sendto(port, p, n, 0, (void *)&peer, sizeof peer);
	}
	return arg;
}

// write_super hands the segments of TCP in p, size bytes apart, on as one.
static void write_super(uint8_t *p, size_t n, size_t size) {
	uint8_t head[HEADERS];
	struct virtio_net_hdr v = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = VIRTIO_NET_HDR_GSO_TCPV4};
	struct iovec iov[2 + SEGMENTS];
	size_t length = 20 + (p[32] >> 4) * 4, total = length, k = 2;
	memcpy(head, p, length);
	for (size_t at = 0; at < n && k < 2 + SEGMENTS; at += size, k++) {
		size_t m = (n - at < size ? n - at : size) - length;
		head[33] |= p[at + 33];
		iov[k] = (struct iovec){p + at + length, m};
		total += m;
	}
	set_length(head, total);
	uint8_t pseudo[12] = {[9] = IPPROTO_TCP};
	memcpy(pseudo, head + 12, 8);
	put16(pseudo + 10, total - 20);
	put16(head + 36, fold(add(0, pseudo, 12)));
	v.hdr_len = length, v.gso_size = size - length, v.csum_start = 20, v.csum_offset = 16;
	if (n <= size)
		v.gso_type = VIRTIO_NET_HDR_GSO_NONE, v.gso_size = 0;
	iov[0] = (struct iovec){&v, sizeof v};
	iov[1] = (struct iovec){head, length};
	if (writev(device, iov, k) < 0 && errno != EIO)
		fail("write to the device");
}

// follows says whether the segments of a train are one flow's, in order.
static int follows(const uint8_t *p, size_t n, size_t size) {
	if (!is_tcp(p, size))
		return 0;
	size_t length = 20 + (p[32] >> 4) * 4;
	uint32_t seq = get32(p + 24);
	for (size_t at = 0; at < n; at += size, seq += size - length)
		if (n - at <= length || memcmp(p + at + 12, p + 12, 12) || get32(p + at + 24) != seq)
			return 0;
	return 1;
}

static void *in_loop(void *arg) {
	static uint8_t buf[SUPER];
	for (;;) {
		char control[256];
		struct iovec iov = {buf, sizeof buf};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
		ssize_t n = recvmsg(port, &msg, 0);
		if (n < 0)
			continue; // the echo of something that was sent
		size_t size = n;
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
			if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO)
				size = *(int *)CMSG_DATA(c);
		if (size > 0 && follows(buf, n, size)) {
			write_super(buf, n, size);
			continue;
		}
		struct virtio_net_hdr v = {0};
		for (size_t at = 0; at < (size_t)n; at += size) {
			struct iovec one[2] = {{&v, sizeof v}, {buf + at, n - at < size ? n - at : size}};
			if (writev(device, one, 2) < 0 && errno != EIO && errno != EINVAL)
				fail("write to the device");
		}
	}
	return arg;
}

int main(int argc, char **argv) {
	if (argc != 5) {
		fprintf(stderr, "usage: ceiling INTERFACE PORT ADDRESS PORT\n");
		return 2;
	}
	struct ifreq ifr = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
	strncpy(ifr.ifr_name, argv[1], IFNAMSIZ - 1);
	if ((device = open("/dev/net/tun", O_RDWR)) < 0 || ioctl(device, TUNSETIFF, &ifr))
		fail("make the interface");
	if (ioctl(device, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6))
		fail("offloads of the interface");
	struct sockaddr_in self = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
	peer = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(atoi(argv[4]))};
	if (inet_pton(AF_INET, argv[3], &peer.sin_addr) != 1)
		fail("the peer's address");
	int one = 1, room = 4 << 20;
	if ((port = socket(AF_INET, SOCK_DGRAM, 0)) < 0 || bind(port, (void *)&self, sizeof self) ||
		setsockopt(port, SOL_UDP, UDP_GRO, &one, sizeof one))
		fail("the port");
	setsockopt(port, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
	setsockopt(port, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
	pthread_t in;
	if (pthread_create(&in, 0, in_loop, 0))
		fail("a thread");
	fprintf(stderr, "ready to carry packets\n");
	out_loop(0);
}
