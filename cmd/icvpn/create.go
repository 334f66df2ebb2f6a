package main

import (
	"cmp"
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"icvpn/internal/config"
	"icvpn/internal/owner"
	"icvpn/internal/service"
)

const (
	defaultRole = "member"
	defaultPort = "4500"
	maxRoles    = 32
	maxSupers   = 16 // of one descriptor
	maxScopes   = 15 // labels of a credential, less the role
	// maxScopeValues keeps the descriptor, which has the scope once for each super
	// peer, far below its bound.
	maxScopeValues = 32
	maxPolicy      = 1 << 20 // bytes of a policy file
	// A network has room for the blocks of its super peers, and leaves room for
	// other private networks.
	minPrefixBits, maxPrefixBits = 8, 28
)

// createOptions says what service to create. Everything in it is checked.
type createOptions struct {
	Name   string
	CIDR   netip.Prefix
	Roles  []string // at least one, no two alike
	Supers []string // HOST:PORT, at least one, no two alike
	// Authorities is how many of them, the first ones, have the ABE master key; at
	// least one.
	Authorities int
	Out         string // does not exist, or is an empty directory

	// Scope are the labels beside the role that machines may ask for, and the
	// values, "*" for all; nil for none.
	Scope map[string][]string

	// At most one of these is set. With neither, every machine may reach every
	// other.
	Allow  []allowRule
	Policy []byte // of PolicyFile, not parsed

	PolicyFile string

	// Universe makes a universal overlay: its one role is superRole, and no machine
	// may reach another.
	Universe bool
	// Join is the token of a universal overlay that the super peers join; nil for
	// none.
	Join *service.Token
}

// superRole is the role of the members of a universal overlay: super peers.
const superRole = "super"

// allowRule lets machines of one role begin conversations with those of another.
type allowRule struct {
	From, To string // roles
	Protocol string // "tcp", "udp", "icmp", or "" for all
	// Ports First to Last, both included; 0 and 0 for all.
	First, Last uint16
}

// createFlags are the flags as they were given.
type createFlags struct {
	cidr, policy, out    string
	universe             bool
	join                 string
	roles, allow, supers []string
	scopes               []string
	authorities          int
}

// defaultAuthorities lets either fail.
const defaultAuthorities = 2

// options checks the flags in the order of the help text.
func (f *createFlags) options(name string) (o createOptions, err error) {
	if problem, wayOut := config.CheckName(name); problem != "" {
		return o, usageErrorf("service name: %s; %s", problem, wayOut)
	}
	o.Name = name
	if o.CIDR, err = parseCIDR(f.cidr); err != nil {
		return o, err
	}
	if o.Universe = f.universe; o.Universe {
		if len(f.roles)+len(f.allow)+len(f.scopes) > 0 || f.policy != "" || f.join != "" {
			return o, usageErrorf("--universe goes with none of --role, --label-scope, --allow, --policy and --join-universe: the members of a universal overlay are super peers, and carry no traffic in it")
		}
		f.roles = []string{superRole}
	}
	if o.Join, err = readJoin(f.join); err != nil {
		return o, err
	}
	if o.Roles, err = parseRoles(f.roles); err != nil {
		return o, err
	}
	if o.Scope, err = parseScopes(f.scopes); err != nil {
		return o, err
	}
	if o.Allow, err = parseAllow(f.allow, o.Roles); err != nil {
		return o, err
	}
	if f.policy != "" {
		if len(f.allow) > 0 {
			return o, usageErrorf("--allow and --policy are both given; write the rules into the policy file")
		}
		if o.Policy, err = readPolicy(f.policy); err != nil {
			return o, err
		}
		o.PolicyFile = f.policy
	}
	if o.Supers, err = parseSupers(f.supers); err != nil {
		return o, err
	}
	if f.authorities < 1 || f.authorities > maxSupers {
		return o, usageErrorf("--authorities %d: give 1 to %d; one super peer at least must be able to make attribute keys", f.authorities, maxSupers)
	}
	o.Authorities = f.authorities
	o.Out = cmp.Or(f.out, name)
	return o, checkOut(o.Out)
}

// privateSpace is where the addresses of a service may come from: RFC 1918 and
// the shared space of RFC 6598.
var privateSpace = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("100.64.0.0/10"),
}

func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || !p.Addr().Is4():
		return p, usageErrorf("--cidr %q is not an IPv4 prefix; write for example 10.42.0.0/16", s)
	case p != p.Masked():
		return p, usageErrorf("--cidr %s is not the beginning of a network; did you mean %s?", s, p.Masked())
	case p.Bits() < minPrefixBits || p.Bits() > maxPrefixBits:
		return p, usageErrorf("--cidr %s is too large or too small; use /%d to /%d", s, minPrefixBits, maxPrefixBits)
	case !slices.ContainsFunc(privateSpace, func(q netip.Prefix) bool { return q.Contains(p.Addr()) && q.Bits() <= p.Bits() }):
		return p, usageErrorf("--cidr %s is not private; take a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or 100.64.0.0/10", s)
	}
	return p, nil
}

func parseRoles(roles []string) ([]string, error) {
	if len(roles) == 0 {
		return []string{defaultRole}, nil
	}
	if len(roles) > maxRoles {
		return nil, usageErrorf("%d roles, the limit is %d; put machines with the same rules into one role", len(roles), maxRoles)
	}
	for i, role := range roles {
		if problem, wayOut := config.CheckName(role); problem != "" {
			return nil, usageErrorf("--role: %s; %s", problem, wayOut)
		}
		if slices.Contains(roles[:i], role) {
			return nil, usageErrorf("--role %s is given twice; leave one out", role)
		}
	}
	return slices.Clone(roles), nil
}

// parseScopes reads KEY=VALUE,... for each key.
func parseScopes(scopes []string) (map[string][]string, error) {
	var out map[string][]string
	for _, text := range scopes {
		key, list, ok := strings.Cut(text, "=")
		values := strings.Split(list, ",")
		switch {
		case !ok:
			return nil, usageErrorf("--label-scope %q is not a scope; write KEY=VALUE,VALUE or KEY=*, for example zone=eu,us", text)
		case key == owner.RoleLabel:
			return nil, usageErrorf("--label-scope %s: every token has its role, and machines cannot choose another; use --role", text)
		case out[key] != nil:
			return nil, usageErrorf("--label-scope %s is given twice; write all values of it into one", key)
		case len(out) == maxScopes:
			return nil, usageErrorf("more than %d --label-scope; a machine has at most %d labels", maxScopes, maxScopes+1)
		}
		for i, word := range append([]string{key}, values...) {
			if anyValue := i > 0 && word == service.AnyValue && len(values) == 1; !anyValue && !service.ValidLabel(word) {
				return nil, usageErrorf("--label-scope %s: %q is not a word of labels; use 1 to 63 of a-z, 0-9, '.', '_' and '-', or * alone for any value", text, word)
			}
		}
		if len(values) > maxScopeValues {
			return nil, usageErrorf("--label-scope %s: %d values, the limit is %d; write %s=* for any value", key, len(values), maxScopeValues, key)
		}
		if out == nil {
			out = map[string][]string{}
		}
		out[key] = values
	}
	return out, nil
}

func parseAllow(rules, roles []string) ([]allowRule, error) {
	var out []allowRule
	for _, text := range rules {
		rule, err := parseRule(text)
		if err != nil {
			return nil, err
		}
		for _, role := range []string{rule.From, rule.To} {
			if !slices.Contains(roles, role) {
				return nil, usageErrorf("--allow %s: there is no role %q; the roles are %s", text, role, strings.Join(roles, ", "))
			}
		}
		if slices.Contains(out, rule) {
			return nil, usageErrorf("--allow %s is given twice; leave one out", text)
		}
		out = append(out, rule)
	}
	return out, nil
}

// parseRule reads FROM:TO[:PROTOCOL[/PORT[-PORT]]].
func parseRule(text string) (allowRule, error) {
	parts := strings.Split(text, ":")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return allowRule{}, usageErrorf("--allow %q is not a rule; write FROM:TO or FROM:TO:PROTOCOL/PORT, for example app:db:tcp/5432", text)
	}
	rule := allowRule{From: parts[0], To: parts[1]}
	if len(parts) == 2 {
		return rule, nil
	}
	protocol, ports, hasPorts := strings.Cut(parts[2], "/")
	if !slices.Contains([]string{"tcp", "udp", "icmp"}, protocol) {
		return rule, usageErrorf("--allow %s: %q is not a protocol; use tcp, udp or icmp", text, protocol)
	}
	rule.Protocol = protocol
	if !hasPorts {
		return rule, nil
	}
	if protocol == "icmp" {
		return rule, usageErrorf("--allow %s: icmp has no ports; write %s:%s:icmp", text, rule.From, rule.To)
	}
	first, last, isRange := strings.Cut(ports, "-")
	if !isRange {
		last = first
	}
	var ok1, ok2 bool
	rule.First, ok1 = parsePort(first)
	rule.Last, ok2 = parsePort(last)
	if !ok1 || !ok2 || rule.First > rule.Last {
		return rule, usageErrorf("--allow %s: %q is not a port or a range; use 1 to 65535, for example 5432 or 8000-8080", text, ports)
	}
	return rule, nil
}

func parsePort(s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return uint16(n), err == nil && n > 0 && strconv.FormatUint(n, 10) == s
}

func readPolicy(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	var pe *fs.PathError
	switch {
	case errors.As(err, &pe):
		return nil, usageErrorf("--policy %s: cannot be read: %v; check the path and its permissions", path, pe.Err)
	case err != nil:
		return nil, usageErrorf("--policy %s: cannot be read: %v", path, err)
	case len(data) == 0 || len(data) > maxPolicy:
		return nil, usageErrorf("--policy %s: has %d bytes; a policy has 1 to %d", path, len(data), maxPolicy)
	}
	return data, nil
}

// readJoin reads the token of a universal overlay.
func readJoin(path string) (*service.Token, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return nil, usageErrorf("--join-universe %s: cannot be read: %v; name the super.token that icvpn service create --universe made", path, pe.Err)
	}
	defer clear(b)
	var t service.Token
	if err == nil {
		t, err = service.ParseToken(b)
	}
	if err != nil {
		return nil, usageErrorf("--join-universe %s: %v", path, err)
	}
	return &t, nil
}

// parseSupers adds the default port where none is given.
func parseSupers(supers []string) ([]string, error) {
	if len(supers) == 0 {
		return nil, usageErrorf("--super is missing; give HOST:PORT of at least one super peer, better two")
	}
	if len(supers) > maxSupers {
		return nil, usageErrorf("%d super peers, the limit is %d; leave some out", len(supers), maxSupers)
	}
	var out []string
	for _, addr := range supers {
		addr, problem, wayOut := superAddress(addr)
		if problem != "" {
			return nil, usageErrorf("--super: %s; %s", problem, wayOut)
		}
		if slices.Contains(out, addr) {
			return nil, usageErrorf("--super %s is given twice; leave one out", addr)
		}
		out = append(out, addr)
	}
	return out, nil
}

// superAddress adds the default port where none is given, and says what is wrong
// with the address.
func superAddress(addr string) (full, problem, wayOut string) {
	if _, _, err := net.SplitHostPort(addr); err != nil && (net.ParseIP(addr) != nil || !strings.Contains(addr, ":")) {
		addr = net.JoinHostPort(addr, defaultPort)
	}
	problem, wayOut = config.CheckAddress(addr)
	return addr, problem, wayOut
}

// checkOut makes sure that nothing is overwritten: keys of a service cannot be
// made again.
func checkOut(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return usageErrorf("output directory %s cannot be used: %v; choose another with --out DIR", dir, err)
	case len(entries) > 0:
		return usageErrorf("output directory %s is not empty; choose another with --out DIR, so that no key is overwritten", dir)
	}
	return nil
}
