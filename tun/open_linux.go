package tun

import (
	"errors"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

// devicePath is the clone device: each open of it may become one interface.
const devicePath = "/dev/net/tun"

// Open makes the interface. It is down and without addresses, and belongs to
// the network namespace of the calling thread. Errors are *CreateError.
func Open(cfg Config) (*Linux, error) {
	if cfg.MTU < MinMTU || cfg.MTU > MaxMTU {
		return nil, &CreateError{Name: cfg.Name, Reason: BadMTU, MTU: cfg.MTU}
	}
	if !validName(cfg.Name) {
		return nil, &CreateError{Name: cfg.Name, Reason: BadName}
	}
	t := &Linux{control: -1}
	err := t.attach(cfg)
	if err != nil {
		return nil, createError(cfg.Name, err)
	}
	t.control, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = t.setMTU(cfg.MTU)
	}
	if err != nil {
		t.Close()
		return nil, createError(cfg.Name, err)
	}
	return t, nil
}

// attach connects t to the interface by the first backend that works.
func (t *Linux) attach(cfg Config) (err error) {
	if cfg.Backend != Plain {
		t.backend = Offload
		t.crossing, t.name, err = openOffload(cfg)
		if cfg.Backend == Offload || !errors.Is(err, errNoOffload) {
			return err
		}
	}
	t.backend = Plain
	t.crossing, t.name, err = openPlain(cfg.Name)
	return err
}

// attach opens the clone device and attaches it to the interface. The
// descriptor may meet the runtime's poller only after that: a poll on one that
// is not attached reports an error for good.
func attach(name string, flags uint16) (fd int, actual string, err error) {
	fd, err = unix.Open(devicePath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, "", err
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return -1, "", err
	}
	return fd, ifr.Name(), nil
}

// createError gives the system's error its reason.
func createError(name string, err error) error {
	e := &CreateError{Name: name, Reason: Failed, Err: err}
	switch {
	case errors.Is(err, errNoOffload):
		e.Reason = NoOffload
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		e.Reason = NoDevice
	case errors.Is(err, unix.EBUSY), errors.Is(err, unix.EINVAL) && exists(name):
		// EBUSY: another process holds that TUN; EINVAL: it is no TUN at all.
		e.Reason = NameTaken
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		e.Reason = NotPermitted
	}
	return e
}

func exists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// validName follows the kernel's dev_valid_name.
func validName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." &&
		!strings.ContainsAny(name, "/: \t\n\v\f\r\x00")
}

// setMTU sets the MTU, unless it is right already: on an interface that an
// administrator made for us we may not change it.
func (t *Linux) setMTU(mtu int) error {
	if now, err := t.MTU(); err == nil && now == mtu {
		return nil
	}
	ifr, err := unix.NewIfreq(t.name)
	if err != nil {
		return err
	}
	ifr.SetUint32(uint32(mtu))
	return unix.IoctlIfreq(t.control, unix.SIOCSIFMTU, ifr)
}
