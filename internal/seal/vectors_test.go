package seal

import (
	"bytes"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"icvpn/internal/id"
)

type vector map[string]string

func (v vector) hex(t testing.TB, key string) []byte {
	t.Helper()
	b, err := hex.DecodeString(v[key])
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return b
}

func (v vector) number(t testing.TB, key string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(v[key], 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return n
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	for _, part := range strings.Split(strings.TrimSpace(string(text)), "\n\n") {
		v := vector{}
		for _, line := range strings.Split(part, "\n") {
			if key, value, ok := strings.Cut(line, "="); ok && line[0] != '#' {
				v[strings.TrimSpace(key)] = strings.TrimSpace(value)
			}
		}
		all = append(all, v)
	}
	return all
}

func TestVectors(t *testing.T) {
	all := readVectors(t)
	head := all[0]
	service := id.ID(head.hex(t, "service"))
	m, err := ParseMasterKey(7, head.hex(t, "master"))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[uint32]MemberKey{7: member(t, m, 7), 8: member(t, m, 8)}
	m.Next()
	if m.Epoch() != 8 || !bytes.Equal(m.Bytes(), head.hex(t, "master8")) {
		t.Errorf("Next = %x", m.Bytes())
	}
	for e, name := range map[uint32]string{7: "member7", 8: "member8"} {
		k := keys[e]
		if !bytes.Equal(k.Bytes(), head.hex(t, name)) {
			t.Errorf("%s = %x", name, k.Bytes())
		}
	}
	for _, v := range all[1:] {
		checkVector(t, service, keys, v)
	}
}

func checkVector(t *testing.T, service id.ID, keys map[uint32]MemberKey, v vector) {
	epoch, typ := uint32(v.number(t, "epoch")), Type(v.number(t, "type"))
	now := time.UnixMilli(v.number(t, "ms"))
	k := keys[epoch]
	if key := k.subkey("icvpn/1 seal", typ, service, epoch, keySize); !bytes.Equal(key, v.hex(t, "key")) {
		t.Errorf("type %d: K_seal = %x", typ, key)
	}
	if kid := k.subkey("icvpn/1 kid", typ, service, epoch, 4); !bytes.Equal(kid, v.hex(t, "kid")) {
		t.Errorf("type %d: kid = %x", typ, kid)
	}
	r := NewRing(Config{Service: service, Rand: bytes.NewReader(v.hex(t, "nonce"))})
	if err := r.Install(Epoch{Number: epoch, Key: k, ActivateAt: now}); err != nil {
		t.Fatal(err)
	}
	b, err := r.Seal(nil, now, typ, Newest, v.hex(t, "payload"), int(v.number(t, "pad")))
	if err != nil || !bytes.Equal(b, v.hex(t, "datagram")) {
		t.Errorf("type %d: Seal = %x, %v", typ, b, err)
	}
	o, d := r.Open(now, v.hex(t, "datagram"), testSource)
	if d != Passed || !bytes.Equal(o.Payload, v.hex(t, "payload")) {
		t.Errorf("type %d: Open = %x, %v", typ, o.Payload, d)
	}
}
