package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// threadNetns is the network namespace of the thread that opens it. It works
// with the /proc of an outer process namespace too, where thread numbers
// would not.
const threadNetns = "/proc/thread-self/ns/net"

// netns is a network namespace, kept alive by an open descriptor.
type netns struct{ file *os.File }

// newNetns makes an empty namespace.
func newNetns() (*netns, error) {
	ns := &netns{}
	enter := func() error { return unix.Unshare(unix.CLONE_NEWNET) }
	err := onThread(enter, func() (err error) {
		ns.file, err = os.Open(threadNetns)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lab: make a network namespace: %w", err)
	}
	return ns, nil
}

// do runs fn on a thread that is in the namespace.
func (ns *netns) do(fn func() error) error {
	enter := func() error { return unix.Setns(int(ns.file.Fd()), unix.CLONE_NEWNET) }
	return onThread(enter, fn)
}

func (ns *netns) close() error {
	if ns == nil || ns.file == nil {
		return nil
	}
	return ns.file.Close()
}

// errNotReturned is what onThread returns if fn ended its goroutine.
var errNotReturned = errors.New("lab: the function ended its goroutine instead of returning")

// onThread runs enter and then fn on a thread of their own and puts the thread
// back into its old namespace. If that fails the goroutine ends locked to it,
// and the runtime destroys the thread instead of reusing it.
func onThread(enter, fn func() error) error {
	result := make(chan error, 1)
	go lockedCall(enter, fn, result)
	return <-result
}

func lockedCall(enter, fn func() error, result chan<- error) {
	err := errNotReturned
	defer func() { result <- err }()
	runtime.LockOSThread()
	home, openErr := os.Open(threadNetns)
	if openErr != nil {
		err = openErr
		return
	}
	defer home.Close()
	defer func() {
		if unix.Setns(int(home.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	if enterErr := enter(); enterErr != nil {
		err = enterErr
		return
	}
	err = fn()
}
