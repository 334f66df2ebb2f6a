// Package manual runs ESP tunnels from keys in a file, without any control
// plane: manual keying (RFC 4301, Section 4.5). The other end is another
// `icvpn tunnel`, or anything that speaks RFC 4303 in UDP (RFC 3948), such as
// the Linux kernel.
//
//	sa.yaml ─> Load ─> Config ─┬─> Run        TUN interface, SAs, UDP port, until the context ends
//	                           ├─> IPRoute2   the other end as `ip xfrm` commands
//	                           └─> Wireshark  lines that decrypt a capture
//
// Guarantees. Load is strict: a field it does not know, a key of the wrong length,
// a key that is obviously no key, an SPI that is reserved or there twice, one
// key for two purposes, a prefix that would swallow the tunnel's own datagrams:
// each is one sentence with file, line and field. Keys are read from files that
// nobody else can read, and appear in no error, log line or argument. The IVs of
// CBC suites come from a key that the process draws for itself, so that a
// restart, which begins again with sequence number 1, repeats no IV. AEAD
// suites, where a repeated number would be fatal, want the file to say that its
// keys are fresh (RFC 8221, Section 4).
//
// Non-goals: rekeying, dead peer detection, roaming, replay protection across
// restarts. Whoever restarts one end restarts the other, or gives both new keys:
// a receiver takes the low numbers of a sender that began anew for replays.
package manual
