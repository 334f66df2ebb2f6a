#!/usr/bin/env python3
"""Vectors of relays, from docs/protocol/relay.md, in plain Python: SHA-256 and HMAC
of the standard library, Ed25519 as in RFC 8032, section 6. It shares no code with the
package. Write the output to vectors.txt."""
import hashlib
import hmac

# Ed25519, RFC 8032, section 6.
P = 2**255 - 19
Q = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT = pow(2, (P - 1) // 4, P)


def add(a, b):
    x = (a[1] - a[0]) * (b[1] - b[0]) % P
    y = (a[1] + a[0]) * (b[1] + b[0]) % P
    z, w = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = y - x, w - z, w + z, y + x
    return (e * f % P, g * h % P, f * g % P, e * h % P)


def mul(s, p):
    q = (0, 1, 1, 0)
    while s:
        if s & 1:
            q = add(q, p)
        p = add(p, p)
        s >>= 1
    return q


def base():
    y = 4 * pow(5, P - 2, P) % P
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P)
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * ROOT % P
    if x & 1:
        x = P - x
    return (x, y, 1, x * y % P)


def compress(p):
    z = pow(p[2], P - 2, P)
    x, y = p[0] * z % P, p[1] * z % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def expand(seed):
    h = hashlib.sha512(seed).digest()
    a = int.from_bytes(h[:32], "little")
    return a & (1 << 254) - 8 | 1 << 254, h[32:]


def public(seed):
    return compress(mul(expand(seed)[0], base()))


def sign(seed, msg):
    a, prefix = expand(seed)
    pub = public(seed)
    r = int.from_bytes(hashlib.sha512(prefix + msg).digest(), "little") % Q
    big = compress(mul(r, base()))
    h = int.from_bytes(hashlib.sha512(big + pub + msg).digest(), "little") % Q
    return big + ((r + h * a) % Q).to_bytes(32, "little")


assert public(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")) == bytes.fromhex(
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")  # RFC 8032, 7.1


def mac(key, *parts):
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def label(s):
    return s.encode() + b"\0"


def pid(pub):
    return hashlib.sha256(label("icvpn/1 pid") + pub).digest()[:20]


def bstr(b):
    return (bytes([0x40 + len(b)]) if len(b) < 24 else bytes([0x58, len(b)])) + b


def out(name, value):
    print(f"{name:<10} = {value.hex() if isinstance(value, bytes) else value}")


service = bytes(range(0xA0, 0xB4))
relay_seed, member_seed = bytes(range(32)), bytes(range(32, 64))
token_key = bytes(range(64, 96))
ip, port, seconds = bytes(10) + b"\xff\xff" + bytes([198, 51, 100, 7]), 40001, 1700000000
tx = bytes.fromhex("1122334455667788")

ka = mac(relay_seed, label("icvpn/1 relay allocations"), b"\x01")  # HKDF-Expand, one block
member = public(member_seed)
allocation = mac(ka, label("icvpn/1 relay allocation"), service, pid(member))[:8]
minute = (seconds * 10**9) // (60 * 10**9)
token = mac(token_key, label("icvpn/1 relay token"), ip, port.to_bytes(2, "big"), minute.to_bytes(8, "big"))[:16]
signature = sign(member_seed, label("icvpn/1 relay") + service + pid(public(relay_seed)) + token + tx)

print("# Relays. Made by vectors.py, in plain Python, which shares no code with this")
print("# package. Hexadecimal, but for the time in Unix seconds and the member's address.")
out("service", service)
out("relay", relay_seed)
out("member", member_seed)
out("tokenkey", token_key)
out("address", "198.51.100.7:40001")
out("time", str(seconds))
out("tx", tx)
out("token", token)
out("allocation", allocation)
out("first", b"\x85\x01" + bstr(tx) + bstr(b"") * 3)
out("prove", b"\x85\x01" + bstr(tx) + b"\x01" + bstr(token) + bstr(b""))
out("second", b"\x85\x01" + bstr(tx) + bstr(token) + bstr(member) + bstr(signature))
out("held", b"\x85\x01" + bstr(tx) + b"\x00" + bstr(token) + bstr(allocation))
out("busy", b"\x85\x01" + bstr(tx) + b"\x02" + bstr(token) + bstr(b""))
other = bytes.fromhex("0102030405060708")
out("to", other)
out("content", b"opaque")
out("datagram", bytes(4) + b"\x80" + bytes(3) + other + allocation + b"opaque")
