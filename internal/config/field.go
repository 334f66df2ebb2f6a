package config

import "strings"

// Kind is the type of a field's value.
type Kind uint8

// The kinds. In the environment and in flags a list is "a,b" and a mapping is
// "k=v,k=v".
const (
	Text Kind = iota
	Number
	List
	Mapping
	// OneOrMore is a list that in a file may also be written as the one text in it.
	OneOrMore
)

// required stands in Field.Default where there is none.
const required = "required"

// Field describes one field for people and for the command line.
type Field struct {
	// Key is the key in the file, sections joined by dots: "log.level".
	Key string
	// Kind is the type of the value.
	Kind Kind
	// Arg names the value in help texts: FILE, HOST:PORT.
	Arg string
	// Default is the default in words.
	Default string
	// Doc is one sentence without a full stop.
	Doc string
	// Sample is a value for the example, as YAML.
	Sample string
}

// Env returns the name of the field's environment variable.
func (f Field) Env() string {
	return "ICVPN_" + strings.ToUpper(strings.ReplaceAll(f.Key, ".", "_"))
}

// Flag returns the name of the field's flag, without dashes.
func (f Field) Flag() string {
	return strings.NewReplacer(".", "-", "_", "-").Replace(f.Key)
}

// field is a Field together with its place in a configuration C and its check.
type field[C any] struct {
	Field
	// path says that the value is a file name: relative ones in a file are
	// resolved against the file's directory.
	path bool
	// set stores a value of the field's Kind after checking it.
	set func(c *C, v value) complaint
}

// value is a value of any Kind before its field has checked it.
type value struct {
	text  string            // Text
	n     int               // Number
	list  []string          // List, OneOrMore
	pairs map[string]string // Mapping
}

var peerFields = append([]field[Peer]{
	{
		Field: Field{Key: "token_file", Arg: "FILE", Default: "none", Sample: "/etc/icvpn/token",
			Doc: "file with the bootstrap token; ICVPN_TOKEN may hold the token itself"},
		path: true,
		set:  func(c *Peer, v value) complaint { return setText(&c.TokenFile, v, checkPath) },
	},
	{
		Field: Field{Key: "name", Arg: "NAME", Default: "the host name up to its first dot", Sample: "web-1",
			Doc: "what other machines call this one, 1 to 63 of a-z, 0-9 and -"},
		set: func(c *Peer, v value) complaint { return setText(&c.Name, v, CheckName) },
	},
	{
		Field: Field{Key: "labels", Kind: Mapping, Arg: "K=V,...", Default: "those of the token's secret", Sample: "{zone: eu-1}",
			Doc: "labels to ask for; granted are only those within the scope of the token's secret"},
		set: func(c *Peer, v value) complaint { return setLabels(&c.Labels, v) },
	},
	{
		Field: Field{Key: "tun.name", Arg: "NAME", Default: "icvpn0", Sample: "icvpn0",
			Doc: "name of the interface, at most 15 bytes"},
		set: func(c *Peer, v value) complaint { return setText(&c.TUN.Name, v, CheckInterface) },
	},
	{
		Field: Field{Key: "tun.mtu", Kind: Number, Arg: "BYTES", Default: "0", Sample: "0",
			Doc: "MTU of the interface, 1280 to 9000; 0 takes it from the path"},
		set: func(c *Peer, v value) complaint { return setNumber(&c.TUN.MTU, v, CheckMTU) },
	},
	{
		Field: Field{Key: "tun.backend", Arg: "NAME", Default: "auto", Sample: "auto",
			Doc: "offload: super-packets; plain: one packet a system call; auto: the first that the kernel has"},
		set: func(c *Peer, v value) complaint { return setText(&c.TUN.Backend, v, checkBackend) },
	},
	{
		Field: Field{Key: "helper", Arg: "WHEN", Default: "auto", Sample: "auto",
			Doc: "auto: keep copies for others, tell them their address and relay, if the service asks; never: refuse"},
		set: func(c *Peer, v value) complaint { return setText(&c.Helper, v, checkHelper) },
	},
}, processFields("/var/lib/icvpn", func(c *Peer) *Process { return &c.Process })...)

var superFields = append([]field[Super]{
	{
		Field: Field{Key: "handover", Kind: OneOrMore, Arg: "FILE", Default: required, Sample: "super-1.handover",
			Doc: "the sealed file that icvpn service create made for this super peer; a list serves several services"},
		path: true,
		set:  func(c *Super, v value) complaint { return setPaths(&c.files, v) },
	},
	{
		Field: Field{Key: "handover_key_file", Kind: OneOrMore, Arg: "FILE", Default: "none", Sample: "super-1.key",
			Doc: "file with the key that opens the hand-over; of several, one for each in the same order"},
		path: true,
		set:  func(c *Super, v value) complaint { return setPaths(&c.keys, v) },
	},
}, processFields("/var/lib/icvpn-super", func(c *Super) *Process { return &c.Process })...)

// processFields returns the fields that peers and super peers share.
func processFields[C any](stateDir string, p func(*C) *Process) []field[C] {
	inHome := "~/.local/state/" + strings.TrimPrefix(stateDir, "/var/lib/")
	return []field[C]{
		{
			Field: Field{Key: "state_dir", Arg: "DIR", Default: stateDir + " for root, else " + inHome, Sample: stateDir,
				Doc: "directory for identity and sealed state; one process at a time"},
			path: true,
			set:  func(c *C, v value) complaint { return setText(&p(c).StateDir, v, checkPath) },
		},
		{
			Field: Field{Key: "seal_key_file", Arg: "FILE", Default: "a key inside state_dir", Sample: "/run/credentials/seal-key",
				Doc: "file with the key that seals the state directory"},
			path: true,
			set:  func(c *C, v value) complaint { return setText(&p(c).SealKeyFile, v, checkPath) },
		},
		{
			Field: Field{Key: "listen", Arg: "HOST:PORT", Default: ":4500", Sample: `":4500"`,
				Doc: "UDP and TCP address of everything; no host: all addresses"},
			set: func(c *C, v value) complaint { return setText(&p(c).Listen, v, checkListen) },
		},
		{
			Field: Field{Key: "advertise", Kind: List, Arg: "HOST:PORT,...", Default: "none", Sample: `["198.51.100.4:4500"]`,
				Doc: "further addresses under which others reach this machine, at most 8"},
			set: func(c *C, v value) complaint { return setAdvertise(&p(c).Advertise, v) },
		},
		{
			Field: Field{Key: "control_socket", Arg: "FILE", Default: "state_dir/control.sock", Sample: stateDir + "/control.sock",
				Doc: "local socket that icvpn status, peers, ping and down ask"},
			path: true,
			set:  func(c *C, v value) complaint { return setText(&p(c).ControlSocket, v, checkPath) },
		},
		{
			Field: Field{Key: "log.level", Arg: "LEVEL", Default: "info", Sample: "info",
				Doc: "least level that is logged: debug, info, warn or error"},
			set: func(c *C, v value) complaint { return setLevel(&p(c).Log.Level, v) },
		},
		{
			Field: Field{Key: "log.format", Arg: "FORMAT", Default: "text", Sample: "text",
				Doc: "form of the log: text or json"},
			set: func(c *C, v value) complaint { return setText(&p(c).Log.Format, v, CheckFormat) },
		},
		{
			Field: Field{Key: "metrics.listen", Arg: "HOST:PORT", Default: "none", Sample: `"127.0.0.1:9464"`,
				Doc: "HTTP address for Prometheus metrics"},
			set: func(c *C, v value) complaint { return setText(&p(c).Metrics.Listen, v, checkMetricsListen) },
		},
	}
}

// PeerFields lists the fields of a peer's configuration in the order of the
// example.
func PeerFields() []Field { return public(peerFields) }

// SuperFields lists the fields of a super peer's configuration.
func SuperFields() []Field { return public(superFields) }

func public[C any](fs []field[C]) []Field {
	out := make([]Field, len(fs))
	for i, f := range fs {
		out[i] = f.Field
	}
	return out
}
