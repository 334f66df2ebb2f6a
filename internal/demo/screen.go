package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// screen prints what happens, numbered, as it happens.
type screen struct {
	out   io.Writer
	began time.Time
	step  int
	first time.Duration // cold token to first ping
}

func newScreen(out io.Writer) *screen { return &screen{out: out, began: time.Now()} }

func (s *screen) title(text string) {
	s.step++
	fmt.Fprintf(s.out, "\n%2d  %s  [%.1f s]\n", s.step, text, time.Since(s.began).Seconds())
}

func (s *screen) line(format string, args ...any) {
	for _, l := range strings.Split(strings.TrimRight(fmt.Sprintf(format, args...), "\n"), "\n") {
		fmt.Fprintf(s.out, "    %s\n", l)
	}
}

// command shows what is run, without the flags that only the demo needs.
func (s *screen) command(args []string) {
	var shown []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--out" || args[i] == "--state-dir" {
			i++
			continue
		}
		shown = append(shown, args[i])
	}
	s.line("$ icvpn %s", strings.Join(shown, " "))
}

func (s *screen) ok(took time.Duration) {
	fmt.Fprintf(s.out, "\nok: first ping %s after a machine started with a cold token; the whole demo took %s\n", short(s.first), short(took))
}
