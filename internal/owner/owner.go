// Package owner makes a service: keys, signed documents, tokens and sealed
// hand-overs, as bytes. Nothing of it is ever online; what it makes is carried
// to the machines by whoever deploys them.
//
//	Create ─┬─> owner.secret     everything needed to sign again; keep it offline
//	        ├─> ROLE.token       one per role, for machines (and the same as YAML)
//	        ├─> super-N.handover sealed, for one super peer
//	        ├─> super-N.key      opens it; travels another way
//	        ├─> super-N.yaml     configuration that names both
//	        └─> policy.yaml      what was signed, to read
package owner

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"net"
	"net/netip"
	"time"

	"icvpn/abe"
	"icvpn/admission"
	"icvpn/internal/filter"
	"icvpn/internal/id"
	"icvpn/internal/service"
	"icvpn/internal/wire"
)

// RoleLabel is the label that --role grants.
const RoleLabel = "role"

// We chose:
const (
	// documentLife is how long root, descriptor and policy are valid;
	// superPeerLife a super peer's right to admit.
	documentLife  = 365 * 24 * time.Hour
	superPeerLife = 365 * 24 * time.Hour
	// spareBlocks leaves room for super peers that come later.
	spareBlocks = 16
	// minBlockBits keeps the smallest block useful: 14 machines.
	maxBlockBits = 28
	firstEpoch   = 1
	secretSize   = 16
)

// Options describe the service to make. Names are checked by the caller.
type Options struct {
	Name       string
	Prefix4    netip.Prefix
	Roles      []string
	SuperPeers []string // host:port
	// Authorities is how many of them, the first ones, have the ABE master key; 0 is
	// all. The others are given attribute keys by those.
	Authorities int
	// LabelScope are the labels, beside the role, that machines may ask for, and
	// the values; service.AnyValue allows every value.
	LabelScope map[string][]string
	Rules      []filter.Rule
	Policy     []byte // YAML; its rules take the place of Rules
	// Join is the token of a universal overlay that the super peers join; nil for
	// none but their own.
	Join *service.Token
	Now  time.Time
}

// Service is everything that was made.
type Service struct {
	ID      id.ID
	Name    string
	Prefix4 netip.Prefix
	Tokens  []RoleToken
	Supers  []SuperFiles
	Policy  []byte // YAML as signed
	Secret  []byte // owner.secret
}

// RoleToken is the token of one role.
type RoleToken struct {
	Role  string
	Token service.Token
}

// SuperFiles are what one super peer gets.
type SuperFiles struct {
	Endpoint string
	HandOver []byte // sealed
	Key      []byte // hexadecimal, one line
	Config   []byte // YAML
	Block    netip.Prefix
	// Authority says that the hand-over has the ABE master key.
	Authority bool
}

// maker gathers what the parts share.
type maker struct {
	o      Options
	owners []ed25519.PrivateKey
	supers []ed25519.PrivateKey
	blocks []netip.Prefix
	root   service.Signed
	id     id.ID
	abe    abe.Secret
	params [32]byte
	master [32]byte
}

// Create makes a service. It writes nothing and contacts nobody.
func Create(o Options) (*Service, error) {
	m := &maker{o: o}
	if err := m.keys(); err != nil {
		return nil, err
	}
	var err error
	if m.blocks, err = Blocks(o.Prefix4, len(o.SuperPeers)); err != nil {
		return nil, err
	}
	docs, err := m.descriptor()
	if err != nil {
		return nil, err
	}
	policy, err := m.policy()
	if err != nil {
		return nil, err
	}
	tokens, secrets, err := m.secrets()
	if err != nil {
		return nil, err
	}
	universe, err := m.universe()
	if err != nil {
		return nil, err
	}
	s := &Service{ID: m.id, Name: o.Name, Prefix4: o.Prefix4, Tokens: tokens, Policy: policy.Body}
	common := service.HandOver{
		Service:  service.Membership{ID: m.id, Documents: docs, Epoch: firstEpoch, Master: m.master[:]},
		Universe: universe, Policy: policy, ABESeed: m.abe[:], Secrets: secrets,
		FakeKey: random(32), TicketKey: random(32),
	}
	if o.Join != nil {
		common.Join = []byte(o.Join.Text())
	}
	for i := range m.supers {
		f, err := m.super(i, common)
		if err != nil {
			return nil, err
		}
		s.Supers = append(s.Supers, f)
	}
	s.Secret = m.ownerSecret(common)
	return s, nil
}

// keys draws every key and fixes the ServiceID.
func (m *maker) keys() (err error) {
	m.owners = []ed25519.PrivateKey{newKey()}
	for range m.o.SuperPeers {
		m.supers = append(m.supers, newKey())
	}
	if m.root, err = service.NewRoot(m.o.Name, m.owners, 1, m.o.Now, m.o.Now.Add(documentLife)); err != nil {
		return err
	}
	m.id = service.RootID(m.root)
	m.abe, m.master = abe.Secret(random(32)), [32]byte(random(32))
	a, err := abe.NewAuthority(m.abe, m.id)
	if err != nil {
		return err
	}
	defer a.Wipe()
	m.params = a.Params().Hash()
	return nil
}

// Blocks cuts a prefix into disjoint blocks of one size, one for each super
// peer, and leaves room for more where there is any.
func Blocks(prefix netip.Prefix, n int) ([]netip.Prefix, error) {
	size := prefix.Bits() + bits.Len(uint(max(spareBlocks, n)-1))
	if size > maxBlockBits {
		size = prefix.Bits() + bits.Len(uint(n-1))
	}
	if size > maxBlockBits {
		return nil, fmt.Errorf("owner: %s has no room for %d super peers with a block of addresses each; use a larger --cidr", prefix, n)
	}
	var out []netip.Prefix
	base := prefix.Addr().As4()
	start := uint32(base[0])<<24 | uint32(base[1])<<16 | uint32(base[2])<<8 | uint32(base[3])
	for i := range uint32(n) {
		a := start + i<<(32-size)
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(a >> 24), byte(a >> 16), byte(a >> 8), byte(a)}), size))
	}
	return out, nil
}

// descriptor signs who serves the service, and where.
func (m *maker) descriptor() (service.Documents, error) {
	end := m.o.Now.Add(superPeerLife).Unix()
	d := service.Descriptor{
		Service: m.id, Seq: 1, Issued: m.o.Now.Unix(), Expires: m.o.Now.Add(documentLife).Unix(), Name: m.o.Name,
		Prefix4: m.o.Prefix4.String(), SRPGroup: uint16(admission.DefaultGroup), KDF: uint8(admission.KDFNone),
		ABEHash: m.params[:], Generation: 1,
	}
	for i, k := range m.supers {
		d.SuperPeers = append(d.SuperPeers, service.SuperPeer{
			Key: k.Public().(ed25519.PublicKey), Endpoints: []string{m.o.SuperPeers[i]},
			Roles: roles(m.authority(i)), Scope: m.superPeerScope(), Block4: m.blocks[i].String(), Expires: end,
		})
	}
	s, err := service.NewDescriptor(d, m.owners)
	if err == nil {
		err = fits(s)
	}
	return service.Documents{Roots: []service.Signed{m.root}, Descriptor: s}, err
}

// roles are those of a super peer.
func roles(authority bool) []string {
	all := []string{service.RoleStore, service.RoleReflect, service.RoleRelay, service.RoleAdmit}
	if authority {
		all = append(all, service.RoleAuthority)
	}
	return all
}

// authority says whether super peer i is to have the ABE master key.
func (m *maker) authority(i int) bool { return m.o.Authorities == 0 || i < m.o.Authorities }

// fits says whether everybody could read a descriptor.
func fits(s service.Signed) error {
	if n := len(wire.Marshal(s)); n > service.MaxSigned {
		return fmt.Errorf("owner: the descriptor has %d bytes, at most %d are allowed; give fewer roles, or fewer values to --label-scope (KEY=* allows every value)", n, service.MaxSigned)
	}
	return nil
}

// superPeerScope is what a super peer may grant: all that a secret may.
func (m *maker) superPeerScope() map[string][]string {
	scope := maps.Clone(m.o.LabelScope)
	if scope == nil {
		scope = map[string][]string{}
	}
	scope[RoleLabel] = m.o.Roles
	return scope
}

// policy signs the access rules.
func (m *maker) policy() (service.Signed, error) {
	p := service.Policy{Rules: m.o.Rules}
	if m.o.Policy != nil {
		given, err := service.ReadPolicy(m.o.Policy)
		if err != nil {
			return service.Signed{}, err
		}
		p = *given
	}
	p.Sequence = max(p.Sequence, 1)
	p.Issued, p.Expires = m.o.Now.UTC().Truncate(time.Second), m.o.Now.UTC().Truncate(time.Second).Add(documentLife)
	return service.NewPolicy(p, m.id, m.owners)
}

// secrets makes one enrolment secret for each role.
func (m *maker) secrets() (tokens []RoleToken, out []service.EnrolmentSecret, err error) {
	params := admission.Params{Group: admission.DefaultGroup, KDF: admission.KDFNone}
	for _, role := range m.o.Roles {
		secretID := role + "-" + hex.EncodeToString(random(4))
		secret := random(secretSize)
		v, err := admission.NewVerifier(secretID, secret, params)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, service.EnrolmentSecret{ID: secretID, Verifier: v.Bytes(), Grant: map[string]string{RoleLabel: role}, Scope: m.o.LabelScope})
		t := service.Token{Version: 1, Service: m.id, Name: m.o.Name, MinSeq: 1, SecretID: secretID, Secret: secret}
		for i, k := range m.supers {
			t.SuperPeers = append(t.SuperPeers, service.TokenSuperPeer{Endpoint: m.o.SuperPeers[i], Key: k.Public().(ed25519.PublicKey)})
		}
		tokens = append(tokens, RoleToken{Role: role, Token: t})
	}
	return tokens, out, nil
}

// universe makes the universal overlay of the same super peers: a service of its
// own, with its own name, keys and epochs.
func (m *maker) universe() (service.Membership, error) {
	const name = "universe"
	root, err := service.NewRoot(name, m.owners, 1, m.o.Now, m.o.Now.Add(documentLife))
	if err != nil {
		return service.Membership{}, err
	}
	d := service.Descriptor{Service: service.RootID(root), Seq: 1, Issued: m.o.Now.Unix(), Expires: m.o.Now.Add(documentLife).Unix(), Name: name}
	for i, k := range m.supers {
		d.SuperPeers = append(d.SuperPeers, service.SuperPeer{
			Key: k.Public().(ed25519.PublicKey), Endpoints: []string{m.o.SuperPeers[i]},
			Roles: []string{service.RoleStore}, Expires: m.o.Now.Add(superPeerLife).Unix(),
		})
	}
	s, err := service.NewDescriptor(d, m.owners)
	docs := service.Documents{Roots: []service.Signed{root}, Descriptor: s}
	return service.Membership{ID: d.Service, Documents: docs, Epoch: firstEpoch, Master: random(32)}, err
}

// super seals the hand-over of one super peer.
func (m *maker) super(i int, h service.HandOver) (SuperFiles, error) {
	return sealFor(m.o.Name, i, m.o.SuperPeers[i], m.supers[i], m.blocks[i], m.authority(i), h)
}

// sealFor makes the files of super peer i of a service. Only authorities get the
// ABE master key.
func sealFor(service string, i int, endpoint string, k ed25519.PrivateKey, block netip.Prefix, authority bool, h service.HandOver) (SuperFiles, error) {
	h.Seed = k.Seed()
	if !authority {
		h.ABESeed = nil
	}
	key := random(32)
	sealed, err := h.Seal(key)
	if err != nil {
		return SuperFiles{}, err
	}
	_, p, err := net.SplitHostPort(endpoint)
	if err != nil {
		return SuperFiles{}, errors.New("owner: super peer " + endpoint + " is not host:port")
	}
	name := SuperName(i)
	conf := fmt.Sprintf("# Super peer %d of %s: start it on %s with\n#   icvpn super --config %s.yaml\nhandover: %s.handover\nhandover_key_file: %s.key\nlisten: \":%s\"\n",
		i+1, service, endpoint, name, name, name, p)
	return SuperFiles{Endpoint: endpoint, HandOver: sealed, Key: []byte(hex.EncodeToString(key) + "\n"), Config: []byte(conf), Block: block, Authority: authority}, nil
}

// SuperName is the name of the files of super peer i, counted from 0.
func SuperName(i int) string { return fmt.Sprintf("super-%d", i+1) }

func (m *maker) ownerSecret(h service.HandOver) []byte {
	f := ownerFile{Owner: m.owners[0].Seed(), HandOver: h}
	for _, k := range m.supers {
		f.Supers = append(f.Supers, k.Seed())
	}
	return f.encode()
}

func newKey() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(random(ed25519.SeedSize)) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails (crypto/rand)
	return b
}

// ParseKey reads the content of a super-N.key file.
func ParseKey(text []byte) ([]byte, error) {
	b, err := hex.DecodeString(string(trim(text)))
	if err != nil || len(b) != 32 {
		return nil, errors.New("the hand-over key is not 64 hexadecimal digits; copy the file again")
	}
	return b, nil
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == '\n' || b[len(b)-1] == '\r' || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}
