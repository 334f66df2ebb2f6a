package config

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestFileErrors(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"unknown key", "name: a\nlisen: :4500\n", `c.yaml:2: field "lisen": unknown; did you mean "listen"?`},
		{"unknown key in section", "log:\n  levle: info\n", `c.yaml:2: field "log.levle": unknown; did you mean "log.level"?`},
		{"unknown section", "metrix: {listen: x}\n", `c.yaml:1: field "metrix": unknown; did you mean "metrics"?`},
		{"unlike anything", "colour: red\n", `c.yaml:1: field "colour": unknown; icvpn config example lists the fields`},
		{"key outside its section", "mtu: 1400\n", `c.yaml:1: field "mtu": unknown; write it under tun:`},
		{"key of the other role", "handover: x\n", `c.yaml:1: field "handover": unknown; it belongs to a super peer's configuration, which icvpn super reads`},
		{"token in the file", "token: icvpn1:secret\n", `c.yaml:1: field "token": unknown; put the token into a file of mode 0600 and write token_file: FILE`},
		{"token as path", "token_file: icvpn1:secret\n", `c.yaml:1: field "token_file": is a token, not a path; put the token into a file of mode 0600 and name that file`},
		{"long unknown key", strings.Repeat("k", 100) + ": x\n", `c.yaml:1: unknown key in column 1, not shown because it may be a secret; icvpn config example lists the fields`},
		{"number for text", "\n\nname: 7\n", `c.yaml:3: field "name": want text, not a number; put the value into quotes`},
		{"bool for text", "name: true\n", `c.yaml:1: field "name": want text, not true or false; put the value into quotes`},
		{"list for text", "name: [a]\n", `c.yaml:1: field "name": want text, not a list; write one plain value`},
		{"lines for text", "name: |\n  a\n  b\n", `c.yaml:1: field "name": want text, not several lines of text; write one plain value`},
		{"nothing for text", "name:\nlisten: :1\n", `c.yaml:1: field "name": has no value; give one or remove the line`},
		{"text for number", "tun:\n  mtu: big\n", `c.yaml:2: field "tun.mtu": want a whole number, not text; write digits without quotes`},
		{"quoted number", "tun:\n  mtu: \"1400\"\n", `c.yaml:2: field "tun.mtu": want a whole number, not text; write digits without quotes`},
		{"fraction", "tun: {mtu: 1.5}\n", `c.yaml:1: field "tun.mtu": want a whole number, not a number; write digits without quotes`},
		{"octal", "tun: {mtu: 02400}\n", `c.yaml:1: field "tun.mtu": "02400" is not a decimal number; write digits only`},
		{"no number", "tun: {mtu: }\n", `c.yaml:1: field "tun.mtu": has no value; give one or remove the line`},
		{"no such helper", "helper: maybe\n", `c.yaml:1: field "helper": "maybe" does not say whether to help; use auto or never`},
		{"no backend", "tun: {backend: fast}\n", `c.yaml:1: field "tun.backend": "fast" is no way for packets to cross; use auto, offload or plain`},
		{"out of range", "tun: {mtu: 1000}\n", `c.yaml:1: field "tun.mtu": 1000 is out of range; use 1280 to 9000, or 0 to take it from the path`},
		{"text for list", "advertise: a:1\n", `c.yaml:1: field "advertise": want a list, not text; write [A, B], or each on a line after "- "`},
		{"number in list", "advertise: [\"a:1\", 7]\n", `c.yaml:1: field "advertise": item 2: want text, not a number; put the value into quotes`},
		{"long list", "advertise: [a:1, a:2, a:3, a:4, a:5, a:6, a:7, a:8, a:9]\n", `c.yaml:1: field "advertise": 9 addresses, the limit is 8; keep those that other machines reach best`},
		{"text for labels", "labels: tier=web\n", `c.yaml:1: field "labels": want KEY: VALUE lines, not text; write {k: v, k: v}`},
		{"number as label", "labels: {tier: 1}\n", `c.yaml:1: field "labels": "tier": want text, not a number; put the value into quotes`},
		{"number as label key", "labels: {1: a}\n", `c.yaml:1: field "labels": a key is not plain text; put it into quotes`},
		{"long label", "labels: {t: " + strings.Repeat("a", 64) + "}\n", `c.yaml:1: field "labels": label "t": "` + strings.Repeat("a", 64) + `" is not a word of labels; use 1 to 63 of a-z, 0-9, '.', '_' and '-'`},
		{"bad label", "labels: {tier: Web}\n", `c.yaml:1: field "labels": label "tier": "Web" is not a word of labels; use 1 to 63 of a-z, 0-9, '.', '_' and '-'`},
		{"text for section", "log: debug\n", `c.yaml:1: field "log": is text, not a section; write log: on a line of its own and its fields indented below`},
		{"bad name", "name: Web 1\n", `c.yaml:1: field "name": "Web 1" is not a name; use 1 to 63 of a-z, 0-9 and '-', no '-' at either end`},
		{"empty name", "name: \"\"\n", `c.yaml:1: field "name": is empty; use 1 to 63 of a-z, 0-9 and '-', no '-' at either end`},
		{"long name", "name: " + strings.Repeat("a", 64) + "\n", `c.yaml:1: field "name": 64 characters, the limit is 63; use 1 to 63 of a-z, 0-9 and '-', no '-' at either end`},
		{"bad interface", "tun: {name: a/b}\n", `c.yaml:1: field "tun.name": "a/b" is not an interface name; use 1 to 15 characters without '/', ':', '%' and spaces`},
		{"bad listen", "listen: \"4500\"\n", `c.yaml:1: field "listen": "4500" is not a listen address; write HOST:PORT or :PORT, an IPv6 host in brackets: "[2001:db8::1]:4500"`},
		{"listen port", "listen: :70000\n", `c.yaml:1: field "listen": ":70000" is not a listen address; write HOST:PORT or :PORT, an IPv6 host in brackets: "[2001:db8::1]:4500"`},
		{"listen host", "listen: 10.0.0.256:1\n", `c.yaml:1: field "listen": "10.0.0.256:1" is not a listen address; write HOST:PORT or :PORT, an IPv6 host in brackets: "[2001:db8::1]:4500"`},
		{"advertise nowhere", "advertise: [\"0.0.0.0:4500\"]\n", `c.yaml:1: field "advertise": "0.0.0.0:4500" is not the address of one machine; write HOST:PORT, for example 198.51.100.4:4500 or "[2001:db8::1]:4500"`},
		{"advertise without port", "advertise: [a]\n", `c.yaml:1: field "advertise": "a" is not an address; write HOST:PORT, for example 198.51.100.4:4500 or "[2001:db8::1]:4500"`},
		{"bad level", "log: {level: loud}\n", `c.yaml:1: field "log.level": "loud" is not a level; use debug, info, warn or error`},
		{"bad format", "log: {format: xml}\n", `c.yaml:1: field "log.format": "xml" is not a log format; use text or json`},
		{"twice", "name: a\nname: b\n", `c.yaml:2: field "name": is there twice; remove one of the two`},
		{"twice in section", "log:\n  level: info\n  level: info\n", `c.yaml:3: field "level": is there twice; remove one of the two`},
		{"anchor", "name: &x a\nlisten: *x\n", `c.yaml:1: field "name": want text, not YAML beyond plain values; write one plain value`},
		{"tag", "name: !!str 7\n", `c.yaml:1: field "name": want text, not YAML beyond plain values; write one plain value`},
		{"merge", "<<: {name: a}\n", `c.yaml:1: has a key that is not plain text; write KEY: VALUE`},
		{"question mark key", "? name\n: a\n", `c.yaml:1: has a key that is not plain text; write KEY: VALUE`},
		{"list", "# c\n- name\n", `c.yaml:2: is a list, not a configuration; write KEY: VALUE lines; icvpn config example prints a complete file`},
		{"text", "hello\n", `c.yaml:1: is text, not a configuration; write KEY: VALUE lines; icvpn config example prints a complete file`},
		{"two documents", "name: a\n---\nlisten: :1\n", `c.yaml:3: a second YAML document begins; keep one configuration in a file`},
		{"tab", "log:\n\tlevel: info\n", "c.yaml:2: not YAML: found character '\t' that cannot start any token; indent with spaces, and put values with special characters such as [ : # into quotes"},
		{"open quote", "name: 'a\n", `c.yaml:1: not YAML: could not find end character of single-quoted text; indent with spaces, and put values with special characters such as [ : # into quotes`},
		{"unquoted bracket", "name: a\nlisten: [::]:4500\n", `c.yaml:2: not YAML: value is not allowed in this context; indent with spaces, and put values with special characters such as [ : # into quotes`},
		{"binary", "name: \xff\n", `c.yaml: is not text in UTF-8; check that it is the right file`},
		{"too large", strings.Repeat("#\n", maxFile), `c.yaml: more than 32768 bytes; check that it is the right file`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := LoadPeer(Source{File: write(t, tt.text), Host: testHost})
			wantError(t, err, tt.want)
		})
	}
}

// TestFileErrorsKeepSecrets puts a secret into every place of a file where
// somebody may paste it by mistake.
func TestFileErrorsKeepSecrets(t *testing.T) {
	for _, secret := range []string{"Zm9vYmFyYmF6cXV4MTIz", "0123456789abcdef0123456789abcdef", "icvpn1:c2VjcmV0"} {
		for _, tt := range []struct{ name, text string }{
			{"key", secret + ": x\n"},
			{"quoted key", "\"" + secret + "\": x\n"},
			{"key in a section", "log:\n  " + secret + ": x\n"},
			{"key there twice", secret + ": x\n" + secret + ": y\n"},
			{"alias", "name: *" + secret + "\n"},
			{"anchor", "name: &" + secret + " a\n"},
			{"anchor without a value", "name: &" + secret + "\n"},
			{"tag", "name: !" + secret + " a\n"},
			{"tag of a section", "log: !!" + secret + " {level: info}\n"},
			{"directive", "%" + secret + " 1\n---\nname: a\n"},
			{"name", "name: \"" + secret + " x\"\n"},
			{"number", "tun: {mtu: " + secret + "}\n"},
			{"section", "log: " + secret + "\n"},
			{"word of a few", "log: {level: \"" + secret + "\"}\n"},
			{"address", "listen: \"" + secret + "\"\n"},
			{"list", "advertise: [\"" + secret + "\"]\n"},
			{"label", "labels: {\"" + secret + "/\": \"" + secret + "/\"}\n"},
			{"label of another type", "labels: {\"" + secret + "\": 1}\n"},
			{"the whole file", secret + "\n"},
			{"open quote", "name: '" + secret + "\n"},
			{"open list", "advertise: [" + secret + "\n"},
			{"value after a value", "name: a\n  " + secret + "\n"},
			{"interface", "tun: {name: \"" + secret + "\"}\n"},
		} {
			_, err := LoadPeer(Source{File: write(t, tt.text), Host: testHost})
			if err == nil {
				continue // good YAML, such as a token's colon in a scalar
			}
			if strings.Contains(strings.ToLower(err.Error()), strings.ToLower(secret)) {
				t.Errorf("%s: %v", tt.name, err)
			}
		}
	}
}

func TestHarmlessFiles(t *testing.T) {
	for _, text := range []string{"", "# only a comment\n", "---\n", "log:\nmetrics:\n  # nothing\n", "\ufeffname: a\r\n", "labels:\nadvertise:\n", "{}\n"} {
		if _, err := LoadPeer(Source{File: write(t, text), Host: testHost}); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSuperNeedsHandover(t *testing.T) {
	const wayOut = `; write handover: FILE with the file that icvpn service create made for this super peer`
	_, err := LoadSuper(Source{File: write(t, "listen: :1\n"), Host: testHost})
	wantError(t, err, `c.yaml:1: field "handover": missing`+wayOut)
	_, err = LoadSuper(Source{Host: testHost})
	wantError(t, err, `field "handover": missing`+wayOut)
	_, err = LoadSuper(Source{File: write(t, "name: a\n"), Host: testHost})
	wantError(t, err, `c.yaml:1: field "name": unknown; it belongs to a peer's configuration, which icvpn up reads`)
}

func TestLayerErrors(t *testing.T) {
	const address = `write HOST:PORT or :PORT, an IPv6 host in brackets: "[2001:db8::1]:4500"`
	for _, tt := range []struct {
		src  Source
		want string
	}{
		{Source{Env: env("ICVPN_LISTEN", "x")}, `environment variable ICVPN_LISTEN: field "listen": "x" is not a listen address; ` + address},
		{Source{Env: env("ICVPN_TUN_MTU", "many")}, `environment variable ICVPN_TUN_MTU: field "tun.mtu": "many" is not a whole number; write digits only`},
		{Source{Env: env("ICVPN_LABELS", "a")}, `environment variable ICVPN_LABELS: field "labels": "a" is not a label; write KEY=VALUE, several joined by commas`},
		{Source{Env: env("ICVPN_LABELS", "a=b,a=c")}, `environment variable ICVPN_LABELS: field "labels": label "a" is there twice; a label has one value`},
		{Source{Env: env("ICVPN_TOKEN_FILE", "icvpn1:secret")}, `environment variable ICVPN_TOKEN_FILE: field "token_file": is a token, not a path; put the token into a file of mode 0600 and name that file`},
		{Source{Flags: map[string]string{"name": ""}}, `flag --name: field "name": is empty; use 1 to 63 of a-z, 0-9 and '-', no '-' at either end`},
		{Source{Flags: map[string]string{"log.level": "x"}}, `flag --log-level: field "log.level": "x" is not a level; use debug, info, warn or error`},
		{Source{File: "absent.yaml"}, `absent.yaml: cannot be read: no such file or directory; check the path`},
		{Source{File: "."}, `.: cannot be read: is a directory; check the path and its permissions`},
	} {
		tt.src.Host = testHost
		_, err := LoadPeer(tt.src)
		wantError(t, err, tt.want)
	}
}

// TestOverriddenLayersAreChecked: a mistake in a file is a mistake, also where
// a flag hides it today.
func TestOverriddenLayersAreChecked(t *testing.T) {
	path := write(t, "log: {level: loud}\n")
	_, err := LoadPeer(Source{File: path, Flags: map[string]string{"log.level": "info"}, Host: testHost})
	wantError(t, err, `c.yaml:1: field "log.level": "loud" is not a level; use debug, info, warn or error`)
}

func TestTokenPrecedence(t *testing.T) {
	path := write(t, "token_file: t-file\n")
	for _, name := range []string{"t-file", "t-env", "t-flag"} {
		if err := os.WriteFile(name, []byte("icvpn1:"+name+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	inline := []string{"ICVPN_TOKEN", " icvpn1:inline\n"}
	file := []string{"ICVPN_TOKEN_FILE", "t-env"}
	for _, tt := range []struct {
		env  []string
		flag string
		file string
		want string
	}{
		{nil, "", path, "icvpn1:t-file"},
		{inline, "", path, "icvpn1:inline"},
		{inline, "", "", "icvpn1:inline"},
		{slices.Concat(inline, file), "", path, "icvpn1:t-env"},
		{slices.Concat(inline, file), "t-flag", path, "icvpn1:t-flag"},
		{inline, "t-flag", "", "icvpn1:t-flag"},
	} {
		src := Source{File: tt.file, Env: env(tt.env...), Host: testHost}
		if tt.flag != "" {
			src.Flags = map[string]string{"token_file": tt.flag}
		}
		c, err := LoadPeer(src)
		if err != nil {
			t.Fatal(err)
		}
		token, warning, err := ReadToken(c, src.Env)
		if err != nil || string(token) != tt.want || warning != "" {
			t.Errorf("%+v: token %q, warning %q, %v", tt, token, warning, err)
		}
	}
}

func TestTokenErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{"blank": " \n", "large": strings.Repeat("x", maxToken+1)} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]string{
		"":       "no token; put the token that icvpn service create made for this role into a file and give it with --token-file FILE, ICVPN_TOKEN_FILE or token_file, or set ICVPN_TOKEN",
		"absent": "absent: cannot be read: no such file or directory; check the path",
		"blank":  "blank: is empty, not a token; icvpn service create writes one token file per role",
		"large":  "large: more than 16384 bytes; check that it is the right file",
	} {
		_, _, err := ReadToken(Peer{TokenFile: path}, env("ICVPN_TOKEN", " \n"))
		wantError(t, err, want)
	}
}

func TestTokenFileOpenToOthersWarns(t *testing.T) {
	t.Chdir(t.TempDir())
	for mode, want := range map[os.FileMode]string{
		0o600: "",
		0o640: "", // a group that Kubernetes sets for the pod
		0o644: "token file token is open to every user of this machine (mode 0644): chmod 600 it",
	} {
		if err := os.WriteFile("token", []byte("icvpn1:x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod("token", mode); err != nil {
			t.Fatal(err)
		}
		_, warning, err := ReadToken(Peer{TokenFile: "token"}, nil)
		if err != nil || warning != want {
			t.Errorf("%04o: %q, %v, want %q", mode, warning, err, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"", "ab", 2}, {"kitten", "sitting", 3}, {"listen", "lisen", 1}, {"ab", "ba", 2}} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q, %q: %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

// FuzzReadYAML: whatever the file says, reading ends with settings or with one
// *Error of one line, and a second reading agrees.
func FuzzReadYAML(f *testing.F) {
	f.Add([]byte(Example(RolePeer)))
	f.Add([]byte(Example(RoleSuper)))
	f.Add([]byte("labels: {a: b}\nadvertise: [\"a:1\"]\ntun:\n  mtu: 1400\n"))
	f.Add([]byte("? a\n: &x b\n<<: *x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) > 2048 {
			return
		}
		settings, err := readYAML("f", data, PeerFields())
		again, err2 := readYAML("f", data, PeerFields())
		if len(settings) != len(again) || (err == nil) != (err2 == nil) {
			t.Fatalf("two readings differ: %v, %v", err, err2)
		}
		if err == nil {
			return
		}
		if e := (*Error)(nil); !errors.As(err, &e) || e.Where == "" || e.Problem == "" || e.WayOut == "" {
			t.Fatalf("incomplete error %#v", err)
		}
		if strings.ContainsAny(err.Error(), "\n\r") {
			t.Fatalf("error of several lines: %q", err)
		}
	})
}
