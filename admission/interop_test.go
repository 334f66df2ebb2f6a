package admission

import (
	"bytes"
	"crypto/rand"
	"crypto/sha1"
	"fmt"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// These tests compare with implementations that we did not write. They fail,
// rather than skip, without them: a skipped comparison looks like a passed one.

const skipInterop = "ICVPN_SKIP_INTEROP"

func needTool(t *testing.T, tool, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		t.Fatalf("%s is missing: install the Debian package(s) %s, or set %s=1 to skip comparisons with other implementations",
			tool, debianPackage, skipInterop)
	}
	return path
}

func mayInterop(t *testing.T) {
	t.Helper()
	if os.Getenv(skipInterop) == "1" {
		t.Skip(skipInterop + "=1")
	}
}

// sha1SRP is the parameterisation of RFC 5054 itself, which others implement.
func sha1SRP(g Group) *srp { return newSRP(g.srp().group, sha1.New) }

func TestSRPEqualsLibcrypto(t *testing.T) {
	mayInterop(t)
	gcc := needTool(t, "gcc", "gcc libc6-dev libssl-dev")
	helper := filepath.Join(t.TempDir(), "srp_interop")
	out, err := exec.Command(gcc, "-O1", "-Wall", "-o", helper, "testdata/srp_interop.c", "-lcrypto").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc cannot build testdata/srp_interop.c: install the Debian packages gcc, libc6-dev and libssl-dev, or set %s=1 to skip comparisons with other implementations\n%s", skipInterop, out)
	}
	type input struct {
		g          Group
		user, pass string
		salt, a, b []byte
	}
	var inputs []input
	var stdin strings.Builder
	for _, g := range []Group{Group2048, Group3072, Group4096} {
		for i := range 4 {
			in := input{g, fmt.Sprintf("web-%d", i), rand.Text(), make([]byte, SaltSize), make([]byte, exponentSize), make([]byte, exponentSize)}
			for _, r := range [][]byte{in.salt, in.a, in.b} {
				rand.Read(r)
			}
			in.salt[0] |= 0x80 // libcrypto takes the salt as a number: leading zeros would be lost
			inputs = append(inputs, in)
			fmt.Fprintf(&stdin, "%d %s %s %x %x %x\n", uint16(g), in.user, in.pass, in.salt, in.a, in.b)
		}
	}
	cmd := exec.Command(helper)
	cmd.Stdin = strings.NewReader(stdin.String())
	stdout, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(stdout)), "\n")
	if len(lines) != len(inputs) {
		t.Fatalf("%d answers to %d inputs", len(lines), len(inputs))
	}
	for i, in := range inputs {
		p := sha1SRP(in.g)
		x := p.private(in.salt, in.user, []byte(in.pass))
		v := p.power(x)
		aPub := p.public(p.power(in.a))
		bPub, err := p.challenge(v, p.power(in.b))
		if err != nil {
			t.Fatal(err)
		}
		u, err := p.scramble(aPub, bPub)
		if err != nil {
			t.Fatal(err)
		}
		clientS, err1 := p.clientSecret(bPub, x, in.a, u)
		serverS, err2 := p.serverSecret(aPub, v, in.b, u)
		if err1 != nil || err2 != nil {
			t.Fatal(err1, err2)
		}
		ours := [][]byte{p.nBytes, p.gPadded, x, p.public(v), aPub, bPub, u, clientS, serverS}
		theirs := strings.Fields(lines[i])
		for j, name := range []string{"N", "g", "x", "v", "A", "B", "u", "client S", "server S"} {
			want, ok := new(big.Int).SetString(theirs[j], 16)
			if !ok || new(big.Int).SetBytes(ours[j]).Cmp(want) != 0 {
				t.Errorf("%v, input %d: %s = %x, libcrypto has %s", in.g, i, name, ours[j], theirs[j])
			}
		}
	}
}

// TestVerifierEqualsGnuTLS compares v with what srptool, the password tool of
// GnuTLS, writes for the same secret.
func TestVerifierEqualsGnuTLS(t *testing.T) {
	mayInterop(t)
	srptool := needTool(t, "srptool", "gnutls-bin")
	dir := t.TempDir()
	conf, passwd := filepath.Join(dir, "conf"), filepath.Join(dir, "passwd")
	tool := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.Command(srptool, args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("srptool: %v\n%s", err, out)
		}
	}
	tool("", "--create-conf", conf)
	groups := groupsOfConf(t, conf)
	for _, g := range []Group{Group2048, Group3072, Group4096} {
		index, ok := groups[string(g.srp().nBytes)]
		if !ok {
			t.Fatalf("srptool does not know the prime of %v", g)
		}
		user, secret := "user-"+index, rand.Text()
		tool(secret+"\n"+secret+"\n", "--passwd", passwd, "--passwd-conf", conf, "--username", user, "--index", index)
		salt, v := tpasswdEntry(t, passwd, user)
		p := sha1SRP(g)
		got := p.public(p.power(p.private(salt, user, []byte(secret))))
		if new(big.Int).SetBytes(got).Cmp(v) != 0 {
			t.Errorf("%v: v = %x, srptool has %x", g, got, v)
		}
	}
}

// groupsOfConf maps each prime in a tpasswd.conf (index:N:g) to its index.
func groupsOfConf(t *testing.T, file string) map[string]string {
	t.Helper()
	groups := map[string]string{}
	for _, f := range colonFields(t, file) {
		groups[string(srpBase64(t, f[1]).Bytes())] = f[0]
	}
	return groups
}

// tpasswdEntry returns salt and v of user's line (user:v:salt:index).
func tpasswdEntry(t *testing.T, file, user string) (salt []byte, v *big.Int) {
	t.Helper()
	for _, f := range colonFields(t, file) {
		if f[0] == user {
			return srpBase64(t, f[2]).FillBytes(make([]byte, 16)), srpBase64(t, f[1])
		}
	}
	t.Fatalf("no entry for %s", user)
	return nil, nil
}

func colonFields(t *testing.T, file string) (lines [][]string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(b) {
		if f := strings.Split(strings.TrimSpace(string(line)), ":"); len(f) >= 3 {
			lines = append(lines, f)
		}
	}
	return lines
}

// srpBase64 reads libsrp's base64: the digits of a number.
func srpBase64(t *testing.T, s string) *big.Int {
	t.Helper()
	const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz./"
	n := new(big.Int)
	for _, c := range s {
		d := strings.IndexRune(digits, c)
		if d < 0 {
			t.Fatalf("%q is not libsrp base64", s)
		}
		n.Add(n.Lsh(n, 6), big.NewInt(int64(d)))
	}
	return n
}
