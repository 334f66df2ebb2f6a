//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What ethtool(8) does through ioctl(SIOCETHTOOL), as linux/ethtool.h has it: the
// names of all features, in the order of their bits, then two masks for every 32
// of them, which bits are meant and what they shall be.

const (
	stringSetFeatures = 4  // ETH_SS_FEATURES
	stringLength      = 32 // ETH_GSTRING_LEN
	maxFeatures       = 1024
)

var ne = binary.NativeEndian

// turnOff turns features of an interface in the thread's namespace off. Those that
// the kernel does not know are off already.
func turnOff(dev string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	all, err := featureNames(dev)
	if err != nil {
		return err
	}
	blocks := (len(all) + 31) / 32
	request := make([]byte, 8+8*blocks) // struct ethtool_sfeatures
	ne.PutUint32(request, unix.ETHTOOL_SFEATURES)
	ne.PutUint32(request[4:], uint32(blocks))
	for i, name := range all {
		if slices.Contains(names, name) {
			at := 8 + i/32*8 // valid, requested
			ne.PutUint32(request[at:], ne.Uint32(request[at:])|1<<(i%32))
		}
	}
	if err := ethtool(dev, request); err != nil {
		return err
	}
	active, err := activeFeatures(dev, all)
	if err != nil {
		return err
	}
	for _, name := range names {
		if slices.Contains(active, name) {
			return fmt.Errorf("%s: feature %s cannot be turned off", dev, name)
		}
	}
	return nil
}

// featureNames returns the names of all features of an interface.
func featureNames(dev string) ([]string, error) {
	info := make([]byte, 4+4+8+4) // struct ethtool_sset_info with one count
	ne.PutUint32(info, unix.ETHTOOL_GSSET_INFO)
	ne.PutUint64(info[8:], 1<<stringSetFeatures)
	if err := ethtool(dev, info); err != nil {
		return nil, err
	}
	n := int(ne.Uint32(info[16:]))
	if n == 0 || n > maxFeatures {
		return nil, fmt.Errorf("%s: the kernel says that there are %d features", dev, n)
	}
	list := make([]byte, 12+n*stringLength) // struct ethtool_gstrings
	ne.PutUint32(list, unix.ETHTOOL_GSTRINGS)
	ne.PutUint32(list[4:], stringSetFeatures)
	ne.PutUint32(list[8:], uint32(n))
	if err := ethtool(dev, list); err != nil {
		return nil, err
	}
	names := make([]string, n)
	for i := range names {
		name, _, _ := bytes.Cut(list[12+i*stringLength:][:stringLength], []byte{0})
		names[i] = string(name)
	}
	return names, nil
}

// activeFeatures returns those of all that are on.
func activeFeatures(dev string, all []string) (active []string, err error) {
	const block = 16 // available, requested, active, never_changed
	blocks := (len(all) + 31) / 32
	state := make([]byte, 8+block*blocks) // struct ethtool_gfeatures
	ne.PutUint32(state, unix.ETHTOOL_GFEATURES)
	ne.PutUint32(state[4:], uint32(blocks))
	if err := ethtool(dev, state); err != nil {
		return nil, err
	}
	for i, name := range all {
		if ne.Uint32(state[8+i/32*block+8:])>>(i%32)&1 != 0 {
			active = append(active, name)
		}
	}
	return active, nil
}

// ethtool makes one call; the kernel answers in request.
func ethtool(dev string, request []byte) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var req struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:unix.IFNAMSIZ-1], dev)
	req.data = unsafe.Pointer(unsafe.SliceData(request))
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(request)
	if errno != 0 {
		return fmt.Errorf("ethtool command %#x on %s: %w", ne.Uint32(request), dev, errno)
	}
	return nil
}
