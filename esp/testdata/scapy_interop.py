#!/usr/bin/python3
"""Seals and opens ESP with scapy, an implementation that is not ours.

Reads a JSON list of jobs on standard input and writes the list of results:

    {"op": "seal" | "open", "suite": 1..5, "enc", "int", "salt": hex,
     "spi": number, "seq": number of 64 bits, "esn": bool, "ipv6": outer IPv6?,
     "data": hex of an inner packet (seal) or of an ESP datagram (open)}
    ->  {"data": hex} or {"error": text}
"""
import json
import logging
import struct
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

import cryptography  # noqa: E402,F401  scapy would do without it, and without ESP
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402
from scapy.layers.ipsec import AUTH_ALGOS, ESP, AuthAlgo, IPSecIntegrityError, SecurityAssociation  # noqa: E402
from scapy.packet import Raw, raw  # noqa: E402

CRYPT = {1: "AES-CBC", 2: "AES-CBC", 3: "AES-GCM", 4: "AES-GCM", 5: "CHACHA20-POLY1305"}
AUTH = {1: "SHA2-256-128", 2: "SHA2-512-256", 3: None, 4: None, 5: None}


class ESNAuth(AuthAlgo):
    """scapy 2.5 applies ESN to AEADs and to AH, not to ESP with HMAC. This adds
    what RFC 4303, Section 2.2.1 says: the high bits follow the packet."""

    def __init__(self, algo, high):
        super().__init__(algo.name, algo.mac, algo.digestmod, algo.icv_size, algo.key_size)
        self.high = struct.pack("!L", high)

    def _icv(self, covered, key):
        mac = self.new_mac(key)
        mac.update(covered + self.high)
        return mac.finalize()[: self.icv_size]

    def sign(self, pkt, key, **_):
        pkt[ESP].data += self._icv(raw(pkt[ESP]), key)
        return pkt

    def verify(self, pkt, key, **_):
        whole = raw(pkt)
        if self._icv(whole[: -self.icv_size], key) != whole[-self.icv_size:]:
            raise IPSecIntegrityError("ICV differs")


def outer(job):
    if job["ipv6"]:
        return IPv6(src="2001:db8::1", dst="2001:db8::2")
    return IP(src="198.51.100.1", dst="198.51.100.2")


def association(job):
    field = lambda name: bytes.fromhex(job[name])  # noqa: E731
    high = job["seq"] >> 32
    sa = SecurityAssociation(
        ESP, spi=job["spi"], crypt_algo=CRYPT[job["suite"]], crypt_key=field("enc") + field("salt"),
        auth_algo=AUTH[job["suite"]], auth_key=field("int") or None,
        tunnel_header=outer(job), nat_t_header=UDP(sport=4500, dport=4500),
        esn_en=job["esn"], esn=high)
    if job["esn"] and AUTH[job["suite"]]:
        sa.auth_algo = ESNAuth(AUTH_ALGOS[AUTH[job["suite"]]], high)
    return sa


def seal(job):
    data = bytes.fromhex(job["data"])
    inner = (IP if data[0] >> 4 == 4 else IPv6)(data)
    sealed = association(job).encrypt(inner, seq_num=job["seq"] & 0xFFFFFFFF)
    return raw(sealed[ESP])


def open_(job):
    # Through bytes and back, so that scapy finds the ESP on port 4500 itself.
    header = outer(job)
    datagram = raw(header / UDP(sport=4500, dport=4500) / Raw(bytes.fromhex(job["data"])))
    return raw(association(job).decrypt(type(header)(datagram)))


def run(job):
    try:
        return {"data": (seal if job["op"] == "seal" else open_)(job).hex()}
    except Exception as err:  # the Go test reports it with the job
        return {"error": f"{type(err).__name__}: {err}"}


json.dump([run(job) for job in json.load(sys.stdin)], sys.stdout)
