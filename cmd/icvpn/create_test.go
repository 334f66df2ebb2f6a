package main

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestParseRule(t *testing.T) {
	for text, want := range map[string]allowRule{
		"web:app":               {From: "web", To: "app"},
		"app:db:tcp":            {From: "app", To: "db", Protocol: "tcp"},
		"app:db:tcp/5432":       {"app", "db", "tcp", 5432, 5432},
		"app:db:udp/8000-8080":  {"app", "db", "udp", 8000, 8080},
		"app:app:icmp":          {From: "app", To: "app", Protocol: "icmp"},
		"app:db:tcp/1-65535":    {"app", "db", "tcp", 1, 65535},
		"app:db:tcp/65535":      {"app", "db", "tcp", 65535, 65535},
		"web-1:app-2:tcp/80-80": {"web-1", "app-2", "tcp", 80, 80},
	} {
		if got, err := parseRule(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Chdir(t.TempDir())
	const notPort = "is not a port or a range; use 1 to 65535, for example 5432 or 8000-8080"
	const notRule = "is not a rule; write FROM:TO or FROM:TO:PROTOCOL/PORT, for example app:db:tcp/5432"
	const notWord = "is not a word of labels; use 1 to 63 of a-z, 0-9, '.', '_' and '-', or * alone for any value"
	for _, tt := range []struct {
		change func(*createFlags)
		want   string
	}{
		{func(f *createFlags) { f.cidr = "10.42.0.0" }, `--cidr "10.42.0.0" is not an IPv4 prefix; write for example 10.42.0.0/16`},
		{func(f *createFlags) { f.cidr = "fd00::/48" }, `--cidr "fd00::/48" is not an IPv4 prefix; write for example 10.42.0.0/16`},
		{func(f *createFlags) { f.cidr = "10.42.0.1/16" }, `--cidr 10.42.0.1/16 is not the beginning of a network; did you mean 10.42.0.0/16?`},
		{func(f *createFlags) { f.cidr = "10.42.0.0/30" }, `--cidr 10.42.0.0/30 is too large or too small; use /8 to /28`},
		{func(f *createFlags) { f.cidr = "0.0.0.0/0" }, `--cidr 0.0.0.0/0 is too large or too small; use /8 to /28`},
		{func(f *createFlags) { f.cidr = "8.8.8.0/24" }, `--cidr 8.8.8.0/24 is not private; take a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10`},
		{func(f *createFlags) { f.cidr = "172.0.0.0/8" }, `--cidr 172.0.0.0/8 is not private; take a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10`},
		{func(f *createFlags) { f.roles = []string{"Web"} }, `--role: "Web" is not a name; use 1 to 63 of a-z, 0-9 and '-', no '-' at either end`},
		{func(f *createFlags) { f.roles = []string{"a", "a"} }, `--role a is given twice; leave one out`},
		{func(f *createFlags) { f.roles = make([]string, 33) }, `33 roles, the limit is 32; put machines with the same rules into one role`},
		{func(f *createFlags) { f.scopes = []string{"zone"} }, `--label-scope "zone" is not a scope; write KEY=VALUE,VALUE or KEY=*, for example zone=eu,us`},
		{func(f *createFlags) { f.scopes = []string{"zone=EU"} }, `--label-scope zone=EU: "EU" ` + notWord},
		{func(f *createFlags) { f.scopes = []string{"zone="} }, `--label-scope zone=: "" ` + notWord},
		{func(f *createFlags) { f.scopes = []string{"=eu"} }, `--label-scope =eu: "" ` + notWord},
		{func(f *createFlags) { f.scopes = []string{"*=eu"} }, `--label-scope *=eu: "*" ` + notWord},
		{func(f *createFlags) { f.scopes = []string{"zone=*,eu"} }, `--label-scope zone=*,eu: "*" ` + notWord},
		{func(f *createFlags) { f.scopes = []string{"zone=eu", "zone=us"} }, `--label-scope zone is given twice; write all values of it into one`},
		{func(f *createFlags) { f.scopes = []string{"role=db"} }, `--label-scope role=db: every token has its role, and machines cannot choose another; use --role`},
		{func(f *createFlags) { f.scopes = []string{"zone=a" + strings.Repeat(",a", 32)} }, `--label-scope zone: 33 values, the limit is 32; write zone=* for any value`},
		{func(f *createFlags) { f.allow = []string{"web"} }, `--allow "web" ` + notRule},
		{func(f *createFlags) { f.allow = []string{"a:b:tcp/1:x"} }, `--allow "a:b:tcp/1:x" ` + notRule},
		{func(f *createFlags) { f.allow = []string{":web"} }, `--allow ":web" ` + notRule},
		{func(f *createFlags) { f.allow = []string{"web:app:gre"} }, `--allow web:app:gre: "gre" is not a protocol; use tcp, udp or icmp`},
		{func(f *createFlags) { f.allow = []string{"web:app:icmp/8"} }, `--allow web:app:icmp/8: icmp has no ports; write web:app:icmp`},
		{func(f *createFlags) { f.allow = []string{"web:app:tcp/0"} }, `--allow web:app:tcp/0: "0" ` + notPort},
		{func(f *createFlags) { f.allow = []string{"web:app:tcp/"} }, `--allow web:app:tcp/: "" ` + notPort},
		{func(f *createFlags) { f.allow = []string{"web:app:tcp/9-1"} }, `--allow web:app:tcp/9-1: "9-1" ` + notPort},
		{func(f *createFlags) { f.allow = []string{"web:app:tcp/65536"} }, `--allow web:app:tcp/65536: "65536" ` + notPort},
		{func(f *createFlags) { f.allow = []string{"web:app:tcp/1-2-3"} }, `--allow web:app:tcp/1-2-3: "1-2-3" ` + notPort},
		{func(f *createFlags) { f.allow = []string{"web:db"} }, `--allow web:db: there is no role "db"; the roles are web, app`},
		{func(f *createFlags) { f.allow = []string{"web:app", "web:app"} }, `--allow web:app is given twice; leave one out`},
		{func(f *createFlags) { f.supers = []string{"a:0"} }, `--super: "a:0" is not an address; write HOST:PORT, for example 198.51.100.4:4500 or "[2001:db8::1]:4500"`},
		{func(f *createFlags) { f.supers = []string{"0.0.0.0:4500"} }, `--super: "0.0.0.0:4500" is not the address of one machine; write HOST:PORT, for example 198.51.100.4:4500 or "[2001:db8::1]:4500"`},
		{func(f *createFlags) { f.supers = []string{"a", "a:4500"} }, `--super a:4500 is given twice; leave one out`},
		{func(f *createFlags) { f.authorities = 17 }, `--authorities 17: give 1 to 16; one super peer at least must be able to make attribute keys`},
		{func(f *createFlags) { f.supers = make([]string, 17) }, `17 super peers, the limit is 16; leave some out`},
	} {
		f := createFlags{cidr: "10.42.0.0/16", roles: []string{"web", "app"}, supers: []string{"192.0.2.1"}, authorities: defaultAuthorities}
		tt.change(&f)
		if _, err := f.options("shop"); err == nil || err.Error() != tt.want {
			t.Errorf("\n got %v\nwant %s", err, tt.want)
		}
	}
}

func TestCreateDefaults(t *testing.T) {
	t.Chdir(t.TempDir())
	f := createFlags{cidr: "10.42.0.0/16", supers: []string{"192.0.2.1", "[2001:db8::1]:1"}, authorities: defaultAuthorities}
	got, err := f.options("shop")
	want := createOptions{
		Name: "shop", CIDR: netip.MustParsePrefix("10.42.0.0/16"), Roles: []string{"member"},
		Supers: []string{"192.0.2.1:4500", "[2001:db8::1]:1"}, Authorities: 2, Out: "shop",
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

// FuzzParseRule: an accepted rule has ports in order, and says so again when
// it is written out.
func FuzzParseRule(f *testing.F) {
	for _, s := range []string{"web:app", "app:db:tcp/5432", "a:b:udp/1-2", "a:b:icmp"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := parseRule(text)
		if err != nil {
			if strings.Contains(oneLine(err.Error()), "\n") {
				t.Fatalf("several lines: %q", err)
			}
			return
		}
		if r.First > r.Last || r.From == "" || r.To == "" || r.First != 0 && r.Protocol != "tcp" && r.Protocol != "udp" {
			t.Fatalf("%q: %+v", text, r)
		}
	})
}
