//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// iperf3Load does what ownLoad does with iperf3, whose streams it measures whole.
func (t *trial) iperf3Load(ctx context.Context, d time.Duration, underLoad func() error) error {
	err := t.window(func() (carried, error) {
		out, err := t.iperf3(ctx, d, nil)
		if err != nil {
			return carried{}, err
		}
		return parseIPerf3(out)
	})
	if err != nil {
		return err
	}
	_, err = t.iperf3(ctx, time.Minute, underLoad)
	return err
}

// iperf3 runs server and client. With a function to call meanwhile it returns when
// that does, and ends both.
func (t *trial) iperf3(ctx context.Context, d time.Duration, meanwhile func() error) (out string, err error) {
	path, err := exec.LookPath("iperf3")
	if err != nil {
		return "", fmt.Errorf("install iperf3, or leave out -iperf3: %w", err)
	}
	server, err := launch(ctx, t.k.hosts[1], t.k.hosts[1].Command(ctx, path, "--server", "--one-off", "--forceflush"), "listening")
	if err != nil {
		return "", err
	}
	defer func() {
		server.process.Kill()
		<-server.process.Done()
	}()
	seconds := strconv.Itoa(int(math.Ceil(d.Seconds())))
	result := &strings.Builder{}
	cmd := t.k.hosts[0].Command(ctx, path, "--client", t.to.String(), "--time", seconds, "--json")
	cmd.Stdout = result
	client, err := t.k.hosts[0].Start(cmd)
	if err != nil {
		return "", err
	}
	if meanwhile != nil {
		err := meanwhile()
		select {
		case <-client.Done():
			err = errors.Join(err, errors.New("iperf3 has ended too early"))
		default:
		}
		client.Kill()
		<-client.Done()
		return "", err
	}
	if err := client.Wait(); err != nil {
		return "", fmt.Errorf("iperf3: %w: %s", err, result)
	}
	return result.String(), nil
}

// parseIPerf3 returns what the receiver got.
func parseIPerf3(out string) (carried, error) {
	var r struct {
		Error string `json:"error"`
		End   struct {
			Received struct {
				Bytes   int64   `json:"bytes"`
				Seconds float64 `json:"seconds"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return carried{}, fmt.Errorf("iperf3: %w", err)
	}
	if r.Error != "" {
		return carried{}, fmt.Errorf("iperf3: %s", r.Error)
	}
	return carried{r.End.Received.Bytes, r.End.Received.Seconds}, nil
}
