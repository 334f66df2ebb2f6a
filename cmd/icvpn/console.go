package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"icvpn/internal/config"
)

// logger returns the log of a long-running command: JSON where asked for, else
// lines for a person on a terminal, else slog's text, which machines can split.
func (a *app) logger(c config.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	switch {
	case c.Format == "json":
		return slog.New(slog.NewJSONHandler(a.stderr, options))
	case a.terminalErr:
		return slog.New(newConsole(a.stderr, c.Level, palette(a.colourErr)))
	}
	return slog.New(slog.NewTextHandler(a.stderr, options))
}

// console is a slog.Handler for people:
//
//	15:04:05.123 INFO  joined service=shop dur=1.2s
type console struct {
	level   slog.Level
	palette palette
	prefix  string // open groups, "a.b."
	attrs   string // those of With, each with a space before it

	mu *sync.Mutex // guards w; shared by all handlers of one writer
	w  io.Writer
}

var _ slog.Handler = (*console)(nil)

func newConsole(w io.Writer, level slog.Level, p palette) *console {
	return &console{level: level, palette: p, mu: new(sync.Mutex), w: w}
}

func (h *console) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *console) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.prefix += name + "."
	return &c
}

func (h *console) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	var b bytes.Buffer
	for _, attr := range attrs {
		h.appendAttr(&b, h.prefix, attr)
	}
	c.attrs += b.String()
	return &c
}

func (h *console) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	if !r.Time.IsZero() {
		b.WriteString(h.palette.dim(r.Time.Format("15:04:05.000")) + " ")
	}
	b.WriteString(h.levelWord(r.Level) + " " + printable(r.Message) + h.attrs)
	r.Attrs(func(attr slog.Attr) bool {
		h.appendAttr(&b, h.prefix, attr)
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := h.w.Write(b.Bytes())
	return err
}

func (h *console) levelWord(level slog.Level) string {
	word := level.String()
	word += strings.Repeat(" ", max(0, len("ERROR")-len(word)))
	switch {
	case level >= slog.LevelError:
		return h.palette.red(word)
	case level >= slog.LevelWarn:
		return h.palette.yellow(word)
	case level < slog.LevelInfo:
		return h.palette.dim(word)
	}
	return word
}

func (h *console) appendAttr(b *bytes.Buffer, prefix string, attr slog.Attr) {
	v := attr.Value.Resolve()
	switch {
	case attr.Equal(slog.Attr{}):
		return
	case v.Kind() == slog.KindGroup:
		if attr.Key != "" {
			prefix += attr.Key + "."
		}
		for _, member := range v.Group() {
			h.appendAttr(b, prefix, member)
		}
		return
	}
	b.WriteString(" " + h.palette.dim(printable(prefix+attr.Key)+"=") + valueText(v))
}

// valueText quotes what would not read as one word.
func valueText(v slog.Value) string {
	s := v.String()
	if v.Kind() == slog.KindDuration {
		s = v.Duration().Round(time.Microsecond).String()
	}
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return r == '"' || r == '=' || unicode.IsSpace(r) || !unicode.IsPrint(r)
	}) {
		return strconv.Quote(s)
	}
	return s
}
