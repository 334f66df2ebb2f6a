package owner

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"icvpn/internal/service"
	"icvpn/internal/wire"
)

const (
	ownerVersion   = 3
	maxOwnerSecret = 1 << 20
)

// ownerFile is owner.secret: what is needed to sign the next descriptor, policy
// and hand-overs.
type ownerFile struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	Owner    []byte   // Ed25519 seed
	Supers   [][]byte // Ed25519 seeds, of removed ones too: super-N has number N-1
	HandOver service.HandOver
	Retired  []retired
}

// retired is the block of a super peer that was removed.
type retired struct {
	_     struct{} `cbor:",toarray"`
	Block string
	At    int64 // Unix seconds
}

// ownerFile2 is ownerFile of version 2.
type ownerFile2 struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	Owner    []byte
	Supers   [][]byte
	HandOver service.HandOver2
	Retired  []retired
}

// ownerFile1 is ownerFile of version 1.
type ownerFile1 struct {
	_        struct{} `cbor:",toarray"`
	Version  uint8
	Owner    []byte
	Supers   [][]byte
	HandOver service.FormerHandOver
}

func (f ownerFile) encode() []byte {
	f.Version = ownerVersion
	return wire.Marshal(f)
}

// parseOwner reads owner.secret.
func parseOwner(b []byte) (f ownerFile, err error) {
	if err = wire.Unmarshal(b, &f, maxOwnerSecret); err != nil {
		var second ownerFile2
		if wire.Unmarshal(b, &second, maxOwnerSecret) == nil && second.Version == 2 {
			f, err = ownerFile{Version: ownerVersion, Owner: second.Owner, Supers: second.Supers, HandOver: second.HandOver.Current(), Retired: second.Retired}, nil
		}
		var old ownerFile1
		if wire.Unmarshal(b, &old, maxOwnerSecret) == nil && old.Version == 1 {
			f, err = ownerFile{Version: ownerVersion, Owner: old.Owner, Supers: old.Supers, HandOver: old.HandOver.Current()}, nil
		}
	}
	switch {
	case err != nil:
		return f, errors.New("it is damaged, or no owner.secret at all")
	case f.Version != ownerVersion:
		return f, fmt.Errorf("it has version %d, this binary knows %d", f.Version, ownerVersion)
	case len(f.Owner) != ed25519.SeedSize:
		return f, errors.New("it has no owner's key")
	}
	return f, nil
}

func (f ownerFile) owners() []ed25519.PrivateKey {
	return []ed25519.PrivateKey{ed25519.NewKeyFromSeed(f.Owner)}
}
