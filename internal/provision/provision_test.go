package provision

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

var request = Request{PID: id.ID{1}, Name: "web-1", VM: "i-7", Labels: map[string]string{"zone": "eu"}, Endpoints: []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:4500")}, Binary: "test", Instance: service.Instance{7}, Claim: make(service.Claim, service.ClaimSize)}

var grant = Grant{Credential: []byte{1}, EpochKey: bytes.Repeat([]byte("k"), 32), Epoch: 1, Entries: []Entry{{PID: id.ID{2}, Endpoints: request.Endpoints}}, Observed: netip.MustParseAddr("192.0.2.9")}

func parsers() map[string]struct {
	good  []byte
	parse func([]byte) error
} {
	return map[string]struct {
		good  []byte
		parse func([]byte) error
	}{
		"info":    {Info{ABEParams: []byte{1}, Statement: []byte{2}}.Encode(), func(b []byte) error { _, err := ParseInfo(b); return err }},
		"request": {request.Encode(), func(b []byte) error { _, err := ParseRequest(b); return err }},
		"grant":   {grant.Encode(), func(b []byte) error { _, err := ParseGrant(b); return err }},
		"list":    {List{Members: []service.Member{{Name: "a"}}}.Encode(), func(b []byte) error { _, err := ParseList(b); return err }},
	}
}

func TestParsersRefuseEveryTruncationAndTrailingByte(t *testing.T) {
	for name, p := range parsers() {
		if err := p.parse(p.good); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for i := range p.good {
			if p.parse(p.good[:i]) == nil {
				t.Errorf("%s: accepted a truncation to %d bytes", name, i)
			}
		}
		if p.parse(append(bytes.Clone(p.good), 0)) == nil {
			t.Errorf("%s: accepted a trailing byte", name)
		}
	}
}

func TestRequestFieldsAreChecked(t *testing.T) {
	for want, change := range map[string]func(*Request){
		"DNS label": func(r *Request) { r.Name = "Web 1" },
		"label":     func(r *Request) { r.Labels = map[string]string{"zone": "eu\n"} },
		"VM":        func(r *Request) { r.VM = strings.Repeat("x", 65) },
		"claim":     func(r *Request) { r.Claim = r.Claim[1:] },
		"instance":  func(r *Request) { r.Instance = service.Instance{} },
		"allowed":   func(r *Request) { r.Endpoints = make([]netip.AddrPort, 9) },
	} {
		r := request
		change(&r)
		if _, err := ParseRequest(r.Encode()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}

func TestKeysOfOtherEpochsAreChecked(t *testing.T) {
	key := bytes.Repeat([]byte("k"), 32)
	g := grant
	g.Epoch, g.Keys = 3, []EpochKey{{Number: 2, Key: key}, {Number: 4, Key: bytes.Repeat([]byte("n"), 32)}}
	if g, err := ParseGrant(g.Encode()); err != nil || string(g.Key(4)) != string(g.Keys[1].Key) || string(g.Key(3)) != string(g.EpochKey) || g.Key(5) != nil {
		t.Fatalf("%+v, %v", g, err)
	}
	for name, keys := range map[string][]EpochKey{
		"short":           {{Number: 2, Key: key[1:]}},
		"epoch 0":         {{Number: 0, Key: key}},
		"the grant's own": {{Number: 3, Key: key}},
		"twice":           {{Number: 2, Key: key}, {Number: 2, Key: key}},
		"too many":        {{Number: 4, Key: key}, {Number: 5, Key: key}, {Number: 6, Key: key}, {Number: 7, Key: key}},
	} {
		g.Keys = keys
		if _, err := ParseGrant(g.Encode()); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestGrantIsRedacted(t *testing.T) {
	grant := grant
	grant.Keys = []EpochKey{{Number: 2, Key: grant.EpochKey}}
	if s := fmt.Sprintf("%v %+v %#v %s %v %+v %#v", grant, grant, grant, grant.LogValue(), grant.Keys, grant.Keys, grant.Keys); strings.Contains(s, "kkk") || strings.Contains(s, "107") || strings.Contains(s, "0x6b") {
		t.Errorf("epoch key shown: %s", s)
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range parsers() {
		f.Add(p.good)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, p := range parsers() {
			p.parse(b)
		}
	})
}
