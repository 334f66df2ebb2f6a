package keyex

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
)

var update = flag.Bool("update", false, "rewrite testdata")

// vector collects named values in the order in which they arise.
type vector struct{ b strings.Builder }

func (v *vector) note(s string) { fmt.Fprintf(&v.b, "# %s\n", s) }
func (v *vector) hex(name string, b []byte) {
	fmt.Fprintf(&v.b, "%s = %s\n", name, hex.EncodeToString(b))
}

// h, mac and expandTwin are the primitives of PROTOCOL notation, written again
// here so that nothing of the package checks itself.
func h(parts ...[]byte) []byte {
	s := sha256.Sum256(bytes.Join(parts, nil))
	return s[:]
}

func mac(key []byte, parts ...[]byte) []byte {
	m := hmac.New(sha256.New, key)
	m.Write(bytes.Join(parts, nil))
	return m.Sum(nil)
}

// expandTwin is HKDF-Expand (RFC 5869, Section 2.3).
func expandTwin(prk, info []byte, n int) []byte {
	var out, t []byte
	for i := byte(1); len(out) < n; i++ {
		t = mac(prk, t, info, []byte{i})
		out = append(out, t...)
	}
	return out[:n]
}

func lp(b []byte) []byte  { return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) }
func str(s string) []byte { return append([]byte(s), 0) }

// array decodes one CBOR array without the package's types.
func array(t testing.TB, b []byte) []any {
	var a []any
	if err := cbor.Unmarshal(b, &a); err != nil {
		t.Fatalf("%x: %v", b, err)
	}
	return a
}

// agreeTwin computes DH_R from the initiator's secret and B's share.
func agreeTwin(t testing.TB, g Group, secret, shareB []byte) []byte {
	switch g {
	case GroupHybrid:
		dk, err := mlkem.NewDecapsulationKey768(secret[:64])
		if err != nil {
			t.Fatal(err)
		}
		ss, err := dk.Decapsulate(shareB[:1088])
		if err != nil {
			t.Fatal(err)
		}
		return append(ss, agreeTwin(t, GroupX25519, secret[64:], shareB[1088:])...)
	case GroupX25519:
		k, err := ecdh.X25519().NewPrivateKey(secret)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := ecdh.X25519().NewPublicKey(shareB)
		if err != nil {
			t.Fatal(err)
		}
		z, err := k.ECDH(pub)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	p, _ := new(big.Int).SetString(bigPrimes[g].hex, 16)
	z := new(big.Int).Exp(new(big.Int).SetBytes(shareB), new(big.Int).SetBytes(secret), p)
	return z.FillBytes(make([]byte, len(shareB)))
}

// TestVectors runs one exchange of each group with fixed randomness, computes
// every value of docs/protocol/keyex.md again from the datagrams with the
// primitives above, compares with the machines, and with testdata.
func TestVectors(t *testing.T) {
	for _, g := range []Group{GroupHybrid, GroupX25519, GroupMODP3072, GroupMODP2048} {
		t.Run(g.String(), func(t *testing.T) {
			v := &vector{}
			makeVector(t, g, v)
			file := filepath.Join("testdata", g.String()+".txt")
			if *update {
				if err := os.WriteFile(file, []byte(v.b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if string(want) != v.b.String() {
				t.Errorf("%s differs from this run; -update rewrites it:\n%s", file, v.b.String())
			}
		})
	}
}

func makeVector(t *testing.T, g Group, v *vector) {
	w, a, b := twoNodes(t, withGroups(g), withSuites(1))
	b.groups[GroupHybrid] = hybrid{encapsulate: func(ek *mlkem.EncapsulationKey768) (ss, ct []byte, err error) {
		return mlkemtest.Encapsulate768(ek, h([]byte("encapsulation")))
	}}
	rid, rk := [8]byte(h([]byte("rekey id"))), [32]byte(h([]byte("rekey key")))
	a.rekeys[rid], b.rekeys[rid] = rk, rk

	var secret []byte
	w.bend = func(p packet) []packet {
		if p.msg() == msgShareA {
			secret = bytes.Clone(a.own[b.PID()].secret)
		}
		return []packet{p}
	}
	w.initiate(a, b, func(x *Target) { x.RekeyID = &rid })
	w.run(time.Second)
	ra, rb := a.only(t), b.only(t)
	agree(t, ra, rb)
	var body [5][]byte
	var x [5][]byte
	for _, p := range w.log {
		body[p.msg()] = append(body[p.msg()], p.Payload[headerSize:]...)
		x[p.msg()] = p.Payload[3:35]
	}
	same := func(what string, got, want []byte) {
		t.Helper()
		if !bytes.Equal(got, want) {
			t.Errorf("%s is %x, want %x", what, got, want)
		}
	}

	v.note("One exchange of group " + g.String() + " with fixed randomness; docs/protocol/keyex.md names the values.")
	pidA, pidB := a.PID(), b.PID()
	epoch := binary.BigEndian.AppendUint32(nil, 7)
	epochKey := a.epochs[7]
	v.hex("ServiceID", testService[:])
	v.hex("epoch", epoch)
	v.hex("K_e", epochKey[:])
	v.hex("idkey_A", a.cfg.Key.Public().(ed25519.PublicKey))
	v.hex("idkey_B", b.cfg.Key.Public().(ed25519.PublicKey))
	v.hex("PID_A", pidA[:])
	v.hex("PID_B", pidB[:])
	v.hex("rk", rk[:])

	v.note("Hellos")
	t0 := h(str("icvpn/1 ke"), testService[:], epoch)
	h1 := h(t0, []byte{1}, lp(body[1]))
	h2 := h(h1, []byte{2}, lp(body[2]))
	v.hex("T0", t0)
	v.hex("M1", body[1])
	v.hex("H1", h1)
	v.hex("M2", body[2])
	v.hex("H2", h2)
	same("X of M1", x[1], h1)
	same("X of M2", x[2], h1)
	same("X of M3", x[3], h2)
	hello, choice := array(t, body[1]), array(t, body[2])
	same("PID_A in M1", hello[1].([]byte), pidA[:])
	same("PID_B in M1", hello[2].([]byte), pidB[:])
	same("rekey ID in M1", hello[6].([]byte), rid[:])
	same("PID_B in M2", choice[0].([]byte), pidB[:])
	if choice[2].(uint64) != uint64(g) || choice[3].(uint64) != 1 || choice[4].(bool) != true {
		t.Errorf("M2 is %v", choice)
	}

	v.note("M3")
	raw3, sigA := body[3][:len(body[3])-64], body[3][len(body[3])-64:]
	h3s := h(h2, []byte{3}, lp(raw3))
	h3 := h(h3s, []byte{0x13}, sigA)
	v.hex("secret_A", secret)
	v.hex("M3", raw3)
	v.hex("H3'", h3s)
	v.hex("sig_A", sigA)
	v.hex("H3", h3)
	same("X of M4", x[4], h3)
	if !ed25519.Verify(a.cfg.Key.Public().(ed25519.PublicKey), append(str("icvpn/1 ke initiator"), h3s...), sigA) {
		t.Error("sig_A is not over what the text says")
	}
	m3 := array(t, raw3)
	same("M1 in M3", m3[0].([]byte), body[1])
	same("M2 in M3", m3[1].([]byte), body[2])
	same("cred_A", m3[4].([]byte), a.cred)

	v.note("M4")
	raw4 := body[4][:len(body[4])-96]
	sigB, macB := body[4][len(raw4):len(raw4)+64], body[4][len(raw4)+64:]
	h4s := h(h3, []byte{4}, lp(raw4))
	total := h(h4s, []byte{0x14}, sigB)
	v.hex("M4", raw4)
	v.hex("H4'", h4s)
	v.hex("sig_B", sigB)
	v.hex("H_T", total)
	if !ed25519.Verify(b.cfg.Key.Public().(ed25519.PublicKey), append(str("icvpn/1 ke responder"), h4s...), sigB) {
		t.Error("sig_B is not over what the text says")
	}
	m4 := array(t, raw4)
	same("cred_B", m4[3].([]byte), b.cred)
	if m4[0].(uint64) != 0 || uint32(m3[3].(uint64)) != ra.SPIIn || uint32(m4[2].(uint64)) != ra.SPIOut {
		t.Errorf("status %v, SPIs %v %v", m4[0], m3[3], m4[2])
	}

	v.note("Key schedule")
	dhR := agreeTwin(t, g, secret, m4[1].([]byte))
	kke := expandTwin(epochKey[:], bytes.Join([][]byte{str("icvpn/1 ke psk"), testService[:], epoch}, nil), 32)
	s := mac(append(bytes.Clone(kke), rk[:]...), dhR)
	k := func(label string, n int) []byte {
		return expandTwin(s, bytes.Join([][]byte{str("icvpn/1 " + label), pidA[:], pidB[:], total}, nil), n)
	}
	v.hex("DH_R", dhR)
	v.hex("K_ke", kke)
	v.hex("S", s)
	for _, c := range []struct {
		label string
		n     int
		got   []byte
	}{
		{"esp ab enc", 16, ra.Out.Enc}, {"esp ab int", 32, ra.Out.Int}, {"esp ab iv", 16, ra.Out.IV}, {"esp ab salt", 0, ra.Out.Salt}, {"ctl ab", 32, ra.CtlOut[:]},
		{"esp ba enc", 16, ra.In.Enc}, {"esp ba int", 32, ra.In.Int}, {"esp ba iv", 16, ra.In.IV}, {"esp ba salt", 0, ra.In.Salt}, {"ctl ba", 32, ra.CtlIn[:]},
		{"rekey", 32, ra.Rekey[:]}, {"rekey id", 8, ra.RekeyID[:]},
	} {
		same("K("+c.label+")", c.got, k(c.label, c.n))
		v.hex("K("+c.label+")", c.got)
	}
	v.hex("K(confirm b)", k("confirm b", 32))
	same("mac_B", macB, mac(k("confirm b", 32), total))
	v.hex("mac_B", macB)
	same("H_T in the result", ra.Transcript[:], total)
}

// The cookie's input, byte by byte, for a direct and a relayed path.
func TestCookieInput(t *testing.T) {
	for _, relay := range []string{"", "allocation 7"} {
		w, a, b := twoNodes(t)
		delete(w.nodes, a.addr)
		a.addr.Relay = relay
		w.nodes[a.addr] = a
		w.initiate(a, b)
		w.run(time.Second)
		a.only(t)
		m2, m3 := w.messages(msgHelloB)[0].Payload, w.messages(msgShareA)[0].Payload
		ip := a.addr.Addr.Addr().As16()
		if !a.addr.Addr.Addr().Is4() || ip[10] != 0xff {
			t.Fatalf("IPv4 is mapped to %x", ip)
		}
		want := append([]byte{b.cookies.kid}, mac(b.cookies.keys[0][:], str("icvpn/1 cookie"), ip[:], []byte{0x11, 0x94}, lp([]byte(relay)), m3[3:35])[:16]...)
		if !bytes.Equal(m2[35:52], want) || !bytes.Equal(m3[35:52], want) {
			t.Errorf("cookie %x, echoed %x, want %x", m2[35:52], m3[35:52], want)
		}
	}
}
