package config

import (
	"fmt"
	"log/slog"
)

// Peer is the configuration of `icvpn up`. Get one from LoadPeer, which fills
// in every default.
type Peer struct {
	// TokenFile holds the bootstrap token. It is empty when ICVPN_TOKEN
	// carries the token and nothing of higher precedence names a file; see
	// ReadToken.
	TokenFile string
	// Name is what other machines call this one: 1 to 63 of [a-z0-9-].
	// Default: the host name up to its first dot.
	Name string
	// Labels are what the peer asks to be granted, such as tier=web. Default:
	// none, which asks for what the token's enrolment secret stands for.
	Labels map[string]string
	// TUN is the interface.
	TUN TUN
	// Helper is "auto" or "never": whether the service may make this machine a
	// helper. Default: empty, which is auto.
	Helper string
	// TakeOver joins although another machine with this one's identity was
	// admitted since. A decision for one start: no field of the configuration.
	TakeOver bool

	Process
}

// Super is the configuration of `icvpn super`. Get one from LoadSuper.
type Super struct {
	// HandOvers are those of the services to serve, at least one, at most
	// maxServices.
	HandOvers []HandOver

	Process

	files, keys []string // of HandOvers, as they were given
}

// HandOver is where the owner's hand-over for one service lies.
type HandOver struct {
	// File is the sealed file that `icvpn service create` made for this super
	// peer.
	File string
	// KeyFile holds the key that opens File. Empty: none was given, which is good
	// only for a hand-over that was taken over before.
	KeyFile string
}

// Process is what peers and super peers have in common.
type Process struct {
	// StateDir keeps identity, sealed store and lock. Default: see
	// defaultStateDir.
	StateDir string
	// SealKeyFile holds the key that seals StateDir. Default: none, a key
	// file inside StateDir.
	SealKeyFile string
	// Listen is the UDP and TCP address of everything, HOST:PORT with an
	// empty host for all addresses of both families. Default ":4500".
	Listen string
	// Advertise lists addresses under which others reach this machine in
	// addition to those it finds out by itself. Default: none; at most 8.
	Advertise []string
	// ControlSocket is where `icvpn status` and its siblings ask. Default:
	// StateDir/control.sock.
	ControlSocket string
	// Log says how much and in which form.
	Log Log
	// Metrics says where, if anywhere, metrics are served.
	Metrics Metrics
}

// TUN is the interface of a peer.
type TUN struct {
	// Name of the interface, 1 to 15 bytes. Default "icvpn0".
	Name string
	// MTU of the interface, 1280 to 9000, or 0: from the path. Default 0.
	MTU int
	// Backend is how packets cross between kernel and process: auto, offload or
	// plain. Default auto.
	Backend string
}

// Log is what goes to standard error.
type Log struct {
	// Level is the least level that is written. Default info.
	Level slog.Level
	// Format is "text" or "json". Default "text".
	Format string
}

// Metrics is the Prometheus endpoint.
type Metrics struct {
	// Listen is the HTTP address, HOST:PORT. Default: empty, none.
	Listen string
}

// Source says where a configuration comes from.
type Source struct {
	// File is the path of the YAML file, or empty for none.
	File string
	// Env looks up an environment variable, as os.LookupEnv does. A variable
	// that is set to nothing counts as not set, because container platforms
	// write empty values for absent ones. Nil: no environment.
	Env func(name string) (string, bool)
	// Flags holds the flags that were given, by field key ("log.level").
	Flags map[string]string
	// Host answers what defaults depend on. Nil: this machine.
	Host *Host
}

// LoadPeer reads the configuration of a peer.
func LoadPeer(src Source) (Peer, error) {
	host := src.host()
	c := Peer{TUN: TUN{Name: "icvpn0"}, Process: defaultProcess()}
	from, err := apply(src, peerFields, &c)
	if err != nil {
		return Peer{}, err
	}
	if c.Name == "" {
		if c.Name, err = host.peerName(); err != nil {
			return Peer{}, err
		}
	}
	if err := c.finish(host, "icvpn"); err != nil {
		return Peer{}, err
	}
	if from["token_file"] == layerFile && src.env(tokenVariable) != "" {
		c.TokenFile = "" // the environment outranks the file
	}
	return c, nil
}

// LoadSuper reads the configuration of a super peer.
func LoadSuper(src Source) (Super, error) {
	c := Super{Process: defaultProcess()}
	if _, err := apply(src, superFields, &c); err != nil {
		return Super{}, err
	}
	if len(c.files) == 0 {
		return Super{}, missing(src, "handover",
			"write handover: FILE with the file that icvpn service create made for this super peer")
	}
	if len(c.keys) > 0 && len(c.keys) != len(c.files) {
		return Super{}, &Error{Where: src.File, Field: "handover_key_file",
			Problem: fmt.Sprintf("%s for %s", count(len(c.keys), "key file"), count(len(c.files), "hand-over")),
			WayOut:  "give one for each handover, in the same order"}
	}
	for i, file := range c.files {
		h := HandOver{File: file}
		if len(c.keys) > 0 {
			h.KeyFile = c.keys[i]
		}
		c.HandOvers = append(c.HandOvers, h)
	}
	if err := c.finish(src.host(), "icvpn-super"); err != nil {
		return Super{}, err
	}
	return c, nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func defaultProcess() Process {
	return Process{Listen: ":4500", Log: Log{Level: slog.LevelInfo, Format: "text"}}
}

// finish fills in the defaults that depend on other fields or on the machine.
func (p *Process) finish(host *Host, directory string) error {
	if p.StateDir == "" {
		dir, err := host.stateDir(directory)
		if err != nil {
			return err
		}
		p.StateDir = dir
	}
	if p.ControlSocket == "" {
		p.ControlSocket = controlSocketIn(p.StateDir)
	}
	return nil
}
