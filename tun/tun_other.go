//go:build !linux

package tun

// Create reports that this system has no TUN device we know.
func Create(name string, mtu int) (Device, error) {
	return nil, &CreateError{Name: name, Reason: Unsupported, MTU: mtu}
}
