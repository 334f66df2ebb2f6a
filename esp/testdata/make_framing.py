#!/usr/bin/python3
"""Writes framing.txt: RFC 4303 datagrams with all intermediate values.

Independent of the Go code on purpose: OpenSSL (through python3-cryptography)
does the cryptography and the framing is written out by hand below. Run it as

    python3 make_framing.py > framing.txt
"""
import struct
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes, aead

SPI = 0x1C0FFEE5
# An IPv4 packet, UDP 10.42.0.1:4242 -> 10.42.0.2:53, "icvpn", and the same in IPv6.
V4 = bytes.fromhex("450000210001000040116675" "0a2a0001" "0a2a0002" "10920035" "000d0000") + b"icvpn"
V6 = bytes.fromhex("60000000" "000d1140" "fd0000000000000000000000000000aa"
                   "fd0000000000000000000000000000bb" "10920035" "000d0000") + b"icvpn"

# enc, int, iv key, salt lengths, block, hash, ICV length
SUITES = {
    1: (16, 32, 16, 0, 16, hashes.SHA256, 16),
    2: (32, 64, 16, 0, 16, hashes.SHA512, 32),
    3: (16, 0, 0, 4, 4, None, 16),
    4: (32, 0, 0, 4, 4, None, 16),
    5: (32, 0, 0, 4, 4, None, 16),
}


def run(first, n):
    return bytes((first + i) & 0xFF for i in range(n))


def emit(name, value):
    print(f"{name:<10} = {value.hex() if isinstance(value, bytes) else value}")


def vector(suite, esn, seq, inner, tfc):
    enc_len, int_len, iv_len, salt_len, block, digest, icv_len = SUITES[suite]
    enc, integ, ivkey, salt = run(0x10, enc_len), run(0x40, int_len), run(0x90, iv_len), run(0xC0, salt_len)
    next_header = 4 if inner[0] >> 4 == 4 else 41
    payload = inner + bytes(tfc)
    pad = -(len(payload) + 2) % block
    plain = payload + bytes(range(1, pad + 1)) + bytes([pad, next_header])
    header = struct.pack("!LL", SPI, seq & 0xFFFFFFFF)
    print()
    emit("suite", suite)
    emit("esn", int(esn))
    emit("spi", f"{SPI:08x}")
    emit("seq", f"{seq:016x}")
    for name, value in (("enc", enc), ("int", integ), ("ivkey", ivkey), ("salt", salt)):
        emit(name, value)
    emit("tfc", tfc)
    emit("inner", inner)
    emit("plain", plain)
    if digest:
        emit("ivinput", bytes(8) + struct.pack("!Q", seq))
        ecb = Cipher(algorithms.AES(ivkey), modes.ECB()).encryptor()
        iv = ecb.update(bytes(8) + struct.pack("!Q", seq)) + ecb.finalize()
        cbc = Cipher(algorithms.AES(enc), modes.CBC(iv)).encryptor()
        body = cbc.update(plain) + cbc.finalize()
        covered = header + iv + body + (struct.pack("!L", seq >> 32) if esn else b"")
        mac = hmac.HMAC(integ, digest())
        mac.update(covered)
        full = mac.finalize()
        emit("iv", iv)
        emit("body", body)
        emit("covered", covered)
        emit("hmac", full)
        icv = full[:icv_len]
    else:
        iv = struct.pack("!Q", seq)
        nonce = salt + iv
        aad = struct.pack("!L", SPI) + (struct.pack("!Q", seq) if esn else struct.pack("!L", seq))
        cipher = aead.ChaCha20Poly1305(enc) if suite == 5 else aead.AESGCM(enc)
        sealed = cipher.encrypt(nonce, plain, aad)
        body, icv = sealed[:-icv_len], sealed[-icv_len:]
        emit("iv", iv)
        emit("nonce", nonce)
        emit("aad", aad)
        emit("body", body)
    emit("icv", icv)
    emit("packet", header + iv + body + icv)


print("# RFC 4303 tunnel mode datagrams, written by make_framing.py. Values are hexadecimal,")
print("# except suite, esn and tfc. Blocks are separated by empty lines.")
print("#   plain    inner packet, TFC padding, padding 1 2 3 ..., pad length, next header")
print("#   ivinput  block that AES under ivkey turns into the IV (suites 1 and 2)")
print("#   covered  HMAC's input: SPI, low sequence bits, IV, body, high sequence bits")
print("#   packet   SPI, low sequence bits, IV, body, ICV")
for number in SUITES:
    vector(number, True, 1, V4, 0)
    vector(number, True, 0x0000000500000002, V6, 7)
    vector(number, False, 0xFFFFFFFE, V4, 1)
