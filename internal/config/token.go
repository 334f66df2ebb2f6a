package config

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// Token sources, first match wins:
//
//	--token-file FILE    ICVPN_TOKEN_FILE    ICVPN_TOKEN    token_file in the file
//
// There is no flag that takes the token itself: arguments of a process are
// readable by every user of the machine.
const tokenVariable = "ICVPN_TOKEN"

// tokenPrefix begins every token in its one-line form.
const tokenPrefix = "icvpn1:"

// HoldsToken says whether s holds a token, for checks of places where none may
// stand.
func HoldsToken(s string) bool { return strings.Contains(s, tokenPrefix) }

// maxToken bounds a token file; a token has less than 1 KiB, as YAML 2 KiB.
const maxToken = 16 << 10

// ReadToken returns the bootstrap token of c, without the white space around
// it. Warning, if not empty, is a sentence for the log: other users of the
// machine can read the token file. The caller owns and wipes the token.
func ReadToken(c Peer, env func(string) (string, bool)) (token []byte, warning string, err error) {
	if c.TokenFile != "" {
		return readTokenFile(c.TokenFile)
	}
	if text := (Source{Env: env}).env(tokenVariable); text != "" {
		if token = bytes.TrimSpace([]byte(text)); len(token) > 0 {
			return token, "", nil
		}
	}
	return nil, "", &Error{Problem: "no token",
		WayOut: "put the token that icvpn service create made for this role into a file and give it with --token-file FILE, " +
			"ICVPN_TOKEN_FILE or token_file, or set ICVPN_TOKEN"}
}

func readTokenFile(path string) (token []byte, warning string, err error) {
	data, err := readLimited(path, maxToken)
	if err != nil {
		return nil, "", err
	}
	token = bytes.TrimSpace(data)
	if len(token) == 0 {
		return nil, "", &Error{Where: path, Problem: "is empty, not a token",
			WayOut: "icvpn service create writes one token file per role"}
	}
	return token, readableByOthers(path), nil
}

func readableByOthers(path string) string {
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&0o007 == 0 {
		return ""
	}
	return fmt.Sprintf("token file %s is open to every user of this machine (mode %04o): chmod 600 it", path, info.Mode().Perm())
}
