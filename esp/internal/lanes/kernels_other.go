//go:build !amd64 || purego

package lanes

// Portable says that this build has no kernels.
const Portable = true

// No kernels: the lists of them are empty, and constructors refuse. So none of
// the functions below that do nothing is ever called.

func detect() features { return features{} }

func (c *CBC) encryptLanes(*[maxLanes]*byte, int, int) {}
func (c *CBC) decryptOne(*byte, int)                   {}
func (c *CBC) encryptBlocks(*byte, int)                {}

func sha256Kernels(SHA) []shaKernel[uint32] { return nil }
func sha512Kernels(SHA) []shaKernel[uint64] { return nil }

func subWord(uint32) uint32            { return 0 }
func invMixColumns(_, _ *[16]byte)     {}
func digest256(*[128]byte, *[8]uint32) {}
func digest512(*[128]byte, *[8]uint64) {}
