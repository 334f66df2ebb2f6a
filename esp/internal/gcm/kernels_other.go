//go:build !amd64 || purego

package gcm

// No kernels: the list of them is empty, and the constructor refuses. So none of
// the functions below that do nothing is ever called.

func detect() (vaes, vaes512 bool) { return }

func encryptBlock(*[15][16]byte, int, *[16]byte)            {}
func multiply(_, _, _ *element)                             {}
func multiplyVAES(_, _, _ *element)                         {}
func seal128(*GCM, *byte, int, ...uint64)                   {}
func seal256(*GCM, *byte, int, ...uint64)                   {}
func sealVAES128(*GCM, *byte, int, ...uint64)               {}
func sealVAES256(*GCM, *byte, int, ...uint64)               {}
func open128(*GCM, *byte, int, ...uint64) (_, _ uint64)     { return }
func open256(*GCM, *byte, int, ...uint64) (_, _ uint64)     { return }
func openVAES128(*GCM, *byte, int, ...uint64) (_, _ uint64) { return }
func openVAES256(*GCM, *byte, int, ...uint64) (_, _ uint64) { return }
