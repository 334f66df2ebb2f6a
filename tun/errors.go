package tun

import "fmt"

// Reason says why a device could not be made, for callers that branch.
type Reason uint8

const (
	// NoDevice: /dev/net/tun does not exist, or no driver is behind it.
	NoDevice Reason = iota + 1
	// NotPermitted: no CAP_NET_ADMIN, or /dev/net/tun may not be opened.
	NotPermitted
	// NameTaken: another interface or process has the name.
	NameTaken
	// BadName: not a name the kernel accepts.
	BadName
	// BadMTU: outside MinMTU to MaxMTU.
	BadMTU
	// Unsupported: this system has no TUN device we know.
	Unsupported
	// NoOffload: the kernel refuses what Config.Backend Offload needs.
	NoOffload
	// Failed: anything else; see the wrapped error.
	Failed
)

// CreateError is the error of Open: one sentence that names the ways out.
type CreateError struct {
	Name   string // of the interface asked for
	Reason Reason
	MTU    int   // with BadMTU
	Err    error // from the system, if any
}

// Unwrap returns the system's error.
func (e *CreateError) Unwrap() error { return e.Err }

func (e *CreateError) Error() string {
	return fmt.Sprintf("tun: interface %q: %s", e.Name, e.sentence())
}

func (e *CreateError) sentence() string {
	switch e.Reason {
	case NoDevice:
		return "/dev/net/tun is missing: load the driver (modprobe tun), or in a container add --device /dev/net/tun"
	case NotPermitted:
		return "making it needs the capability CAP_NET_ADMIN and access to /dev/net/tun: " +
			"run as root, or once setcap cap_net_admin+ep on the binary, " +
			"or in a container docker run (or podman run) --cap-add NET_ADMIN --device /dev/net/tun"
	case NameTaken:
		return "the name is taken by another interface or process: stop that one or choose another name"
	case BadName:
		return "not a valid interface name: 1 to 15 bytes without spaces, slashes or colons"
	case BadMTU:
		return fmt.Sprintf("MTU %d is outside %d to %d", e.MTU, MinMTU, MaxMTU)
	case NoOffload:
		return "the kernel refuses offloads on it: choose the backend auto or plain"
	case Unsupported:
		return "this operating system has no supported TUN device: run icvpn on Linux"
	}
	return e.Err.Error()
}
