package admission

import (
	"encoding/hex"
	"fmt"
	"sync"

	"filippo.io/bigmod"
)

// Group names one of the fixed groups of RFC 5054, Appendix A, by the bits of
// its prime N. It comes from the owner-signed descriptor, never from a peer.
type Group uint16

// The groups of 2048 bits and more that this package accepts.
const (
	Group2048 Group = 2048
	Group3072 Group = 3072
	Group4096 Group = 4096

	// DefaultGroup is what a new service gets. Its 112 bits stand behind TLS,
	// not alone, and cost a fifth of 3072 bits (docs/protocol/admission.md).
	DefaultGroup = Group2048
)

// Valid says whether g is one of the groups above.
func (g Group) Valid() bool { return g == Group2048 || g == Group3072 || g == Group4096 }

// String returns "SRP-2048" and so on.
func (g Group) String() string { return fmt.Sprintf("SRP-%d", uint16(g)) }

// Size returns the length of N and of every padded group element in bytes.
func (g Group) Size() int { return int(g) / 8 }

// KDF says how a secret becomes P in x = H(s | H(I ":" P)).
type KDF uint8

const (
	// KDFNone takes the secret as it is: for secrets made by the tool.
	KDFNone KDF = 1
	// KDFArgon2id stretches it first, on the client: for secrets that a person
	// chose.
	KDFArgon2id KDF = 2
)

// Valid says whether k is one of the values above.
func (k KDF) Valid() bool { return k == KDFNone || k == KDFArgon2id }

// String returns the name used in configuration.
func (k KDF) String() string {
	switch k {
	case KDFNone:
		return "none"
	case KDFArgon2id:
		return "argon2id"
	}
	return fmt.Sprintf("KDF(%d)", uint8(k))
}

// Params are a service's SRP parameters, as its descriptor states them.
type Params struct {
	Group Group
	KDF   KDF
}

func (p Params) validate() error {
	if !p.Group.Valid() {
		return fmt.Errorf("admission: the descriptor asks for group %d; known are 2048, 3072 and 4096", uint16(p.Group))
	}
	if !p.KDF.Valid() {
		return fmt.Errorf("admission: the descriptor asks for key derivation %d; known are 1 (none) and 2 (argon2id)", uint8(p.KDF))
	}
	return nil
}

// group is N and g, prepared.
type group struct {
	n       *bigmod.Modulus
	g       *bigmod.Nat
	size    int    // bytes of N, the length PAD pads to
	nBytes  []byte // N
	gPadded []byte // PAD(g)
}

// newGroup panics on a prime that is not one of ours: never peer bytes.
func newGroup(prime string, g byte) *group {
	nBytes, err := hex.DecodeString(prime)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	n, err := bigmod.NewModulus(nBytes)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	gPadded := make([]byte, len(nBytes))
	gPadded[len(gPadded)-1] = g
	gNat, err := bigmod.NewNat().SetBytes(gPadded, n)
	if err != nil {
		panic("admission: internal error: " + err.Error())
	}
	return &group{n: n, g: gNat, size: len(nBytes), nBytes: nBytes, gPadded: gPadded}
}

// The Montgomery constants of a prime take about a millisecond, so each group
// is prepared once, on first use.
var (
	srp2048 = sync.OnceValue(func() *srp { return newSRP(newGroup(prime2048, 2), newSHA256) })
	srp3072 = sync.OnceValue(func() *srp { return newSRP(newGroup(prime3072, 5), newSHA256) })
	srp4096 = sync.OnceValue(func() *srp { return newSRP(newGroup(prime4096, 5), newSHA256) })
)

// srp returns the prepared group. g must be Valid.
func (g Group) srp() *srp {
	switch g {
	case Group2048:
		return srp2048()
	case Group3072:
		return srp3072()
	case Group4096:
		return srp4096()
	}
	panic("admission: internal error: unchecked group")
}

// RFC 5054, Appendix A. The 3072- and 4096-bit primes are those of RFC 3526.
const (
	prime2048 = "" +
		"AC6BDB41324A9A9BF166DE5E1389582FAF72B6651987EE07FC3192943DB56050" +
		"A37329CBB4A099ED8193E0757767A13DD52312AB4B03310DCD7F48A9DA04FD50" +
		"E8083969EDB767B0CF6095179A163AB3661A05FBD5FAAAE82918A9962F0B93B8" +
		"55F97993EC975EEAA80D740ADBF4FF747359D041D5C33EA71D281E446B14773B" +
		"CA97B43A23FB801676BD207A436C6481F1D2B9078717461A5B9D32E688F87748" +
		"544523B524B0D57D5EA77A2775D2ECFA032CFBDBF52FB3786160279004E57AE6" +
		"AF874E7303CE53299CCC041C7BC308D82A5698F3A8D0C38271AE35F8E9DBFBB6" +
		"94B5C803D89F7AE435DE236D525F54759B65E372FCD68EF20FA7111F9E4AFF73"

	prime3072 = "" +
		"FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74" +
		"020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437" +
		"4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED" +
		"EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05" +
		"98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB" +
		"9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B" +
		"E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718" +
		"3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33" +
		"A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7" +
		"ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864" +
		"D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2" +
		"08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A93AD2CAFFFFFFFFFFFFFFFF"

	prime4096 = "" +
		"FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74" +
		"020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437" +
		"4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED" +
		"EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05" +
		"98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB" +
		"9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B" +
		"E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718" +
		"3995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33" +
		"A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7" +
		"ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864" +
		"D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E2" +
		"08E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7" +
		"88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8" +
		"DBBBC2DB04DE8EF92E8EFC141FBECAA6287C59474E6BC05D99B2964FA090C3A2" +
		"233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9" +
		"93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF"
)
