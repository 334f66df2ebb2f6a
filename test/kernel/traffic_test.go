//go:build linux

package kernel

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

const (
	// inFlight is how many datagrams wait for their echo at a time: few enough
	// for the buffers on their way.
	inFlight = 16
	// tries is how often a datagram is sent: a busy machine may lose some, and
	// path MTU discovery costs the first. What an end refuses is lost each time.
	tries = 4
	// lost is after how much silence datagrams are given up. Nothing gets lost
	// where nothing is wrong, so it costs nothing, and on a busy machine no second
	// try is on its way when the next check begins.
	lost = 10 * time.Second
	// lostOnPurpose is the same where the first try is likely to be lost: a path's
	// MTU has to be found.
	lostOnPurpose = 500 * time.Millisecond
)

// echoes sends datagrams and wants each of them back.
func echoes(from, to netip.Addr, payloads [][]byte) error {
	return echoesWithin(lost, from, to, payloads)
}

func echoesWithin(silence time.Duration, from, to netip.Addr, payloads [][]byte) error {
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: from.AsSlice()}, &net.UDPAddr{IP: to.AsSlice(), Port: echoPort})
	if err != nil {
		return err
	}
	defer conn.Close()
	known := map[string]bool{}
	for _, p := range payloads {
		known[string(p)] = true
	}
	todo := payloads
	for range tries {
		if todo, err = echoOnce(conn, silence, todo, known); err != nil || len(todo) == 0 {
			return err
		}
	}
	var sizes []string
	for _, p := range todo {
		sizes = append(sizes, strconv.Itoa(len(p)))
	}
	if len(sizes) > 12 {
		sizes = append(sizes[:12], "...")
	}
	return fmt.Errorf("%d of %d datagrams %v -> %v did not come back, those of %s bytes", len(todo), len(payloads), from, to, strings.Join(sizes, ", "))
}

// echoOnce tries each once and returns those that did not come back. An echo that
// is none of payloads must be a late one of those known.
func echoOnce(conn *net.UDPConn, silence time.Duration, payloads [][]byte, known map[string]bool) (missing [][]byte, err error) {
	waiting := map[string]int{}
	b := make([]byte, 1<<16)
	open, next := 0, 0
	for next < len(payloads) || open > 0 {
		for ; next < len(payloads) && open < inFlight; next++ {
			if _, err := conn.Write(payloads[next]); err != nil {
				// Too long for the path as the kernel has just learnt it: a try.
				missing = append(missing, payloads[next])
				continue
			}
			waiting[string(payloads[next])]++
			open++
		}
		if open == 0 {
			break
		}
		_ = conn.SetReadDeadline(time.Now().Add(silence))
		n, err := conn.Read(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			for p, times := range waiting {
				for range times {
					missing = append(missing, []byte(p))
				}
			}
			clear(waiting)
			open = 0
		case err != nil:
			continue // ICMP about an earlier datagram
		case waiting[string(b[:n])] > 0:
			waiting[string(b[:n])]--
			if waiting[string(b[:n])] == 0 {
				delete(waiting, string(b[:n]))
			}
			open--
		case !known[string(b[:n])]:
			return nil, fmt.Errorf("%d bytes came back that nobody had sent", n)
		}
	}
	return missing, nil
}

// random returns n bytes that nothing else has, as far as n allows.
func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// everySize is a datagram of each size from 1 byte to most.
func everySize(most int) (all [][]byte) {
	for n := 1; n <= most; n++ {
		all = append(all, random(n))
	}
	return all
}

// streamBytes is what a stream carries each way. It is written while what comes
// back is read.
const streamBytes = 1 << 20

// stream sends random bytes over TCP and wants the same back.
func stream(from, to netip.Addr) error {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from.AsSlice()}, Timeout: patience}
	conn, err := d.Dial("tcp", netip.AddrPortFrom(to, echoPort).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	data := random(streamBytes)
	written := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		if err == nil {
			err = conn.(*net.TCPConn).CloseWrite()
		}
		written <- err
	}()
	back := sha256.New()
	n, err := io.Copy(back, conn)
	if err = errors.Join(err, <-written); err != nil {
		return fmt.Errorf("after %d of %d bytes: %w", n, len(data), err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(back.Sum(nil), want[:]) {
		return fmt.Errorf("%d bytes came back for %d, with another SHA-256", n, len(data))
	}
	return nil
}

// iperfSeconds is how long iperf3 runs in each direction.
const iperfSeconds = 2

// iperf runs iperf3 towards the kernel, or from it, and returns how many bytes
// its receiver got.
func iperf(from, to netip.Addr, reverse bool) (received uint64, err error) {
	args := []string{"-c", to.String(), "-B", from.String(), "-p", strconv.Itoa(iperfPort), "-t", strconv.Itoa(iperfSeconds), "-J"}
	if reverse {
		args = append(args, "-R")
	}
	cmd := exec.Command("iperf3", args...)
	out, err := cmd.Output()
	var result struct {
		Error string `json:"error"`
		End   struct {
			Sent     struct{ Bytes uint64 } `json:"sum_sent"`
			Received struct{ Bytes uint64 } `json:"sum_received"`
		} `json:"end"`
	}
	if jerr := json.Unmarshal(out, &result); jerr != nil {
		return 0, errors.Join(fmt.Errorf("iperf3: %w", jerr), err)
	}
	sent, received := result.End.Sent.Bytes, result.End.Received.Bytes
	switch {
	case result.Error != "" || err != nil:
		return 0, errors.Join(fmt.Errorf("iperf3: %s", result.Error), err)
	case received == 0 || received > sent:
		return 0, fmt.Errorf("iperf3: %d bytes received of %d sent", received, sent)
	}
	return received, nil
}

// interfaceBytes returns what icvpn's interface has given to this machine and
// taken from it. /sys would show another namespace's interfaces.
func interfaceBytes(name string) (toUs, fromUs uint64, err error) {
	b, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		// Received bytes are the first number of the line, sent ones the ninth.
		if f := strings.Fields(line); len(f) > 9 && f[0] == name+":" {
			toUs, err = strconv.ParseUint(f[1], 10, 64)
			if err == nil {
				fromUs, err = strconv.ParseUint(f[9], 10, 64)
			}
			return toUs, fromUs, err
		}
	}
	return 0, 0, fmt.Errorf("there is no interface %s", name)
}

// probe is a datagram with a number, to tell echoes apart.
func probe(number uint32) []byte {
	b := random(64)
	binary.BigEndian.PutUint32(b, number)
	return b
}
