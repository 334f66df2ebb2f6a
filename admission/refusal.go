package admission

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Code says why a super peer refused. Numbers are wire format.
type Code uint8

// The reasons. Each has one sentence for a person in sentences.
const (
	CodeWrongSecret    Code = 1 // also for unknown secret IDs
	CodeBusy           Code = 2 // Other may name another super peer
	CodeScope          Code = 3 // Detail names the label
	CodeExpiredSecret  Code = 4
	CodeQuota          Code = 5
	CodeRevoked        Code = 6
	CodeClock          Code = 7 // Detail says by how much
	CodeServiceUnknown Code = 8
	CodeTicket         Code = 9 // forged, foreign, used or expired: not said which
	CodeSource         Code = 10
	CodeAddresses      Code = 11 // Other may name another super peer
	CodeRequest        Code = 12
	CodeInternal       Code = 13
	CodeClone          Code = 14 // Detail says who and since when
)

type codeText struct{ name, sentence string }

var codeTexts = [...]codeText{
	CodeWrongSecret:    {"wrong_secret", "the enrolment secret or its ID is wrong; take a fresh token from the service's owner"},
	CodeBusy:           {"busy", "the super peer is busy; try again in a moment"},
	CodeScope:          {"scope", "the enrolment secret does not cover a label that was asked for"},
	CodeExpiredSecret:  {"expired_secret", "the enrolment secret has expired; take a fresh token from the service's owner"},
	CodeQuota:          {"quota", "the enrolment secret has admitted as many machines as it may"},
	CodeRevoked:        {"revoked", "this machine or its enrolment secret has been revoked"},
	CodeClock:          {"clock", "this machine's clock is wrong; set it and try again"},
	CodeServiceUnknown: {"service_unknown", "the super peer does not serve this service; the token may be for others"},
	CodeTicket:         {"ticket", "the session ticket is no longer good; enrol again with the secret"},
	CodeSource:         {"source", "the enrolment secret may not be used from this address"},
	CodeAddresses:      {"addresses", "the super peer has no free address left for this service"},
	CodeRequest:        {"request", "the super peer could not read the provisioning request; the versions may differ"},
	CodeInternal:       {"internal", "the super peer had an internal error; its log says which"},
	CodeClone:          {"clone", "another machine was admitted with this one's identity since"},
}

func (c Code) text() codeText {
	if int(c) < len(codeTexts) && codeTexts[c].name != "" {
		return codeTexts[c]
	}
	return codeText{fmt.Sprintf("code_%d", uint8(c)), fmt.Sprintf("the super peer gave a reason this version does not know (code %d); update icvpn", uint8(c))}
}

// String returns the short name, for logs and metrics.
func (c Code) String() string { return c.text().name }

// Sentence says for a person what happened and what to do.
func (c Code) Sentence() string { return c.text().sentence }

// early are the codes that mean something before the secret was tried. Others
// at that point come from a liar and are treated as malformed.
func (c Code) early() bool {
	switch c {
	case CodeBusy, CodeClock, CodeServiceUnknown, CodeInternal:
		return true
	}
	return false
}

// Refusal is a super peer's "no": the error a Client returns for a Refused
// frame, and the error a Backend hook returns to have one sent.
type Refusal struct {
	Code   Code
	Detail string // what exactly, such as the label; at most 256 printable bytes
	Other  string // host:port of a super peer that may help; at most 255
}

// Error returns the sentence of the code with detail and other address.
func (r *Refusal) Error() string {
	var b strings.Builder
	b.WriteString("admission: refused: " + r.Code.Sentence())
	if r.Detail != "" {
		b.WriteString(" (" + r.Detail + ")")
	}
	if r.Other != "" {
		b.WriteString("; another super peer is " + r.Other)
	}
	return b.String()
}

func (r *Refusal) frame() Frame {
	return encode(TypeRefused, &refused{
		Code: uint8(r.Code), Detail: clip(r.Detail, maxDetail), Other: clip(r.Other, maxOther),
	})
}

// printable refuses what could move a terminal's cursor or hide in a log.
func printable(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
}

// clip makes a hook's text fit for the wire.
func clip(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	for len(s) > most {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return s
}
