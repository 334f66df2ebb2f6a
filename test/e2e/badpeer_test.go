//go:build linux

package e2e

import (
	"crypto/ed25519"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"icvpn/admission"
	"icvpn/internal/node"
	"icvpn/internal/service"
	"icvpn/internal/state"
)

// peerMistakes is the table's world: a service with two super peers, another
// service, and a machine that has joined before. Each mistake is made on its
// state directory, which must stay as it is.
type peerMistakes struct {
	*world
	victim *machine
	n      int // of files and directories made
}

func TestPeerMistakesEndInOneSentence(t *testing.T) {
	besideOthers(t)
	w := &peerMistakes{world: newService(t, 2, "--role", "web", "--role", "db", "--label-scope", "zone=eu,us")}
	w.create("other", []string{w.endpoint(w.machines[0]), w.endpoint(w.machines[1])})
	w.victim = w.joinThrough(w.machines[0], "web-1", "web")
	was := w.victim.status()
	w.victim.leave()

	for _, table := range [][]mistake{w.tokens(), w.superPeers(), w.kept(), w.machineItself(), w.stateDirs(), w.configs(), w.clocks()} {
		for _, c := range table {
			t.Run(c.name, func(t *testing.T) {
				before := files(t, w.victim.state())
				c.check(t)
				sameFiles(t, w.victim.state(), before)
			})
		}
	}
	t.Run("address range collides with a local route", w.collision)
	t.Run("one super peer unreachable", w.oneUnreachable)
	t.Run("one super peer shows another key", w.oneOtherKey)
	t.Run("all super peers show another key to a member", w.allOtherKeys)

	w.victim.args = append(w.peerArgs(w.good()), "--labels", "zone=eu")
	w.victim.start()
	if now := w.victim.awaitUp(); now.Labels["zone"] != "eu" || now.Labels["role"] != "web" {
		t.Errorf("within the scope of its secret the machine has labels %v", now.Labels)
	}
	if now := w.victim.awaitUp(); now.PID != was.PID || now.Address4 != was.Address4 {
		t.Errorf("after all mistakes the machine is %s at %v, was %s at %v", now.PID, now.Address4, was.PID, was.Address4)
	}
	t.Run("two processes on one state directory", w.secondProcess)
}

// up starts the victim's program and waits for its end.
func (w *peerMistakes) up(args ...string) result {
	w.t.Helper()
	return w.upIn(w.victim.state(), args...)
}

func (w *peerMistakes) upIn(stateDir string, args ...string) result {
	w.t.Helper()
	return w.runIn(w.victim.host, w.command(append([]string{"up", "--name", "web-1", "--state-dir", stateDir}, args...)...))
}

// file writes content to a new file.
func (w *peerMistakes) file(content string) string {
	w.t.Helper()
	w.n++
	return w.write(fmt.Sprintf("file-%d", w.n), []byte(content))
}

func (w *peerMistakes) good() string { return w.path("shop", "web.token") }

// withToken starts the victim with a changed token.
func (w *peerMistakes) withToken(change func(*service.Token)) func() result {
	return func() result {
		w.t.Helper()
		return w.up("--token-file", w.changed("shop", change))
	}
}

// fresh does the same with a state directory of its own: no membership from
// before can help.
func (w *peerMistakes) fresh(svc string, change func(*service.Token)) func() result {
	return func() result {
		w.t.Helper()
		return w.upIn(w.newDir(), "--token-file", w.changed(svc, change))
	}
}

func (w *peerMistakes) changed(svc string, change func(*service.Token)) string {
	w.t.Helper()
	role := "web"
	if svc != "shop" {
		role = "member"
	}
	token := w.token(svc, role)
	change(&token)
	return w.file(token.Text())
}

func (w *peerMistakes) newDir() string {
	w.n++
	return w.path(fmt.Sprintf("dir-%d", w.n))
}

func (w *peerMistakes) tokens() []mistake {
	b, err := os.ReadFile(w.good())
	if err != nil {
		w.t.Fatal(err)
	}
	text := strings.TrimSpace(string(b))
	damaged := []string{"truncated or altered", "copy the whole line again"}
	from := func(name, content string, code int, says ...string) mistake {
		file := w.file(content)
		return mistake{name, code, append(says, file), func() result { return w.up("--token-file", file) }}
	}
	absent := w.path("nothing.token")
	refused := []string{"refused this machine", "enrolment secret or its ID is wrong", "fresh token"}
	return []mistake{
		// With a membership from before, its ticket stands in for the secret.
		{"wrong secret", exitRefused, refused, w.fresh("shop", func(t *service.Token) { t.Secret = flip(t.Secret) })},
		{"unknown secret ID", exitRefused, refused, w.withToken(func(t *service.Token) { t.SecretID = "web-00000000" })},
		from("truncated token", text[:len(text)-20], exitUsage, damaged...),
		from("token cut after its beginning", text[:8], exitUsage, damaged...),
		from("altered token", string(flip([]byte(text))), exitUsage, damaged...),
		from("token of another version", strings.Replace(text, "icvpn1:", "icvpn2:", 1), exitUsage, "version", `"icvpn2:"`, "update icvpn"),
		from("YAML token of another version", "icvpn_token: 2\nservice_name: shop\n", exitUsage, "icvpn"),
		from("something else than a token", "ssh-ed25519 AAAA me@here\n", exitUsage, "not an icvpn token"),
		from("empty token", "\n", exitUsage, "empty"),
		{"no such token file", exitUsage, []string{absent, "no such file"}, func() result { return w.up("--token-file", absent) }},
		{"no token at all", exitUsage, []string{"no token", "--token-file", "icvpn service create"}, func() result { return w.up() }},
		{"token as an argument", exitUsage, []string{"read by every user", "--token-file"}, func() result { return w.up(text) }},
		{"role outside the secret's scope", exitRefused, []string{"role=db", "does not cover"},
			func() result { return w.up("--token-file", w.good(), "--labels", "role=db") }},
		{"value outside the label's scope", exitRefused, []string{"zone=asia", "does not cover"},
			func() result { return w.up("--token-file", w.good(), "--labels", "zone=asia") }},
		{"label outside the secret's scope", exitRefused, []string{"tier=gold", "does not cover"},
			func() result { return w.up("--token-file", w.good(), "--labels", "tier=gold") }},
	}
}

// superPeers are mistakes in what the token says of super peers.
func (w *peerMistakes) superPeers() []mistake {
	refusing := refusingPort(w.endpoint(w.machines[0]))
	silent := w.silent()
	foreign := func(t *service.Token) {
		for i := range t.SuperPeers {
			t.SuperPeers[i].Key = otherKey()
		}
	}
	own := w.token("shop", "web").SuperPeers
	w.createPast(w.endpoint(w.machines[0]))
	past := w.serveAdmission(w.handOver("past", 0), 0)
	return []mistake{
		{"no super peer reachable", exitFailure, []string{refusing + ": connect: connection refused", silent + ": no answer",
			"super.invalid:4500: its name cannot be looked up", "check that they run"},
			w.fresh("shop", func(t *service.Token) {
				third := t.SuperPeers[0]
				third.Endpoint = "super.invalid:4500"
				t.SuperPeers[0].Endpoint, t.SuperPeers[1].Endpoint = refusing, silent
				t.SuperPeers = append(t.SuperPeers, third)
			})},
		{"every pinned key differs", exitFailure, []string{admission.Fingerprint(otherKey()), "somebody may be in between"},
			w.fresh("shop", foreign)},
		{"token of another service", exitFailure, []string{"somebody may be in between", "the token is old"},
			w.fresh("other", func(*service.Token) {})},
		{"token of another service than the state directory's", exitFailure, []string{w.victim.state(), "belongs to service shop", "is for service other", "--state-dir"},
			func() result { return w.up("--token-file", w.changed("other", func(*service.Token) {})) }},
		{"super peers do not serve the service", exitFailure, []string{"does not serve this service"},
			w.fresh("other", func(t *service.Token) { t.SuperPeers = own })},
		{"expired service", exitFailure, []string{"the root document of past expired on", "owner must sign a new one"},
			w.fresh("past", func(t *service.Token) { t.SuperPeers[0].Endpoint = past })},
		{"rolled back descriptor", exitFailure, []string{"rolled back", "at least 7"},
			w.fresh("shop", func(t *service.Token) { t.MinSeq = 7 })},
	}
}

// silent returns an endpoint that never answers: its host has no way back.
func (w *peerMistakes) silent() string {
	h := w.host("db-2")
	err := h.Do(func() error {
		to := &net.IPNet{IP: w.victim.host.Addr4.AsSlice(), Mask: net.CIDRMask(32, 32)}
		return netlink.RouteAdd(&netlink.Route{Dst: to, Type: unix.RTN_BLACKHOLE})
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return h.Addr4.String() + ":4500"
}

// kept are memberships from before that serve no more: with them, and no super
// peer to be reached, the machine does not start.
func (w *peerMistakes) kept() []mistake {
	unreachable := func(t *service.Token) {
		for i := range t.SuperPeers {
			t.SuperPeers[i].Endpoint = refusingPort(w.endpoint(w.machines[0]))
		}
	}
	with := func(name string, change func(*service.Credential), signer ed25519.PrivateKey, says ...string) mistake {
		dir := w.newDir()
		w.forge(dir, change, signer)
		token := w.changed("shop", unreachable)
		return mistake{name, exitFailure, append(says, "connection refused"), func() result { return w.upIn(dir, "--token-file", token) }}
	}
	expired := func(c *service.Credential) { c.NotBefore, c.NotAfter = 1, time.Now().Unix()-60 }
	foreign := func(c *service.Credential) { c.Service[0] ^= 1 }
	nothing := func(*service.Credential) {}
	super := w.handOver("shop", 0).Seed
	return []mistake{
		with("kept credential has expired", expired, ed25519.NewKeyFromSeed(super), "expired"),
		with("kept credential is of another service", foreign, ed25519.NewKeyFromSeed(super), "another service"),
		with("kept credential is of an unknown issuer", nothing, ed25519.NewKeyFromSeed(make([]byte, 32)), "may not admit"),
	}
}

// forge copies the victim's state directory and signs its credential anew.
func (w *peerMistakes) forge(dir string, change func(*service.Credential), signer ed25519.PrivateKey) {
	w.t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	for name, content := range files(w.t, w.victim.state()) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	d, err := state.Open(dir, state.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer d.Close()
	seed, err := d.Get("identity")
	if err != nil {
		w.t.Fatal(err)
	}
	b, err := d.Get("membership")
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := node.DecodeMembership(b, w.token("shop", "web").Service, ed25519.NewKeyFromSeed(seed), node.Seen{}, node.Moment{Wall: time.Now()})
	if err != nil {
		w.t.Fatal(err)
	}
	c := *m.Credential
	change(&c)
	if m.Grant.Credential, err = service.SignCredential(c, signer); err != nil {
		w.t.Fatal(err)
	}
	if err := d.Put("membership", m.Encode(node.Moment{Wall: time.Now()})); err != nil {
		w.t.Fatal(err)
	}
}

// machineItself are mistakes of the machine.
func (w *peerMistakes) machineItself() []mistake {
	h := w.victim.host
	command := func() []string {
		return []string{"up", "--name", "web-1", "--state-dir", w.victim.state(), "--token-file", w.good()}
	}
	return []mistake{
		{"UDP port in use", exitFailure, []string{"UDP port 4500", "in use", "strongSwan", "choose another port with --listen"},
			func() result {
				var c *net.UDPConn
				err := h.Do(func() (err error) {
					c, err = net.ListenUDP("udp4", &net.UDPAddr{Port: 4500})
					return err
				})
				if err != nil {
					w.t.Fatal(err)
				}
				defer c.Close()
				return w.up("--token-file", w.good())
			}},
		{"no /dev/net/tun", exitFailure, []string{"/dev/net/tun is missing", "modprobe tun", "--device /dev/net/tun"},
			func() result {
				return w.prepared(h, w.command(command()...), mounted(func() error {
					return unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "")
				}))
			}},
		{"no CAP_NET_ADMIN", exitFailure, []string{"CAP_NET_ADMIN", "setcap", "--cap-add NET_ADMIN"},
			func() result { return w.prepared(h, w.command(command()...), without(unix.CAP_NET_ADMIN)) }},
		{"interface name taken", exitFailure, []string{`"eth0"`, "taken", "--tun-name"},
			func() result { return w.up("--token-file", w.good(), "--tun-name", "eth0") }},
		{"address to listen on is not ours", exitFailure, []string{"203.0.113.9:4500", "not one of this machine", "--listen"},
			func() result { return w.up("--token-file", w.good(), "--listen", "203.0.113.9:4500") }},
	}
}

// collision starts machines beside a route into the service's addresses. They
// find out before they are admitted: the old one keeps its state as it is, and a
// new one is listed nowhere.
func (w *peerMistakes) collision(t *testing.T) {
	route := netip.MustParsePrefix("10.42.5.0/24")
	change := func(do func(*netlink.Route) error) {
		t.Helper()
		err := w.victim.host.Do(func() error {
			eth0, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return do(&netlink.Route{LinkIndex: eth0.Attrs().Index, Scope: netlink.SCOPE_LINK,
				Dst: &net.IPNet{IP: route.Addr().AsSlice(), Mask: net.CIDRMask(route.Bits(), 32)}})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	change(netlink.RouteAdd)
	defer change(netlink.RouteDel)
	says := []string{"10.42.0.0/16", "collides", route.String(), "eth0", "remove that route"}
	before := files(t, w.victim.state())
	mistake{"", exitFailure, says, func() result { return w.up("--token-file", w.good()) }}.check(t)
	sameFiles(t, w.victim.state(), before)
	mistake{"", exitFailure, says, w.fresh("shop", func(*service.Token) {})}.check(t)
	for _, super := range w.machines[:2] {
		if r := w.run(w.command("peers", "--json", "--state-dir", super.state())); strings.Count(r.stdout, `"pid"`) > 1 {
			t.Errorf("a machine that could not start is listed: %v", r)
		}
	}
}

func (w *peerMistakes) stateDirs() []mistake {
	dir := func(mode os.FileMode) string {
		d := w.newDir()
		if err := os.Mkdir(d, mode); err != nil {
			w.t.Fatal(err)
		}
		return d
	}
	open, closed, readOnly, foreign, file := dir(0o755), dir(0o500), dir(0o700), dir(0o700), w.file("")
	if err := os.Chmod(open, 0o755); err != nil { // whatever the umask is
		w.t.Fatal(err)
	}
	if os.Chown(foreign, 65534, 65534) != nil {
		foreign = "/etc" // an ordinary user's lab knows no other users, but files of theirs
	}
	args := func(dir string) []string {
		return []string{"up", "--name", "web-1", "--token-file", w.good(), "--state-dir", dir, "--control-socket", w.path("x.sock")}
	}
	run := func(dir string) func() result {
		return func() result { return w.runIn(w.victim.host, w.command(args(dir)...)) }
	}
	return []mistake{
		{"state directory open to others", exitFailure, []string{open, "mode 0755", "chmod 700"}, run(open)},
		{"state directory of somebody else", exitFailure, []string{foreign, "belongs to uid 65534", "chown"}, run(foreign)},
		{"state directory not writable", exitFailure, []string{closed, "permission denied", "mode 0700"},
			func() result {
				return w.prepared(w.victim.host, w.command(args(closed)...), without(unix.CAP_DAC_OVERRIDE))
			}},
		{"state directory mounted read-only", exitFailure, []string{readOnly, "read-only", "mount it writable"},
			func() result {
				return w.prepared(w.victim.host, w.command(args(readOnly)...), mounted(func() error {
					return unix.Mount("tmpfs", readOnly, "tmpfs", unix.MS_RDONLY, "mode=0700")
				}))
			}},
		{"state directory is a file", exitFailure, []string{file, "not a directory"}, run(file)},
	}
}

func (w *peerMistakes) configs() []mistake {
	from := func(name, content string, says ...string) mistake {
		file := w.file(content)
		return mistake{name, exitUsage, append(says, file), func() result { return w.up("--config", file) }}
	}
	return []mistake{
		from("unknown key", "token_file: x\nlisen: \":4500\"\n", `:2: field "lisen": unknown`, `"listen"`),
		from("wrong type", "token_file: x\ntun:\n  mtu: big\n", `:3: field "tun.mtu"`, "number"),
		from("value out of range", "tun:\n  mtu: 68\n", `:2: field "tun.mtu": 68 is out of range`, "1280 to 9000"),
		from("not YAML", "token_file: [\n", "not YAML"),
		{"wrong environment", exitUsage, []string{"ICVPN_LOG_LEVEL", `"log.level"`, "debug, info, warn or error"},
			func() result {
				cmd := w.command("up", "--token-file", w.good(), "--state-dir", w.victim.state())
				cmd.Env = append(cmd.Env, "ICVPN_LOG_LEVEL=loud")
				return w.runIn(w.victim.host, cmd)
			}},
	}
}

// clocks puts an honest super peer whose clock is a day off in the way: to the
// machine it is the same as if its own were.
func (w *peerMistakes) clocks() (table []mistake) {
	h := w.handOver("shop", 0)
	for _, off := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		way := map[bool]string{true: "behind", false: "ahead of"}[off > 0]
		l := w.serveAdmission(h, off)
		table = append(table, mistake{"clock a day " + strings.TrimSuffix(way, " of"), exitFailure,
			[]string{"clock is 24h0m0s " + way, l, "set it"},
			w.withToken(func(t *service.Token) {
				t.SuperPeers = t.SuperPeers[:1]
				t.SuperPeers[0].Endpoint = l
			})})
	}
	return table
}

// The next three are no mistakes in the end: the machine starts, and its log says
// what is wrong. A machine asks the super peer that it knows first, so the first
// of them moves it from super-1 to super-2, the second one back.

func (w *peerMistakes) oneUnreachable(t *testing.T) {
	dead := w.machines[0]
	dead.kill()
	w.startsAllTheSame(t, []string{"super peer did not admit us, trying the next", "addr=" + w.endpoint(dead), "connection refused"},
		func(*service.Token) {})
	dead.start()
	dead.awaitAnswer()
}

func (w *peerMistakes) oneOtherKey(t *testing.T) {
	own := w.token("shop", "web").SuperPeers[1]
	w.startsAllTheSame(t, []string{"super peer did not admit us, trying the next", "addr=" + own.Endpoint, admission.Fingerprint(otherKey())},
		func(t *service.Token) { t.SuperPeers[1].Key = otherKey() })
}

func (w *peerMistakes) allOtherKeys(t *testing.T) {
	w.startsAllTheSame(t, []string{"going on with the membership kept from before", "somebody may be in between", admission.Fingerprint(otherKey())},
		func(t *service.Token) {
			for i := range t.SuperPeers {
				t.SuperPeers[i].Key = otherKey()
			}
		})
}

func (w *peerMistakes) startsAllTheSame(t *testing.T, says []string, change func(*service.Token)) {
	before := len(w.victim.log())
	w.victim.args = w.peerArgs(w.changed("shop", change))
	w.victim.start()
	w.victim.awaitUp()
	w.victim.leave()
	log := w.victim.log()[before:]
	for _, want := range says {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
}

func (w *peerMistakes) peerArgs(token string) []string {
	return []string{"up", "--token-file", token, "--name", "web-1"}
}

// refusingPort returns the endpoint's host with a port where nobody listens.
func refusingPort(endpoint string) string {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		panic(err)
	}
	return net.JoinHostPort(host, "4999")
}

// otherKey is nobody's.
func otherKey() ed25519.PublicKey {
	return ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public().(ed25519.PublicKey)
}

// secondProcess starts the program again beside the running machine.
func (w *peerMistakes) secondProcess(t *testing.T) {
	mistake{"", exitFailure, []string{w.victim.state(), fmt.Sprintf("in use by process %d", w.victim.process.Pid()), "--state-dir"},
		func() result { return w.up("--token-file", w.good(), "--listen", ":4600", "--tun-name", "icvpn1") }}.check(t)
	if err := w.victim.ended(); err != nil {
		t.Error(err)
	}
	w.victim.status()
}
