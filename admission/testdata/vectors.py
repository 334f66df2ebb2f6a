#!/usr/bin/env python3
"""Writes vectors.json: the formulas of docs/protocol/admission.md, worked out
with Python's integers, hashlib and hmac only, independently of the Go code.

    python3 admission/testdata/vectors.py > admission/testdata/vectors.json
"""
import hashlib
import hmac
import json
import re
import pathlib

H = lambda *parts: hashlib.sha256(b"".join(parts)).digest()
MAC = lambda key, *parts: hmac.new(key, b"".join(parts), hashlib.sha256).digest()
label = lambda s: s.encode() + b"\0"
lp = lambda b: len(b).to_bytes(2, "big") + b


def expand(prk, info, n):
    out, t, i = b"", b"", 1
    while len(out) < n:
        t = MAC(prk, t, info, bytes([i]))
        out, i = out + t, i + 1
    return out[:n]


extract = lambda salt, ikm: MAC(salt, ikm)

# The primes are read from the source so that they stand in one place; the
# interoperability tests compare them with libcrypto's.
source = (pathlib.Path(__file__).parent.parent / "group.go").read_text()


def prime(bits):
    block = source.split("prime%d = " % bits)[1].split("\n\n")[0].split("\n)")[0]
    return int("".join(re.findall('"([0-9A-F]+)"', block)), 16)


def vector(bits, g):
    N, size = prime(bits), bits // 8
    pad = lambda n: n.to_bytes(size, "big")
    num = lambda b: int.from_bytes(b, "big")
    I, P, s = b"web-1", bytes(range(100, 120)), bytes(range(16))
    a, b = H(b"a"), H(b"b")
    service, pid, server = H(b"service")[:20], H(b"pid")[:20], H(b"server key")
    exporter, ratchet = H(b"exporter"), H(b"ratchet")
    k = H(pad(N), pad(g))
    x = H(s, H(I, b":", P))
    v = pow(g, num(x), N)
    A = pow(g, num(a), N)
    B = (num(k) * v + pow(g, num(b), N)) % N
    u = H(pad(A), pad(B))
    S = pow(A * pow(v, num(u), N), num(b), N)
    assert S == pow(B - num(k) * v, num(a) + num(u) * num(x), N)
    K = H(pad(S))
    kM = expand(extract(bytes(32), K), label("icvpn/1 srp mac"), 32)
    M1 = MAC(kM, label("c"), exporter, k, lp(I), lp(s), pad(A), pad(B), service, pid, server)
    M2 = MAC(kM, label("s"), exporter, pad(A), M1)
    Kc = expand(kM, label("icvpn/1 continuity") + service + pid + exporter, 32)
    ticket, request = b"a sealed ticket", b"a provisioning request"
    cmac = MAC(Kc, label("icvpn/1 continue"), exporter, H(ticket), H(request), b"\1")
    next_ = expand(extract(Kc, ratchet), label("icvpn/1 continuity") + service + pid, 32)
    fake = H(b"fake key")
    out = dict(
        I=I, P=P, s=s, a=a, b=b, service=service, pid=pid, server=server, exporter=exporter, ratchet=ratchet,
        k=k, x=x, v=pad(v), A=pad(A), B=pad(B), u=u, S=pad(S), kM=kM, M1=M1, M2=M2, Kc=Kc,
        request=request, enrol=label("icvpn/1 enrol") + exporter + H(request),
        ticket=ticket, continue_mac=cmac, next=next_,
        continue_signed=label("icvpn/1 continue") + exporter + H(ticket) + H(request) + b"\1" + service + pid,
        continued=MAC(next_, label("icvpn/1 continued"), exporter, cmac),
        grant_key=expand(next_, label("icvpn/1 continued grant"), 32),
        fake_key=fake,
        fake_salt=expand(fake, label("icvpn/1 fake salt") + service + I, 16),
        fake_v=pad(num(expand(fake, label("icvpn/1 fake verifier") + service + I, size)) % N),
    )
    return {"group": bits, **{name: value.hex() for name, value in out.items()}}


print(json.dumps([vector(2048, 2), vector(3072, 5), vector(4096, 5)], indent=1))
