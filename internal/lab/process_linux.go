package lab

import (
	"os"
	"os/exec"
)

// Process is a running child in a host.
type Process struct {
	lab  *Lab
	cmd  *exec.Cmd
	done chan struct{} // closed when err is set
	err  error
}

// waitLoop reaps the process.
func (p *Process) waitLoop() {
	p.err = p.cmd.Wait()
	p.lab.mu.Lock()
	delete(p.lab.processes, p)
	p.lab.mu.Unlock()
	close(p.done)
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end of the process and returns what exec.Cmd.Wait
// returned. Any number of goroutines may call it.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Pid returns its number inside the lab.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends sig to the process, not to its children.
func (p *Process) Signal(sig os.Signal) error { return p.cmd.Process.Signal(sig) }

// Kill kills the process and its children.
func (p *Process) Kill() { _ = killGroup(p.Pid()) }
