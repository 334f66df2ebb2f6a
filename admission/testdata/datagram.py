#!/usr/bin/env python3
"""Writes datagram.json: a renewal by datagram as docs/protocol/admission.md has it,
worked out with Python's integers, hashlib and hmac only (RFC 7748, RFC 8439,
draft-irtf-cfrg-xchacha-03), independently of the Go code.

    python3 admission/testdata/datagram.py > admission/testdata/datagram.json
"""
import hashlib
import hmac
import json
import struct

H = lambda *parts: hashlib.sha256(b"".join(parts)).digest()
MAC = lambda key, *parts: hmac.new(key, b"".join(parts), hashlib.sha256).digest()
label = lambda s: s.encode() + b"\0"
u64 = lambda n: n.to_bytes(8, "big")


def expand(prk, info):
    return MAC(prk, info + b"\1")  # one block of 32 bytes


P = 2**255 - 19


def x25519(k, u):
    k = bytearray(k)
    k[0] &= 248
    k[31] = k[31] & 127 | 64
    k = int.from_bytes(k, "little")
    x1 = int.from_bytes(u, "little") & (2**255 - 1)
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in reversed(range(255)):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a, c * b, a * a, b * b
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        e = aa - bb
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


BASE = (9).to_bytes(32, "little")
# RFC 7748, section 5.2, the iterated test, once
assert x25519(BASE, BASE).hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"


def quarter(s, a, b, c, d):
    rot = lambda x, n: (x << n | x >> 32 - n) & 0xFFFFFFFF
    for x, y, z, n in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        s[x] = s[x] + s[y] & 0xFFFFFFFF
        s[z] = rot(s[z] ^ s[x], n)


def rounds(s):
    for _ in range(10):
        for q in ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                  (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)):
            quarter(s, *q)


def state(key, tail):
    return list(struct.unpack("<16I", b"expand 32-byte k" + key + tail))


def block(key, counter, nonce):
    s = state(key, struct.pack("<I", counter) + nonce)
    w = s[:]
    rounds(w)
    return struct.pack("<16I", *(a + b & 0xFFFFFFFF for a, b in zip(s, w)))


def seal(key, nonce, plain, ad=b""):
    """ChaCha20-Poly1305, and XChaCha20-Poly1305 for a nonce of 24 bytes."""
    if len(nonce) == 24:
        w = state(key, nonce[:16])
        rounds(w)
        key, nonce = struct.pack("<8I", *(w[:4] + w[12:])), bytes(4) + nonce[16:]
    stream = b"".join(block(key, 1 + i, nonce) for i in range(len(plain) // 64 + 1))
    ct = bytes(a ^ b for a, b in zip(plain, stream))
    pad = lambda b: b + bytes(-len(b) % 16)
    msg = pad(ad) + pad(ct) + struct.pack("<QQ", len(ad), len(ct))
    one = block(key, 0, nonce)[:32]
    r = int.from_bytes(one[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    acc = 0
    for i in range(0, len(msg), 16):
        acc = (acc + int.from_bytes(msg[i:i + 16] + b"\1", "little")) * r % (2**130 - 5)
    return ct + (acc + int.from_bytes(one[16:], "little") & 2**128 - 1).to_bytes(16, "little")


service, server, idkey = H(b"service")[:20], H(b"server key"), H(b"identity key")
pid = H(b"pid")[:20]
Kc, offered, own, cookie_key = H(b"Kc"), H(b"offered"), H(b"own"), H(b"cookie key")
E, e = x25519(offered, BASE), x25519(own, BASE)
shared = x25519(offered, e)
assert shared == x25519(own, E)
cookie = MAC(cookie_key, label("icvpn/1 datagram cookie"), bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 9]), (4500).to_bytes(2, "big"))[:8]
until = 1_800_000_000_000
transcript = H(label("icvpn/1 datagram"), service, server, E, e)
prk = MAC(transcript, shared)
request_key = expand(prk, label("icvpn/1 datagram request"))
ratchet = expand(prk, label("icvpn/1 datagram ratchet"))
next_ = expand(MAC(Kc, ratchet), label("icvpn/1 continuity") + service + pid)
ticket, request = b"a sealed ticket", b"a provisioning request"
box = seal(request_key, bytes(12), idkey + request)
mac = MAC(Kc, label("icvpn/1 datagram"), transcript, H(ticket), H(box))
grant_key = expand(next_, label("icvpn/1 datagram grant"))
nonce = H(b"nonce")[:24]
# CBOR: [h'grant', h'new', 1800000000001, 1800000000002]
plain = b"\x84\x45grant\x43new\x1b" + u64(until + 1) + b"\x1b" + u64(until + 2)
out = dict(
    service=service, server=server, idkey=idkey, pid=pid, Kc=Kc, offered=offered, own=own, cookie_key=cookie_key,
    cookie=cookie, transcript=transcript, request_key=request_key, ratchet=ratchet, next=next_, grant_key=grant_key,
    ticket=ticket, request=request,
    offer_signed=label("icvpn/1 datagram offer") + service + E + u64(until), until=u64(until),
    renewal=b"\3" + cookie + e + mac + len(ticket).to_bytes(2, "big") + ticket + box,
    answer=b"\4" + e[:8] + nonce + seal(grant_key, nonce, plain, mac),
    declined=b"\5" + e[:8],
)
print(json.dumps({name: value.hex() for name, value in out.items()}, indent=1))
