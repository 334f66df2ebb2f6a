package config

import "github.com/goccy/go-yaml/ast"

// Role says whose configuration a file is.
type Role string

// The two roles.
const (
	RolePeer  Role = "peer"
	RoleSuper Role = "super"
)

// Detect says whose configuration the file is, by the fields that only one of
// the two has; a file with neither is a peer's.
func Detect(path string) (Role, error) {
	data, err := readLimited(path, maxFile)
	if err != nil {
		return "", err
	}
	root, err := parseYAML(path, data)
	if err != nil || root == nil {
		return RolePeer, err
	}
	for _, entry := range root.Values {
		key, ok := entry.Key.(*ast.StringNode)
		if ok && known(key.Value, SuperFields()) && !known(key.Value, PeerFields()) {
			return RoleSuper, nil
		}
	}
	return RolePeer, nil
}

// ControlSocket returns the control socket of the process that src configures,
// peer or super peer, for commands that only want to talk to it.
func ControlSocket(src Source) (string, error) {
	socket := Field{Key: "control_socket"}
	if path := src.Flags[socket.Key]; path != "" {
		return path, nil
	}
	if path := src.env(socket.Env()); path != "" && src.Flags["state_dir"] == "" {
		return path, nil
	}
	if src.File != "" {
		role, err := Detect(src.File)
		if err != nil {
			return "", err
		}
		if role == RoleSuper {
			c, err := LoadSuper(src)
			return c.ControlSocket, err
		}
	}
	c, err := LoadPeer(src)
	return c.ControlSocket, err
}

// LoadSuperState returns where a super peer keeps its state and listens for
// commands, for those that need no hand-over.
func LoadSuperState(src Source) (Process, error) {
	c := Super{Process: defaultProcess()}
	if _, err := apply(src, superFields, &c); err != nil {
		return Process{}, err
	}
	err := c.finish(src.host(), "icvpn-super")
	return c.Process, err
}

// SuperSocket is ControlSocket for commands that only a super peer answers: where
// nothing says otherwise, it is that of a super peer's default state directory.
func SuperSocket(src Source) (string, error) {
	said := src.File != ""
	for _, key := range []string{"control_socket", "state_dir"} {
		said = said || src.Flags[key] != "" || src.env(Field{Key: key}.Env()) != ""
	}
	if said {
		return ControlSocket(src)
	}
	dir, err := src.host().stateDir("icvpn-super")
	return controlSocketIn(dir), err
}
