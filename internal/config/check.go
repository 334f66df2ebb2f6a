package config

import (
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"icvpn/internal/service"
)

// Limits. None of them comes from a standard except the interface name.
const (
	maxName      = 63   // a DNS label, RFC 1035 Section 2.3.4; also bytes of a label's key or value
	maxInterface = 15   // IFNAMSIZ less the final zero
	maxAdvertise = 8    // endpoints of one contact record
	maxLabels    = 16   // labels of one credential
	maxPath      = 4095 // PATH_MAX less the final zero
	maxServices  = 32   // of one super peer: each takes some 30 MB and a share of the door
)

// MTUs of a TUN interface.
const (
	MinMTU = 1280 // the least an IPv6 link may have, RFC 8200 Section 5
	MaxMTU = 9000 // jumbo frames; above, no path between clouds goes
)

// setText and its siblings store a value after check has nothing against it.
func setText(dst *string, v value, check func(string) (problem, wayOut string)) complaint {
	if problem, wayOut := check(v.text); problem != "" {
		return complaint{problem, wayOut}
	}
	*dst = v.text
	return complaint{}
}

func setNumber(dst *int, v value, check func(int) (problem, wayOut string)) complaint {
	if problem, wayOut := check(v.n); problem != "" {
		return complaint{problem, wayOut}
	}
	*dst = v.n
	return complaint{}
}

func setLevel(dst *slog.Level, v value) complaint {
	level, problem, wayOut := ParseLevel(v.text)
	if problem != "" {
		return complaint{problem, wayOut}
	}
	*dst = level
	return complaint{}
}

// ParseLevel returns the log level of that name, or what is wrong with it and
// the way out; problem is empty for a good one.
func ParseLevel(s string) (level slog.Level, problem, wayOut string) {
	switch s {
	case "debug":
		return slog.LevelDebug, "", ""
	case "info":
		return slog.LevelInfo, "", ""
	case "warn":
		return slog.LevelWarn, "", ""
	case "error":
		return slog.LevelError, "", ""
	}
	return 0, quoted(s) + " is not a level", "use debug, info, warn or error"
}

func setAdvertise(dst *[]string, v value) complaint {
	if len(v.list) > maxAdvertise {
		return complaint{fmt.Sprintf("%d addresses, the limit is %d", len(v.list), maxAdvertise),
			"keep those that other machines reach best"}
	}
	for _, addr := range v.list {
		if problem, wayOut := CheckAddress(addr); problem != "" {
			return complaint{problem, wayOut}
		}
	}
	*dst = v.list
	return complaint{}
}

func setPaths(dst *[]string, v value) complaint {
	if len(v.list) > maxServices {
		return complaint{fmt.Sprintf("%d files, the limit is %d", len(v.list), maxServices), "serve the others from another machine"}
	}
	for i, path := range v.list {
		if problem, wayOut := checkPath(path); problem != "" {
			return complaint{problem, wayOut}
		}
		if slices.Contains(v.list[:i], path) {
			return complaint{quoted(path) + " is there twice", "give one for each service"}
		}
	}
	*dst = v.list
	return complaint{}
}

func setLabels(dst *map[string]string, v value) complaint {
	if len(v.pairs) > maxLabels {
		return complaint{fmt.Sprintf("%d labels, the limit is %d", len(v.pairs), maxLabels), "ask for fewer"}
	}
	for key, val := range v.pairs {
		for _, part := range []string{key, val} {
			if !service.ValidLabel(part) {
				return complaint{fmt.Sprintf("label %s: %s is not a word of labels", quoted(key), quoted(part)),
					fmt.Sprintf("use 1 to %d of a-z, 0-9, '.', '_' and '-'", maxName)}
			}
		}
	}
	*dst = v.pairs
	return complaint{}
}

// CheckName says what is wrong with a name of a machine, service or role, and
// the way out; problem is empty for a good one.
func CheckName(s string) (problem, wayOut string) {
	rule := fmt.Sprintf("use 1 to %d of a-z, 0-9 and '-', no '-' at either end", maxName)
	switch {
	case s == "":
		return "is empty", rule
	case len(s) > maxName:
		return fmt.Sprintf("%d characters, the limit is %d", len(s), maxName), rule
	case !service.ValidName(s):
		return quoted(s) + " is not a name", rule
	}
	return "", ""
}

// CheckInterface says what is wrong with the name of a TUN interface, and the
// way out; problem is empty for a good one.
func CheckInterface(s string) (problem, wayOut string) {
	// The kernel's dev_valid_name: no slash, colon or white space, not a dot entry.
	bad := func(r rune) bool {
		return r == '/' || r == ':' || r == '%' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}
	if s == "" || len(s) > maxInterface || s == "." || s == ".." || strings.ContainsFunc(s, bad) {
		return quoted(s) + " is not an interface name",
			fmt.Sprintf("use 1 to %d characters without '/', ':', '%%' and spaces", maxInterface)
	}
	return "", ""
}

// backends are the names that package tun knows.
var backends = []string{"auto", "offload", "plain"}

func checkBackend(s string) (problem, wayOut string) {
	if slices.Contains(backends, s) {
		return "", ""
	}
	return quoted(s) + " is no way for packets to cross", "use auto, offload or plain"
}

func checkHelper(s string) (problem, wayOut string) {
	if s == "auto" || s == "never" {
		return "", ""
	}
	return quoted(s) + " does not say whether to help", "use auto or never"
}

// CheckMTU does the same for the MTU of a TUN interface.
func CheckMTU(n int) (problem, wayOut string) {
	if n == 0 || n >= MinMTU && n <= MaxMTU {
		return "", ""
	}
	return fmt.Sprintf("%d is out of range", n),
		fmt.Sprintf("use %d to %d, or 0 to take it from the path", MinMTU, MaxMTU)
}

// CheckFormat does the same for the form of the log.
func CheckFormat(s string) (problem, wayOut string) {
	if s != "text" && s != "json" {
		return quoted(s) + " is not a log format", "use text or json"
	}
	return "", ""
}

func checkPath(s string) (problem, wayOut string) {
	switch {
	case s == "":
		return "is empty", "give a path or leave the field out"
	case strings.Contains(s, tokenPrefix): // not quoted: it is a secret
		return "is a token, not a path", "put the token into a file of mode 0600 and name that file"
	case len(s) > maxPath || strings.ContainsFunc(s, unicode.IsControl):
		return quoted(s) + " is not a path", "check the spelling"
	}
	return "", ""
}

func checkListen(s string) (problem, wayOut string) {
	const rule = "write HOST:PORT or :PORT, an IPv6 host in brackets: \"[2001:db8::1]:4500\""
	host, port, err := net.SplitHostPort(s)
	switch {
	case err != nil || !isPort(port, 0):
		return quoted(s) + " is not a listen address", rule
	case host != "" && net.ParseIP(host) == nil && !isHostname(host):
		return quoted(s) + " is not a listen address", rule
	}
	return "", ""
}

func checkMetricsListen(s string) (problem, wayOut string) {
	if s == "" {
		return "", "" // an explicit none
	}
	return checkListen(s)
}

// CheckAddress says what is wrong with the HOST:PORT of a machine that others
// are to reach; problem is empty for a good one.
func CheckAddress(s string) (problem, wayOut string) {
	const rule = "write HOST:PORT, for example 198.51.100.4:4500 or \"[2001:db8::1]:4500\""
	host, port, err := net.SplitHostPort(s)
	if err != nil || !isPort(port, 1) {
		return quoted(s) + " is not an address", rule
	}
	ip := net.ParseIP(host)
	switch {
	case ip == nil && !isHostname(host):
		return quoted(s) + " is not an address", rule
	case ip != nil && (ip.IsUnspecified() || ip.IsMulticast()):
		return quoted(s) + " is not the address of one machine", rule
	}
	return "", ""
}

func isPort(s string, least int) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= least && n <= 65535 && strconv.Itoa(n) == s
}

// isHostname follows RFC 1123, Section 2.1, with '_' allowed, which container
// platforms put into names. All-numeric names are mistyped IPv4 addresses.
func isHostname(s string) bool {
	if s == "" || len(s) > 253 || strings.Trim(s, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if r > unicode.MaxASCII || r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
				return false
			}
		}
	}
	return true
}

// quoted returns s for an error message: quoted, and never longer than a line.
// What looks like a secret in the wrong place is described instead.
func quoted(s string) string {
	const most = 80
	if looksSecret(s) {
		return fmt.Sprintf("what stands there (%d bytes, not shown because it may be a secret)", len(s))
	}
	if len(s) > most {
		return strconv.Quote(strings.ToValidUTF8(s[:most], "")) + "..."
	}
	return strconv.Quote(s)
}

// looksSecret says whether s holds a token, or a run of characters as long and
// as mixed as an encoded key: 16 bytes have 22 characters in base64. Host names
// and paths are broken up by dots and slashes.
func looksSecret(s string) bool {
	const least = 20
	if HoldsToken(s) {
		return true
	}
	for run := range strings.FieldsFuncSeq(s, func(r rune) bool { return !isBase64(r) }) {
		digits := strings.ContainsAny(run, "0123456789")
		upper, lower := run != strings.ToLower(run), run != strings.ToUpper(run)
		if len(run) >= least && (digits && (upper || lower) || upper && lower) {
			return true
		}
	}
	return false
}

// isBase64 takes the alphabets of base64 and base64url, less the slash of paths.
func isBase64(r rune) bool {
	return r <= unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("+_-=", r))
}
