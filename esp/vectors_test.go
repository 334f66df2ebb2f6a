package esp

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"
	"encoding/hex"
	"os"
	"strconv"
	"strings"
	"testing"

	"icvpn/esp/internal/lanes"
)

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// testCBC lets vectors get at the parts of a CBC suite, however it is computed.
type testCBC struct{ transform }

// newTestCBC builds the transform of suite 1 for vectors that know nothing of an
// IV key or, in RFC 3602, of an integrity key.
func newTestCBC(tb testing.TB, enc, integ []byte) testCBC {
	tb.Helper()
	t, err := newCBCSHA256(&Keys{Enc: enc, Int: integ, IV: make([]byte, 16)}, false)
	if err != nil {
		tb.Fatal(err)
	}
	return testCBC{t}
}

func (c testCBC) encrypt(pkt []byte) {
	switch t := c.transform.(type) {
	case *cbcHMAC:
		t.encrypt(pkt)
	case *cbcLanes:
		t.cbc.Encrypt([][]byte{pkt[headerLen : len(pkt)-t.icvLen]})
	}
}

func (c testCBC) decrypt(pkt []byte) {
	switch t := c.transform.(type) {
	case *cbcHMAC:
		t.decrypt(pkt)
	case *cbcLanes:
		t.cbc.Decrypt(pkt[headerLen : len(pkt)-t.icvLen])
	}
}

// icv returns the ICV for pkt, which has room for it at its end.
func (c testCBC) icv(pkt []byte, seq uint64) []byte {
	switch t := c.transform.(type) {
	case *cbcHMAC:
		return t.icv(pkt, seq)
	case *cbcLanes:
		t.laneScratch = new(laneScratch)
		t.messages[0] = lanes.Message{Data: pkt[:len(pkt)-t.icvLen]}
		t.sums(1)
		return t.messages[0].Sum[:t.icvLen]
	}
	return nil
}

// RFC 3602, Section 4, cases 1 to 4.
func TestCBCMatchesRFC3602(t *testing.T) {
	for i, v := range []struct{ key, iv, plain, cipher string }{
		{
			"06a9214036b8a15b512e03d534120006", "3dafba429d9eb430b422da802c9fac41",
			hex.EncodeToString([]byte("Single block msg")),
			"e353779c1079aeb82708942dbe77181a",
		},
		{
			"c286696d887c9aa0611bbb3e2025a45a", "562e17996d093d28ddb3ba695a2e6f58",
			"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f",
			"d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1",
		},
		{
			"6c3ea0477630ce21a2ce334aa746c2cd", "c782dc4c098c66cbd9cd27d825682c81",
			hex.EncodeToString([]byte("This is a 48-byte message (exactly 3 AES blocks)")),
			"d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5021c19216bad525c8579695d83ba2684",
		},
		{
			"56e47a38c5598974bc46903dba290349", "8ce82eefbea0da3c44699ed7db51b7d9",
			`a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf
			 c0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedf`,
			`c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e
			 35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55`,
		},
	} {
		tr := newTestCBC(t, unhex(t, v.key), nil)
		plain, cipher := unhex(t, v.plain), unhex(t, v.cipher)
		pkt := append(make([]byte, headerLen), unhex(t, v.iv)...)
		pkt = append(append(pkt, plain...), make([]byte, sha256ICV)...)
		body := pkt[headerLen+cbcBlock : len(pkt)-sha256ICV]
		if tr.encrypt(pkt); !bytes.Equal(body, cipher) {
			t.Errorf("case %d: ciphertext %x, want %x", i+1, body, cipher)
		}
		if tr.decrypt(pkt); !bytes.Equal(body, plain) {
			t.Errorf("case %d: plaintext %x, want %x", i+1, body, plain)
		}
	}
}

// RFC 3602, Section 4, cases 7 and 8: ESP tunnel mode packets of 2003, without
// integrity. The test adds an ICV; SPI, sequence number, IV, ciphertext and
// padding are the RFC's.
func TestOpenReadsRFC3602TunnelPackets(t *testing.T) {
	for i, v := range []struct {
		seq           uint64
		packet, inner string
	}{
		{
			2,
			`0000876500000002f4e765244f6407adf13dc1380f673f37773b5241a4c449225e4f3ce5ed611b0c
			 237ca96cf74a93013c1b0ea1a0cf70f8e4ecaec78ac53aad7a0f022b859243c647752e94a859352b
			 8a4d4d2decd136e5c177f132ad3fbfb2201ac9904c74ee0a109e0ca1e4dfe9d5a100b842f1c22f0d`,
			`45000054090400004001f988c0a87b03c0a87bc808009f76a90a0100b49c083d02a2040008090a0b
			 0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30313233
			 34353637`,
		},
		{
			5,
			`000087650000000585d47224b5f3dd5d2101d4ea8dffab2215b92683819596a8047232cc00f7048f
			 e45318e11f8a0f62ede3c3fc61203bb50f980a08c9843fd3a1b06d5c07ff9639b7eb7dfb3512e5de
			 435e7207ed971ef3d2726d9b5ef6affc6d17a0decbb13892`,
			`45000044090c00004001f990c0a87b03c0a87bc80800d63caa0a0200c69c083da3de0300ffffffff
			 ffffffffffffffffffffffffffffffffffffffffffffffffffffffff`,
		},
	} {
		keys := Keys{
			Enc: unhex(t, "0123456789abcdef0123456789abcdef"),
			Int: bytes.Repeat([]byte{9}, 32), IV: bytes.Repeat([]byte{8}, 16),
		}
		in, err := NewInbound(Config{SPI: 0x8765, Keys: keys, NoESN: true, Born: born})
		if err != nil {
			t.Fatal(err)
		}
		pkt := append(unhex(t, v.packet), make([]byte, sha256ICV)...)
		copy(pkt[len(pkt)-sha256ICV:], newTestCBC(t, keys.Enc, keys.Int).icv(pkt, v.seq))
		p := openOne(in, pkt)
		wantDrop(t, p, DropNone)
		if !bytes.Equal(p.Bytes(), unhex(t, v.inner)) || p.Seq != v.seq || p.NextHeader != nextIPv4 {
			t.Errorf("case %d: inner %x, seq %d, next header %d", i+7, p.Bytes(), p.Seq, p.NextHeader)
		}
	}
}

// RFC 4868, Section 2.7.2: authentication test vectors, the first four of
// HMAC-SHA-256-128 and of HMAC-SHA-512-256.
func TestICVMatchesRFC4868(t *testing.T) {
	jefe := []byte("Jefe")
	count := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i + 1)
		}
		return b
	}
	data := [][]byte{
		[]byte("Hi There"), []byte("what do ya want for nothing?"),
		bytes.Repeat([]byte{0xdd}, 50), bytes.Repeat([]byte{0xcd}, 50),
	}
	for _, algo := range []struct {
		build  func(*Keys, bool) (transform, error)
		keyLen int
		want   [4]string
	}{
		{newCBCSHA256, 32, [4]string{
			"198a607eb44bfbc69903a0f1cf2bbdc5", "167f928588c5cc2eef8e3093caa0e87c",
			"cdcb1220d1ecccea91e53aba3092f962", "372efcf9b40b35c2115b1346903d2ef4",
		}},
		{newCBCSHA512, 64, [4]string{
			"637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8",
			"cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b15454",
			"2ee7acd783624ca9398710f3ee05ae41b9f9b0510c87e49e586cc9bf961733d8",
			"5e6688e5a3daec826ca32eaea224eff5e700628947470e13ad01302561bab108",
		}},
	} {
		keys := [][]byte{
			bytes.Repeat([]byte{0x0b}, algo.keyLen), bytes.Repeat(jefe, algo.keyLen/len(jefe)),
			bytes.Repeat([]byte{0xaa}, algo.keyLen), count(algo.keyLen),
		}
		for i, want := range algo.want {
			built, err := algo.build(&Keys{Enc: make([]byte, 16), IV: make([]byte, 16), Int: keys[i]}, false)
			if err != nil {
				t.Fatal(err)
			}
			pkt := append(bytes.Clone(data[i]), make([]byte, len(want)/2)...)
			if got := (testCBC{built}).icv(pkt, 0); !hmac.Equal(got, unhex(t, want)) {
				t.Errorf("key of %d bytes, case %d: %x, want %s", algo.keyLen, i+1, got, want)
			}
		}
	}
}

// Test cases of draft-mcgrew-gcm-test-01 (AES-GCM in ESP, after RFC 4106), with
// and without ESN, and of RFC 7634, Appendix A. Most carry next header 1, so the
// transform is tested alone.
func TestCombinedModesMatchPublishedESPVectors(t *testing.T) {
	for name, v := range map[string]struct {
		suite                  Suite
		esn                    bool
		key, salt, spi, seq    string
		iv, plain, cipherTexts string
	}{
		"mcgrew/dns/esn": {
			AES128GCM, true, "4c80cdefbb5d10da906ac73c3613a634", "2e443b68", "00004321", "8765432100000000",
			"4956ed7e3b244cfe",
			`45000048699a000080114db7c0a80102c0a801010a9bf15638d3010000010000
			 00000000045f736970045f756470037369700963796265726369747902646b00
			 0021000101020201`,
			`fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34
			 cfa2436f14a3f3cf65925bf1f4a13c5d15b21e1884f5ff6247aeabb786b93bce
			 61bc17d768fd9732459018148f6cbe722fd04796562dfdb4`,
		},
		"mcgrew/ping/esn": {
			AES128GCM, true, "3de09874b388e6491988d0c3607eae1f", "57690e43", "42f67e3f", "1010101010101010",
			"4e280000a2fca1a3",
			`4500003c99c300008001cb7c40679318010101010800085c0200430061626364
			 65666768696a6b6c6d6e6f707172737475767761626364656667686901020201`,
			`fba2caa4853cf9f0f22cb10d86dd83b0fec75691cf1a04b00d1138ec9c357917
			 65acbd8701ad79845bf9fe3fba487bc91755e6662b4c8d0d1f5e22739530320a
			 e0d731cc978ecafaeae88f00e80d6e48`,
		},
		"mcgrew/tcp/aes256/esn": {
			AES256GCM, true, "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
			"73616c74", "17405e67", "156f3126dd0db99b",
			"616e640169766563",
			`45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb712602
			 50101f646d540001`,
			`f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57f
			 f4d3a31ce673119e451626c2415771e3b7eebca614c89b35`,
		},
		"mcgrew/ping/aes256/esn": {
			AES256GCM, true, "6c6567616c697a656d6172696a75616e61616e64646f69746265666f72656961",
			"7475726e", "796b6963", "ffffffffffffffff",
			"333021696765746d",
			`45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364
			 65666768696a6b6c6d6e6f707172737401020201`,
			`f97ab2aa356d8edce17644ac8c78e25dd24dedbb29ebf1b64a274b39b49c3a86
			 4cd3d78ca4ae68a32b42458fb57dbe821dcc63b9d0937ba2945f669368661a32
			 9fb4c053`,
		},
		"rfc7634": {
			ChaCha20Poly1305, false,
			"808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9f",
			"a0a1a2a3", "01020304", "0000000000000005",
			"1011121314151617",
			`45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec10
			 0007362708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20212223
			 2425262728292a2b2c2d2e2f303132333435363701020204`,
			`24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6
			 14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3
			 cbec163fac469b502773f6fb94e664da9165b82829f641e0
			 76aaa8266b7fb0f7b11b369907e1ad43`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			built, err := specs[v.suite].build(&Keys{Enc: unhex(t, v.key), Salt: unhex(t, v.salt)}, v.esn)
			if err != nil {
				t.Fatal(err)
			}
			tr := built.(givenIV)
			seq := binary.BigEndian.Uint64(unhex(t, v.seq))
			head := binary.BigEndian.AppendUint32(unhex(t, v.spi), uint32(seq))
			head = append(head, unhex(t, v.iv)...)
			plain := unhex(t, v.plain)

			pkt := append(append(bytes.Clone(head), plain...), make([]byte, aeadTag)...)
			tr.encrypt(pkt, seq)
			if want := append(bytes.Clone(head), unhex(t, v.cipherTexts)...); !bytes.Equal(pkt, want) {
				t.Fatalf("sealed\n%x, want\n%x", pkt, want)
			}
			batch := []Packet{{Buf: pkt, Len: len(pkt), Seq: seq}}
			tr.open(batch)
			wantDrop(t, batch[0], DropNone)
			if got := pkt[len(head) : len(pkt)-aeadTag]; !bytes.Equal(got, plain) {
				t.Fatalf("opened %x, want %x", got, plain)
			}
		})
	}
}

// framing is one block of testdata/framing.txt.
type framing map[string]string

func readFraming(tb testing.TB) (all []framing) {
	tb.Helper()
	text, err := os.ReadFile("testdata/framing.txt")
	if err != nil {
		tb.Fatal(err)
	}
	for block := range strings.SplitSeq(string(text), "\n\n") {
		f := framing{}
		for line := range strings.Lines(block) {
			if k, v, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
				f[strings.TrimSpace(k)] = strings.TrimSpace(v)
			}
		}
		if len(f) > 0 {
			all = append(all, f)
		}
	}
	return all
}

func (f framing) config(tb testing.TB) Config {
	tb.Helper()
	suite, err := strconv.ParseUint(f["suite"], 10, 8)
	if err != nil {
		tb.Fatal(err)
	}
	seq := binary.BigEndian.Uint64(unhex(tb, f["seq"]))
	return Config{
		SPI: binary.BigEndian.Uint32(unhex(tb, f["spi"])), Suite: Suite(suite), NoESN: f["esn"] == "0",
		Keys: Keys{
			Enc: unhex(tb, f["enc"]), Int: unhex(tb, f["int"]),
			IV: unhex(tb, f["ivkey"]), Salt: unhex(tb, f["salt"]),
		},
		Born: born, LastSeq: seq - 1, Limits: Limits{Packets: maxSeq64},
	}
}

// testdata/framing.txt was made with OpenSSL by testdata/make_framing.py.
func TestFramingMatchesHandMadeVectors(t *testing.T) {
	all := readFraming(t)
	if len(all) != 3*len(Suites()) {
		t.Fatalf("%d vectors", len(all))
	}
	for _, f := range all {
		t.Run("suite="+f["suite"]+"/seq="+f["seq"], func(t *testing.T) {
			out, in := newPair(t, f.config(t))
			tfc, _ := strconv.Atoi(f["tfc"])
			p := load(unhex(t, f["inner"]))
			p.TFC = tfc
			p.Buf = append(p.Buf, make([]byte, tfc)...)
			batch := []Packet{p}
			if n, _ := out.Seal(born, batch); n != 1 {
				t.Fatalf("Seal: %v", batch[0].Drop)
			}
			got := bytes.Clone(batch[0].Bytes())
			if want := unhex(t, f["packet"]); !bytes.Equal(got, want) {
				t.Fatalf("sealed\n%x, want\n%x", got, want)
			}
			opened := openOne(in, got)
			wantDrop(t, opened, DropNone)
			if !bytes.Equal(opened.Bytes(), unhex(t, f["inner"])) {
				t.Fatalf("opened %x", opened.Bytes())
			}
		})
	}
}

// The intermediate values of the vectors, so that whoever breaks one step sees
// which; with the standard library, which goes packet by packet.
func TestCBCStepsMatchHandMadeVectors(t *testing.T) {
	useKernels(t, portable)
	for _, f := range readFraming(t) {
		if f["covered"] == "" {
			continue
		}
		c := f.config(t)
		built, err := specs[c.Suite].build(&c.Keys, !c.NoESN)
		if err != nil {
			t.Fatal(err)
		}
		tr := built.(*cbcHMAC)
		iv := make([]byte, cbcBlock)
		tr.makeIV(iv, c.LastSeq+1)
		if want := unhex(t, f["iv"]); !bytes.Equal(iv, want) {
			t.Errorf("IV %x, want %x", iv, want)
		}
		if want := unhex(t, f["ivinput"]); !bytes.Equal(tr.ivBlock[:], want) {
			t.Errorf("IV input %x, want %x", tr.ivBlock, want)
		}
		if got := tr.icv(unhex(t, f["packet"]), c.LastSeq+1); !bytes.Equal(got, unhex(t, f["icv"])) {
			t.Errorf("ICV %x, want %s", got, f["icv"])
		}
	}
}
