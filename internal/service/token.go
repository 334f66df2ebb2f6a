package service

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

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
	case bytes.HasPrefix(text, []byte("icvpn")) && bytes.IndexByte(text, ':') > 0 && !bytes.Contains(text, []byte("\n")):
		return t, fmt.Errorf("the token is of version %.12q, this binary reads %q; update icvpn or ask for a token of this version", text[:bytes.IndexByte(text, ':')+1], tokenPrefix)
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
		return t, fmt.Errorf("the YAML token cannot be read (%s); copy it again from the service owner's output", firstLine(err))
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
			return t, fmt.Errorf(`the YAML token has a bad field "super_peers[%d].key": want base64url without padding`, i)
		}
		t.SuperPeers = append(t.SuperPeers, TokenSuperPeer{Endpoint: s.Endpoint, Key: key})
	}
	return t, nil
}

// firstLine keeps a parser's excerpt of the source, which may hold the secret,
// out of the message.
func firstLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

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
	for _, s := range t.SuperPeers {
		if _, _, err := net.SplitHostPort(s.Endpoint); err != nil || len(s.Endpoint) > 260 {
			return fmt.Errorf("the token has super peer %.80q, which is not host:port", s.Endpoint)
		}
		if len(s.Key) != ed25519.PublicKeySize {
			return fmt.Errorf("the token has no key for super peer %s; ask the service owner for a new one", s.Endpoint)
		}
	}
	return nil
}
