package lanes

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
)

// Errors of the constructors.
var (
	ErrKernel = errors.New("lanes: this processor does not run the kernel")
	ErrKey    = errors.New("lanes: key has a wrong length")
)

const aesBlock = 16

// CBC is one AES key, for encrypting many messages at once and decrypting each
// many blocks at once. It is safe for concurrent use until Wipe.
type CBC struct {
	kernel AES
	width  int // lanes of the encryption
	rounds int
	enc    [15][aesBlock]byte // round keys
	dec    [15][aesBlock]byte // those of the equivalent inverse cipher
}

// NewCBC expands a key of 16 or 32 bytes for one of AESKernels.
func NewCBC(kernel AES, key []byte) (*CBC, error) {
	if !slices.Contains(AESKernels(), kernel) {
		return nil, ErrKernel
	}
	if len(key) != 16 && len(key) != 32 {
		return nil, ErrKey
	}
	c := &CBC{kernel: kernel, width: maxLanes / 2}
	if kernel != AESNI {
		c.width = maxLanes
	}
	c.rounds = ExpandKey(&c.enc, key)
	c.invert()
	return c, nil
}

// ExpandKey writes the round keys of a key of 16 or 32 bytes (FIPS 197, Section 5.2)
// and returns how many rounds there are, one less than keys. The processor must run
// one of AESKernels.
func ExpandKey(keys *[15][aesBlock]byte, key []byte) (rounds int) {
	var w [4 * 15]uint32
	n := len(key) / 4
	rounds = n + 6
	for i := range n {
		w[i] = binary.LittleEndian.Uint32(key[4*i:])
	}
	rcon := uint32(1)
	for i := n; i < 4*(rounds+1); i++ {
		t := w[i-1]
		switch {
		case i%n == 0:
			t = subWord(bits.RotateLeft32(t, -8)) ^ rcon
			rcon = rcon<<1 ^ rcon>>7*0x11b
		case n == 8 && i%n == 4:
			t = subWord(t)
		}
		w[i] = w[i-n] ^ t
	}
	for i := range 4 * (rounds + 1) {
		binary.LittleEndian.PutUint32(keys[i/4][i%4*4:], w[i])
	}
	clear(w[:])
	return rounds
}

// invert makes the round keys of the equivalent inverse cipher (FIPS 197, Section
// 5.3.5).
func (c *CBC) invert() {
	c.dec[0], c.dec[c.rounds] = c.enc[c.rounds], c.enc[0]
	for i := 1; i < c.rounds; i++ {
		invMixColumns(&c.dec[i], &c.enc[c.rounds-i])
	}
}

// Encrypt encrypts messages in place. Each is an IV and whole blocks behind it;
// messages must not overlap. What is shorter than two blocks is left alone.
func (c *CBC) Encrypt(messages [][]byte) {
	var (
		rest  [maxLanes][]byte // of every busy lane, from the last ciphertext block on
		heads [maxLanes]*byte
		busy  int
	)
	for {
		for busy < c.width && len(messages) > 0 {
			if m := messages[0]; len(m) >= 2*aesBlock {
				rest[busy] = m
				busy++
			}
			messages = messages[1:]
		}
		if busy == 0 {
			return
		}
		blocks := len(rest[0])/aesBlock - 1
		for i := range busy {
			blocks = min(blocks, len(rest[i])/aesBlock-1)
			heads[i] = &rest[i][0]
		}
		for i := busy; i < c.width; i++ {
			heads[i] = heads[0] // same loads, then same stores
		}
		c.encryptLanes(&heads, busy, blocks)
		for i := busy - 1; i >= 0; i-- {
			if rest[i] = rest[i][blocks*aesBlock:]; len(rest[i]) < 2*aesBlock {
				busy--
				rest[i] = rest[busy]
			}
		}
	}
}

// Decrypt decrypts one message in place: an IV and whole blocks behind it.
func (c *CBC) Decrypt(message []byte) {
	if blocks := len(message)/aesBlock - 1; blocks > 0 {
		c.decryptOne(&message[0], blocks)
	}
}

// EncryptBlocks encrypts every whole block of data by itself (ECB), in place.
func (c *CBC) EncryptBlocks(data []byte) {
	if blocks := len(data) / aesBlock; blocks > 0 {
		c.encryptBlocks(&data[0], blocks)
	}
}

// Wipe clears the key. The CBC is of no use afterwards.
func (c *CBC) Wipe() {
	clear(c.enc[:])
	clear(c.dec[:])
}
