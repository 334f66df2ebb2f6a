package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"time"
)

// Version is the version of requests, answers and of the JSON types here.
const Version = 1

// Role says what a process is in its service.
type Role string

// The roles.
const (
	RolePeer  Role = "peer"
	RoleSuper Role = "super"
)

// State is where a process stands.
type State string

// The states of a process. Only up is ready for traffic.
const (
	StateJoining State = "joining"
	StateUp      State = "up"
	StateLeaving State = "leaving"
)

// Status describes the running process. Addresses and names that are not known
// yet are empty, times absent.
type Status struct {
	Version           int               `json:"version"`
	Role              Role              `json:"role"`
	State             State             `json:"state"`
	Since             time.Time         `json:"since,omitzero"` // entered State
	Started           time.Time         `json:"started,omitzero"`
	Software          string            `json:"software"`
	Process           int               `json:"process"`
	Name              string            `json:"name"`
	PID               string            `json:"pid"` // 40 hexadecimal digits
	Service           string            `json:"service"`
	ServiceName       string            `json:"service_name"`
	Labels            map[string]string `json:"labels"`
	Address4          netip.Addr        `json:"address4"`
	Address6          netip.Addr        `json:"address6"`
	Interface         string            `json:"interface"`
	MTU               int               `json:"mtu"`
	Listen            []string          `json:"listen"`
	Endpoints         []string          `json:"endpoints"` // as others see this machine
	SuperPeer         string            `json:"super_peer"`
	Epoch             uint32            `json:"epoch"`
	CredentialExpires time.Time         `json:"credential_expires,omitzero"`
	Helper            *Helper           `json:"helper,omitempty"` // if this machine is one
	Relays            []string          `json:"relays,omitempty"` // through which others reach it, behind a NAT
	PeersKnown        int               `json:"peers_known"`
	PeersUp           int               `json:"peers_up"`
	RxPackets         uint64            `json:"rx_packets"`
	RxBytes           uint64            `json:"rx_bytes"`
	TxPackets         uint64            `json:"tx_packets"`
	TxBytes           uint64            `json:"tx_bytes"`
	// Release is the newest release manifest, if the policy names release keys.
	Release *Release `json:"release,omitempty"`
	// Warnings are sentences for the operator: what is not as it should be.
	Warnings []string `json:"warnings"`
	// Services are those of a super peer, which may be several; the fields above
	// are of the first.
	Services []ServiceStatus `json:"services,omitempty"`
}

// Helper says what super peers have promoted a peer to.
type Helper struct {
	Roles []string  `json:"roles"` // store, reflect
	Since time.Time `json:"since"`
}

// Release is a release manifest as its process sees it. Without a Version none is
// known.
type Release struct {
	Channel   string     `json:"channel"` // that the policy follows
	Version   string     `json:"version"`
	Minimum   string     `json:"minimum"` // nobody should run anything below
	Sequence  uint64     `json:"sequence"`
	Signed    time.Time  `json:"signed,omitzero"`
	Expires   time.Time  `json:"expires,omitzero"`
	Notes     string     `json:"notes"` // where to read what is new
	Artefacts []Artefact `json:"artefacts"`
	// Note is a sentence: what it means for the version that runs, or why it may not
	// be the newest. Empty: all is well.
	Note string `json:"note"`
}

// Artefact is a build of a release.
type Artefact struct {
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	Size   uint64 `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // hexadecimal
}

// ServiceStatus is one service of a super peer.
type ServiceStatus struct {
	Service           string    `json:"service"` // 40 hexadecimal digits
	Name              string    `json:"name"`
	PID               string    `json:"pid"` // of the super peer in it
	State             State     `json:"state"`
	Endpoints         []string  `json:"endpoints"`
	Epoch             uint32    `json:"epoch"`
	CredentialExpires time.Time `json:"credential_expires,omitzero"`
	PeersKnown        int       `json:"peers_known"`
	Release           *Release  `json:"release,omitempty"`
}

// Service is a service that a super peer serves, or knows from a universal
// overlay. Names need not be unique: ID is.
type Service struct {
	Name       string             `json:"name"`
	ID         string             `json:"id"` // 40 hexadecimal digits
	Own        bool               `json:"own"`
	Universe   string             `json:"universe"` // where it is advertised, or empty
	Sequence   uint64             `json:"sequence"` // of the descriptor
	Expires    time.Time          `json:"expires,omitzero"`
	SuperPeers []ServiceSuperPeer `json:"super_peers"`
	Prefix4    string             `json:"prefix4"`
	Prefix6    string             `json:"prefix6"`
	Owners     []string           `json:"owners"`     // fingerprints of their keys
	ABEParams  string             `json:"abe_params"` // SHA-256, hexadecimal
	// PolicySequence and Rules are there for own services only.
	PolicySequence uint64   `json:"policy_sequence"`
	Rules          []string `json:"rules"`
}

// ServiceSuperPeer is a super peer that a service's descriptor names.
type ServiceSuperPeer struct {
	PID         string    `json:"pid"`
	Fingerprint string    `json:"fingerprint"`
	Endpoints   []string  `json:"endpoints"`
	Roles       []string  `json:"roles"`
	Block4      string    `json:"block4"`
	Expires     time.Time `json:"expires,omitzero"`
	// Seen is when it was last heard of in a universal overlay, and the rest what it
	// said of itself there.
	Seen     time.Time         `json:"seen,omitzero"`
	Labels   map[string]string `json:"labels"`
	Software string            `json:"software"`
	Load     string            `json:"load"`
}

// ServiceList is what `icvpn service list --json` prints.
type ServiceList struct {
	Version  int       `json:"version"`
	Services []Service `json:"services"`
}

// TunnelState says how far the tunnel to a peer is.
type TunnelState string

// The states of a tunnel.
const (
	TunnelNone       TunnelState = "none"
	TunnelConnecting TunnelState = "connecting"
	TunnelUp         TunnelState = "up"
)

// Route says how packets reach a peer.
type Route string

// The routes; empty while there is no tunnel.
const (
	RouteDirect  Route = "direct"
	RouteRelayed Route = "relayed"
)

// Peer is one other machine of the service as this one sees it.
type Peer struct {
	Name     string            `json:"name"`
	PID      string            `json:"pid"`
	Address4 netip.Addr        `json:"address4"`
	Address6 netip.Addr        `json:"address6"`
	Labels   map[string]string `json:"labels"`
	// Service is the name of its service, where the process serves several.
	Service string `json:"service,omitempty"`
	// Allowed is the policy's verdict, Reachable the same as a sentence that
	// names the rule, or the lack of one.
	Allowed       bool        `json:"allowed"`
	Reachable     string      `json:"reachable"`
	State         TunnelState `json:"state"`
	Route         Route       `json:"route"`
	Path          string      `json:"path"` // HOST:PORT that packets go to
	Suite         string      `json:"suite"`
	Group         string      `json:"group"`
	RxPackets     uint64      `json:"rx_packets"`
	RxBytes       uint64      `json:"rx_bytes"`
	TxPackets     uint64      `json:"tx_packets"`
	TxBytes       uint64      `json:"tx_bytes"`
	LastHandshake time.Time   `json:"last_handshake,omitzero"`
}

// PeerList is what `icvpn peers --json` prints.
type PeerList struct {
	Version int    `json:"version"`
	Peers   []Peer `json:"peers"`
}

// JoinStep is one step of the way from the token to the first packet.
type JoinStep struct {
	Name       string    `json:"name"`
	Started    time.Time `json:"started"`
	DurationMS float64   `json:"duration_ms"`
	Detail     string    `json:"detail"`
	Error      string    `json:"error,omitempty"` // the step failed
}

// JoinLog is what `icvpn status --steps --json` prints.
type JoinLog struct {
	Version int        `json:"version"`
	Steps   []JoinStep `json:"steps"`
}

// Leave says how a leave went.
type Leave struct {
	// PeersTold counts the peers that were sent a goodbye: those with a tunnel.
	PeersTold int `json:"peers_told"`
	// Published: a contact record, by which others find this machine, was in the
	// overlay. Withdrawn: it was taken back there. If it was not, it ends by itself
	// at ContactEnds, and Error says why.
	Published   bool      `json:"published"`
	Withdrawn   bool      `json:"withdrawn"`
	ContactEnds time.Time `json:"contact_ends,omitzero"`
	Error       string    `json:"error,omitempty"`
}

// Backup says what a backup holds.
type Backup struct {
	Path    string `json:"path"`
	Bytes   int64  `json:"bytes"`
	Members int    `json:"members"` // of all services
}

// Update says what of an update file is in force now.
type Update struct {
	Service   string            `json:"service"` // 40 hexadecimal digits
	Name      string            `json:"name"`
	Documents []UpdatedDocument `json:"documents"`
}

// UpdatedDocument is a document that the owner signed.
type UpdatedDocument struct {
	Type     string `json:"type"`     // descriptor, policy, epochs, release
	Sequence uint64 `json:"sequence"` // of the one in force
	Newer    bool   `json:"newer"`    // it came with this update
}

// Add notes a document.
func (u *Update) Add(typ string, sequence uint64, newer bool) {
	u.Documents = append(u.Documents, UpdatedDocument{typ, sequence, newer})
}

// PingReply is the outcome of one echo request over the tunnel.
type PingReply struct {
	Seq     int        `json:"seq"`
	From    string     `json:"from"`
	Address netip.Addr `json:"address"`
	Path    string     `json:"path"`
	Route   Route      `json:"route"`
	RTTMS   float64    `json:"rtt_ms"`
	Error   string     `json:"error,omitempty"` // no answer, and why
}

// Code says what kind of failure an Error is.
type Code string

// The codes.
const (
	CodeFailed      Code = "failed"
	CodeBadRequest  Code = "bad_request"
	CodeVersion     Code = "version"
	CodeForbidden   Code = "forbidden"
	CodeBusy        Code = "busy"
	CodeUnknownPeer Code = "unknown_peer"
	// CodeNotAllowed: the service's policy forbids it; the message names the rule.
	CodeNotAllowed Code = "not_allowed"
	// CodeNotReady: the process has not joined yet, or is leaving.
	CodeNotReady Code = "not_ready"
)

// Error is a failure as it crosses the socket. A Handler returns one to choose
// the code; of any other error only the text crosses, as CodeFailed.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Error returns the message, a sentence for people.
func (e *Error) Error() string { return e.Message }

// Limits.
const (
	maxRequest  = 4096     // bytes of a request line; the longest legal one has 400
	maxResponse = 32 << 20 // bytes of an answer line: 30000 peers
	maxTarget   = 255      // bytes of a ping's target: a domain name, RFC 1035
	maxPath     = 3000     // bytes of a path
	maxCount    = 1 << 20  // echo requests of one ping
)

type method string

const (
	methodStatus   method = "status"
	methodPeers    method = "peers"
	methodJoin     method = "join"
	methodPing     method = "ping"
	methodDown     method = "down"
	methodBackup   method = "backup"
	methodServices method = "services"
	methodUpdate   method = "update"
)

type request struct {
	Version int    `json:"version"`
	Method  method `json:"method"`
	Target  string `json:"target,omitempty"` // ping; backup and update: the path
	Count   int    `json:"count,omitempty"`  // ping; 0: until the client goes away
}

// response has exactly one field set beside the version.
type response struct {
	Version  int          `json:"version"`
	Status   *Status      `json:"status,omitempty"`
	Peers    *PeerList    `json:"peers,omitempty"`
	Join     *JoinLog     `json:"join,omitempty"`
	Ping     *PingReply   `json:"ping,omitempty"`
	Done     bool         `json:"done,omitempty"`
	Left     *Leave       `json:"left,omitempty"`
	Backup   *Backup      `json:"backup,omitempty"`
	Services *ServiceList `json:"services,omitempty"`
	Update   *Update      `json:"update,omitempty"`
	Error    *Error       `json:"error,omitempty"`
}

// parseRequest reads a request line. Versions are told apart before anything
// else, so that a newer client learns what is wrong.
func parseRequest(line []byte) (request, *Error) {
	if len(line) > maxRequest {
		return request{}, badRequest("more than %d bytes", maxRequest)
	}
	var any struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(line, &any); err != nil {
		return request{}, badRequest("not a JSON object with a version")
	}
	if any.Version != Version {
		return request{}, &Error{CodeVersion, fmt.Sprintf(
			"this process speaks version %d of the control protocol, the request version %d; use the same icvpn binary for both", Version, any.Version)}
	}
	var r request
	dec := json.NewDecoder(bytes.NewReader(line))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return request{}, badRequest("a field is unknown or of a wrong type")
	}
	if _, err := dec.Token(); err != io.EOF {
		return request{}, badRequest("more than one value")
	}
	return r, r.check()
}

func (r request) check() *Error {
	switch r.Method {
	case methodStatus, methodPeers, methodJoin, methodDown, methodServices:
		if r.Target != "" || r.Count != 0 {
			return badRequest("%s takes no target and no count", r.Method)
		}
	case methodPing:
		if r.Target == "" || len(r.Target) > maxTarget {
			return badRequest("a target has 1 to %d bytes", maxTarget)
		}
		if r.Count < 0 || r.Count > maxCount {
			return badRequest("a count is 0 to %d", maxCount)
		}
	case methodBackup, methodUpdate:
		if !filepath.IsAbs(r.Target) || len(r.Target) > maxPath || r.Count != 0 {
			return badRequest("%s takes an absolute path of at most %d bytes", r.Method, maxPath)
		}
	default:
		return badRequest("unknown method")
	}
	return nil
}

func badRequest(format string, args ...any) *Error {
	return &Error{CodeBadRequest, "bad request: " + fmt.Sprintf(format, args...)}
}

// parseResponse reads an answer line. Unknown fields are ignored: a newer
// process may say more.
func parseResponse(line []byte) (response, error) {
	var r response
	if err := json.Unmarshal(line, &r); err != nil {
		return response{}, fmt.Errorf("control: answer is not JSON: %w", err)
	}
	if r.Error != nil {
		return response{}, r.Error // readable in every version
	}
	if r.Version != Version {
		return response{}, &Error{CodeVersion, fmt.Sprintf(
			"the running process speaks version %d of the control protocol, this command version %d; use the same icvpn binary for both", r.Version, Version)}
	}
	return r, nil
}
