//go:build !linux

package tun

// Open reports that this system has no TUN device we know.
func Open(cfg Config) (Device, error) {
	return nil, &CreateError{Name: cfg.Name, Reason: Unsupported, MTU: cfg.MTU}
}
