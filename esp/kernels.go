package esp

import (
	"crypto/sha256"
	"crypto/sha512"

	"icvpn/esp/internal/gcm"
	"icvpn/esp/internal/lanes"
)

// kernels is how the suites are computed: CBC by package lanes where both AES and
// the hash have a kernel, AES-GCM by package gcm where that has one, all else by
// the standard library.
type kernels struct {
	aes            lanes.AES
	sha256, sha512 lanes.SHA
	gcm            gcm.Kernel
}

// portable is the choice without kernels.
var portable = kernels{}

// chosen is what new SAs use. Tests and benchmarks set it to each of
// allKernels; nothing else writes to it.
var chosen = allKernels()[0]

// allKernels returns every choice that this processor has, best first. Kernels of
// package gcm, which are fewer than those for AES and need the same of the
// processor, go along with these.
func allKernels() (all []kernels) {
	for i, aes := range lanes.AESKernels() {
		for j := range max(len(lanes.SHA256Kernels()), len(lanes.SHA512Kernels())) {
			all = append(all, kernels{aes, at(lanes.SHA256Kernels(), j), at(lanes.SHA512Kernels(), j), at(gcm.Kernels(), i)})
		}
	}
	return append(all, portable)
}

// at returns the i-th best kernel, or the last; of none, the one that says so.
func at[K lanes.SHA | gcm.Kernel](all []K, i int) (none K) {
	if len(all) == 0 {
		return none
	}
	return all[min(i, len(all)-1)]
}

func newGCM(k *Keys, esn bool) (transform, error) {
	if chosen.gcm == gcm.None {
		return newGCMPortable(k, esn)
	}
	return newGCMKernel(k, esn)
}

func newCBCSHA256(k *Keys, esn bool) (transform, error) {
	if chosen.aes == lanes.AESNone || chosen.sha256 == lanes.SHANone {
		return newCBCPortable(k, sha256.New, sha256ICV, esn)
	}
	mac, err := lanes.NewHMACSHA256(chosen.sha256, k.Int)
	if err != nil {
		return nil, err
	}
	return newCBCLanes(k, mac, chosen.sha256, sha256.New, sha256ICV, esn)
}

func newCBCSHA512(k *Keys, esn bool) (transform, error) {
	if chosen.aes == lanes.AESNone || chosen.sha512 == lanes.SHANone {
		return newCBCPortable(k, sha512.New, sha512ICV, esn)
	}
	mac, err := lanes.NewHMACSHA512(chosen.sha512, k.Int)
	if err != nil {
		return nil, err
	}
	return newCBCLanes(k, mac, chosen.sha512, sha512.New, sha512ICV, esn)
}
