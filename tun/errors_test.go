package tun_test

import (
	"errors"
	"strings"
	"testing"

	"icvpn/tun"
)

func TestCreateErrorsAreSentences(t *testing.T) {
	cause := errors.New("the cause")
	for reason, want := range map[tun.Reason]string{
		tun.NoDevice: "/dev/net/tun", tun.NotPermitted: "CAP_NET_ADMIN", tun.NameTaken: "taken", tun.BadName: "name",
		tun.BadMTU: "MTU 7", tun.Unsupported: "operating system", tun.NoOffload: "plain", tun.Failed: "the cause",
	} {
		err := &tun.CreateError{Name: "icvpn0", Reason: reason, MTU: 7, Err: cause}
		if s := err.Error(); !strings.Contains(s, want) || !strings.Contains(s, "icvpn0") || strings.Contains(s, "\n") {
			t.Errorf("%d: %q", reason, s)
		}
		if !errors.Is(err, cause) {
			t.Errorf("%d: the cause is lost", reason)
		}
	}
}
