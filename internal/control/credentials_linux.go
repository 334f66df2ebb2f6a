package control

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// checkPeer refuses a client that is neither root nor the user of this process.
// The kernel recorded its credentials at connect (unix(7), SO_PEERCRED).
func checkPeer(c *net.UnixConn) *Error {
	raw, err := c.SyscallConn()
	if err != nil {
		return &Error{CodeForbidden, "the user at the other end is not known"}
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || credErr != nil {
		return &Error{CodeForbidden, "the user at the other end is not known"}
	}
	return checkUser(cred.Uid, uint32(os.Geteuid()))
}

func checkUser(client, own uint32) *Error {
	if client == own || client == 0 {
		return nil
	}
	return &Error{CodeForbidden, fmt.Sprintf("user %d may not control this process, only root and user %d may", client, own)}
}
