package service

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"

	"github.com/goccy/go-yaml"

	"icvpn/internal/id"
	"icvpn/internal/wire"
)

const (
	tokenPrefix   = "icvpn1:"
	maxToken      = 8 << 10
	minSecretSize = 16
)

// Token is the bootstrap data that contextualization puts on a machine: enough
// to find the service's super peers, to recognise them, and to be recognised.
type Token struct {
	_          struct{} `cbor:",toarray"`
	Version    uint8
	Service    id.ID
	Name       string // of the service
	MinSeq     uint64 // lowest acceptable descriptor sequence number
	SecretID   string
	Secret     []byte
	SuperPeers []TokenSuperPeer
}

// TokenSuperPeer is where a super peer is and which key it must show.
type TokenSuperPeer struct {
	_        struct{} `cbor:",toarray"`
	Endpoint string   // host:port
	Key      ed25519.PublicKey
}

// ServerName is the TLS server name (RFC 6066, Section 3) by which a peer says
// which super peer it wants, where several services share a port: the first 16
// bytes of the key's PID in hexadecimal, and ".icvpn".
func ServerName(key ed25519.PublicKey) string {
	pid := id.FromKey(key)
	return hex.EncodeToString(pid[:16]) + ".icvpn"
}

// LogValue keeps the secret out of logs.
func (t Token) LogValue() slog.Value {
	return slog.GroupValue(slog.String("service", t.Name), slog.String("secret_id", t.SecretID))
}

// String keeps the secret out of formatted text.
func (t Token) String() string { return "token for " + t.Name + " with secret " + t.SecretID }

// GoString keeps the secret out of %#v.
func (t Token) GoString() string { return t.String() }

// Pins returns the keys of all super peers.
func (t Token) Pins() (keys []ed25519.PublicKey) {
	for _, s := range t.SuperPeers {
		keys = append(keys, s.Key)
	}
	return keys
}

// Text returns the one-line form: "icvpn1:" and base64url of CBOR ‖
// SHA-256(CBOR)[:4]. The checksum finds damage, it authenticates nothing.
func (t Token) Text() string {
	t.Version = docVersion
	b := wire.Marshal(t)
	sum := sha256.Sum256(b)
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:4]...))
}

// tokenYAML is the form for people and templates.
type tokenYAML struct {
	Token      int              `yaml:"icvpn_token"`
	Name       string           `yaml:"service_name"`
	Service    string           `yaml:"service"`
	MinSeq     uint64           `yaml:"min_sequence"`
	SecretID   string           `yaml:"secret_id"`
	Secret     string           `yaml:"secret"`
	SuperPeers []tokenYAMLSuper `yaml:"super_peers"`
}

type tokenYAMLSuper struct {
	Endpoint string `yaml:"endpoint"`
	Key      string `yaml:"key"`
}

// YAML returns the form for people.
func (t Token) YAML() []byte {
	y := tokenYAML{
		Token: docVersion, Name: t.Name, Service: t.Service.String(), MinSeq: t.MinSeq,
		SecretID: t.SecretID, Secret: base64.RawURLEncoding.EncodeToString(t.Secret),
	}
	for _, s := range t.SuperPeers {
		y.SuperPeers = append(y.SuperPeers, tokenYAMLSuper{s.Endpoint, base64.RawURLEncoding.EncodeToString(s.Key)})
	}
	b, err := yaml.Marshal(y)
	if err != nil {
		panic("service: internal error: " + err.Error())
	}
	return b
}

// ParseToken reads either form. Errors name what is wrong with the token and
// the way out; they never quote it.
func ParseToken(text []byte) (Token, error) {
	text = bytes.TrimSpace(text)
	var t Token
	var err error
	switch {
	case len(text) == 0:
		return t, errors.New("the token is empty; copy it again from the service owner's output")
	case len(text) > maxToken:
		return t, fmt.Errorf("the token has %d bytes, a token has at most %d; is this the right file?", len(text), maxToken)
	case bytes.HasPrefix(text, []byte(tokenPrefix)):
		t, err = parseTokenLine(string(text[len(tokenPrefix):]))
	case otherVersion.Match(text):
		return t, fmt.Errorf("the token is of version %q, this binary reads %q; update icvpn or ask for a token of this version", otherVersion.Find(text), tokenPrefix)
	case bytes.Contains(text, []byte("icvpn_token:")):
		t, err = parseTokenYAML(text)
	default:
		return t, fmt.Errorf("this is not an icvpn token: it starts neither with %q nor is it the YAML form", tokenPrefix)
	}
	if err != nil {
		return Token{}, err
	}
	return t, t.validate()
}

// otherVersion is the beginning of a token in one line of any version.
var otherVersion = regexp.MustCompile(`^icvpn[0-9]{1,4}:`)

func parseTokenLine(s string) (t Token, err error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) < 5 {
		return t, errTokenDamaged
	}
	body, sum := b[:len(b)-4], sha256.Sum256(b[:len(b)-4])
	if subtle.ConstantTimeCompare(sum[:4], b[len(b)-4:]) != 1 {
		return t, errTokenDamaged
	}
	if wire.Unmarshal(body, &t, maxToken) != nil {
		return t, errTokenDamaged
	}
	return t, nil
}

var errTokenDamaged = errors.New("the token is truncated or altered: its checksum does not match; copy the whole line again")

func parseTokenYAML(text []byte) (t Token, err error) {
	var head struct {
		Token int `yaml:"icvpn_token"`
	}
	if err := yaml.Unmarshal(text, &head); err == nil && head.Token != docVersion {
		return t, fmt.Errorf("the token is of version %d, this binary reads version %d; update icvpn or ask for another token", head.Token, docVersion)
	}
	var y tokenYAML
	if err := yaml.UnmarshalWithOptions(text, &y, yaml.Strict()); err != nil {
		return t, fmt.Errorf("the YAML token cannot be read%s; copy it again from the service owner's output", tokenPlace(err))
	}
	t = Token{Version: uint8(min(max(y.Token, 0), 255)), Name: y.Name, MinSeq: y.MinSeq, SecretID: y.SecretID}
	if t.Service, err = id.Parse(y.Service); err != nil {
		return t, errors.New(`the YAML token has a bad field "service": want 40 hexadecimal digits`)
	}
	if t.Secret, err = base64.RawURLEncoding.DecodeString(y.Secret); err != nil {
		return t, errors.New(`the YAML token has a bad field "secret": want base64url without padding`)
	}
	for i, s := range y.SuperPeers {
		key, err := base64.RawURLEncoding.DecodeString(s.Key)
		if err != nil {
			return t, fmt.Errorf(`the YAML token has a bad field "super_peers[%d].key": want base64url without padding`, i+1)
		}
		t.SuperPeers = append(t.SuperPeers, TokenSuperPeer{Endpoint: s.Endpoint, Key: key})
	}
	return t, nil
}

// tokenPlace says where a YAML token is wrong and in which field, if it is one
// that a token has. The parser's own words quote the file, and any text in it,
// key, alias or tag, may be the secret in the wrong place.
func tokenPlace(err error) string {
	var at yaml.Error
	if !errors.As(err, &at) || at.GetToken() == nil || at.GetToken().Position == nil {
		return ""
	}
	tk := at.GetToken()
	place := fmt.Sprintf(" (line %d, column %d", tk.Position.Line, tk.Position.Column)
	for t := tk; t != nil && t.Position != nil && t.Position.Line == tk.Position.Line; t = t.Prev {
		if slices.Contains(tokenFields, t.Value) {
			return fmt.Sprintf("%s, field %q)", place, t.Value)
		}
	}
	return place + ")"
}

// tokenFields are the keys of tokenYAML and tokenYAMLSuper.
var tokenFields = []string{"icvpn_token", "service_name", "service", "min_sequence", "secret_id", "secret", "super_peers", "endpoint", "key"}

func (t Token) validate() error {
	switch {
	case t.Version != docVersion:
		return fmt.Errorf("the token is of version %d, this binary reads version %d; update icvpn or ask for another token", t.Version, docVersion)
	case !ValidName(t.Name):
		return errors.New("the token names no valid service; ask the service owner for a new one")
	case t.SecretID == "" || len(t.SecretID) > 64 || len(t.Secret) < minSecretSize || len(t.Secret) > 256:
		return errors.New("the token carries no valid enrolment secret; ask the service owner for a new one")
	case len(t.SuperPeers) == 0 || len(t.SuperPeers) > maxSuperPeers:
		return errors.New("the token lists no super peer; ask the service owner for a new one")
	}
	for i, s := range t.SuperPeers { // by number: in a YAML token anything may stand there
		if _, _, err := net.SplitHostPort(s.Endpoint); err != nil || len(s.Endpoint) > 260 {
			return fmt.Errorf("the token's super peer %d has an endpoint that is not HOST:PORT; ask the service owner for a new token", i+1)
		}
		if len(s.Key) != ed25519.PublicKeySize {
			return fmt.Errorf("the token's super peer %d has no key of %d bytes; ask the service owner for a new token", i+1, ed25519.PublicKeySize)
		}
	}
	return nil
}
