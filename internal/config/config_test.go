package config

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

var testHost = &Host{Root: true, Name: "Web_1.eu.example.org"}

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

// write puts text into a file named c.yaml in a new directory and changes
// there, so that messages are the same everywhere.
func write(t testing.TB, text string) string {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("c.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "c.yaml"
}

func TestPeerDefaults(t *testing.T) {
	got, err := LoadPeer(Source{Host: testHost})
	if err != nil {
		t.Fatal(err)
	}
	want := Peer{
		Name: "web-1",
		TUN:  TUN{Name: "icvpn0"},
		Process: Process{
			StateDir: "/var/lib/icvpn", Listen: ":4500", ControlSocket: "/var/lib/icvpn/control.sock",
			Log: Log{Level: slog.LevelInfo, Format: "text"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestStateDirFollowsXDG(t *testing.T) {
	for _, tt := range []struct {
		host Host
		want string
	}{
		{Host{Root: true, Home: "/root"}, "/var/lib/icvpn"},
		{Host{Home: "/home/u"}, "/home/u/.local/state/icvpn"},
		{Host{Home: "/home/u", StateHome: "/s"}, "/s/icvpn"},
		{Host{Home: "/home/u", StateHome: "relative"}, "/home/u/.local/state/icvpn"},
	} {
		tt.host.Name = "h"
		c, err := LoadPeer(Source{Host: &tt.host})
		if err != nil || c.StateDir != tt.want {
			t.Errorf("%+v: %q, %v, want %q", tt.host, c.StateDir, err, tt.want)
		}
	}
	_, err := LoadPeer(Source{Host: &Host{Name: "h"}})
	wantError(t, err, `field "state_dir": no default, because neither HOME nor XDG_STATE_HOME is set; set ICVPN_STATE_DIR to a directory that survives a restart`)
}

func TestNameFromHostName(t *testing.T) {
	for host, want := range map[string]string{
		"app-1":                    "app-1",
		"IP-10-0-0-1.ec2.internal": "ip-10-0-0-1",
		"_x_":                      "x",
		strings.Repeat("a", 80):    strings.Repeat("a", 63),
	} {
		c, err := LoadPeer(Source{Host: &Host{Root: true, Name: host}})
		if err != nil || c.Name != want {
			t.Errorf("%s: %q, %v, want %q", host, c.Name, err, want)
		}
	}
	_, err := LoadPeer(Source{Host: &Host{Root: true}})
	wantError(t, err, `field "name": no default, because this machine has no usable host name; set ICVPN_NAME or --name`)
}

func TestFileSetsEveryField(t *testing.T) {
	path := write(t, `
token_file: token
name: app-1
labels: {tier: app, "zone": eu-1}
state_dir: /s
seal_key_file: ../seal
listen: "[::1]:4501"
advertise:
  - 198.51.100.4:4500
  - app.example.org:4500
tun: {name: tun7, mtu: 1400}
control_socket: run/c.sock
log:
  level: debug
  format: json
metrics:
  listen: 127.0.0.1:9464
`)
	dir := filepath.Dir(path)
	got, err := LoadPeer(Source{File: path, Host: testHost})
	if err != nil {
		t.Fatal(err)
	}
	want := Peer{
		TokenFile: filepath.Join(dir, "token"),
		Name:      "app-1",
		Labels:    map[string]string{"tier": "app", "zone": "eu-1"},
		TUN:       TUN{Name: "tun7", MTU: 1400},
		Process: Process{
			StateDir: "/s", SealKeyFile: filepath.Join(dir, "../seal"), Listen: "[::1]:4501",
			Advertise:     []string{"198.51.100.4:4500", "app.example.org:4500"},
			ControlSocket: filepath.Join(dir, "run/c.sock"),
			Log:           Log{Level: slog.LevelDebug, Format: "json"},
			Metrics:       Metrics{Listen: "127.0.0.1:9464"},
		},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestRelativePathsAreRelativeToTheFile(t *testing.T) {
	write(t, "handover: h\nhandover_key_file: /abs/k\n")
	if err := os.Mkdir("etc", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename("c.yaml", "etc/c.yaml"); err != nil {
		t.Fatal(err)
	}
	c, err := LoadSuper(Source{File: "etc/c.yaml", Host: testHost, Flags: map[string]string{"seal_key_file": "s"}})
	if err != nil {
		t.Fatal(err)
	}
	if c.HandOvers[0] != (HandOver{"etc/h", "/abs/k"}) || c.SealKeyFile != "s" {
		t.Errorf("got %q, %q", c.HandOvers, c.SealKeyFile)
	}
}

func TestLaterLayersWin(t *testing.T) {
	path := write(t, "name: file\nlisten: :1\nlog: {level: error}\n")
	c, err := LoadPeer(Source{
		File:  path,
		Env:   env("ICVPN_NAME", "env", "ICVPN_LISTEN", ":2", "ICVPN_LOG_LEVEL", "", "ICVPN_PORT", "tcp://10.0.0.1:1"),
		Flags: map[string]string{"name": "flag"},
		Host:  testHost,
	})
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "flag" || c.Listen != ":2" || c.Log.Level != slog.LevelError {
		t.Errorf("got name %q, listen %q, level %v", c.Name, c.Listen, c.Log.Level)
	}
}

func TestSeveralHandOversGoWithTheirKeys(t *testing.T) {
	path := write(t, "handover: [/a/shop.handover, wiki.handover]\nhandover_key_file: [shop.key, /b/wiki.key]\n")
	c, err := LoadSuper(Source{File: path, Host: testHost})
	dir := filepath.Dir(path)
	want := []HandOver{{"/a/shop.handover", filepath.Join(dir, "shop.key")}, {filepath.Join(dir, "wiki.handover"), "/b/wiki.key"}}
	if err != nil || !reflect.DeepEqual(c.HandOvers, want) {
		t.Errorf("got %q, %v", c.HandOvers, err)
	}
	c, err = LoadSuper(Source{Host: testHost, Flags: map[string]string{"handover": "a,b"}})
	if err != nil || !reflect.DeepEqual(c.HandOvers, []HandOver{{File: "a"}, {File: "b"}}) {
		t.Errorf("flags: got %q, %v", c.HandOvers, err)
	}
	for flags, want := range map[[2]string]string{
		{"a,b", "k"}: "1 key file for 2 hand-overs",
		{"a,a", ""}:  "there twice",
	} {
		_, err := LoadSuper(Source{Host: testHost, Flags: map[string]string{"handover": flags[0], "handover_key_file": flags[1]}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", flags, err, want)
		}
	}
}

func TestSuperSocketIsThatOfASuperPeersStateDirectory(t *testing.T) {
	for _, c := range []struct {
		src  Source
		want string
	}{
		{Source{Host: testHost}, "icvpn-super/control.sock"},
		{Source{Host: testHost, Flags: map[string]string{"state_dir": "/s"}}, "/s/control.sock"},
		{Source{Host: testHost, Flags: map[string]string{"control_socket": "/c"}}, "/c"},
	} {
		if got, err := SuperSocket(c.src); err != nil || !strings.HasSuffix(got, c.want) {
			t.Errorf("got %q, %v, want %q", got, err, c.want)
		}
	}
}

// A backup is of a super peer, also where nothing says so, and needs no hand-over.
func TestSuperStateIsThatOfASuperPeer(t *testing.T) {
	for want, flags := range map[string]map[string]string{"icvpn-super": nil, "/s": {"state_dir": "/s"}} {
		if got, err := LoadSuperState(Source{Host: testHost, Flags: flags}); err != nil || !strings.HasSuffix(got.StateDir, want) {
			t.Errorf("got %q, %v, want %q", got.StateDir, err, want)
		}
	}
}

func TestEnvironmentSetsEveryKind(t *testing.T) {
	c, err := LoadPeer(Source{Host: testHost, Env: env(
		"ICVPN_LABELS", "tier=web, zone=eu-1,",
		"ICVPN_TUN_MTU", "1280",
		"ICVPN_ADVERTISE", "a:1,[2001:db8::1]:2",
		"ICVPN_STATE_DIR", "/s",
		"ICVPN_LOG_LEVEL", "warn",
	)})
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"tier": "web", "zone": "eu-1"}; !reflect.DeepEqual(c.Labels, want) {
		t.Errorf("labels %v, want %v", c.Labels, want)
	}
	if c.TUN.MTU != 1280 || len(c.Advertise) != 2 || c.ControlSocket != "/s/control.sock" || c.Log.Level != slog.LevelWarn {
		t.Errorf("got %+v", c)
	}
}

// TestEveryKeyHasAPlace keeps the table honest: each field's sample, alone in
// a file, changes the configuration or equals its default.
func TestEveryKeyHasAPlace(t *testing.T) {
	for _, f := range PeerFields() {
		section, leaf, nested := strings.Cut(f.Key, ".")
		text := f.Key + ": " + f.Sample
		if nested {
			text = section + ":\n  " + leaf + ": " + f.Sample
		}
		settings, err := readYAML("c.yaml", []byte(text), PeerFields())
		if err != nil || len(settings) != 1 || settings[0].key != f.Key {
			t.Errorf("%s: %v, %v", f.Key, settings, err)
		}
	}
}

func TestExampleIsAConfiguration(t *testing.T) {
	for _, role := range []Role{RolePeer, RoleSuper} {
		asPrinted := Example(role)
		var all []string
		for _, line := range strings.Split(asPrinted, "\n") {
			trimmed := strings.TrimLeft(line, " ")
			if strings.HasPrefix(trimmed, "#") && !strings.HasPrefix(trimmed, "# ") {
				line = strings.Replace(line, "#", "", 1)
			}
			all = append(all, line)
		}
		for _, text := range []string{asPrinted, strings.Join(all, "\n")} {
			path := write(t, text)
			if got, err := Detect(path); err != nil || got != role {
				t.Errorf("%s: detected %v, %v", role, got, err)
			}
			var err error
			if role == RolePeer {
				_, err = LoadPeer(Source{File: path, Host: testHost})
			} else {
				_, err = LoadSuper(Source{File: path, Host: testHost})
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", role, err, text)
			}
		}
	}
}

func TestReferenceStandsInTheDocs(t *testing.T) {
	doc, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(doc), reference()) {
		t.Errorf("docs/cli.md does not hold this table:\n%s", reference())
	}
}

// reference returns the fields of both configurations as a Markdown table, one
// row a field.
func reference() string {
	var b strings.Builder
	b.WriteString("| file | environment | flag | default | meaning |\n| --- | --- | --- | --- | --- |\n")
	row := func(f Field, of string) {
		fmt.Fprintf(&b, "| `%s` | `%s` | `--%s %s` | %s | %s%s |\n", f.Key, f.Env(), f.Flag(), f.Arg, f.Default, of, f.Doc)
	}
	shared := map[string]bool{}
	for _, f := range SuperFields() {
		shared[f.Key] = true
	}
	for _, f := range PeerFields() {
		if !shared[f.Key] {
			row(f, "peer: ")
		}
	}
	for _, f := range SuperFields() {
		if known(f.Key, PeerFields()) {
			f.Default = strings.ReplaceAll(f.Default, "icvpn-super", "icvpn")
			row(f, "")
		} else {
			row(f, "super peer: ")
		}
	}
	return b.String()
}

func TestControlSocketOfEitherRole(t *testing.T) {
	peer := write(t, "state_dir: /p\n")
	for _, tt := range []struct {
		src  Source
		want string
	}{
		{Source{}, "/var/lib/icvpn/control.sock"},
		{Source{File: peer}, "/p/control.sock"},
		{Source{File: peer, Env: env("ICVPN_CONTROL_SOCKET", "/e")}, "/e"},
		{Source{File: peer, Env: env("ICVPN_CONTROL_SOCKET", "/e"), Flags: map[string]string{"control_socket": "/f"}}, "/f"},
		{Source{File: "absent", Flags: map[string]string{"control_socket": "/f"}}, "/f"},
	} {
		tt.src.Host = testHost
		if got, err := ControlSocket(tt.src); err != nil || got != tt.want {
			t.Errorf("%+v: %q, %v, want %q", tt.src, got, err, tt.want)
		}
	}
	super := write(t, "handover: h\n")
	if got, err := ControlSocket(Source{File: super, Host: testHost}); err != nil || got != "/var/lib/icvpn-super/control.sock" {
		t.Errorf("super peer: %q, %v", got, err)
	}
}

func wantError(t testing.TB, err error, want string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) {
		t.Errorf("error %v, want %q", err, want)
		return
	}
	if e.Error() != want {
		t.Errorf("error\n got %s\nwant %s", e.Error(), want)
	}
}
