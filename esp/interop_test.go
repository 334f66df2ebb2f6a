package esp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ESP opened and sealed by implementations that we did not write. These tests
// fail where the tools are missing: a green run must mean that they ran.

const (
	python = "/usr/bin/python3" // Debian's: another one would not see Debian's scapy
	tshark = "tshark"
)

func skipIfAsked(t *testing.T) {
	t.Helper()
	if os.Getenv("ICVPN_SKIP_INTEROP") == "1" {
		t.Skip("ICVPN_SKIP_INTEROP=1")
	}
}

const installHint = "install the Debian packages python3-scapy, python3-cryptography and tshark, or set ICVPN_SKIP_INTEROP=1"

type scapyJob struct {
	Op    string `json:"op"`
	Suite Suite  `json:"suite"`
	Enc   string `json:"enc"`
	Int   string `json:"int"`
	Salt  string `json:"salt"`
	SPI   uint32 `json:"spi"`
	Seq   uint64 `json:"seq"`
	ESN   bool   `json:"esn"`
	IPv6  bool   `json:"ipv6"`
	Data  string `json:"data"`
}

type scapyResult struct {
	Data  string `json:"data"`
	Error string `json:"error"`
}

func runScapy(t *testing.T, jobs []scapyJob) []scapyResult {
	t.Helper()
	in, err := json.Marshal(jobs)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(python, "-B", filepath.Join("testdata", "scapy_interop.py"))
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("scapy does not run (%v): %s\n%s", err, installHint, stderr.String())
	}
	var results []scapyResult
	if err := json.Unmarshal(stdout.Bytes(), &results); err != nil || len(results) != len(jobs) {
		t.Fatalf("scapy answered %q: %v\n%s", stdout.String(), err, stderr.String())
	}
	return results
}

// interopCase is one packet of one SA.
type interopCase struct {
	name  string
	c     Config
	seq   uint64
	ipv6  bool // outer
	inner []byte
}

func interopCases() (all []interopCase) {
	for _, s := range Suites() {
		for _, esn := range []bool{true, false} {
			seqs := []uint64{1, 77777, maxSeq32}
			if esn {
				seqs = []uint64{1, maxSeq32, 1<<32 + 5, 0xfedcba9876543210}
			}
			for i, seq := range seqs {
				for j, inner := range [][]byte{udp4(t4src, t4dst, 33+i), udp6(t6src, t6dst, 70+i)} {
					c := testConfig(s)
					c.NoESN, c.LastSeq, c.Limits.Packets = !esn, seq-1, maxSeq64
					all = append(all, interopCase{
						name: fmt.Sprintf("suite=%v/esn=%v/seq=%#x/inner=%d", s, esn, seq, inner[0]>>4),
						c:    c, seq: seq, ipv6: (i+j)%2 == 1, inner: inner,
					})
				}
			}
		}
	}
	return all
}

func (ic *interopCase) job(op string, data []byte) scapyJob {
	k := &ic.c.Keys
	return scapyJob{
		Op: op, Suite: ic.c.Suite, SPI: ic.c.SPI, Seq: ic.seq, ESN: !ic.c.NoESN, IPv6: ic.ipv6,
		Enc: hex.EncodeToString(k.Enc), Int: hex.EncodeToString(k.Int), Salt: hex.EncodeToString(k.Salt),
		Data: hex.EncodeToString(data),
	}
}

func TestScapyOpensWhatWeSeal(t *testing.T) {
	skipIfAsked(t)
	cases := interopCases()
	var jobs []scapyJob
	for i := range cases {
		out, _ := newPair(t, cases[i].c)
		jobs = append(jobs, cases[i].job("open", sealOne(t, out, cases[i].inner)))
	}
	// And what has been tampered with, so that success means something.
	forged := cases[0].job("open", nil)
	forged.Data = jobs[0].Data[:len(jobs[0].Data)-2] + "00"
	jobs = append(jobs, forged)

	results := runScapy(t, jobs)
	for i, ic := range cases {
		if got := results[i]; got.Error != "" || got.Data != hex.EncodeToString(ic.inner) {
			t.Errorf("%s: scapy says %q, opened %s, want %x", ic.name, got.Error, got.Data, ic.inner)
		}
	}
	if results[len(cases)].Error == "" {
		t.Error("scapy opened a forged datagram")
	}
}

func TestWeOpenWhatScapySeals(t *testing.T) {
	skipIfAsked(t)
	cases := interopCases()
	var jobs []scapyJob
	for i := range cases {
		jobs = append(jobs, cases[i].job("seal", cases[i].inner))
	}
	for i, got := range runScapy(t, jobs) {
		ic := &cases[i]
		if got.Error != "" {
			t.Errorf("%s: scapy says %q", ic.name, got.Error)
			continue
		}
		_, in := newPair(t, ic.c)
		p := openOne(in, unhex(t, got.Data))
		if p.Drop != DropNone || p.Seq != ic.seq || !bytes.Equal(p.Bytes(), ic.inner) {
			t.Errorf("%s: %v, seq %#x, inner %x, want %x", ic.name, p.Drop, p.Seq, p.Bytes(), ic.inner)
		}
	}
}

// Wireshark finds our datagrams in a capture on port 4500, decrypts them and
// checks their ICVs. Version 4.0 knows no ESN (and ignores the two last columns of
// its table, where later versions have it), so with ESN only the decryption is
// checked; scapy covers the ICV.
func TestTsharkDecryptsWhatWeSeal(t *testing.T) {
	skipIfAsked(t)
	if _, err := exec.LookPath(tshark); err != nil {
		t.Fatalf("%v: %s", err, installHint)
	}
	const cbc, gcm = "AES-CBC [RFC3602]", "AES-GCM with 16 octet ICV [RFC4106]"
	for _, v := range []struct {
		suite            Suite
		esn              bool
		cipher, auth, sn string
	}{
		{AES128CBCSHA256, false, cbc, "HMAC-SHA-256-128 [RFC4868]", "32-bit"},
		{AES128CBCSHA256, true, cbc, "ANY 128 bit authentication [no checking]", "64-bit"},
		{AES256CBCSHA512, false, cbc, "HMAC-SHA-512-256 [RFC4868]", "32-bit"},
		{AES128GCM, false, gcm, "NULL", "32-bit"},
	} {
		t.Run(fmt.Sprintf("suite=%v/esn=%v", v.suite, v.esn), func(t *testing.T) {
			c := testConfig(v.suite)
			c.NoESN = !v.esn
			out, _ := newPair(t, c)
			capture := pcapHeader()
			for range 3 {
				for _, inner := range [][]byte{udp4(t4src, t4dst, 60), udp6(t6src, t6dst, 60)} {
					capture = append(capture, pcapRecord(udp4(outerSrc, outerDst, 0, sealOne(t, out, inner)...))...)
				}
			}
			sa := fmt.Sprintf(`uat:esp_sa:"IPv4","*","*","0x%08x","%s","0x%x%x","%s","0x%x","%s","0x00000000"`,
				c.SPI, v.cipher, c.Keys.Enc, c.Keys.Salt, v.auth, c.Keys.Int, v.sn)
			lines := runTshark(t, capture, sa)
			if len(lines) != 6 {
				t.Fatalf("tshark shows %q", lines)
			}
			for i, line := range lines {
				dst4, dst6 := t4dst.String(), ""
				if i%2 == 1 {
					dst4, dst6 = outerDst.String(), t6dst.String()
				}
				want := fmt.Sprintf("%d\t%s\t%s\t%d", i+1, dst4, dst6, innerPort)
				shown, icv := line[:strings.LastIndexByte(line, '\t')], line[strings.LastIndexByte(line, '\t')+1:]
				if shown != want {
					t.Errorf("tshark shows %q, want %q", shown, want)
				}
				if good := icv == "1" || icv == "True"; good != !v.esn {
					t.Errorf("tshark says the ICV's goodness is %q", icv)
				}
			}
		})
	}
}

// runTshark returns a line for each packet: sequence number, from the innermost
// headers IPv4 and IPv6 destination and UDP port, and whether the ICV is good.
func runTshark(t *testing.T, capture []byte, sa string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "esp.pcap")
	if err := os.WriteFile(file, capture, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tshark, "-n", "-r", file, "-o", sa,
		"-o", "esp.enable_encryption_decode:TRUE", "-o", "esp.enable_authentication_check:TRUE",
		"-T", "fields", "-E", "separator=/t", "-E", "occurrence=l",
		"-e", "esp.sequence", "-e", "ip.dst", "-e", "ipv6.dst", "-e", "udp.dstport", "-e", "esp.icv_good")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v (%s)\n%s", err, installHint, stderr.String())
	}
	return strings.Split(strings.TrimRight(string(text), "\n"), "\n")
}

var (
	t4src, t4dst       = netip.MustParseAddr("10.42.0.1"), netip.MustParseAddr("10.42.0.2")
	t6src, t6dst       = netip.MustParseAddr("fd00::a"), netip.MustParseAddr("fd00::b")
	outerSrc, outerDst = netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
)

// innerPort is the UDP port of the inner packets; nothing dissects it.
const innerPort = 4242

// udp4 returns an IPv4 packet with a UDP datagram of n zeros, or of payload on
// port 4500.
func udp4(src, dst netip.Addr, n int, payload ...byte) []byte {
	udp := udpDatagram(n, payload)
	b := make([]byte, ipv4Header, ipv4Header+len(udp))
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], uint16(ipv4Header+len(udp)))
	copy(b[12:], src.AsSlice())
	copy(b[16:], dst.AsSlice())
	var sum uint32
	for i := 0; i < ipv4Header; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(b[10:], ^uint16(sum+sum>>16))
	return append(b, udp...)
}

func udp6(src, dst netip.Addr, n int) []byte {
	udp := udpDatagram(n, nil)
	b := make([]byte, ipv6Header, ipv6Header+len(udp))
	b[0], b[6], b[7] = 0x60, 17, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(udp)))
	copy(b[8:], src.AsSlice())
	copy(b[24:], dst.AsSlice())
	return append(b, udp...)
}

// udpDatagram leaves the checksum zero, as RFC 3948, Section 2.1 does for ESP.
func udpDatagram(n int, payload []byte) []byte {
	port := uint16(4500)
	if payload == nil {
		port, payload = innerPort, make([]byte, n)
	}
	b := make([]byte, udpHeader, udpHeader+len(payload))
	binary.BigEndian.PutUint16(b, port)
	binary.BigEndian.PutUint16(b[2:], port)
	binary.BigEndian.PutUint16(b[4:], uint16(udpHeader+len(payload)))
	return append(b, payload...)
}

// pcapHeader starts a classic pcap file of raw IP packets (LINKTYPE_RAW, 101).
func pcapHeader() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = binary.LittleEndian.AppendUint16(b, 2)
	b = binary.LittleEndian.AppendUint16(b, 4)
	b = append(b, make([]byte, 8)...)
	b = binary.LittleEndian.AppendUint32(b, 65535)
	return binary.LittleEndian.AppendUint32(b, 101)
}

func pcapRecord(packet []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(born.Unix()))
	b = binary.LittleEndian.AppendUint32(b, 0)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(packet)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(packet)))
	return append(b, packet...)
}
