package abe

// What tkn20 says (circl v1.6.5, abe/cpabe/tkn20/internal/tkn). Shapes of
// matrices are rows × columns; a G1 point is 96 bytes, G2 192, GT 576.
const (
	tknVersion = "v1.3.8" // prefix of every ciphertext since circl v1.3.8

	// The label that the Boneh-Katz transform adds to every policy and, as a
	// wildcard, to every key. Its hyphens keep it out of our token alphabet.
	tknInternalLabel = "internal-boneh-katz-transform-attribute"

	g1Size, g2Size, gtSize = 96, 192, 576
	scalarSize             = 32
	tknSeedSize            = 72 // MAC key seed before the plaintext (bk.go, macKeySeedSize)
	tknTagSize             = 32
)

// What we chose.
const (
	// SecretSize is the length of seeds, epoch keys and sealed secrets.
	SecretSize = 32

	// Overhead is what Seal adds to a plaintext: enc 32 and tag 16. A record
	// of 600 bytes (DESIGN.md section 6) so carries 552 minus its framing.
	Overhead = 48

	// A policy's bounds. 16 conditions cost some 150 ms to encrypt once per
	// generation; text must fit a 600-byte statement beside 200 bytes of
	// other fields. Depth counts alternations of "and" and "or".
	maxConditions = 16
	maxDepth      = 4
	maxPolicyText = 384

	// Bounds of a label, as in Kubernetes; of labels in one key: KeyGen costs
	// about 10 ms each.
	maxToken  = 63 // VM identifier, label key, label value
	maxLabels = 16

	maxKeySize      = 16 << 10 // 16 labels of the longest kind need 13 kB
	maxEnvelopeSize = 32 << 10 // 16 conditions on one label need 22 kB
	maxSlotSize     = 24 << 10
	maxKeptSlot     = 32 << 10 // with its labels beside it
	maxStatement    = 600      // one BEP 44 value
	maxSealed       = 64 << 10 // member lists are sealed too, before chunking

	// The types that signed content names, and with "icvpn/1 " before them the
	// domains of the signatures.
	typeEnvelope  = "abe envelope"
	typeStatement = "policy key"
)
