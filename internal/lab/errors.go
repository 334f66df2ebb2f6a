package lab

import "fmt"

// Reason says what the machine lacks, for callers that branch.
type Reason uint8

const (
	// NoNamespaces: neither as root nor as an ordinary user may namespaces be made.
	NoNamespaces Reason = iota + 1
	// NoTUN: /dev/net/tun cannot be used inside the namespaces.
	NoTUN
	// NoForwarding: the sysctls of the router's own namespace are read-only.
	NoForwarding
	// Outside: New was called by a process that Main did not start.
	Outside
)

// UnavailableError says in one sentence why there can be no lab here.
type UnavailableError struct {
	Reason Reason
	Err    error // from the system, if any
}

// Unwrap returns the system's error.
func (e *UnavailableError) Unwrap() error { return e.Err }

func (e *UnavailableError) Error() string {
	s := "lab: " + e.sentence()
	if e.Err != nil {
		s += fmt.Sprintf(" (%v)", e.Err)
	}
	return s
}

func (e *UnavailableError) sentence() string {
	switch e.Reason {
	case NoNamespaces:
		return "this machine refuses network namespaces: run as root, or let ordinary users make them " +
			"(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0, user.max_user_namespaces above 0, where these exist), " +
			"in a container add --privileged"
	case NoTUN:
		return "/dev/net/tun cannot be used inside the namespaces: run as root, " +
			"or load the driver (modprobe tun) and let everybody open it (chmod 0666 /dev/net/tun, the default of most systems)"
	case NoForwarding:
		return "the router's namespace may not forward packets because /proc/sys is read-only: run outside the container, or add --privileged to it"
	case Outside:
		return "New works only in a process that lab.Main started"
	}
	return "not available"
}
