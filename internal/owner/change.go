package owner

import (
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"icvpn/internal/id"
	"icvpn/internal/service"
)

// retiredFor is how long a block is nobody's after its super peer was removed:
// longer than any credential with an address in it.
const retiredFor = 48 * time.Hour

// Change is a new descriptor of a service, and what it means for the files.
type Change struct {
	ID      id.ID
	Name    string
	Seq     uint64
	Secret  []byte            // owner.secret from now on
	Number  int               // of the super peer with new files, counted from 0
	Files   SuperFiles        // of the one that was added or changed, or of one that stays and carries the news
	Key     ed25519.PublicKey // of the super peer that was added or removed; nil if one was changed
	Removed []string          // endpoints of the one that was removed
}

// minAuthorities is how many super peers have the ABE master key unless the owner
// says otherwise, so that either may fail.
const minAuthorities = 2

// AddSuper signs a descriptor with one more super peer: of the scope of the first,
// with an address block that nobody has, valid from now. It has the ABE master key
// if fewer than two others have.
func AddSuper(secret []byte, endpoint string, now time.Time) (*Change, error) {
	r, err := newReviser(secret, now)
	if err != nil {
		return nil, err
	}
	for _, sp := range r.d.SuperPeers {
		if slices.Contains(sp.Endpoints, endpoint) {
			return nil, fmt.Errorf("owner: %s has a super peer at %s already", r.d.Name, endpoint)
		}
	}
	block, err := r.spareBlock()
	if err != nil {
		return nil, err
	}
	k := newKey()
	key := k.Public().(ed25519.PublicKey)
	like, authority := r.d.SuperPeers[0], r.authorities() < minAuthorities
	end := now.Add(superPeerLife).Unix()
	r.d.SuperPeers = append(r.d.SuperPeers, service.SuperPeer{
		Key: key, Endpoints: []string{endpoint}, Roles: roles(authority), Scope: like.Scope, Block4: block.String(), Expires: end,
	})
	r.u.SuperPeers = append(r.u.SuperPeers, service.SuperPeer{
		Key: key, Endpoints: []string{endpoint}, Roles: []string{service.RoleStore}, Expires: end,
	})
	r.f.Supers = append(r.f.Supers, k.Seed())
	c, err := r.sign()
	if err != nil {
		return nil, err
	}
	c.Number, c.Key = len(r.f.Supers)-1, key
	c.Files, err = sealFor(r.d.Name, c.Number, endpoint, k, block, authority, r.f.HandOver)
	return c, err
}

// authorities returns how many super peers have the ABE master key.
func (r *reviser) authorities() (n int) {
	for _, sp := range r.d.SuperPeers {
		if sp.Has(service.RoleAuthority) {
			n++
		}
	}
	return n
}

// GiveMaster makes the super peer at endpoint an authority, TakeMaster makes it
// none: both sign the next descriptor, and a hand-over with or without the ABE
// master key. What it has known it may still know.
func GiveMaster(secret []byte, endpoint string, now time.Time) (*Change, error) {
	return setMaster(secret, endpoint, true, now)
}

// TakeMaster is the opposite of GiveMaster.
func TakeMaster(secret []byte, endpoint string, now time.Time) (*Change, error) {
	return setMaster(secret, endpoint, false, now)
}

func setMaster(secret []byte, endpoint string, authority bool, now time.Time) (*Change, error) {
	r, err := newReviser(secret, now)
	if err != nil {
		return nil, err
	}
	i, err := r.find(endpoint)
	if err != nil {
		return nil, err
	}
	switch had := r.d.SuperPeers[i].Has(service.RoleAuthority); {
	case had && authority:
		return nil, fmt.Errorf("owner: %s has the ABE master key already", endpoint)
	case !had && !authority:
		return nil, fmt.Errorf("owner: %s has no ABE master key", endpoint)
	case had && r.authorities() == 1:
		return nil, r.onlyAuthority(endpoint)
	}
	r.d.SuperPeers[i].Roles = roles(authority)
	c, err := r.sign()
	if err != nil {
		return nil, err
	}
	return c, r.carry(c, r.d.SuperPeers[i])
}

func (r *reviser) find(endpoint string) (int, error) {
	i := slices.IndexFunc(r.d.SuperPeers, func(sp service.SuperPeer) bool { return slices.Contains(sp.Endpoints, endpoint) })
	if i < 0 {
		return i, fmt.Errorf("owner: %s has no super peer at %s", r.d.Name, endpoint)
	}
	return i, nil
}

func (r *reviser) onlyAuthority(endpoint string) error {
	return fmt.Errorf("owner: %s is the only super peer of %s with the ABE master key; give it to another first, with icvpn service super authority", endpoint, r.d.Name)
}

// RemoveSuper signs a descriptor without the super peer at endpoint. With its
// scope ends what it vouched for: whoever has the new descriptor refuses the
// credentials it issued.
func RemoveSuper(secret []byte, endpoint string, now time.Time) (*Change, error) {
	r, err := newReviser(secret, now)
	if err != nil {
		return nil, err
	}
	i, err := r.find(endpoint)
	if err != nil {
		return nil, err
	}
	gone := r.d.SuperPeers[i]
	switch {
	case len(r.d.SuperPeers) == 1:
		return nil, fmt.Errorf("owner: %s is the only super peer of %s; add another first", endpoint, r.d.Name)
	case gone.Has(service.RoleAuthority) && r.authorities() == 1:
		return nil, r.onlyAuthority(endpoint)
	}
	r.d.SuperPeers = slices.Delete(r.d.SuperPeers, i, i+1)
	r.u.SuperPeers = slices.DeleteFunc(r.u.SuperPeers, func(sp service.SuperPeer) bool { return sp.Key.Equal(gone.Key) })
	r.f.Retired = append(r.f.Retired, retired{Block: gone.Block4, At: now.Unix()})
	c, err := r.sign()
	if err != nil {
		return nil, err
	}
	c.Key, c.Removed = gone.Key, gone.Endpoints
	return c, r.carry(c, r.d.SuperPeers[0])
}

// carry makes a hand-over anew for a super peer that stays.
func (r *reviser) carry(c *Change, stays service.SuperPeer) (err error) {
	block, err := netip.ParsePrefix(stays.Block4)
	if err != nil {
		return err
	}
	for i, seed := range r.f.Supers {
		if k := ed25519.NewKeyFromSeed(seed); k.Public().(ed25519.PublicKey).Equal(stays.Key) {
			c.Number = i
			c.Files, err = sealFor(r.d.Name, i, stays.Endpoints[0], k, block, stays.Has(service.RoleAuthority), r.f.HandOver)
			return err
		}
	}
	return fmt.Errorf("owner: owner.secret lacks the key of super peer %s", stays.Endpoints[0])
}

// reviser makes the next descriptors of a service and of its universal overlay.
type reviser struct {
	f    ownerFile
	now  time.Time
	d, u service.Descriptor
}

func newReviser(secret []byte, now time.Time) (*reviser, error) {
	f, err := parseOwner(secret)
	if err != nil {
		return nil, err
	}
	r := &reviser{f: f, now: now}
	for _, m := range []struct {
		of service.Membership
		to *service.Descriptor
	}{{f.HandOver.Service, &r.d}, {f.HandOver.Universe, &r.u}} {
		trust, err := service.Open(m.of.Documents, m.of.ID, 0, now)
		if err != nil {
			return nil, err
		}
		*m.to = *trust.Descriptor
	}
	return r, nil
}

// sign makes both descriptors the newest ones.
func (r *reviser) sign() (*Change, error) {
	for _, m := range []struct {
		of *service.Membership
		d  *service.Descriptor
	}{{&r.f.HandOver.Service, &r.d}, {&r.f.HandOver.Universe, &r.u}} {
		m.d.Seq++
		m.d.Issued, m.d.Expires = r.now.Unix(), r.now.Add(documentLife).Unix()
		s, err := service.NewDescriptor(*m.d, r.f.owners())
		if err == nil {
			err = fits(s)
		}
		if err != nil {
			return nil, err
		}
		m.of.Documents.Descriptor = s
	}
	return &Change{ID: r.d.Service, Name: r.d.Name, Seq: r.d.Seq, Secret: r.f.encode()}, nil
}

// spareBlock returns a block of the size of the others that no super peer has,
// nor had lately.
func (r *reviser) spareBlock() (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(r.d.Prefix4)
	if err != nil {
		return prefix, err
	}
	var taken []netip.Prefix
	size := 0
	for _, sp := range r.d.SuperPeers {
		if b, err := netip.ParsePrefix(sp.Block4); err == nil {
			taken, size = append(taken, b), max(size, b.Bits())
		}
	}
	for _, old := range r.f.Retired {
		if b, err := netip.ParsePrefix(old.Block); err == nil && r.now.Sub(time.Unix(old.At, 0)) < retiredFor {
			taken = append(taken, b)
		}
	}
	if size > prefix.Bits() {
		base := prefix.Addr().As4()
		start := binary.BigEndian.Uint32(base[:])
		for i := range uint32(1) << (size - prefix.Bits()) {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], start+i<<(32-size))
			b := netip.PrefixFrom(netip.AddrFrom4(a), size)
			if !slices.ContainsFunc(taken, b.Overlaps) {
				return b, nil
			}
		}
	}
	return prefix, fmt.Errorf("owner: every block of %s is taken, or was within the last %v; remove a super peer, or make the service anew with a larger --cidr", r.d.Prefix4, retiredFor)
}
