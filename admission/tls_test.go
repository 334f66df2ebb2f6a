package admission

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

func TestAdmissionOverTLS(t *testing.T) {
	for name, pins := range map[string][]ed25519.PublicKey{
		"no pins":  nil,
		"one pin":  {publicOf(testServerKey)},
		"two pins": {publicOf(testKey("other")), publicOf(testServerKey)},
	} {
		w := newWorld(t)
		r := overTLS(t, w, testClientConfig(), pins)
		if r.clientErr != nil || r.serverErr != nil {
			t.Fatalf("%s: client: %v; server: %v", name, r.clientErr, r.serverErr)
		}
		if string(r.info) != "info" || string(r.grant) != "grant" || string(r.list) != "list for me" || w.granted[0].Key != r.session.Key {
			t.Fatalf("%s: got %q, %q, %q", name, r.info, r.grant, r.list)
		}
		cfg := testClientConfig()
		cfg.Secret, cfg.Session = nil, &r.session
		if again := overTLS(t, w, cfg, pins); again.clientErr != nil || len(w.memos) != 1 || w.granted[1].Key != again.session.Key {
			t.Fatalf("%s: coming back: %v, %v", name, again.clientErr, again.serverErr)
		}
	}
}

func TestWrongSecretOverTLS(t *testing.T) {
	for _, change := range []func(*ClientConfig){
		func(c *ClientConfig) { c.Secret = []byte("a secret of my own making") },
		func(c *ClientConfig) { c.SecretID = "nobody" },
	} {
		cfg := testClientConfig()
		change(&cfg)
		r := overTLS(t, newWorld(t), cfg, nil)
		if refusedWith(r.clientErr) != CodeWrongSecret || refusedWith(r.serverErr) != CodeWrongSecret {
			t.Errorf("client: %v; server: %v", r.clientErr, r.serverErr)
		}
	}
}

func TestPinMismatchNamesBothFingerprints(t *testing.T) {
	pins := []ed25519.PublicKey{publicOf(testKey("a")), publicOf(testKey("b"))}
	r := overTLS(t, newWorld(t), testClientConfig(), pins)
	var e *PinError
	if !errors.As(r.clientErr, &e) {
		t.Fatal(r.clientErr)
	}
	for _, key := range append(pins, publicOf(testServerKey)) {
		if !strings.Contains(e.Error(), Fingerprint(key)) {
			t.Errorf("%q does not name %s", e, Fingerprint(key))
		}
	}
	if len(r.frames) != 0 || r.serverErr == nil {
		t.Error("went on after a mismatch")
	}
}

// relay is a man in the middle: TLS with his own key on both sides, every
// frame passed on. seen are the client's frames.
func relay(ln net.Listener, super string, key ed25519.PrivateKey, seen *[]Frame) error {
	raw, err := ln.Accept()
	if err != nil {
		return err
	}
	victim := tls.Server(raw, ServerTLS(key, testNow))
	defer victim.Close()
	conn, err := tls.Dial("tcp", super, ClientTLS(nil))
	if err != nil {
		return err
	}
	defer conn.Close()
	for {
		f, err := ReadFrame(victim, limitListReply)
		if err != nil {
			return err
		}
		*seen = append(*seen, f)
		if err := WriteFrame(conn, f); err != nil {
			return err
		}
		if f, err = ReadFrame(conn, limitListReply); err != nil {
			return err
		}
		if err := WriteFrame(victim, f); err != nil {
			return err
		}
	}
}

// throughMITM runs an admission through relay.
func throughMITM(t *testing.T, w *world, cfg ClientConfig) (r run, seen []Frame) {
	t.Helper()
	var lns [2]net.Listener
	for i := range lns {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		lns[i] = ln
	}
	super, middle := make(chan error, 1), make(chan error, 1)
	go func() { super <- serveOne(lns[0], w, testServerKey) }()
	go func() { middle <- relay(lns[1], lns[0].Addr().String(), testKey("mitm"), &seen) }()
	r.clientErr = dialOnce(lns[1].Addr().String(), cfg, nil, &r)
	<-middle
	r.serverErr = <-super
	return r, seen
}

func TestRelayingMITMIsStoppedByTheDescriptor(t *testing.T) {
	w := newWorld(t)
	r, seen := throughMITM(t, w, testClientConfig())
	if r.clientErr == nil || !strings.Contains(r.clientErr.Error(), "key not listed") {
		t.Errorf("client: %v", r.clientErr)
	}
	if len(seen) != 1 || seen[0].Type != TypeDescriptorRequest {
		t.Errorf("the man in the middle saw %v", seen)
	}
}

// TestRelayingMITMIsStoppedByTheProofs leaves the descriptor check out: the
// exporter and the server key in the proofs hold on their own.
func TestRelayingMITMIsStoppedByTheProofs(t *testing.T) {
	trusting := func(c ClientConfig) ClientConfig {
		c.CheckDescriptor = func(_, _ []byte, _ ed25519.PublicKey) (Params, error) { return testParams, nil }
		return c
	}
	w := newWorld(t)
	r, seen := throughMITM(t, w, trusting(testClientConfig()))
	if refusedWith(r.clientErr) != CodeWrongSecret || len(w.granted) != 0 || len(seen) != 3 {
		t.Errorf("with a secret: client %v, %d frames seen", r.clientErr, len(seen))
	}
	w, cfg, _ := withTicket(t)
	r, _ = throughMITM(t, w, trusting(cfg))
	if refusedWith(r.clientErr) != CodeTicket || len(w.granted) != 1 || w.ticketUse != 0 {
		t.Errorf("with a ticket: client %v", r.clientErr)
	}
}

// handshake runs a TLS handshake between two configurations on loopback.
func handshake(t *testing.T, server, client *tls.Config) (s, c tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		conn := tls.Server(raw, server)
		defer conn.Close()
		err = conn.Handshake()
		s = conn.ConnectionState()
		done <- err
	}()
	conn, clientErr := tls.Dial("tcp", ln.Addr().String(), client)
	if clientErr == nil {
		c = conn.ConnectionState()
		conn.Close()
	}
	return s, c, <-done, clientErr
}

func TestTLSBindsBothEndsAlike(t *testing.T) {
	s, c, err1, err2 := handshake(t, ServerTLS(testServerKey, testNow), ClientTLS(nil))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	server, err := BindServer(s, publicOf(testServerKey))
	if err != nil {
		t.Fatal(err)
	}
	client, err := BindClient(c)
	if err != nil {
		t.Fatal(err)
	}
	if server.Exporter != client.Exporter || server.Ratchet != client.Ratchet || !server.ServerKey.Equal(client.ServerKey) {
		t.Error("the two ends differ")
	}
	if server.Exporter == [32]byte(server.Ratchet) || server.Exporter == [32]byte{} {
		t.Error("exporters are equal or empty")
	}
	if c.Version != tls.VersionTLS13 || c.NegotiatedProtocol != ALPN {
		t.Errorf("version %x, protocol %q", c.Version, c.NegotiatedProtocol)
	}
}

func TestTLSNeverResumes(t *testing.T) {
	server, client := ServerTLS(testServerKey, testNow), ClientTLS(nil)
	client.SessionTicketsDisabled = false // a client that would like to
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
	client.ServerName = "x"
	for range 2 {
		_, c, err1, err2 := handshake(t, server, client)
		if err1 != nil || err2 != nil || c.DidResume {
			t.Fatal(err1, err2, c.DidResume)
		}
	}
	if _, err := bind(tls.ConnectionState{HandshakeComplete: true, Version: tls.VersionTLS13, DidResume: true, NegotiatedProtocol: ALPN}, nil); err == nil {
		t.Error("a resumed session was bound")
	}
}

func TestTLSRefusesOtherPeers(t *testing.T) {
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ecKey.Public(), ecKey)
	if err != nil {
		t.Fatal(err)
	}
	ecServer := ServerTLS(testServerKey, testNow)
	ecServer.Certificates = []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: ecKey}}
	oldServer := ServerTLS(testServerKey, testNow)
	oldServer.MinVersion, oldServer.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	oldClient := ClientTLS(nil)
	oldClient.MinVersion, oldClient.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	mute := ServerTLS(testServerKey, testNow)
	mute.NextProtos, mute.VerifyConnection = nil, nil
	muteClient := ClientTLS(nil)
	muteClient.NextProtos, muteClient.VerifyConnection = nil, nil
	for name, c := range map[string]struct{ server, client *tls.Config }{
		"ECDSA server":        {ecServer, ClientTLS(nil)},
		"TLS 1.2 server":      {oldServer, ClientTLS(nil)},
		"TLS 1.2 client":      {ServerTLS(testServerKey, testNow), oldClient},
		"server without ALPN": {mute, ClientTLS(nil)},
		"client without ALPN": {ServerTLS(testServerKey, testNow), muteClient},
	} {
		s, state, serverErr, clientErr := handshake(t, c.server, c.client)
		if serverErr != nil || clientErr != nil {
			continue
		}
		// A server learns of the client's refusal only by reading on.
		_, err1 := BindServer(s, publicOf(testServerKey))
		_, err2 := BindClient(state)
		if err1 == nil && err2 == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestServerCertificateHasABoundedLife(t *testing.T) {
	parse := func(now time.Time) *x509.Certificate {
		cert, err := x509.ParseCertificate(ServerTLS(testServerKey, now).Certificates[0].Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		if now.Before(cert.NotBefore) || now.Add(CertificateLife).After(cert.NotAfter) || cert.NotAfter.Sub(now) > CertificateLife+48*time.Hour {
			t.Errorf("at %v: valid from %v to %v", now, cert.NotBefore, cert.NotAfter)
		}
		return cert
	}
	one, two := parse(testNow), parse(testNow.Add(time.Hour))
	if !one.NotBefore.Equal(two.NotBefore) || !one.NotAfter.Equal(two.NotAfter) {
		t.Error("the dates tell the hour")
	}
	if later := parse(testNow.Add(CertificateLife)); !later.PublicKey.(ed25519.PublicKey).Equal(one.PublicKey) {
		t.Error("the next certificate has another key")
	}
}

func TestCertificateDatesAreNotTrusted(t *testing.T) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, testServerKey.Public(), testServerKey)
	if err != nil {
		t.Fatal(err)
	}
	server := ServerTLS(testServerKey, testNow)
	server.Certificates[0].Certificate = [][]byte{der}
	client := ClientTLS([]ed25519.PublicKey{publicOf(testServerKey)})
	client.Time = func() time.Time { return time.Unix(1<<40, 0) }
	if _, _, err1, err2 := handshake(t, server, client); err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
}

// TestClaimedKeyMustBeHeld: a certificate with somebody else's key is worth
// nothing without that key, although nothing in it is verified.
func TestClaimedKeyMustBeHeld(t *testing.T) {
	server := ServerTLS(testServerKey, testNow)
	server.Certificates[0].PrivateKey = testKey("thief")
	if _, _, _, err := handshake(t, server, ClientTLS([]ed25519.PublicKey{publicOf(testServerKey)})); err == nil {
		t.Fatal("accepted a certificate without its key")
	}
}

func TestPeerKeyNeedsACertificate(t *testing.T) {
	if _, err := PeerKey(tls.ConnectionState{}); err == nil {
		t.Error("no certificate accepted")
	}
	if _, err := BindClient(tls.ConnectionState{}); err == nil {
		t.Error("no handshake bound")
	}
	if _, err := BindServer(tls.ConnectionState{NegotiatedProtocol: ALPN}, nil); err == nil {
		t.Error("no handshake bound")
	}
}

func TestFingerprintForm(t *testing.T) {
	// printf '\0%.0s' {1..32} | openssl dgst -sha256 -binary | base64, unpadded
	const want = "SHA256:Zmh6rfhivXdsj8GLjp+OIAiXFIVu4jOzkCpZHQ1fKSU"
	if got := Fingerprint(make([]byte, 32)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
