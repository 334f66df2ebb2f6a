package admission

import (
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"

	"icvpn/internal/id"
)

// TestProtocolVectors checks every formula against testdata/vectors.json,
// which testdata/vectors.py computes without any of this code.
func TestProtocolVectors(t *testing.T) {
	file, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []map[string]any
	if err := json.Unmarshal(file, &vectors); err != nil || len(vectors) != 3 {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	for _, vec := range vectors {
		get := func(name string) []byte {
			b, err := hex.DecodeString(vec[name].(string))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			return b
		}
		checkVector(t, Group(vec["group"].(float64)), get)
	}
}

func checkVector(t *testing.T, g Group, get func(string) []byte) {
	t.Helper()
	p := g.srp()
	service, pid, secretID := id.ID(get("service")), id.ID(get("pid")), string(get("I"))
	binding := Binding{ServerKey: get("server"), Exporter: [32]byte(get("exporter")), Ratchet: Key(get("ratchet"))}

	x := p.private(get("s"), secretID, get("P"))
	v := p.power(x)
	aPub := p.public(p.power(get("a")))
	bPub, err := p.challenge(v, p.power(get("b")))
	if err != nil {
		t.Fatal(err)
	}
	u, err := p.scramble(aPub, bPub)
	if err != nil {
		t.Fatal(err)
	}
	clientS, err := p.clientSecret(bPub, x, get("a"), u)
	if err != nil {
		t.Fatal(err)
	}
	serverS, err := p.serverSecret(aPub, v, get("b"), u)
	if err != nil {
		t.Fatal(err)
	}
	check(t, "k", p.kBytes, get("k"))
	check(t, "x", x, get("x"))
	check(t, "v", p.public(v), get("v"))
	check(t, "A", aPub, get("A"))
	check(t, "B", bPub, get("B"))
	check(t, "u", u, get("u"))
	check(t, "client S", clientS, get("S"))
	check(t, "server S", serverS, get("S"))

	tr := transcript{binding: &binding, group: p, secretID: secretID, salt: get("s"), a: aPub, b: bPub, service: service, pid: pid}
	kM := macKey(clientS)
	m1 := tr.clientProof(&kM)
	kC := tr.sessionKey(&kM)
	check(t, "kM", kM[:], get("kM"))
	check(t, "M1", m1, get("M1"))
	check(t, "M2", tr.serverProof(&kM, m1), get("M2"))
	check(t, "K_c", kC[:], get("Kc"))

	ticket := get("ticket")
	m := &resume{Ticket: ticket, Request: get("request"), More: true}
	clientMAC := continueMAC(&kC, &binding, m)
	next := nextSessionKey(&kC, &binding, service, pid)
	check(t, "continue MAC", clientMAC, get("continue_mac"))
	check(t, "K_c'", next[:], get("next"))
	check(t, "continued", continuedProof(&next, &binding, clientMAC), get("continued"))
	check(t, "grant key", expand(next[:], labelGrant, 32), get("grant_key"))

	key := testKey("peer")
	check(t, "enrol signature", enrolSignature(key, &binding, get("request")), ed25519.Sign(key, get("enrol")))
	check(t, "continue signature", continueSignature(key, &binding, m, service, pid), ed25519.Sign(key, get("continue_signed")))

	fake := fakeVerifier(Key(get("fake_key")), service, secretID, Params{g, KDFNone})
	check(t, "fake salt", fake.Salt, get("fake_salt"))
	check(t, "fake v", fake.V, get("fake_v"))
}
