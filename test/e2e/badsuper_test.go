//go:build linux

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// superMistakes is the table's world: a super peer that has run before.
type superMistakes struct {
	*world
	victim *machine
	n      int // of directories made
}

func TestSuperPeerMistakesEndInOneSentence(t *testing.T) {
	besideOthers(t)
	w := &superMistakes{world: newWorld(t, clouds)}
	w.create("shop", []string{w.host("super-1").Addr4.String() + ":4500", w.host("super-2").Addr4.String() + ":4500"})
	w.startSuper(0)
	w.create("other", []string{w.endpoint(w.machines[0])})
	w.createPast(w.endpoint(w.machines[0]))
	w.victim = w.machines[0]
	member := w.join("web-1", "member")
	was := w.victim.status()
	address := member.addr4()
	w.victim.leave()

	for _, c := range append(w.handOvers(), w.machineItself()...) {
		t.Run(c.name, func(t *testing.T) {
			before := files(t, w.victim.state())
			c.check(t)
			sameFiles(t, w.victim.state(), before)
		})
	}

	// With nothing but its state directory it is who it was, and its member's
	// lease is still there.
	for _, ext := range []string{".handover", ".key"} {
		if err := os.Remove(w.path("shop", "super-1"+ext)); err != nil {
			t.Fatal(err)
		}
	}
	w.victim.start()
	w.victim.awaitAnswer()
	if now := w.victim.status(); now.PID != was.PID {
		t.Errorf("after all mistakes the super peer is %s, was %s", now.PID, was.PID)
	}
	member.leave()
	member.start()
	if got := member.awaitUp().Address4; got != address {
		t.Errorf("the member comes back as %v, was %v", got, address)
	}
	t.Run("two processes on one state directory", func(t *testing.T) {
		mistake{"", exitFailure, []string{w.victim.state(), fmt.Sprintf("in use by process %d", w.victim.process.Pid()), "--state-dir"},
			func() result { return w.super("shop", w.victim.state(), "--listen", ":4600") }}.check(t)
		w.victim.status()
	})
}

// super starts a super peer from a service's files and waits for its end.
func (w *superMistakes) super(svc, stateDir string, args ...string) result {
	w.t.Helper()
	args = append([]string{"super", "--config", w.path(svc, "super-1.yaml"), "--state-dir", stateDir}, args...)
	return w.runIn(w.victim.host, w.command(args...))
}

func (w *superMistakes) newDir() string {
	w.n++
	return w.path(fmt.Sprintf("dir-%d", w.n))
}

// handOvers are mistakes with the files that the owner made. Each is made on the
// state directory of before and on a new one.
func (w *superMistakes) handOvers() (table []mistake) {
	sealed, err := os.ReadFile(w.path("shop", "super-1.handover"))
	if err != nil {
		w.t.Fatal(err)
	}
	damaged := w.write("damaged.handover", flip(sealed))
	short := w.write("short.handover", sealed[:len(sealed)-1])
	text := w.write("text.handover", []byte("handover\n"))
	empty := w.write("empty.handover", nil)
	notKey := w.write("not.key", []byte("secret\n"))
	absent, otherKey := w.path("absent"), w.path("other", "super-1.key")
	both := func(name string, says []string, svc string, args ...string) {
		table = append(table,
			mistake{name, exitFailure, says, func() result { return w.super(svc, w.victim.state(), args...) }},
			mistake{name + ", first start", exitFailure, says, func() result { return w.super(svc, w.newDir(), args...) }})
	}
	const closed = "does not open with this key"
	both("key of another super peer", []string{"super-1.handover", closed, "belongs to another super peer"}, "shop", "--handover-key-file", otherKey)
	both("damaged hand-over", []string{damaged, closed, "was altered"}, "shop", "--handover", damaged)
	both("truncated hand-over", []string{short, closed}, "shop", "--handover", short)
	both("something else than a hand-over", []string{text, "not an icvpn hand-over"}, "shop", "--handover", text)
	both("empty hand-over", []string{empty, "not an icvpn hand-over"}, "shop", "--handover", empty)
	both("something else than a key", []string{notKey, "64 hexadecimal digits", "copy the file again"}, "shop", "--handover-key-file", notKey)
	both("no key file", []string{absent, "cannot be read", "no such file"}, "shop", "--handover-key-file", absent)
	return append(table,
		mistake{"expired service", exitFailure, []string{"root document of past expired on", "owner must sign a new one"},
			func() result { return w.super("past", w.newDir()) }},
		mistake{"no hand-over, first start", exitFailure, []string{absent, "does not exist", "copy it from the service owner"},
			func() result { return w.super("shop", w.newDir(), "--handover", absent) }},
		mistake{"hand-over of another super peer", exitFailure, []string{w.victim.state(), "belongs to super peer", w.path("shop", "super-2.handover"), "--state-dir"},
			func() result {
				return w.super("shop", w.victim.state(), "--handover", w.path("shop", "super-2.handover"), "--handover-key-file", w.path("shop", "super-2.key"))
			}},
		mistake{"hand-over of another service", exitFailure, []string{w.victim.state(), "belongs to service shop", w.path("other", "super-1.handover"), "is for service other", "--state-dir"},
			func() result { return w.super("other", w.victim.state()) }})
}

// machineItself are mistakes of the machine and of its configuration.
func (w *superMistakes) machineItself() []mistake {
	keyless := w.write("keyless.yaml", []byte("listen: \":4500\"\nhandover: shop/super-1.handover\n"))
	empty := w.write("empty.yaml", []byte("listen: \":4500\"\n"))
	closed := w.newDir()
	if err := os.Mkdir(closed, 0o500); err != nil {
		w.t.Fatal(err)
	}
	return []mistake{
		{"TCP port in use", exitFailure, []string{"TCP port 4500", "in use", "--listen"}, func() result {
			l, err := w.victim.host.ListenTCP(netip.AddrPortFrom(w.victim.host.Addr4, 4500))
			if err != nil {
				w.t.Fatal(err)
			}
			defer l.Close()
			return w.super("shop", w.victim.state())
		}},
		{"missing field", exitUsage, []string{empty + `:1: field "handover": missing`, "icvpn service create"},
			func() result { return w.run(w.command("super", "--config", empty)) }},
		{"missing key file", exitFailure, []string{"shop/super-1.handover is sealed", "handover_key_file"},
			func() result { return w.run(w.command("super", "--config", keyless, "--state-dir", w.newDir())) }},
		{"missing configuration", exitUsage, []string{"nothing.yaml: cannot be read", "check the path"},
			func() result { return w.run(w.command("super", "--config", "nothing.yaml")) }},
		{"state directory not writable", exitFailure, []string{closed, "permission denied", "mode 0700"}, func() result {
			cmd := w.command("super", "--config", w.path("shop", "super-1.yaml"), "--state-dir", closed)
			return w.prepared(w.victim.host, cmd, without(unix.CAP_DAC_OVERRIDE))
		}},
		{"flag unknown", exitUsage, []string{"--handovr", "icvpn super --help"},
			func() result { return w.run(w.command("super", "--handovr", strings.Repeat("x", 10))) }},
	}
}
