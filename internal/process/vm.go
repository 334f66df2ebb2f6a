package process

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"os"

	"icvpn/internal/id"
)

// machineIDFile holds systemd's random identifier of the installation, which
// clouds set anew for each instance.
const machineIDFile = "/etc/machine-id"

// vmSize is long enough to tell the machines of one service apart.
const vmSize = 8

// vmID returns the VM identifier that this machine shows to a service, "" where
// it has none.
func vmID(service id.ID) string {
	b, err := os.ReadFile(machineIDFile)
	if err != nil {
		return ""
	}
	return vmOf(b, service)
}

// vmOf derives the VM identifier from the content of machineIDFile:
//
//	HMAC-SHA256(machine ID, "icvpn/1 vm" ‖ 00 ‖ ServiceID)[:8] in hexadecimal
//
// The machine ID itself is confidential, and identifiers derived from it must be
// keyed by it and specific to what they are for, says machine-id(5): every member
// of a service sees ours, and two services must not find out that they share a
// machine.
func vmOf(machineID []byte, service id.ID) string {
	machineID = bytes.TrimSpace(machineID)
	if len(machineID) == 0 || string(machineID) == "uninitialized" { // before the first boot is over
		return ""
	}
	m := hmac.New(sha256.New, machineID)
	m.Write([]byte("icvpn/1 vm\x00"))
	m.Write(service[:])
	return hex.EncodeToString(m.Sum(nil)[:vmSize])
}
